"""The larger data sets, from small made-up files in their formats, and from the mirror if it is
here; several labels a sample from end to end; the deeper networks."""

import csv
import gzip
import hashlib
import io
import os
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from aba_core import Arm, TrainConfig, build_model, ecg, load_dataset, tiny_imagenet, train
from aba_core.large_data import LARGE
from aba_core.networks import NETWORKS
from aba_core.own_data import splits_from
from aba_core.sources import DatasetError, Places

RNG = np.random.default_rng(0)


# --- Tiny ImageNet -------------------------------------------------------------------------------


def picture(colour: int) -> bytes:
    pixels = RNG.integers(0, 50, (64, 64, 3), dtype=np.uint8) + np.uint8(colour)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture
def small_imagenet(tmp_path, monkeypatch):
    """An archive with two classes: four pictures each to train on, six and four to validate."""
    files = {"wnids.txt": b"n2\nn1\n", "words.txt": b"n1\tcat, tom\nn2\tdog\nn3\tbird\n"}
    said = []
    for label, colour in (("n1", 20), ("n2", 150)):
        for turn in range(4):
            files[f"train/{label}/images/{label}_{turn}.JPEG"] = picture(colour + turn)
        for _ in range(6 if label == "n1" else 4):
            name = f"val_{len(said)}.JPEG"
            files[f"val/images/{name}"] = picture(colour)
            said.append(f"{name}\t{label}\t0\t0\t63\t63")
    files["val/val_annotations.txt"] = "\n".join(said).encode()
    path = tmp_path / "mirror" / tiny_imagenet.PART.path
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"tiny-imagenet-200/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    part = replace(tiny_imagenet.PART, hashes=(f"sha256:{digest}",))
    monkeypatch.setattr(tiny_imagenet, "PART", part)
    return files, Places(tmp_path / "cache", tmp_path / "mirror")


