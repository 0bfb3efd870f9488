"""Identity: plain data decide a run's key; names of classes, spelling and idle fields do not."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest

from aba_core import MENDABA, AdjustmentSet, Arm, Augmentation, Percentiles, SignSplit, TrainConfig
from aba_core.adjustments import Adjustment
from aba_core.arms import METHODS
from aba_core.identity import Use, load, plain, short_hash, version_of
from aba_core.methods.base import Method, method_of, stand_ins
from analysis import plan
from analysis import results as store
from analysis.results import SHIPPED
from analysis.study import Study, StudyError

CLASSES = (Adjustment, AdjustmentSet, Augmentation, Percentiles, SignSplit, TrainConfig, Arm)


def shipped() -> Iterator[tuple[Study, set[str], str]]:
    """Every shipped declaration: the study, the keys of its runs, its data's fingerprint."""
    declared = store.declarations(SHIPPED)
    stored = {kind: store.read_rows(SHIPPED, kind)[0] for kind in {d.kind for d in declared}}
    for declaration in declared:
        study, rows = declaration.study, stored[declaration.kind]
        rows = rows[rows["key"].isin(list(declaration.keys))]
        # Arms that draw their own training samples are known by the subset of the config.
        drawn = rows["subset_seed"] == study.config.get("subset_seed", 0)
        found = set(rows.loc[drawn, "data"])
        if not found:  # every run has a subset of its own
            here = {s.name for s in plan.dataset_status() if not s.present.startswith("not here")}
            if study.dataset not in here:
                continue
            found = {plan.load_splits(plan.core_config(study)).fingerprint}
        (data,) = found
        yield study, set(declaration.keys), data


def keys_of(study: Study, data: str = "data") -> dict[str, tuple[str, int]]:
    methods = plan.core_methods(study.arms)
    return plan.run_keys(study, plan.core_config(study), methods, data)


def assert_all_shipped_runs_are_known() -> None:
    number = 0
    for study, keys, data in shipped():
        assert set(keys_of(study, data)) >= keys
        number += len(keys)
    assert number > 5000


def test_every_shipped_run_is_known_by_the_key_it_was_given():
    assert_all_shipped_runs_are_known()


@pytest.mark.slow
def test_no_name_of_a_class_is_part_of_a_key(monkeypatch):
    before = [keys_of(study, data) for study, _, data in shipped()]
    names = {cls: cls.__name__ for cls in CLASSES}
    try:
        for number, cls in enumerate(CLASSES):
            cls.__name__ = f"Renamed{number}"
            monkeypatch.setattr(cls, "__repr__", lambda value: "something else")
        assert "something else" in repr(MENDABA) and "Renamed" in type(MENDABA).__name__
        assert [keys_of(study, data) for study, _, data in shipped()] == before
        assert_all_shipped_runs_are_known()
    finally:
        for cls, name in names.items():
            cls.__name__ = name


def test_a_run_of_today_has_its_present_key_first_and_the_old_one_beside():
    study = Study(name="s", dataset="digits", arms=[{"name": "a", "adjustments": "3"}], seeds=2)
    keys = keys_of(study)
    assert list(keys.values()) == [("a", 0), ("a", 1), ("a", 0), ("a", 1)]
    mixup = Study(name="s", dataset="digits", arms=[{"name": "a", "method": "mixup"}], seeds=2)
    assert list(keys_of(mixup).values()) == [("a", 0), ("a", 1)]  # nobody had these before


# --- what is part of an identity -----------------------------------------------------------------


def test_defaults_are_left_out_and_the_rest_is_plain():
    aug = Augmentation(AdjustmentSet.parse("3,4"), strength=0.5, split=SignSplit(), target="loss")
    assert plain(aug) == {
        "kind": "aba",
        "version": 1,
        "adjustments": "3,4",
        "strength": 0.5,
        "split": {"kind": "sign", "version": 1},
        "target": "loss",
    }
    config = TrainConfig(epochs=5.0, momentum=0.5, optimizer="adam", curve_every=3)
    assert plain(config) == {
        "kind": "training", "version": 1, "epochs": 5, "optimizer": "adam",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "matters"),
    [
        ({"target": "loss", "top_k": 3}, False),
        ({"target": "loss", "target_per": "batch"}, False),
        ({"target": "class_score", "top_k": 4}, False),  # what None means
        ({"target": "class_score", "top_k": 3}, True),
        ({"attribution_samples": 5}, False),
        ({"attribution": "smoothgrad", "attribution_samples": 5}, True),
        ({"attribution": "smoothgrad", "attribution_noise": 0.3}, True),
        ({"attribution": "integrated_gradients", "attribution_noise": 0.3}, False),
        ({"update_statistics": True}, False),
        ({"attribution_mode": "train", "update_statistics": True}, True),
        ({"placebo": "random", "attribution": "smoothgrad"}, False),
        ({"placebo": "permuted", "attribution": "smoothgrad"}, True),
        ({"site": "2"}, True),
    ],
)
def test_a_field_that_cannot_matter_is_no_part_of_an_identity(change, matters):
    without = {
        name: value
        for name, value in change.items()
        if name in ("target", "attribution_mode", "placebo")
        or (name == "attribution" and any(n.startswith("attribution_") for n in change))
    }
    base = replace(MENDABA, **without)
    assert (plain(replace(base, **change)) != plain(base)) == matters


