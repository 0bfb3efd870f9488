"""A stranger's count: each new thing is one file outside the package, in `tests/outside`.

A method, a map, data, a model, a metric and a study are used from Python and from study files that
lie beside them, by the commands that users type. Rules and engines: test_rules.py, test_runner.py.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from oracles import counter_hash
from oracles.slow_attribution import torch_cross_entropy
from oracles.tiny_data import make_splits
from outside import maps, parts, rings
from outside.swap import Swap
from torch import nn

from aba_core import (
    ABA,
    Arm,
    Augmentation,
    Chain,
    Draws,
    Method,
    Regularizer,
    TrainConfig,
    attribute,
    train,
)
from aba_core.architecture import initial_model
from aba_core.randomness import batch_order, epoch_order
from analysis import plan, results, runner, terminal
from analysis.cli import app
from analysis.studies import find_study
from analysis.study import Settings, Study, settings_of, study_from_yaml

OUTSIDE = Path(__file__).parent / "outside"
ROOT = OUTSIDE.parents[1]

MINE = """
name: mine
dataset: {use: "rings:classes", name: rings}
config:
  model: {use: "parts:wide", width: 8}
  metrics: ["parts:top_two", balanced_accuracy]
  epochs: 2
  batch_size: 20
arms:
  - name: Vanilla
  - {name: Swap, method: {use: "swap:Swap", share: 0.2}}
  - {name: Hidden, method: {use: "swap:Swap", share: 0.2, site: hidden}}
  - name: Occluded
    method: {kind: aba, adjustments: epsilon, target: loss, attribution: {use: "maps:occlusion"}}
seeds: 3
"""
PLACES = """
name: places
dataset: {use: "rings:labels", name: places}
config: {model: mlp, metrics: [accuracy, macro_f1, brier], epochs: 1, batch_size: 20}
arms:
  - name: Vanilla
  - {name: Swap, method: {use: "swap:Swap", share: 0.2}}
  - {name: ABA, adjustments: epsilon, target: class_score, strength: 0.3}
seeds: 2
"""
RADII = PLACES.replace("places", "radii").replace("rings:labels", "rings:numbers")
RADII = RADII.replace("class_score", "loss").replace("[accuracy, macro_f1, brier]", "[mae]")
STUDIES = {"mine": ("mine.yaml", "rings"), "half-data": ("half_data.py", "digits")} | {
    name: (f"{name}.yaml", name) for name in ("places", "radii")
}


@pytest.fixture
def alone(monkeypatch) -> Iterator[None]:
    """Modules and the path as before afterwards: another test has files of the same names."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if not name.startswith(("aba_core", "analysis", "outside")) and name in NAMES:
            del sys.modules[name]


NAMES = {path.stem for path in OUTSIDE.glob("*.py")} | {"exchange", "later", "broken", "string"}


@pytest.fixture
def folder(tmp_path, monkeypatch, alone) -> Path:
    """A stranger's folder: their files and nothing of ours, with the study files beside them."""
    home = tmp_path / "home"
    fill(home)
    monkeypatch.chdir(home)
    return home


def fill(home: Path) -> None:
    home.mkdir()
    for path in OUTSIDE.glob("*.py"):
        shutil.copy(path, home)
    for name, text in (("mine", MINE), ("places", PLACES), ("radii", RADII)):
        (home / f"{name}.yaml").write_text(text)


# --- from Python ----------------------------------------------------------------------------------

SPLITS = make_splits((2, 3, 4))
CONFIG = TrainConfig(epochs=2, batch_size=5, learning_rate=0.05, dtype="float64")
METHODS = {
    "unguided": Swap(0.3),
    "guided": Swap(0.3, guided=True),
    "hidden": Swap(0.4, site="2"),
}


def build() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(24, 6), nn.Tanh(), nn.Linear(6, 3))


