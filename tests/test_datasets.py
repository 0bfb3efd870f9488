"""Datasets: sizes, splits, standard units, and refusal of whatever cannot be trusted.

No network. Small made-up mirrors stand for the real files; the last section reads the real ones
where ABA_DATA_MIRROR names a folder that holds them.
"""

import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from aba_core import datasets, pictures, sources, texts
from aba_core.datasets import DATASETS, DatasetError, Split, Splits, dataset_status, load_dataset
from aba_core.large_data import LARGE

MIRROR = os.environ.get("ABA_DATA_MIRROR")
needs_mirror = pytest.mark.skipif(not MIRROR, reason="ABA_DATA_MIRROR names no mirror")


@pytest.fixture(autouse=True)
def only_own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reads or writes the user's mirror or cache unless it says so."""
    monkeypatch.delenv("ABA_DATA_MIRROR", raising=False)
    monkeypatch.setenv("ABA_DATA_CACHE", str(tmp_path / "cache"))
    for proxy in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.upper(), raising=False)


def parts(splits: Splits) -> list[Split]:
    return [splits.train, splits.validation, splits.test]


def indices(split: Split) -> list[int]:
    assert split.index is not None
    return split.index.tolist()


def class_shares(split: Split, classes: int) -> np.ndarray:
    return np.bincount(split.y.numpy(), minlength=classes) / len(split)


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- The table and its errors ----------------------------------------------------------------