def test_two_spellings_of_an_arm_are_one_run():
    spellings = [
        {"name": "a", "adjustments": [3, 4], "strength": 1, "split": [0.1, 0.9]},
        {"name": "b", "method": {"kind": "aba", "adjustments": "4,3", "strength": 1.0}},
    ]
    with pytest.raises(StudyError, match="arms 'a' and 'b' are the same runs"):
        keys_of(Study(name="s", dataset="digits", arms=spellings, seeds=1))


def test_arms_that_differ_have_rows_and_identities_that_differ():
    arms = [
        Arm("a", MENDABA),
        Arm("b", replace(MENDABA, attribution_mode="train")),
        Arm("c", MENDABA, held=(("order", 3),)),
        Arm("d", MENDABA, seed_offset=7),
        Arm("e", MENDABA, flip_bit=True),
        Arm("f", MENDABA, subset_per_run=True),
        Arm("g", replace(MENDABA, site="0")),
        Arm("h"),
    ]
    from aba_core.training import describe

    rows = [describe(arm, method_of(arm.method)) for arm in arms]
    assert len({row["definition"] for row in rows}) == len(arms)
    assert len({short_hash({**plain(arm), "name": ""}) for arm in arms}) == len(arms)


def test_an_arm_is_its_plain_data_and_back():
    for given in (
        {"name": "a"},
        {"name": "a", "method": {"kind": "mendaba", "strength": 0.3}},
        {"name": "a", "method": {"use": "outside.swap:Swap", "share": 0.2}},
        {"name": "a", "method": [{"kind": "mixup"}, {"kind": "sam", "rho": 0.1}]},
        {"name": "a", "held": {"order": 3}, "flip_bit": True, "learning_rate": 0.1},
    ):
        arm = Arm.read(given)
        assert Arm.read(arm.data()) == arm
        assert plain(method_of(Arm.read(arm.data()).method)) == plain(method_of(arm.method))


@pytest.mark.parametrize("kind", METHODS)
def test_every_method_has_an_identity_that_makes_it_again(kind):
    method = method_of({"kind": kind, **stand_ins(kind)})
    assert method_of(plain(method)) == method


# --- plain data ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Named:
    kind: ClassVar[str] = "named"
    version: ClassVar[int] = 2
    one: int = 1
    many: tuple[int, ...] = field(default_factory=lambda: (1, 2))


def test_values_become_plain_data():
    assert plain({"a": (1.0, 2.5), "b": None, "c": Named()}) == {
        "a": [1, 2.5], "b": None, "c": {"kind": "named", "version": 2},
    }  # fmt: skip
    assert plain(Named(one=3, many=(1,))) == {
        "kind": "named", "version": 2, "one": 3, "many": [1],
    }  # fmt: skip


def test_what_has_no_kind_has_no_identity():
    @dataclass
    class Anonymous:
        one: int = 1

    with pytest.raises(TypeError, match="Anonymous has no identity"):
        plain(Anonymous())


def test_the_code_that_is_used_is_part_of_an_identity():
    use = Use.read({"use": "outside.swap:Swap", "share": 0.2})
    assert use is not None and plain(use) == {
        "use": "outside.swap:Swap",
        "share": 0.2,
        "version": 1,
    }
    assert Use.read("gradient") is None and Use.read({"kind": "mixup"}) is None

    def function() -> int:
        return 1

    def other() -> int:
        return 2

    assert version_of(function) != version_of(other)
    function.version = 3  # type: ignore[attr-defined]
    assert version_of(function) == 3


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("swap", "'swap' is no place of code; needed: 'module:name'"),
        ("nowhere:swap", "cannot import 'nowhere' of 'nowhere:swap': ModuleNotFoundError"),
        ("outside.swap:Nothing", "'outside.swap' has no 'Nothing'"),
    ],
)
def test_code_that_is_not_there_is_one_line(where, message):
    with pytest.raises(ValueError, match=message):
        load(where)


def test_defaults_are_part_of_every_result():
    """Whoever changes one raises the version of what it belongs to, and then changes this."""
    config = {name: plain(value) for name, value in vars(TrainConfig()).items()}
    assert config.pop("trainer") == "replicas"  # a field that came later, and that keys leave out
    aba = {name: plain(value) for name, value in vars(Augmentation(MENDABA.adjustments)).items()}
    assert (
        config.pop("card") is None and aba.pop("lagged") is False
    )  # came later: keys leave them out
    assert (short_hash(config), short_hash(aba)) == ("ce2e5bb928bf", "62235a0685ba")
    assert Method().version == MENDABA.version == 1
    assert replace(MENDABA, site="2").version == 2  # runs without its gradient are not found