def slow_swap(
    method: Swap, h: torch.Tensor, gradient: torch.Tensor | None, seed: int, step: int
) -> torch.Tensor:
    """The batch changed feature by feature."""
    flat = h.flatten(1)
    rows = []
    for i in range(len(flat)):
        row = flat[i].clone()
        for k in range(len(row)):
            if gradient is not None:
                smaller = int((gradient[i] < gradient[i, k]).sum())
                rank = (smaller + 0.5) / len(row)
            else:
                rank = counter_hash.uniform(seed, "swap", step * 2**20, i * len(row) + k)
            if rank < method.share:
                row[k] = flat[i - 1, k]
        rows.append(row)
    return torch.stack(rows).reshape(h.shape)


def slow_loss(method: Swap, model: nn.Module, x, y, seed: int, step: int) -> torch.Tensor:
    """The mean loss of one batch, its features swapped at the method's site."""
    if method.site != "input":
        cut = int(method.site) + 1
        h = slow_swap(method, model[:cut](x), None, seed, step)
        return torch_cross_entropy(model[cut:](h), y).mean()
    gradient = None
    if method.guided:
        at = x.clone().requires_grad_()
        total = torch_cross_entropy(model(at), y).sum()
        gradient = torch.autograd.grad(total, at)[0].abs().flatten(1)
    return torch_cross_entropy(model(slow_swap(method, x, gradient, seed, step)), y).mean()