def test_the_table_has_the_published_sizes() -> None:
    assert list(DATASETS) == ["digits", "mnist", "cifar10", "news", "breast-cancer"]
    sizes = {name: (info.subsets, info.validation, info.test) for name, info in DATASETS.items()}
    assert sizes["mnist"] == ({"tiny": 100, "med": 1000, "full": 50000}, 10000, 10000)
    assert sizes["cifar10"] == ({"tiny": 1000, "full": 40000}, 10000, 10000)
    # 13846 and not 14866: the by-date version has 18846 posts
    assert sizes["news"] == ({"tiny": 2000, "full": 18846 - 1000 - 4000}, 1000, 4000)
    assert all(len(info.class_names) == info.classes for info in DATASETS.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("minst",),
            "unknown dataset 'minst' .did you mean 'mnist'.*; known: digits, mnist, cifar10, news",
        ),
        (
            ("digits", "med"),
            r"unknown subset 'med' of digits; known: tiny \(100\), full \(797\), or a number",
        ),
        (("digits", "9"), r"subset 9 of digits; allowed: 10 to 797 samples"),
        (("digits", "798"), r"subset 798 of digits; allowed: 10 to 797 samples"),
        (("digits", "²00"), r"unknown subset '²00' of digits"),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(
    arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        load_dataset(*arguments)


def test_impossible_seeds_and_embeddings_are_refused() -> None:
    with pytest.raises(DatasetError, match="subset_seed must be an integer of 0 or more, not -1"):
        load_dataset("digits", subset_seed=-1)
    with pytest.raises(DatasetError, match="unknown embedding 'word2vec'; known: auto, glove"):
        load_dataset("news", embedding="word2vec")
    with pytest.raises(DatasetError, match="digits takes no embedding"):
        load_dataset("digits", embedding="glove")
    with pytest.raises(DatasetError, match="tokens is 20, but digits has no texts; allowed: 0"):
        load_dataset("digits", tokens=20)


def test_importing_needs_neither_sklearn_nor_pooch() -> None:
    # the file by itself, as the package around it may import more
    code = (
        "import runpy, sys, torch\n"
        f"runpy.run_path({datasets.__file__!r}, run_name='__main__')\n"
        "print(sorted({'sklearn', 'pooch', 'requests'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "[]", answer.stderr


@pytest.mark.parametrize("module", ["sources", "pictures", "texts"])
def test_reading_files_needs_no_torch(module: str) -> None:
    code = f"import sys, aba_core.{module}; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "False", answer.stderr


# --- Digits: the whole contract on real data -------------------------------------------------


@functools.cache
def digits(subset: str = "tiny", subset_seed: int = 0) -> Splits:
    return load_dataset("digits", subset, subset_seed=subset_seed)


def test_tumours_are_a_table_in_standard_units_of_its_pool() -> None:
    tiny, full = (load_dataset("breast-cancer", subset) for subset in ("tiny", "full"))
    assert [len(part) for part in parts(full)] == [269, 150, 150] and len(tiny.train) == 40
    assert tiny.input_shape == (30,) and tiny.train.x.dtype == torch.float32
    assert sorted(number for part in parts(full) for number in indices(part)) == list(range(569))
    assert torch.allclose(full.train.x.mean(0), torch.zeros(30), atol=1e-6)
    assert torch.allclose(full.train.x.std(0, correction=0), torch.ones(30), atol=1e-6)
    raw = tiny.train.x.double() * tiny.std + tiny.mean
    from sklearn.datasets import load_breast_cancer

    source = load_breast_cancer()
    expected = torch.from_numpy(source.data[indices(tiny.train)])
    assert torch.allclose(raw, expected, rtol=1e-5, atol=1e-5)
    assert tiny.train.y.tolist() == source.target[indices(tiny.train)].tolist()
    assert tiny.class_names == ("malignant", "benign")
    with pytest.raises(DatasetError, match="tokens is 5, but breast-cancer has no texts"):
        load_dataset("breast-cancer", tokens=5)


def test_digits_have_the_announced_sizes_and_types() -> None:
    splits = digits()
    assert [len(part) for part in parts(splits)] == [100, 500, 500]
    assert len(digits("full").train) == 797
    for part in parts(splits):
        assert part.x.shape == (len(part), 1, 8, 8) and part.x.dtype == torch.float32
        assert part.y.shape == (len(part),) and part.y.dtype == torch.int64
        assert part.feature_shape == splits.input_shape == (1, 8, 8)
    assert splits.classes == 10 and splits.name == "digits" and splits.subset == "tiny"


def test_no_sample_lies_in_two_splits_and_full_uses_all() -> None:
    together = [number for part in parts(digits("full")) for number in indices(part)]
    assert sorted(together) == list(range(1797))
    assert set(indices(digits().train)) < set(indices(digits("full").train))


def test_every_split_and_subset_keeps_the_shares_of_the_classes() -> None:
    everything = torch.cat([part.y for part in parts(digits("full"))])
    shares = np.bincount(everything.numpy()) / 1797
    for part in (*parts(digits("full")), *(digits("tiny", seed).train for seed in range(5))):
        assert np.abs(class_shares(part, 10) - shares).max() < 1.01 / len(part) + 1 / 500


def test_the_same_arguments_give_the_same_data() -> None:
    one, two = digits(), load_dataset("digits", "tiny", subset_seed=0)
    assert one.fingerprint == two.fingerprint
    for left, right in zip(parts(one), parts(two), strict=True):
        assert torch.equal(left.x, right.x) and torch.equal(left.y, right.y)


def test_a_subset_by_number_contains_the_smaller_ones_of_its_seed() -> None:
    kept = [set(digits(size, subset_seed=3).train.index.tolist()) for size in ("100", "200", "400")]
    assert [len(one) for one in kept] == [100, 200, 400]
    assert kept[0] < kept[1] < kept[2]
    assert set(digits("100", subset_seed=4).train.index.tolist()) != kept[0]
    counts = np.bincount(digits("200", subset_seed=3).train.y.numpy())
    assert counts.min() >= 17 and counts.max() <= 23  # the classes' shares, as everywhere
    assert torch.equal(digits("200").test.index, digits().test.index)


def test_the_subset_seed_moves_the_subset_only() -> None:
    one, two = digits(), digits("tiny", 1)
    assert indices(one.train) != indices(two.train)
    assert indices(one.validation) == indices(two.validation)
    assert indices(one.test) == indices(two.test)
    assert one.fingerprint != two.fingerprint
    assert digits("full").fingerprint == digits("full", 1).fingerprint


def test_the_partition_is_the_one_of_every_earlier_run() -> None:
    """A changed draw would make new results incomparable with old ones."""
    assert indices(digits().validation)[:6] == [1, 5, 7, 10, 13, 14]
    assert indices(digits().train)[:6] == [35, 36, 46, 48, 68, 75]


def test_inputs_are_in_units_of_the_training_pool() -> None:
    pool = digits("full").train.x
    assert pool.mean().abs() < 1e-5 and (pool.std(correction=0) - 1).abs() < 1e-5
    tiny = digits()
    assert tiny.mean == digits("full").mean and tiny.std == digits("full").std
    pixels = tiny.test.x * tiny.std + tiny.mean
    assert torch.allclose(pixels, pixels.round(), atol=1e-4)
    assert pixels.min().round() == 0 and pixels.max().round() == 16


def test_moving_to_a_device_keeps_everything() -> None:
    moved = digits().to("cpu")
    assert torch.equal(moved.train.x, digits().train.x)
    assert indices(moved.test) == indices(digits().test)
    assert moved.fingerprint == digits().fingerprint


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,)])
@pytest.mark.parametrize("text", [False, True])
def test_a_batch_is_the_same_as_indexing_x(shape: tuple[int, ...], text: bool) -> None:
    y = torch.arange(7)
    if text:
        data = torch.randint(0, 11, (7, 4), dtype=torch.int32)
        split = Split(data, y, embedding=torch.randn(11, 3))
    else:
        split = Split(torch.randn(7, 4, 3), y)
    index = torch.randint(0, 7, shape)
    assert split.feature_shape == (4, 3) and len(split) == 7
    assert split.batch(index).shape == (*shape, 4, 3)
    assert torch.equal(split.batch(index), split.x[index])