def test_pictures_are_decoded_from_the_archives_own_bytes(small_imagenet):
    files, places = small_imagenet
    splits = tiny_imagenet.load(subset="tenth", places=places)
    assert splits.class_names == ("dog", "cat")  # the order of wnids.txt
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [8, 5, 5]
    assert splits.train.y.tolist() == [0] * 4 + [1] * 4
    raw = splits.train.x * splits.std + splits.mean
    for place in range(8):
        label = ("n2", "n1")[place // 4]
        content = files[f"train/{label}/images/{label}_{place % 4}.JPEG"]
        pixels = np.array(Image.open(io.BytesIO(content)).convert("RGB")).transpose(2, 0, 1)
        np.testing.assert_allclose(raw[place].numpy(), pixels, atol=1e-3)
    torch.testing.assert_close(splits.train.x.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    one = sorted(splits.validation.index.tolist() + splits.test.index.tolist())
    assert one == list(range(8, 18))
    again = pickle.loads(pickle.dumps(tiny_imagenet.load(subset="tenth", places=places)))
    assert again.fingerprint == splits.fingerprint
    assert torch.equal(again.train.x, splits.train.x)


def test_fewer_classes_are_those_that_the_seed_draws(small_imagenet, monkeypatch):
    _, places = small_imagenet
    monkeypatch.setattr(tiny_imagenet, "FEWER", {"tiny-imagenet-20": 1})
    whole = tiny_imagenet.load(subset="tenth", places=places)
    seen = set()
    for seed in (0, 1):
        one = tiny_imagenet.load("tiny-imagenet-20", "tenth", seed, places=places)
        (title,) = one.class_names
        label = whole.class_names.index(title)
        assert [len(one.train), len(one.validation) + len(one.test)] == [4, (4, 6)[label]]
        for part in (one.train, one.validation, one.test):
            assert set(part.y.tolist()) == {0}
        chosen = whole.train.y == label
        assert torch.equal(one.train.x, whole.train.x[chosen])
        seen.add(title)
    assert seen == {"dog", "cat"}


def test_seeds_share_out_all_classes_before_any_comes_again():
    drawn = [tiny_imagenet.drawn_classes(200, 20, seed) for seed in range(20)]
    for turn in (drawn[:10], drawn[10:]):
        assert sorted(np.concatenate(turn).tolist()) == list(range(200))
    assert not np.array_equal(drawn[0], drawn[10])


def test_a_pack_that_is_not_whole_is_made_again(small_imagenet):
    _, places = small_imagenet
    x = tiny_imagenet.load(subset="tenth", places=places).train.x
    (pack,) = places.cache.glob("*.pack")
    pack.write_bytes(pack.read_bytes()[:-10])
    assert torch.equal(tiny_imagenet.load(subset="tenth", places=places).train.x, x)
    pack.unlink()
    assert torch.equal(tiny_imagenet.load(subset="tenth", places=places).train.x, x)


def test_what_the_part_does_not_have_is_asked_for(small_imagenet):
    _, places = small_imagenet
    for options in ({"subset": "full"}, {"official_test": True, "subset": "tenth"}):
        with pytest.raises(DatasetError, match=r"needs tiny-imagenet/tiny-imagenet-200.zip"):
            tiny_imagenet.load(places=places, **options)


# --- PTB-XL --------------------------------------------------------------------------------------

STATEMENTS = """,description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass
NORM,normal,1.0,,,NORM,NORM
IMI,inferior infarction,1.0,,,MI,IMI
NDT,T abnormality,1.0,1.0,,STTC,STTC
LVOLT,low voltages,,1.0,,,
SR,sinus rhythm,,,1.0,,
AFIB,fibrillation,,,1.0,,
"""
CODES = [
    {"NORM": 100.0, "SR": 0.0}, {"IMI": 15.0, "SR": 0.0}, {"NDT": 0.0, "AFIB": 0.0},
    {"NORM": 80.0, "LVOLT": 0.0}, {"IMI": 100.0, "NDT": 50.0, "SR": 0.0}, {"LVOLT": 0.0},
]  # fmt: skip


@pytest.fixture
def small_ecg(tmp_path):
    """Twelve records in PTB-XL's own files: folds 1 to 10, then 1 and 9."""
    folder = tmp_path / "mirror" / "ptb-xl"
    (folder / "records100").mkdir(parents=True)
    (folder / "scp_statements.csv").write_text(STATEMENTS)
    signals = RNG.integers(-3000, 3000, (12, 1000, 12)).astype("<i2")
    sums, rows = [], []
    for number in range(12):
        name = f"records100/{number:05d}_lr"
        (folder / f"{name}.dat").write_bytes(signals[number].tobytes())
        lines = [f"{number:05d}_lr 12 100 1000"]
        lines += [f"{number:05d}_lr.dat 16 1000.0(0)/mV 16 0 0 0 0 L{k}" for k in range(12)]
        (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
        digest = hashlib.sha256(signals[number].tobytes()).hexdigest()
        sums.append(f"{digest} {name}.dat")
        fold = number + 1 if number < 10 else (1, 9)[number - 10]
        rows.append([number + 1, str(CODES[number % 6]), fold, name])
    (folder / "SHA256SUMS.txt").write_text("\n".join(sums) + "\n")
    with (folder / "ptbxl_database.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ecg_id", "scp_codes", "strat_fold", "filename_lr"])
        writer.writerows(rows)
    return signals, Places(tmp_path / "cache", tmp_path / "mirror")


@pytest.mark.parametrize(
    ("name", "titles", "training"),
    [
        ("ptb-xl", ["AFIB", "IMI", "LVOLT", "NDT", "NORM", "SR"], 9),
        ("ptb-xl-superclass", ["MI", "NORM", "STTC"], 8),
        ("ptb-xl-subclass", ["IMI", "NORM", "STTC"], 8),
        ("ptb-xl-form", ["LVOLT", "NDT"], 5),
        ("ptb-xl-rhythm", ["AFIB", "SR"], 7),
    ],
)
def test_the_official_records_are_read_by_fold_and_label_set(small_ecg, name, titles, training):
    signals, places = small_ecg
    splits = ecg.load(name, "full", places=places)
    assert list(splits.class_names) == titles and splits.task == "multilabel"
    assert len(splits.train) == training
    assert set(splits.validation.index.tolist()) <= {8, 10, 11}
    x = splits.train.batch(torch.tensor([0])) * splits.std + splits.mean
    place = int(splits.train.index[0])
    np.testing.assert_allclose(x[0].numpy(), signals[place].T, atol=0.01)
    everything = splits.train.x
    assert abs(float(everything.mean())) < 1e-3 and abs(float(everything.std()) - 1) < 1e-3


def test_records_that_are_not_as_they_were_are_refused(small_ecg):
    _, places = small_ecg
    file = places.mirror / "ptb-xl/records100/00003_lr.dat"
    content = file.read_bytes()
    file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(DatasetError, match="00003_lr.dat has sha256:"):
        ecg.load("ptb-xl", "full", places=places)
    assert not list(places.cache.iterdir())
    file.write_bytes(content)
    header = file.with_suffix(".hea")
    header.write_text(header.read_text().replace("12 100 1000", "12 500 5000"))
    with pytest.raises(DatasetError, match="is no record of 12 leads in format 16, 100 Hz"):
        ecg.load("ptb-xl", "full", places=places)


def test_the_official_records_train_from_disk(small_ecg):
    _, places = small_ecg
    splits = ecg.load("ptb-xl-superclass", "full", places=places)
    config = TrainConfig(model="fcn", batch_norm=True, epochs=1, batch_size=4, trainer="single")
    arms = [Arm("a", {"kind": "fastaba", "target": "true_class", "strength": 0.1})]
    (row,) = train(config, arms, [0], splits=splits).rows
    assert row["status"] == "finished" and np.isfinite(row["test_loss"])


def test_without_files_it_is_said_what_to_get(tmp_path):
    places = Places(tmp_path, None)
    with pytest.raises(DatasetError, match="unpack PTB-XL 1.0.3"):
        ecg.load("ptb-xl", "full", places=places)
    with pytest.raises(DatasetError, match="filtered_100hz.npz is not here"):
        ecg.load("ptb-xl-superclass", "derived", places=places)
    with pytest.raises(DatasetError, match="no labels for the 71 statements of 'ptb-xl'"):
        ecg.load("ptb-xl", "derived", places=places)
    with pytest.raises(DatasetError, match=r"unknown subset 'tiny' of ptb-xl-form; known: derived"):
        load_dataset("ptb-xl-form", "tiny")
    with pytest.raises(DatasetError, match="subset 'full' of ptb-xl-superclass-25hz; allowed: der"):
        ecg.load("ptb-xl-superclass-25hz", "full", places=places)
    for name, info in LARGE.items():
        expected = {"tiny-imagenet": (3, 64, 64), "tiny-imagenet-20": (3, 64, 64),
                    "ptb-xl-superclass-25hz": (12, 250), "diabetes": (10,)}  # fmt: skip
        assert info.input_shape == expected.get(name, (12, 1000))


MIRROR = os.environ.get("ABA_DATA_MIRROR", "")


@pytest.mark.skipif(
    not (Path(MIRROR) / "ptb-xl" / ecg.DERIVED).is_file(), reason="needs the mirror's PTB-XL"
)
def test_the_derived_records_are_those_that_are_described():
    splits = load_dataset("ptb-xl-superclass", "derived")
    sizes = [len(part) for part in (splits.train, splits.validation, splits.test)]
    assert sizes == [1442, 183, 194]
    totals = sum(part.y.sum(0) for part in (splits.train, splits.validation, splits.test))
    described = {"NORM": 964, "MI": 262, "STTC": 527, "CD": 462, "HYP": 193}
    assert dict(zip(splits.class_names, totals.int().tolist(), strict=True)) == described
    drawn = [load_dataset("ptb-xl-superclass", "derived-400", subset_seed=s) for s in (1, 1, 2)]
    assert torch.equal(drawn[0].train.index, drawn[1].train.index)
    assert not torch.equal(drawn[0].train.index, drawn[2].train.index)


# --- several labels from end to end --------------------------------------------------------------


def several_labels():
    """Three labels of which the last never occurs in the test split."""
    x = RNG.normal(size=(120, 4, 40)).astype(np.float32)
    y = np.stack([x[:, 0].mean(1) > 0, x[:, 1].mean(1) > 0.1, x[:, 2].mean(1) > 2], 1)
    y[:5, 2], y[5:, 2] = True, False
    x, y = torch.from_numpy(x), torch.from_numpy(y.astype(np.float32))
    held = {"validation": (x[60:90], y[60:90]), "test": (x[90:], y[90:])}
    return splits_from(x[:60], y[:60], task="multilabel", **held)


@pytest.mark.parametrize("trainer", ["single", "replicas"])
@pytest.mark.parametrize("target", ["loss", "true_class", "class_score"])
def test_several_labels_train_and_are_judged_by_macro_auc(trainer, target):
    splits = several_labels()
    config = TrainConfig(
        model="mlp", epochs=2, batch_size=12, trainer=trainer, dtype="float64",
        metrics=("accuracy",),
    )  # fmt: skip
    method = {"kind": "fastaba", "target": target, "strength": 0.2}
    method |= {"top_k": 2} if target == "class_score" else {}
    runs = train(config, [Arm("a", ["mixup", method])], [1], splits=splits)
    (row,) = runs.rows
    model = runs.model("a", 1)
    with torch.no_grad():
        scores, truth = model(splits.test.x.double()).numpy(), splits.test.y.numpy()
    assert truth[:, 2].sum() == 0
    areas = [roc_auc_score(truth[:, k], scores[:, k]) for k in range(2)]  # the third is undefined
    assert row["test_macro_auc"] == pytest.approx(100 * np.mean(areas), rel=1e-9)


# --- deeper networks -----------------------------------------------------------------------------

SHAPES = {"channels, height, width": (3, 16, 16), "channels, time": (3, 64),
          "tokens, embedding": (10, 6)}  # fmt: skip


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in ("resnet18", "xresnet1d101")])
def test_a_deeper_network_trains_alike_by_both_trainers(name):
    shape = SHAPES[NETWORKS[name][2]]
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, *shape)).astype(np.float32)
    splits = splits_from(x, rng.integers(0, 3, 30), class_names=["a", "b", "c"])
    norm = "transformer" not in name and "vit" not in name
    config = TrainConfig(
        model=name, batch_norm=norm, epochs=1, batch_size=6, dtype="float64", learning_rate=0.01
    )
    arms = [Arm("a", {"kind": "challenger", "strength": 0.1})]
    one = train(config, arms, [0], splits=splits)
    other = train(replace(config, trainer="single"), arms, [0], splits=splits)
    assert one.rows[0]["test_loss"] == pytest.approx(other.rows[0]["test_loss"], rel=1e-7)