def slow_run(method: Swap, seed: int) -> nn.Module:
    model = initial_model(build, seed, torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    samples, seeds = len(SPLITS.train), torch.tensor([seed])
    for step in range(CONFIG.steps(samples)):
        rows = batch_order(lambda e: epoch_order(seeds, e, samples), step, 5, samples)[0]
        x, y = SPLITS.train.x[rows].double(), SPLITS.train.y[rows]
        optimizer.zero_grad()
        slow_loss(method, model, x, y, seed, step).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("among", ["alone", "among others"])
@pytest.mark.parametrize("name", METHODS)
def test_a_strangers_method_equals_its_slow_twin(name, among):
    method = METHODS[name]
    arms, seeds = [Arm("a", method)], (4,)
    if among == "among others":
        others = [*METHODS.values(), Swap(0.9), Augmentation("all", target="loss"), None]
        arms, seeds = [*arms, *(Arm(f"{i}", m) for i, m in enumerate(others))], (0, 4, 7)
    runs = train(CONFIG, arms, seeds, splits=SPLITS, build=build)
    for seed in seeds:
        expected = slow_run(method, seed).state_dict()
        for part, value in runs.model("a", seed).state_dict().items():
            torch.testing.assert_close(value, expected[part], rtol=1e-9, atol=1e-9)
    assert (runs.frame().query("arm == 'a'")["share"] == method.share).all()


@pytest.mark.parametrize("name", METHODS)
def test_a_strangers_method_works_in_anybodys_loop(name):
    method, model = METHODS[name], initial_model(build, 1, torch.float64)
    x, y = SPLITS.train.x[:5].double(), SPLITS.train.y[:5]
    regularizer = Regularizer(method, seed=3)
    for step in range(2):
        model.zero_grad()
        loss = regularizer.backward(model, x, y)
        computed = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        expected = slow_loss(method, model, x, y, 3, step)
        expected.backward()
        torch.testing.assert_close(loss, expected.detach())
        for grad, p in zip(computed, model.parameters(), strict=True):
            torch.testing.assert_close(grad, p.grad)


def test_a_strangers_method_is_a_link_of_a_chain():
    chain = Chain((Swap(0.3), Augmentation("epsilon", target="loss")))
    text = [{"use": "outside.swap:Swap", "share": 0.3}, {"kind": "aba", "adjustments": "epsilon"}]
    text[1]["target"] = "loss"
    arms = [Arm("objects", chain), Arm("text", text)]
    runs = train(CONFIG, arms, [0], splits=SPLITS, build=build)
    one, two = (runs.model(arm.name, 0).state_dict() for arm in arms)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_strangers_map_is_taken_wherever_a_maps_name_is():
    model, x, y = build(), SPLITS.train.x[:5], SPLITS.train.y[:5]
    expected = torch.zeros(5, 24)
    with torch.no_grad():
        for k in range(24):
            without = x.flatten(1).clone()
            without[:, k] = 0
            expected[:, k] = nn.functional.cross_entropy(model(x), y, reduction="none")
            change = nn.functional.cross_entropy(
                model(without.reshape(x.shape)), y, reduction="none"
            )
            expected[:, k] -= change
    made = attribute(model, x, y, "outside.maps:occlusion", "loss")
    torch.testing.assert_close(made, expected.reshape(x.shape))

    aba = ABA("fastaba-ce", attribution="outside.maps:occlusion")
    by_gradient = ABA("fastaba-ce")
    assert not torch.equal(aba(model, x, y), by_gradient(model, x, y))
    arms = [
        Arm.of("text", adjustments="epsilon", target="loss", attribution="outside.maps:occlusion"),
        Arm.of(
            "data",
            adjustments="epsilon",
            target="loss",
            attribution={"use": "outside.maps:occlusion"},
        ),
    ]
    frame = train(CONFIG, arms, [0], splits=SPLITS, build=build).frame()
    assert frame["validation_loss"].nunique() == 1
    assert (frame["attribution"] == "outside.maps:occlusion").all()
    # A pass of its own kind: the map says that it takes 2.
    assert (frame["passes"] == 3 * CONFIG.steps(len(SPLITS.train))).all()


def test_a_strangers_map_has_options():
    model, x, y = build(), SPLITS.train.x[:5], SPLITS.train.y[:5]
    use = {"use": "outside.maps:occlusion", "fill": 2.0}
    with pytest.raises(TypeError, match="fill"):
        attribute(model, x, y, use)
    assert str(Augmentation("all", attribution=use).attribution).endswith("(fill=2.0)")


def test_a_map_of_the_wrong_shape_is_said():
    with pytest.raises(ValueError, match=r"'outside.maps:wrong_shape' has shape \(5, 2, 3\); need"):
        attribute(build(), SPLITS.train.x[:5], SPLITS.train.y[:5], "outside.maps:wrong_shape")


def test_a_strangers_data_model_and_metric_train_by_name():
    config = TrainConfig(
        dataset={"use": "outside.rings:classes", "noise": 1},
        model={"use": "outside.parts:wide", "width": 5},
        metrics=("outside.parts:top_two", "macro_f1"),
        epochs=1,
        batch_size=20,
    )
    runs = train(config, [Arm("Vanilla")], [0])
    row = runs.frame().iloc[0]
    splits = rings.classes(0, noise=1)
    model = runs.model("Vanilla", 0)
    with torch.no_grad():
        logits = model(splits.validation.x).numpy()
    assert row["validation_top_two"] == parts.top_two(logits, splits.validation.y.numpy()) == 100
    assert model.get_submodule("hidden").out_features == 5
    assert row["model"] == "outside.parts:wide(width=5)" and row["dataset"] == "rings"
    assert 0 <= row["test_macro_f1"] <= 100


# --- from study files, by the commands -----------------------------------------------------------


def aba(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "analysis.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Path:
    """A stranger's folder in which all their studies have been run, in two processes each."""
    home = tmp_path_factory.mktemp("stranger") / "home"
    fill(home)
    for file, _ in STUDIES.values():
        done = aba(home, "run", file, "--processes", "2", "--device", "cpu")
        assert done.returncode == 0, done.stderr
        assert " 0 found finished" in done.stdout
    return home


def of(ran: Path, study: str) -> pd.DataFrame:
    return results.load(ran / "results", study, STUDIES[study][1]).frame


@pytest.mark.parametrize("study", STUDIES)
def test_a_second_call_computes_nothing(ran, study):
    done = aba(ran, "run", STUDIES[study][0], "--device", "cpu")
    assert done.returncode == 0 and "0 runs computed now" in done.stdout
    assert len(of(ran, study)) == int(done.stdout.rsplit("now, ")[1].split()[0])


def test_status_names_every_study_and_plan_takes_its_runs_for_a_pilot(ran):
    done = aba(ran, "status")
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    assert rows["mine"][1:4] == ["rings", "parts:wide(width=8)", "2"] and "12/12" in rows["mine"]
    assert "4/4" in rows["half-data"] and "6/6" in rows["radii"]
    planned = aba(ran, "plan", "mine.yaml", "--metric", "validation_loss", "--effect", "0.1")
    assert planned.returncode == 0, planned.stderr
    assert "Pilot: 12 runs of 4 arms in results" in planned.stdout
    refused = aba(ran, "plan", "radii.yaml")
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
    assert "radii has no metric 'validation_accuracy'; known: validation_" in refused.stderr


def test_a_studys_numbers_are_those_of_python(ran):
    frame = of(ran, "mine")
    config = TrainConfig(
        dataset="outside.rings:classes",
        model={"use": "outside.parts:wide", "width": 8},
        metrics=("outside.parts:top_two", "balanced_accuracy"),
        epochs=2,
        batch_size=20,
    )
    occluded = Augmentation("epsilon", target="loss", attribution="outside.maps:occlusion")
    arms = [
        Arm("Vanilla"),
        Arm("Swap", Swap(0.2)),
        Arm("Hidden", Swap(0.2, site="hidden")),
        Arm("Occluded", occluded),
    ]
    again = train(config, arms, range(3)).frame()
    for name in ("validation_loss", "test_loss", "validation_top_two", "test_balanced_accuracy"):
        assert np.allclose(frame[name], again[name], rtol=1e-5), name
    sites = frame.groupby("arm", sort=False)["site"].first().fillna("").tolist()
    assert sites == ["", "input", "hidden", "input"]
    assert frame["validation_loss"].groupby(frame["seed"]).nunique().eq(4).all()


@pytest.mark.parametrize(
    ("study", "metric", "label"),
    [
        ("mine", "validation_top_two", "Top two"),
        ("mine", "validation_accuracy", "Accuracy (%)"),
        ("places", "validation_macro_auc", "Macro AUC (%)"),
        ("radii", "validation_r2", "R²"),
    ],
)
def test_figures_show_any_metric_that_the_results_have(ran, tmp_path, study, metric, label):
    options = ["--metric", metric, "--format", "svg", "--out", str(tmp_path)]
    done = aba(ran, "figures", study, *options)
    assert done.returncode == 0, done.stderr
    dataset = STUDIES[study][1]
    assert label in (tmp_path / f"figures/arms-{study}-{dataset}.svg").read_text()
    table = pd.read_csv(tmp_path / f"tables/arms-{study}-{dataset}.csv")
    name = metric.removesuffix("_accuracy")
    mean = of(ran, study).groupby("arm", sort=False)[metric].mean()
    assert np.allclose(table.set_index("arm")[f"{name}_mean"], mean)


def test_a_study_that_brings_its_own_exhibits_shows_those(ran, tmp_path):
    done = aba(ran, "figures", "half-data", "--trust", "half_data", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "tables/half-data-digits.csv")
    assert table["arm"].tolist() == ["Vanilla", "Swap"] and not (tmp_path / "figures").exists()


def test_without_a_study_all_are_shown_and_what_has_other_metrics_is_said(ran, tmp_path):
    done = aba(ran, "figures", "--trust", "half_data", "--format", "svg", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "radii has no metric 'validation_accuracy'; known: " in done.stdout
    assert re.search(r"mine on rings: \d figures?, \d tables?", done.stdout)
    assert re.search(r"half-data on digits: (\d figures?, )?\d tables?", done.stdout)


@pytest.mark.parametrize("metric", ["validation_accuracy", "validation_r3", "r2"])
def test_a_metric_that_the_results_lack_is_one_line_and_nothing_is_written(ran, tmp_path, metric):
    out = tmp_path / "out"
    done = aba(ran, "figures", "radii", "--metric", metric, "--out", str(out))
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    guess = " (did you mean 'validation_r2'?)" if metric == "validation_r3" else ""
    assert f"metric {metric!r}{guess}; known: validation_" in done.stderr and not out.exists()


@pytest.mark.parametrize(
    ("study", "metric", "shown"),
    [
        ("mine", "validation_accuracy", "Swap is not shown to differ from Vanilla"),
        ("places", "validation_macro_auc", "macro AUC"),
        ("radii", "validation_r2", "R²"),
        ("half-data", "validation_loss", "Swap is not shown to differ from Vanilla"),
    ],
)
def test_a_report_shows_any_study(ran, tmp_path, study, metric, shown):
    dataset = STUDIES[study][1]
    given = [f"study={study}", f"dataset={dataset}", f"metric={metric}"]
    options = [part for pair in given for part in ("-p", pair)]
    done = aba(
        ran, "report", "13_any_study", *options, "--trust", "half_data", "--out", str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    (page,) = tmp_path.glob("13_any_study*.html")
    text = page.read_text()
    assert shown in text and "This report is not complete" not in text


# --- what a run is known by ----------------------------------------------------------------------


def keys_of(study: Study) -> dict[tuple[str, int], str]:
    resolved = plan.resolve(study)
    return {run: key for key, run in reversed(resolved.keys.items())}


def changed_arms(study: Study, before: dict) -> set[str]:
    after = keys_of(study)
    assert set(after) == set(before)
    return {arm for arm, seed in before if before[arm, seed] != after[arm, seed]}


def test_a_changed_version_or_field_is_another_run(folder, monkeypatch):
    study = study_from_yaml(Path("mine.yaml"))
    before = keys_of(study)
    assert len(set(before.values())) == len(before) == 12
    assert changed_arms(study, before) == set()
    modules = {name: sys.modules[name] for name in ("swap", "maps", "rings", "parts")}
    with monkeypatch.context() as patch:
        patch.setattr(modules["swap"].Swap, "version", 2)
        assert changed_arms(study, before) == {"Swap", "Hidden"}
    with monkeypatch.context() as patch:
        patch.setattr(modules["maps"].occlusion, "version", 2)
        assert changed_arms(study, before) == {"Occluded"}
    for module, name in (("rings", "classes"), ("parts", "wide"), ("parts", "top_two")):
        with monkeypatch.context() as patch:
            patch.setattr(getattr(modules[module], name), "version", 2, raising=False)
            plan._cached_splits.cache_clear()
            assert len(changed_arms(study, before)) == 4
    Path("later.yaml").write_text(MINE.replace("share: 0.2}", "share: 0.25}"))
    assert changed_arms(study_from_yaml(Path("later.yaml")), before) == {"Swap"}


def test_a_renamed_class_is_the_same_run(folder):
    text = (folder / "swap.py").read_text().replace("class Swap", "class Exchange")
    (folder / "exchange.py").write_text(text)
    (folder / "later.yaml").write_text(MINE.replace("swap:Swap", "exchange:Exchange"))
    before = keys_of(study_from_yaml(Path("mine.yaml")))
    assert changed_arms(study_from_yaml(Path("later.yaml")), before) == set()


def test_spelling_does_not_matter(folder):
    spelt = MINE.replace('{use: "maps:occlusion"}', "maps:occlusion")
    spelt = spelt.replace('["parts:top_two", balanced', '[{use: "parts:top_two"}, balanced')
    (folder / "later.yaml").write_text(spelt)
    before = keys_of(study_from_yaml(Path("mine.yaml")))
    assert changed_arms(study_from_yaml(Path("later.yaml")), before) == set()


def test_a_method_given_as_an_object_is_declared_by_its_place(folder, tmp_path):
    (folder / "later.py").write_text(
        "from swap import Swap\nfrom aba_core.arms import Arm\n"
        "def declare(settings):\n"
        "    arms = [Arm('Vanilla'), Arm('Swap', Swap(0.2))]\n"
        "    config = {'epochs': 1, 'model': 'mlp'}\n"
        "    return settings.study('half-data', arms, config=config, seeds=2)\n"
    )
    before = keys_of(find_study("half_data.py"))
    study = find_study("later.py")
    assert changed_arms(study, before) == set()
    done = runner.run(study, tmp_path / "results", "cpu", processes=2)
    assert done.computed == 4
    (declared,) = results.declarations(tmp_path / "results")
    assert declared.study.arms[1].method == {"use": "swap:Swap", "share": 0.2}


def test_tuning_goes_by_the_tasks_primary_metric(folder, tmp_path):
    arms = "  - {name: ABA, adjustments: epsilon, target: loss, strength: 0.3}\n"
    text = RADII[: RADII.index("  - {name: Swap")] + arms + "seeds: 1\n"
    (folder / "later.yaml").write_text(text + "tuning: {strengths: [0.1, 50.0], seeds: 2}\n")
    done = runner.run(find_study("later.yaml"), tmp_path / "r", "cpu", processes=2)
    assert done.result.frame.set_index("arm")["strength"]["ABA"] == 0.1
    assert done.primary == "validation_r2"


# --- errors --------------------------------------------------------------------------------------

SHORT = (
    '{name: e, dataset: {use: "rings:classes", name: rings}, seeds: 1, '
    "config: {model: mlp, epochs: 1, batch_size: 20}, "
    "arms: [{name: Vanilla}, {name: A, method: METHOD}]}"
)
ABA_WITH = "{kind: aba, adjustments: epsilon, target: loss, attribution: %s}"
METHOD_ERRORS = {
    '{use: "nowhere:Swap"}': "arm 'A': cannot import 'nowhere' of 'nowhere:Swap': ModuleNotFound",
    '{use: "broken:Swap"}': "arm 'A': cannot import 'broken' of 'broken:Swap': ZeroDivisionError",
    '{use: "swap:Swop"}': "arm 'A': 'swap' has no 'Swop' (in 'swap:Swop')",
    '{use: "swap:Swap", shere: 0.1}': "unknown field 'shere' (did you mean 'share'?) of 'swap'; "
    "known: site, share, guided",
    '{use: "swap:Swap", share: much}': "arm 'A': share is 'much'; allowed: a finite number",
    '{use: "swap:Swap", share: 2}': "arm 'A': share is 2.0; allowed: 0 to 1",
    '{use: "swap:Swap", site: nothing}': "arm 'A': unknown site 'nothing'; known: input, 0",
    '{use: "maps:occlusion"}': "'maps:occlusion' is no Method; needed: a class or an instance",
    ABA_WITH % '{use: "maps:wrong_shape"}': "the map of 'maps:wrong_shape' has shape (1, 20); need",
    ABA_WITH % '{use: "maps:shap"}': "arm 'A': 'maps' has no 'shap' (in 'maps:shap')",
    ABA_WITH % '{use: "maps:occlusion", fil: 1}': "unexpected keyword argument 'fil'",
}
OTHER_ERRORS = {
    ("rings:classes", "rings:no_splits"): "rings:no_splits gave a Tensor; needed: Splits",
    ("rings:classes", "rings:squares"): "dataset: 'rings' has no 'squares'",
    ("name: rings", "nois: 3, name: rings"): "unknown option 'nois' of rings:classes; known: sub",
    ("name: rings", "noise: much, name: rings"): "dataset: rings:classes failed: TypeError: ",
    ("epochs: 1", 'metrics: ["parts:top_three"]'): "'parts' has no 'top_three' (in 'parts:top_",
    ("epochs: 1", "metrics: [top_three]"): "unknown metric 'top_three' of a multiclass task; kno",
    ("epochs: 1", "metrics: [r2]"): "unknown metric 'r2' of a multiclass task; known: accuracy",
    ("model: mlp", 'model: {use: "parts:wide", widht: 3}'): "unknown option 'widht' of parts:wide",
    ("model: mlp", 'model: {use: "parts:top_two"}'): "parts:top_two needs 'logits'; known: input",
}


def call(*arguments: str) -> int:
    return terminal.exit_code(lambda: app(list(arguments), standalone_mode=False))


def assert_refused(capsys, message: str, *arguments: str) -> None:
    assert call(*arguments, "--results", "never") == 2
    said = capsys.readouterr()
    assert message in said.err and len(said.err.splitlines()) == 1
    assert not said.out and not Path("never").exists()


@pytest.mark.parametrize("method", METHOD_ERRORS)
def test_a_method_that_cannot_be_is_one_line_and_nothing_is_written(folder, capsys, method):
    (folder / "broken.py").write_text("1 / 0\n")
    (folder / "e.yaml").write_text(SHORT.replace("METHOD", method))
    assert_refused(capsys, METHOD_ERRORS[method], "run", "e.yaml")


@pytest.mark.parametrize("change", OTHER_ERRORS)
def test_data_models_and_metrics_that_cannot_be_are_one_line(folder, capsys, change):
    text = SHORT.replace(", {name: A, method: METHOD}", "").replace(*change)
    (folder / "e.yaml").write_text(text)
    assert_refused(capsys, OTHER_ERRORS[change], "run", "e.yaml")


@pytest.mark.parametrize(
    ("data", "target", "message"),
    [
        ("numbers", "class_score", "target is 'class_score'; allowed for a regression task: loss"),
        ("numbers", "true_class", "target is 'true_class'; allowed for a regression task: loss"),
    ],
)
def test_a_target_that_the_task_does_not_have_is_refused(folder, capsys, data, target, message):
    method = f"{{kind: aba, adjustments: epsilon, target: {target}}}"
    text = SHORT.replace("METHOD", method).replace("rings:classes", f"rings:{data}")
    (folder / "e.yaml").write_text(text)
    assert_refused(capsys, f"arm 'A': {message}", "run", "e.yaml")
    splits = getattr(rings, data)(0)
    arm = Arm.of("A", adjustments="epsilon", target=target)
    with pytest.raises(ValueError, match="arm 'A': target is"):
        train(TrainConfig(model="mlp", epochs=1, batch_size=20), [arm], [0], splits=splits)
    # Without a map a target says nothing.
    free = Arm.of("A", adjustments="epsilon", target=target, placebo="gaussian")
    train(TrainConfig(model="mlp", epochs=0.2, batch_size=20), [free], [0], splits=splits)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("swap.py", None, "swap.py: 'swap' has no 'declare' (in 'swap:declare')"),
        ("none.py", None, "cannot read study none.py: No such file"),
        ("later.py", "1 / 0", "later.py: cannot import 'later' of 'later:__file__': ZeroDivision"),
        ("later.py", "def declare(settings): return 3", "declare gave a int; needed: a Study"),
        (
            "later.py",
            "def declare(settings): return settings.study('a', [], seeds=1)",
            "arms is empty",
        ),
        ("string.py", "def declare(settings): return 3", "another module is called 'string'; ren"),
    ],
)
def test_a_study_in_python_that_cannot_be_is_one_line(folder, capsys, file, text, message):
    if text is not None:
        (folder / file).write_text(text)
    assert_refused(capsys, message, "run", file)


def test_exhibits_that_are_not_to_be_had_are_said(ran, tmp_path, monkeypatch, capsys, alone):
    monkeypatch.chdir(tmp_path)  # the study's file is elsewhere
    monkeypatch.setenv("ABA_TRUST", "half_data")
    assert call("figures", "half-data", "--results", str(ran / "results")) == 2
    said = capsys.readouterr().err
    assert said.startswith("aba: half-data cannot be shown: cannot import 'half_data'")
    assert len(said.splitlines()) == 1


# --- aba methods ---------------------------------------------------------------------------------


def test_methods_are_listed_with_passes_fields_and_defaults(capsys):
    assert call("methods") == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines if line[:1].strip()}
    assert rows["kind"].split() == ["kind", "title", "passes", "fields", "and", "defaults"]
    assert "alpha=1.0" in rows["mixup"] and rows["sam"].split()[2] == "2"
    assert rows["fastaba-ce"].split()[3:] == ["adjustments=0x2,3,4,5,6,16,17,", "split=sign,"] + [
        "target=loss"
    ]


def test_what_a_stranger_imports_is_public():
    assert {Draws, Method, Settings} and isinstance(settings_of(), Settings)
    assert maps.occlusion.passes == 2.0