@pytest.mark.parametrize("size", [0, 1, 7, 50, 100])
def test_a_stratified_draw_is_exact_and_within_one_of_the_shares(size: int) -> None:
    labels = np.repeat([0, 1, 2], [70, 25, 5])
    drawn, rest = datasets.stratified(labels, size, "any purpose")
    assert len(drawn) == size and sorted([*drawn, *rest]) == list(range(100))
    taken = np.bincount(labels[drawn], minlength=3)
    assert np.abs(taken - size * np.array([0.7, 0.25, 0.05])).max() < 1


# --- A small made-up mirror of MNIST: files, hashes, downloads --------------------------------


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(head + array.astype(np.uint8).tobytes(), mtime=0)


@pytest.fixture
def small_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A mirror with 300 + 100 random images under MNIST's names; its table entry fits them."""
    rng = np.random.default_rng(0)
    contents = [
        idx(rng.integers(0, 256, (300, 28, 28))),
        idx(np.arange(300) % 10),
        idx(rng.integers(0, 256, (100, 28, 28))),
        idx(np.arange(100) % 10),
    ]
    files = []
    for file, content in zip(DATASETS["mnist"].files, contents, strict=True):
        path = tmp_path / "mirror" / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        files.append(replace(file, hashes=(f"md5:{hashlib.md5(content).hexdigest()}",)))
    info = replace(
        DATASETS["mnist"],
        subsets={"tiny": 50, "full": 200},
        validation=100,
        test=100,
        files=tuple(files),
    )
    monkeypatch.setitem(DATASETS, "mnist", info)
    return tmp_path / "mirror"


def test_the_official_test_set_stays_the_test_set(small_mnist: Path) -> None:
    splits = load_dataset("mnist", "full", mirror=small_mnist)
    assert [len(part) for part in parts(splits)] == [200, 100, 100]
    assert indices(splits.test) == list(range(300, 400))
    assert set(indices(splits.train)) | set(indices(splits.validation)) == set(range(300))
    assert class_shares(splits.train, 10).tolist() == [0.1] * 10


def test_the_mirror_may_be_named_by_the_environment(
    small_mnist: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABA_DATA_MIRROR", str(small_mnist))
    assert len(load_dataset("mnist").train) == 50


@pytest.mark.parametrize("place", ["mirror", "cache"])
@pytest.mark.parametrize("harm", ["cut off", "altered"])
def test_a_damaged_file_is_refused_by_name_and_hash(
    small_mnist: Path, tmp_path: Path, place: str, harm: str
) -> None:
    if place == "cache":
        small_mnist.rename(tmp_path / "cache")
    file = DATASETS["mnist"].files[2]
    path = tmp_path / place / file.path
    content = path.read_bytes()
    path.write_bytes(content[:-9] if harm == "cut off" else b"x" + content[1:])
    found = hashlib.md5(path.read_bytes()).hexdigest()
    before = files_under(tmp_path)
    with pytest.raises(DatasetError) as caught:
        load_dataset("mnist", mirror=tmp_path / "mirror")
    message = str(caught.value)
    assert str(path) in message and found in message and file.hashes[0] in message
    assert "replace it" in message and "\n" not in message
    assert files_under(tmp_path) == before


def test_a_file_with_the_right_hash_but_the_wrong_shape_is_refused(
    small_mnist: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content, message in (
        (gzip.compress(b"no idx"), "no idx file"),
        (gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 9, 1])), r"announces \(9,\) bytes but holds 1"),
        (b"no gzip", "is damaged"),
        (idx(np.zeros(7)), "7 labels but images of shape"),
    ):
        files = list(DATASETS["mnist"].files)
        (small_mnist / files[1].path).write_bytes(content)
        files[1] = replace(files[1], hashes=(f"md5:{hashlib.md5(content).hexdigest()}",))
        monkeypatch.setitem(DATASETS, "mnist", replace(DATASETS["mnist"], files=tuple(files)))
        with pytest.raises(DatasetError, match=message):
            load_dataset("mnist", mirror=small_mnist)


