"""The data sets that have a module of their own, most of them larger: shapes, training subsets, and
the function that reads each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aba_core.identity import load, meant
from aba_core.sources import DatasetError, Places, find_file


@dataclass(frozen=True)
class LargeInfo:
    """What such a data set is. where: "module:function" that reads it. whole, part: files that
    show that all of it, or the smaller subsets, are here; "" for what comes with a package."""

    title: str
    input_shape: tuple[int, ...]
    classes: int
    subsets: dict[str, int]
    where: str
    whole: str
    part: str
    megabytes: float
    downloads: bool

    def read(self, name: str, subset: str, subset_seed: int, places: Places) -> object:
        """The splits of a subset."""
        return load(self.where)(name, subset, subset_seed, places=places)

    def present(self, places: Places) -> str:
        """Where it would come from now."""
        if not self.whole:
            return "bundled"
        for file, note in ((self.whole, ""), (self.part, " (not full)")):
            place = find_file(file, places)[0]
            if place and file:
                return place + note
        how = "downloads" if self.downloads else "by hand,"
        return f"not here ({how} {self.megabytes:.0f} MB)"


_ECG = {"derived-400": 400, "derived-1000": 1000, "derived": 1442, "full": 17418}


def _ecg(title: str, labels: int, derived: bool = True, times: int = 1000) -> LargeInfo:
    subsets = _ECG if derived else {"full": _ECG["full"]}
    subsets = subsets if times == 1000 else {n: k for n, k in subsets.items() if n != "full"}
    part = "ptb-xl/ptbxl_subset1819_filtered_100hz.npz" if derived else ""
    whole = "ptb-xl/ptbxl_database.csv"
    return LargeInfo(
        f"PTB-XL, {title}", (12, times), labels, subsets, "aba_core.ecg:load", whole, part, 1800,
        False,
    )  # fmt: skip


def _tiny_imagenet(title: str, classes: int, subsets: dict[str, int]) -> LargeInfo:
    whole = "tiny-imagenet/tiny-imagenet-200.zip"
    part = "tiny-imagenet/tiny-imagenet-200-val10000-train50perclass.tar.gz"
    return LargeInfo(
        title, (3, 64, 64), classes, subsets, "aba_core.tiny_imagenet:load", whole, part, 248, True
    )


LARGE: dict[str, LargeInfo] = {
    "tiny-imagenet": _tiny_imagenet(
        "Tiny ImageNet", 200, {"tiny": 2000, "med": 5000, "tenth": 10000, "full": 100000}
    ),
    "tiny-imagenet-20": _tiny_imagenet(
        "Tiny ImageNet, 20 classes", 20, {"tiny": 200, "med": 500, "tenth": 1000, "full": 10000}
    ),
    "ptb-xl": _ecg("71 statements", 71, derived=False),
    "ptb-xl-superclass": _ecg("superclasses", 5),
    "ptb-xl-superclass-25hz": _ecg("superclasses, 25 Hz", 5, times=250),
    "ptb-xl-subclass": _ecg("subclasses", 23),
    "ptb-xl-form": _ecg("form", 19),
    "ptb-xl-rhythm": _ecg("rhythm", 12),
    "diabetes": LargeInfo(
        "Diabetes (10 measurements)",
        (10,),
        1,
        {"tiny": 60, "med": 120, "full": 222},
        "aba_core.diabetes:load",
        "",
        "",
        0,
        False,
    ),
}


def read_large(name: str, subset: str, subset_seed: int, tokens: int, places: Places) -> Any:
    """The splits of one of these data sets, by the module that reads it. Raises
    DatasetError."""
    known = LARGE[name].subsets
    if subset not in known:
        allowed = ", ".join(f"{key} ({size})" for key, size in known.items())
        raise DatasetError(
            f"unknown subset {subset!r} of {name}{meant(subset, known)}; known: {allowed}"
        )
    if tokens:
        raise DatasetError(f"tokens is {tokens}, but {name} has no texts; allowed: 0")
    return LARGE[name].read(name, subset, subset_seed, places)