def test_sizes_are_those_of_the_papers():
    def parameters(name: str, shape: tuple[int, ...], classes: int) -> int:
        return sum(p.numel() for p in build_model(name, shape, classes, True).parameters())

    # ResNet-18 with a 3×3 stem and 10 classes, as widely reported for CIFAR-10.
    assert parameters("resnet18", (3, 32, 32), 10) == 11_173_962
    # Wang et al.: 12·8·128 + 128·5·256 + 256·3·128 weights, batch norms and a linear layer.
    norms = 2 * (128 + 256 + 128)
    expected = 12 * 8 * 128 + 128 * 5 * 256 + 256 * 3 * 128 + norms + 128 * 5 + 5
    assert parameters("fcn", (12, 1000), 5) == expected


def test_a_transformer_has_no_batch_norm():
    with pytest.raises(ValueError, match="which model 'tiny_vit' has nowhere; allowed: false"):
        build_model("tiny_vit", (3, 16, 16), 3, True)


def test_pretrained_weights_come_from_a_file_of_known_hash(tmp_path):
    model = build_model("resnet18_thin", (3, 16, 16), 5, True)
    path = tmp_path / "weights.pt"
    torch.save(model.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    use = {"use": "aba_core.libraries:pretrained", "model": "resnet18_thin", "weights": str(path)}
    splits = splits_from(RNG.normal(size=(30, 3, 16, 16)), RNG.integers(0, 3, 30))
    config = TrainConfig(
        model={**use, "sha256": digest}, batch_norm=True, epochs=0.1, batch_size=6,
        learning_rate=1e-300, trainer="single",
    )  # fmt: skip
    trained = train(config, [Arm("a")], [0], splits=splits).model("a", 0).state_dict()
    started = model.state_dict()
    assert torch.equal(trained["0.weight"], started["0.weight"])
    assert trained[list(trained)[-1]].shape == (3,)  # the classifier for other classes is new
    with pytest.raises(ValueError, match=f"have sha256 {digest}; asked for: 00"):
        train(replace(config, model={**use, "sha256": "00"}), [Arm("a")], [0], splits=splits)


def test_label_tables_keep_their_columns_by_name():
    header = "ecg_id,patient_id,strat_fold,filename_lr,filename_hr,sub_class,B,A\n"
    tables = [gzip.compress((header + "7,1.0,3,a,b,['A'],0,1\n").encode())]
    assert ecg._labels_of(tables) == ({7: [1.0, 0.0]}, ("A", "B"))


# --- the published table -------------------------------------------------------------------------


def test_every_published_cell_is_measured_or_says_what_it_takes(tmp_path):
    from analysis.reference import published_table
    from analysis.studies import large

    table = large.table(tmp_path)
    published = published_table("benchmark_large")
    assert sorted(table["published"]) == sorted(published["median"])
    assert set(table["scope"]) == {"not run"}
    assert (table[[f"hours_{gpu}" for gpu in large.GPUS]] > 0).all().all()
    for command in set(table["command"]):
        assert command.split()[2] in large.ROWS
    shown = large.side_by_side(table)
    assert (shown["ours"] == "not run; " + table["command"]).all()
    assert set(shown["model"]) >= {"ResNet50, RandAugment", "PTB-XL, model not stated"}
    assert f"{table['hours_H100'].sum():.0f} on H100" in large.note(table)


def test_cells_without_runs_of_their_own_show_those_of_smaller_studies():
    from analysis.results import SHIPPED, load
    from analysis.studies import large
    from analysis.wording import data_title

    table = large.table(SHIPPED).set_index(["dataset", "model", "randaugment", "method"])
    for name, row in large.ROWS.items():
        for method, arm in row.reduced.items():
            frame = load(SHIPPED, *row.within, "").frame
            runs = frame[(frame["arm"] == arm) & (frame["status"] == "finished")]
            cell = table.loc[(*row.published, method)]
            assert len(runs) and cell["runs"] == len(runs), (name, method)
            assert cell["ours"] == runs[f"test_{row.metric}"].median()
            assert cell["scope"].startswith(data_title(row.within[1]))


def test_a_large_study_declares_the_published_strengths_and_epochs():
    from analysis.reference import published_table
    from analysis.studies import find_study, large
    from analysis.study import StudyError

    published = published_table("benchmark_large")
    for name, row in large.ROWS.items():
        study = find_study(name, preset="published")
        mine = published[(published["dataset"] == row.published[0])
                         & (published["model"] == row.published[1])]  # fmt: skip
        assert study.config["epochs"] == mine["epochs"].iloc[0]
        chosen = mine[mine["randaugment"] == row.published[2]].set_index("method")["strength"]
        for arm in study.arms[1:]:
            assert arm.setting("strength") == chosen[arm.name.lower()]
        assert find_study(name).config["epochs"] < study.config["epochs"]
    with pytest.raises(StudyError, match="unknown study 'large-lenet' .*; known: large-resnet50"):
        find_study("large-lenet")
    with pytest.raises(StudyError, match="--dataset mnist does not go with large-vit"):
        find_study("large-vit", dataset="mnist")


def test_measured_cells_name_their_scope(tmp_path, monkeypatch):
    from analysis import runner
    from analysis.studies import large

    splits = several_labels()
    monkeypatch.setattr("analysis.plan.load_splits", lambda config: splits)
    monkeypatch.setattr("analysis.engines.load_splits", lambda config: splits)
    study = large.declare("large-ecg", "quick")
    config = {**study.config, "model": "mlp", "epochs": 1, "batch_size": 12}
    small = study.model_copy(update={"config": config, "seeds": (200, 201)})

    def engine(chunks, report):
        from analysis.engines import train_chunk

        return ((chunk, train_chunk(chunk)) for chunk in chunks)

    done = runner.run(small, tmp_path, device="cpu", engine=engine)
    assert done.computed == 8
    table = large.table(tmp_path)
    cells = table[table["dataset"] == "ptb-xl"]
    assert list(cells["runs"]) == [2] * 4
    assert set(cells["scope"]) == {"own (own), mlp, 1 epochs"}
    frame = done.result.frame
    vanilla = frame.loc[frame["arm"] == "Vanilla", "test_macro_auc"]
    assert cells.iloc[0]["ours"] == pytest.approx(vanilla.median())