def point_downloads_to(monkeypatch: pytest.MonkeyPatch, name: str, address: str) -> None:
    files = tuple(replace(file, url=f"{address}/{file.path}") for file in DATASETS[name].files)
    monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], files=files))


@pytest.mark.parametrize("name", ["mnist", "cifar10", "news"])
def test_offline_the_address_and_the_alternative_are_named(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    point_downloads_to(monkeypatch, name, "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(DatasetError) as caught:
        load_dataset(name)
    assert f"http://127.0.0.1:9/{DATASETS[name].files[0].path}" in str(caught.value)
    assert "ABA_DATA_MIRROR" in str(caught.value)
    assert files_under(tmp_path) == []
    with pytest.raises(DatasetError, match=r"ABA_DATA_MIRROR names \S*/absent, which is no folder"):
        load_dataset(name, mirror=tmp_path / "absent")


@pytest.fixture
def server(small_mnist: Path) -> Iterator[str]:
    """The small mirror, served on the loopback interface."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(small_mnist))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def test_a_download_is_kept_and_used_again(
    server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    point_downloads_to(monkeypatch, "mnist", server)
    first = load_dataset("mnist")
    assert files_under(tmp_path / "cache") == sorted(file.path for file in DATASETS["mnist"].files)
    point_downloads_to(monkeypatch, "mnist", "http://127.0.0.1:9")
    assert load_dataset("mnist").fingerprint == first.fingerprint
    assert {row.name: row.present for row in dataset_status()}["mnist"] == "cache"


def test_a_wrong_download_is_refused_and_not_kept(
    server: str, small_mnist: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    point_downloads_to(monkeypatch, "mnist", server)
    file = DATASETS["mnist"].files[0]
    (small_mnist / file.path).write_bytes(b"something else")
    with pytest.raises(DatasetError) as caught:
        load_dataset("mnist")
    message = str(caught.value)
    assert f"{server}/{file.path}" in message and file.hashes[0].removeprefix("md5:") in message
    assert hashlib.md5(b"something else").hexdigest() in message
    assert files_under(tmp_path / "cache") == []


def test_status_says_where_each_dataset_is(small_mnist: Path, tmp_path: Path) -> None:
    rows = {row.name: row for row in dataset_status(mirror=small_mnist)}
    assert list(rows) == [*DATASETS, *LARGE]
    assert rows["digits"].present == "bundled"
    assert rows["mnist"].present == "mirror"
    assert rows["cifar10"].present.startswith("not here (downloads 170 MB")
    assert rows["news"].shape == (1000, 100) and rows["news"].classes == 20
    (small_mnist / DATASETS["mnist"].files[0].path).unlink()
    assert dataset_status(mirror=small_mnist)[1].present == "not here (downloads 10 MB)"
    assert not (tmp_path / "cache").exists()


# --- CIFAR-10: batches, pickles --------------------------------------------------------------


def cifar_batch(value: int) -> bytes:
    data = np.full((10000, 3072), value, dtype=np.uint8)
    data[:, ::2] += 1
    labels = (np.arange(10000) % 10).tolist()
    return pickle.dumps({b"data": data, b"labels": labels}, protocol=4)


@pytest.fixture
def small_cifar(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A mirror that lacks the training batches 3 to 5, as files of one colour."""
    folder = tmp_path / "mirror" / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for value, name in enumerate(("data_batch_1", "data_batch_2", "test_batch")):
        content = cifar_batch(100 * value)
        monkeypatch.setitem(pictures._CIFAR_MD5, name, hashlib.md5(content).hexdigest())
        if name == "data_batch_2":
            (folder / name).write_bytes(content)
        else:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1, mtime=0))
    return tmp_path / "mirror"


def test_an_incomplete_cifar_gives_tiny_and_says_so(small_cifar: Path) -> None:
    splits = load_dataset("cifar10", mirror=small_cifar)
    assert [len(part) for part in parts(splits)] == [1000, 10000, 10000]
    assert "2 of 5 official batches" in splits.notes[0]
    assert splits.mean.shape == splits.std.shape == (3, 1, 1)
    assert max(indices(splits.train)) < 20000 and min(indices(splits.test)) == 50000
    pixels = splits.test.x[:1] * splits.std + splits.mean
    assert set(pixels.round().unique().tolist()) == {200.0, 201.0}
    row = {row.name: row for row in dataset_status(mirror=small_cifar)}["cifar10"]
    assert row.present == "mirror (2 of 5 training batches)"


def test_an_incomplete_cifar_refuses_full_and_names_what_is_missing(small_cifar: Path) -> None:
    with pytest.raises(DatasetError, match="lacks data_batch_3, data_batch_4, data_batch_5"):
        load_dataset("cifar10", "full", mirror=small_cifar)


def test_a_damaged_cifar_batch_is_refused_by_name(small_cifar: Path) -> None:
    path = small_cifar / "cifar10" / "cifar-10-batches-py" / "test_batch.gz"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DatasetError, match=r"test_batch\.gz is damaged .* expected md5:"):
        load_dataset("cifar10", mirror=small_cifar)
    path.write_bytes(gzip.compress(b"another content"))
    with pytest.raises(DatasetError, match=r"test_batch\.gz has md5:\w+, expected md5:"):
        load_dataset("cifar10", mirror=small_cifar)


def test_the_official_archive_gives_the_same_as_its_batches(
    small_cifar: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = small_cifar / "cifar10" / "cifar-10-batches-py"
    for value in (3, 4, 5):
        content = cifar_batch(value)
        monkeypatch.setitem(
            pictures._CIFAR_MD5, f"data_batch_{value}", hashlib.md5(content).hexdigest()
        )
        (folder / f"data_batch_{value}").write_bytes(content)
    contents = {}
    for name in pictures._CIFAR_MD5:
        plain = folder / name
        content = plain.read_bytes() if plain.exists() else gzip.open(f"{plain}.gz").read()
        contents[f"cifar-10-batches-py/{name}"] = content
    info = DATASETS["cifar10"]
    archive = tmp_path / "cache" / info.files[0].path
    archive.parent.mkdir(parents=True)
    archive.write_bytes(tar_of(contents))
    md5 = f"md5:{hashlib.md5(archive.read_bytes()).hexdigest()}"
    files = (replace(info.files[0], hashes=(md5,)),)
    monkeypatch.setitem(DATASETS, "cifar10", replace(info, files=files))

    from_batches = load_dataset("cifar10", "tiny", mirror=small_cifar)
    from_archive = load_dataset("cifar10", "tiny")
    assert from_batches.notes == from_archive.notes == ()
    assert from_batches.fingerprint == from_archive.fingerprint
    archive.write_bytes(archive.read_bytes()[:-1000])
    with pytest.raises(DatasetError, match=r"cifar-10-python\.tar\.gz has md5:\w+, expected md5:"):
        load_dataset("cifar10", "tiny")


class Malicious:
    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_calls_something_is_refused(tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "trace"
    for call in (os.mkdir, eval, exec, Path):
        content = pickle.dumps({b"data": Malicious(call, str(trace))}, protocol)
        with pytest.raises(DatasetError, match="some_batch is refused: it names"):
            pictures._parse_cifar_batch(content, Path("some_batch"))
    assert not trace.exists()


def test_a_pickle_with_objects_or_other_shapes_is_refused() -> None:
    for batch in (
        {b"data": np.array([None], dtype=object), b"labels": [0]},
        {b"data": np.zeros((2, 3072)), b"labels": [0, 1]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1]},
        {b"data": np.zeros((10000, 3072), np.uint8), b"labels": [10] * 10000},
        [1, 2],
    ):
        with pytest.raises(DatasetError, match="some_batch"):
            pictures._parse_cifar_batch(pickle.dumps(batch, protocol=4), Path("some_batch"))
    with pytest.raises(DatasetError, match="some_batch is refused"):
        pictures._parse_cifar_batch(b"\x80\x02}q\x01(U", Path("some_batch"))


# --- News: archive, words, embeddings --------------------------------------------------------


def tar_of(contents: dict[str, bytes], *odd: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1) as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in odd:
            tar.addfile(member)
    return stream.getvalue()


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    odd = tarfile.TarInfo(name)
    odd.type, odd.linkname = kind, target
    return odd


@pytest.mark.parametrize(
    "odd",
    [
        member("/etc/evil", tarfile.REGTYPE),
        member("20news-bydate-train/../../evil", tarfile.REGTYPE),
        member("20news-bydate-train/..\\evil", tarfile.REGTYPE),
        member("20news-bydate-train/alt.atheism/1", tarfile.SYMTYPE, "/etc/passwd"),
        member("20news-bydate-train/alt.atheism/1", tarfile.LNKTYPE, "../../evil"),
        member("20news-bydate-train/alt.atheism/1", tarfile.CHRTYPE),
        member("20news-bydate-train/alt.atheism/1", tarfile.FIFOTYPE),
    ],
    ids=["absolute", "upwards", "backslash", "symlink", "hard link", "device", "pipe"],
)
def test_a_tar_member_that_is_no_plain_file_inside_is_refused(odd: tarfile.TarInfo) -> None:
    content = tar_of({"20news-bydate-train/alt.atheism/0": b"Subject: a\n\nb"}, odd)
    with pytest.raises(DatasetError, match=r"posts\.tar\.gz is refused: its member"):
        texts._read_posts(content, Path("posts.tar.gz"), DATASETS["news"].class_names)


def test_a_damaged_or_foreign_tar_is_refused() -> None:
    groups = DATASETS["news"].class_names
    whole = tar_of({f"20news-bydate-train/alt.atheism/{n}": os.urandom(999) for n in range(9)})
    for content in (whole[: len(whole) // 2], b"no tar", b""):
        with pytest.raises(DatasetError, match=r"posts\.tar\.gz is damaged"):
            texts._read_posts(content, Path("posts.tar.gz"), groups)
    with pytest.raises(DatasetError, match="which is no post of the 20 groups"):
        texts._read_posts(tar_of({"readme.txt": b""}), Path("posts.tar.gz"), groups)


@pytest.fixture
def small_news(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A mirror with 20 posts of each group, made of words w0 to w299."""
    rng = np.random.default_rng(0)
    contents = {}
    for label, group in enumerate(DATASETS["news"].class_names):
        for number in range(20):
            words = rng.integers(10 * label, 10 * label + 110, 40)
            body = " ".join(f"W{word}," for word in words)
            part = "train" if number < 12 else "test"
            post = f"From: reader@host\nSubject: onlyhere\n\n{body} it's 'quoted' \xe9t\xe9"
            contents[f"20news-bydate-{part}/{group}/{number}"] = post.encode("latin-1")
    contents["20news-bydate-test/sci.space/999"] = b"Subject: empty\n\n"
    contents["20news-bydate-test/sci.med/999"] = b"Subject: long\n\n" + b"w1 w2 " * 800
    info = DATASETS["news"]
    path = tmp_path / "mirror" / info.files[0].path
    path.parent.mkdir(parents=True)
    path.write_bytes(tar_of(contents))
    sha256 = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    info = replace(
        info,
        subsets={"tiny": 100, "full": 262},
        validation=60,
        test=80,
        files=(replace(info.files[0], hashes=(sha256,)),),
    )
    monkeypatch.setitem(DATASETS, "news", info)
    return tmp_path / "mirror"


def test_texts_are_padded_words_in_standard_units(small_news: Path) -> None:
    splits = load_dataset("news", "full", mirror=small_news)
    assert [len(part) for part in parts(splits)] == [262, 60, 80]
    assert sorted(n for part in parts(splits) for n in indices(part)) == list(range(402))
    train = splits.train
    assert train.data.shape == (262, 1000) and train.data.dtype == torch.int32
    assert train.feature_shape == splits.input_shape == (1000, 100)
    assert train.embedding is not None and train.embedding.dtype == torch.float32
    assert not train.embedding[0].any()
    x = train.batch(torch.arange(262))
    assert not x[train.data == 0].any()
    words = x[train.data > 0].double()
    assert words.mean(0).abs().max() < 1e-4
    assert abs(words.square().mean().sqrt() - 1) < 1e-4


def test_the_batch_of_texts_embeds_what_is_asked_for(small_news: Path) -> None:
    test = load_dataset("news", mirror=small_news).test
    index = torch.tensor([[3, 1, 4], [1, 5, 9]])
    assert torch.equal(test.batch(index), test.x[index])


def test_texts_can_be_cut_to_their_first_tokens(small_news: Path) -> None:
    whole = load_dataset("news", mirror=small_news)
    cut = load_dataset("news", mirror=small_news, tokens=30)
    assert cut.input_shape == cut.validation.feature_shape == (30, 100)
    assert torch.equal(cut.test.x, whole.test.x[:, :30])
    assert cut.fingerprint != whole.fingerprint and "first 30 of 1000" in cut.notes[-1]
    for wrong in (-1, 1001):
        with pytest.raises(DatasetError, match=f"tokens is {wrong}; allowed: 1 to 1000"):
            load_dataset("news", mirror=small_news, tokens=wrong)


def test_words_are_lower_case_without_header_and_rare_ones(
    small_news: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = sources.data_places(None, small_news)
    info = DATASETS["news"]
    source = (info.files[0], info.class_names, datasets._text_pool(info), places)
    tokens = texts._news_tokens(*source)
    assert {"w17", "it's", "quoted", "t"} <= set(tokens.words)
    assert not {"W17", "onlyhere", "subject", "reader"} & set(tokens.words)
    length = (tokens.ids > 0).sum(axis=1)
    assert length.min() == 0 and length.max() == 1000
    monkeypatch.setattr(texts, "_VOCABULARY", 7)
    few = texts._news_tokens(*source)
    assert len(few.words) == 7 == few.ids.max() and few.key != tokens.key


def test_words_and_vectors_are_cached_and_mended(small_news: Path, tmp_path: Path) -> None:
    first = load_dataset("news", mirror=small_news)
    cached = files_under(tmp_path / "cache")
    assert len(cached) == 2 and all(name.endswith(".npz") for name in cached)
    times = [(tmp_path / "cache" / name).stat().st_mtime_ns for name in cached]
    again = load_dataset("news", mirror=small_news)
    assert times == [(tmp_path / "cache" / name).stat().st_mtime_ns for name in cached]
    for name in cached:
        path = tmp_path / "cache" / name
        path.write_bytes(path.read_bytes()[:-50])
    mended = load_dataset("news", mirror=small_news)
    assert files_under(tmp_path / "cache") == cached
    for other in (again, mended):
        assert other.fingerprint == first.fingerprint
        assert torch.equal(other.train.batch(torch.arange(5)), first.train.batch(torch.arange(5)))


def repack(path: Path, **changes: np.ndarray) -> None:
    """Other arrays in a cached file, which is sound in itself."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez_compressed(path, **(arrays | changes))


def test_cached_vectors_that_were_exchanged_are_made_anew(small_news: Path, tmp_path: Path) -> None:
    first = load_dataset("news", mirror=small_news)
    (path,) = (tmp_path / "cache").glob("news-embedding-*.npz")
    with np.load(path) as stored:
        others = {"vectors": stored["vectors"][:, ::-1].copy()}
    repack(path, **others)
    again = load_dataset("news", mirror=small_news)
    assert again.fingerprint == first.fingerprint
    assert torch.equal(again.train.batch(torch.arange(5)), first.train.batch(torch.arange(5)))
    repack(path, sha256=np.array("0" * 64))
    assert torch.equal(load_dataset("news", mirror=small_news).test.embedding, first.test.embedding)


def test_other_glove_vectors_under_a_good_seal_are_other_data(
    small_news: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = glove_text(200)
    monkeypatch.setitem(texts._GLOVE_SHA256, "full", hashlib.sha256(text).hexdigest())
    (small_news / "glove").mkdir(exist_ok=True)
    (small_news / "glove" / "glove.6B.100d.txt").write_bytes(text)
    first = load_dataset("news", mirror=small_news)
    assert first.embedding == "glove"
    (path,) = (tmp_path / "cache").glob("news-embedding-*.npz")
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files if name != "sha256"}
    # One bit that changes neither mean nor deviation as they are printed.
    arrays["vectors"] = arrays["vectors"].copy()
    arrays["vectors"][1, 0] = np.nextafter(arrays["vectors"][1, 0], np.float32(9))
    repack(path, **arrays, sha256=np.array(sources.content_hash(arrays)))
    assert load_dataset("news", mirror=small_news).fingerprint != first.fingerprint


def test_without_a_writable_cache_texts_still_load(small_news: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    splits = load_dataset("news", mirror=small_news, cache=tmp_path / "file" / "cache")
    assert len(splits.train) == 100


def glove_text(words: int) -> bytes:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(words, 100)).round(4)
    lines = [" ".join([f"w{n}", *map(str, row)]) for n, row in enumerate(rows)]
    return ("\n".join(lines) + "\n").encode()


def test_the_full_glove_is_preferred_in_every_packing(
    small_news: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = glove_text(200)
    monkeypatch.setitem(texts._GLOVE_SHA256, "full", hashlib.sha256(text).hexdigest())
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("glove.6B.100d.txt", text)
    packings = {"txt": text, "txt.gz": gzip.compress(text), "zip": zipped.getvalue()}
    seen = []
    for form, content in packings.items():
        cache = tmp_path / f"cache of {form}"
        name = "glove.6B.zip" if form == "zip" else f"glove.6B.100d.{form}"
        (cache / "glove").mkdir(parents=True)
        (cache / "glove" / name).write_bytes(content)
        splits = load_dataset("news", mirror=small_news, cache=cache)
        assert splits.notes[0].startswith("embedding: GloVe 6B 100d; ")
        seen.append((splits.fingerprint, splits.train.embedding))
    assert len({fingerprint for fingerprint, _ in seen}) == 1
    assert all(torch.equal(seen[0][1], table) for _, table in seen)
    corpus = load_dataset("news", mirror=small_news, cache=tmp_path / "c", embedding="corpus")
    assert corpus.fingerprint != seen[0][0]


def test_a_short_glove_must_be_asked_for(small_news: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetError, match=r"no GloVe file is here: download https\S+ .* 'corpus'"):
        load_dataset("news", mirror=small_news, embedding="glove")
    text = glove_text(50)
    path = small_news / texts._GLOVE_TOP
    path.parent.mkdir()
    path.write_bytes(gzip.compress(text))
    monkeypatch.setitem(texts._GLOVE_SHA256, "top2716", hashlib.sha256(text).hexdigest())
    assert "made from the words" in load_dataset("news", mirror=small_news).notes[0]
    splits = load_dataset("news", mirror=small_news, embedding="glove")
    assert "commonest words only" in splits.notes[0]
    table = splits.train.embedding
    assert table is not None and table.any(dim=1).sum() == 50


def test_a_damaged_glove_is_refused_by_name(small_news: Path) -> None:
    path = small_news / texts._GLOVE_TOP
    path.parent.mkdir()
    for content in (gzip.compress(glove_text(50)), gzip.compress(glove_text(50))[:-99], b"x"):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"top2716\.txt\.gz .*sha256:670035"):
            load_dataset("news", mirror=small_news, embedding="glove")


# --- The real files, where there is a mirror -------------------------------------------------


@needs_mirror
@pytest.mark.parametrize(("subset", "size"), [("tiny", 100), ("med", 1000), ("full", 50000)])
def test_mnist_from_the_mirror(subset: str, size: int) -> None:
    splits = load_dataset("mnist", subset, mirror=MIRROR)
    assert [len(part) for part in parts(splits)] == [size, 10000, 10000]
    assert splits.test.x.shape == (10000, 1, 28, 28)
    assert splits.test.y[:5].tolist() == [7, 2, 1, 0, 4]
    assert not set(indices(splits.train)) & set(indices(splits.validation))
    assert np.bincount(splits.train.y).min() >= 0.09 * size
    assert 33 < splits.mean < 34 and 78 < splits.std < 79
    assert (splits.test.x * splits.std + splits.mean).round().unique().numel() == 256


@needs_mirror
def test_cifar10_from_the_mirror() -> None:
    splits = load_dataset("cifar10", mirror=MIRROR)
    assert [len(part) for part in parts(splits)] == [1000, 10000, 10000]
    assert splits.train.x.shape == (1000, 3, 32, 32)
    assert np.bincount(splits.test.y).tolist() == [1000] * 10
    assert not set(indices(splits.train)) & set(indices(splits.validation))
    assert 0.9 < splits.train.x.std() < 1.1
    assert [splits.class_names[label] for label in splits.test.y[:4]] == [
        *("cat", "ship", "ship", "airplane")
    ]


@needs_mirror
def test_news_from_the_mirror(tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.mktemp("news")
    splits = load_dataset("news", mirror=MIRROR, cache=cache)
    assert [len(part) for part in parts(splits)] == [2000, 1000, 4000]
    full = load_dataset("news", "full", mirror=MIRROR, cache=cache)
    assert len(full.train) == 13846
    assert sorted(n for part in parts(full) for n in indices(part)) == list(range(18846))
    assert set(indices(splits.train)) < set(indices(full.train))
    for part in parts(splits):
        assert np.abs(class_shares(part, 20) - class_shares(full.train, 20)).max() < 0.001
    assert splits.test.batch(torch.tensor([[0, 1]])).shape == (1, 2, 1000, 100)
    short = load_dataset("news", mirror=MIRROR, cache=cache, embedding="glove")
    assert torch.equal(short.train.data, splits.train.data)
    assert short.fingerprint != splits.fingerprint
