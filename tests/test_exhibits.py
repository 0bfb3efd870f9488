"""Standard figures and tables: the same bytes each time, readable at every size."""

import hashlib
import json
import re
import subprocess
import sys
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from oracles.made_results import make_results, make_study, standard

from aba_core.adjustments import Group
from aba_core.arms import Arm
from analysis import exhibits, figures, rooms, tables
from analysis import results as store
from analysis.exhibits import ExportError, Files, Look
from analysis.results import ResultsError
from analysis.studies import STANDARD
from analysis.studies.frozen import frozen_strength
from analysis.study import Study

LONG = "An arm whose author described every single one of its choices in its name, strength 0.30"
SIZES = [("single", "paper"), ("double", "paper"), ("slide", "talk"), ("double", "talk")]


pytestmark = pytest.mark.usefixtures("no_windows")


def own_study(arms: int, seeds: int = 3) -> Study:
    names = [f"{LONG}, number {i}" if i % 2 else f"arm {i}" for i in range(arms)]
    return Study(
        name="mine",
        dataset="digits",
        config={"dataset": "digits", "model": "mlp", "epochs": 5},
        arms=tuple(Arm.of(name, adjustments="3,4", strength=0.3) for name in names),
        seeds=tuple(range(seeds)),
    )


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_results(tmp_path_factory.mktemp("complete"))


@pytest.fixture(scope="module")
def one_seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_results(tmp_path_factory.mktemp("one"), seeds=1)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Diverged and missing runs, two long-named frozen arms, 27 arms of an own study."""
    folder = tmp_path_factory.mktemp("damaged")
    missing = [("adjustment 3", seed) for seed in range(5)] + [("All", s) for s in range(5)]
    diverged = [("adjustment 0", 0), ("adjustment 20", 1), ("Epsilon", 2), ("MendABA", 0)]
    for name in ("isolation", "tension", "benchmark"):
        make_study(folder, standard(name), missing=missing, diverged=diverged)
    frozen = standard("frozen", seeds=2)
    arms = [arm.renamed(f"{LONG} {i}") for i, arm in enumerate(frozen.arms)]
    make_study(folder, frozen.model_copy(update={"arms": tuple(arms)}))
    make_study(folder, own_study(27), diverged=[(LONG + ", number 5", 0), ("arm 4", 1)])
    return folder


def shown_texts(figure: Figure) -> list[tuple[str, np.ndarray]]:
    """Every visible text and its box in pixels."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    hidden = set()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            if not (ax.get_visible() and axis.get_visible()):
                hidden |= set(axis.findobj(Text))
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                low, high = sorted(axis.get_view_interval())
                margin = 1e-9 * (high - low)
                if not low - margin <= tick.get_loc() <= high + margin:
                    hidden |= {tick.label1, tick.label2}
    found = []
    for text in figure.findobj(Text):
        if text in hidden or not text.get_visible() or not text.get_text().strip():
            continue
        box = text.get_window_extent(renderer)
        if box.width and box.height:
            found.append((text.get_text(), np.array([box.x0, box.y0, box.x1, box.y1])))
    return found


def overlaps(figure: Figure) -> list[str]:
    """Pairs of texts that touch by more than a pixel, and texts that leave the figure."""
    texts = shown_texts(figure)
    assert len(texts) > 5
    width, height = figure.canvas.get_width_height()
    wrong = [
        f"{text!r} leaves the figure"
        for text, (x0, y0, x1, y1) in texts
        if x0 < -1 or y0 < -1 or x1 > width + 1 or y1 > height + 1
    ]
    for (first, a), (second, b) in combinations(texts, 2):
        across = min(a[2], b[2]) - max(a[0], b[0])
        upwards = min(a[3], b[3]) - max(a[1], b[1])
        if across > 1 and upwards > 1:
            wrong.append(f"{first!r} and {second!r} overlap by {across:.0f} × {upwards:.0f}")
    return wrong


@cache
def every_figure(folder: Path) -> list[exhibits.Exhibit]:
    studies = rooms.studies_by_dataset(folder)["digits"]
    return [
        exhibit
        for study in (*studies, rooms.BESIDE)
        for exhibit in rooms.of_study(study, folder).figures.values()
    ]


# --- readable ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "width", "style"),
    [("one_seed", *SIZES[0])] + [(k, *size) for k in ("complete", "damaged") for size in SIZES],
)
def test_no_label_touches_another_or_leaves_the_figure(kind, width, style, request):
    folder = request.getfixturevalue(kind)
    wrong = []
    for exhibit in every_figure(folder):
        figure = exhibits.draw(exhibit, width, style)
        wrong += [f"{exhibit.name}: {problem}" for problem in overlaps(figure)]
        plt.close(figure)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("width", "millimetres"), [("single", 85), ("double", 175), ("slide", 254)]
)
def test_sizes_are_in_millimetres(complete, width, millimetres):
    for exhibit in rooms.of_study("isolation", complete).figures.values():
        size = exhibits.draw(exhibit, width).get_size_inches() * 25.4
        assert size[0] == pytest.approx(millimetres, abs=0.01)
        assert size[1] == pytest.approx(143) if width == "slide" else size[1] < 240


# Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision
# Deficiency", IEEE Transactions on Visualization and Computer Graphics 15 (2009), severity 1.0.
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def linear(colour: str) -> np.ndarray:
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of linear sRGB."""
    to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
    ratio = np.array(to_xyz) @ rgb / (np.array(to_xyz) @ np.ones(3))
    small = ratio <= (6 / 29) ** 3
    x, y, z = np.where(small, ratio / (3 * (6 / 29) ** 2) + 4 / 29, np.cbrt(ratio))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_the_three_groups_are_told_apart_without_normal_colour_vision(deficiency):
    matrix = np.array(DEFICIENCIES[deficiency])
    seen = {g: lab(np.clip(matrix @ linear(figures.COLOURS[g]), 0, 1)) for g in Group}
    for first, second in combinations(Group, 2):
        # About 2.3 is just noticeable side by side; small marks apart need far more.
        assert np.linalg.norm(seen[first] - seen[second]) > 20, (first, second)


def test_lab_knows_white_and_black():
    assert lab(np.ones(3)) == pytest.approx([100, 0, 0], abs=1e-6)
    assert lab(np.zeros(3)) == pytest.approx([0, 0, 0], abs=1e-6)


# --- the same each time --------------------------------------------------------------------------


def test_equal_results_give_equal_bytes_in_another_process(complete, tmp_path):
    rooms.export(complete, tmp_path / "here", ["isolation"])
    code = (
        "import sys; from analysis import exhibits, rooms\n"
        "rooms.export(sys.argv[1], sys.argv[2], ['isolation'])"
    )
    command = [sys.executable, "-c", code, str(complete), str(tmp_path / "there")]
    subprocess.run(command, check=True, env={"PYTHONHASHSEED": "7", "MPLBACKEND": "agg"})
    here = sorted(p.relative_to(tmp_path / "here") for p in (tmp_path / "here").rglob("*.*"))
    assert len(here) == 3 * 5 + 4 * 4
    for path in here:
        assert (tmp_path / "here" / path).read_bytes() == (tmp_path / "there" / path).read_bytes()
    assert not list(tmp_path.rglob(".*"))


def test_text_stays_text_and_fonts_are_in_the_file(complete, tmp_path):
    rooms.export(complete, tmp_path, ["isolation"], files=Files(["pdf", "svg"]))
    svg = (tmp_path / "figures" / "groups-digits.svg").read_text()
    assert ">Epsilon</text>" in svg and "85mm" not in svg
    assert float(re.search(r'width="([\d.]+)pt"', svg)[1]) == pytest.approx(85 / 25.4 * 72)
    pdf = (tmp_path / "figures" / "groups-digits.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf and b"CreationDate" not in pdf


# --- what is written -----------------------------------------------------------------------------


def test_a_figure_comes_with_its_data_caption_checksum_and_command(complete, tmp_path):
    done = rooms.export(
        complete, tmp_path, ["isolation"], ["digits"], files=Files(["svg"], "double")
    )
    assert not done.refused and not done.absent
    folder = tmp_path / "figures"
    facts = json.loads((folder / "isolation-digits.json").read_text())
    content = (folder / "isolation-digits.csv").read_bytes()
    assert facts["sha256"] == hashlib.sha256(content).hexdigest()
    assert facts["command"] == (
        f"aba figures --results {complete} --dataset digits --format svg --width double "
        "--style paper"
    )
    assert facts["size_mm"] == [175.0, 118.0]
    for words in (
        "n = 5 runs",
        "Digits, subset tiny",
        "small CNN",
        "95 %",
        "bootstrap",
        "135 in all",
    ):
        assert words in facts["caption"]
    assert {"toolkit", "model", "interval", "runs", "runs_missing"} <= set(facts)
    data = rooms.data("isolation", complete, "digits")
    pd.testing.assert_frame_equal(pd.read_csv(folder / "isolation-digits.csv"), data)


def test_tables_are_rounded_and_keep_their_intervals(complete, tmp_path):
    rooms.export(complete, tmp_path, ["isolation"], files=Files(["svg"]))
    folder = tmp_path / "tables"
    row = pd.read_csv(folder / "isolation-digits.csv").iloc[3]
    cell = f"{row['mean']:.1f} [{row['mean_low']:.1f}, {row['mean_high']:.1f}]"
    latex = (folder / "isolation-digits.tex").read_text()
    assert latex.startswith(r"\begin{tabular}{rrrrlrrrl}") and r"\toprule" in latex
    assert cell in latex
    assert cell in (folder / "isolation-digits.md").read_text()


def test_missing_and_diverged_runs_are_in_the_caption(damaged):
    caption = rooms.of_study("isolation", damaged).figures["isolation"].caption
    assert "5 runs missing" in caption and "2 runs diverged" in caption
    assert "Diverged" in " ".join(
        tables.present(
            rooms.of_study("isolation", damaged).tables["isolation"].data,
            columns=rooms.of_study("isolation", damaged).tables["isolation"].columns,
        ).columns
    )


def test_one_seed_says_that_there_is_no_interval(one_seed):
    shown = rooms.of_study("isolation", one_seed)
    assert "none where an arm has one run" in shown.figures["isolation"].caption
    assert shown.tables["isolation"].data["mean_low"].isna().all()


def test_the_search_for_a_strength_does_not_show_test_accuracies(tmp_path):
    study = standard("benchmark", seeds=2).model_copy(update={"name": "benchmark-tuning"})
    make_study(tmp_path, study)
    made = rooms.of_study("benchmark-tuning", tmp_path)
    for exhibit in made.all():
        assert not [name for name in exhibit.data.columns if name.startswith("test")]


# --- what is there and what is not ---------------------------------------------------------------


def test_a_missing_study_is_named_and_no_error_unless_it_was_asked_for(tmp_path):
    results = tmp_path / "r"
    make_study(results, standard("isolation", seeds=2))
    done = rooms.export(results, tmp_path / "o", files=Files(["svg"]))
    assert list(done.files) == [("isolation", "digits"), (rooms.BESIDE, "digits")]
    assert done.absent == {"digits": list(STANDARD[1:])} and not done.refused
    done = rooms.export(results, tmp_path / "o", ["benchmark"], files=Files(["svg"]))
    assert not done.files and "run: aba run benchmark" in done.refused[0]
    done = rooms.export(results, tmp_path / "o", [], ["mnist"], files=Files(["svg"]))
    assert not done.files and "no studies on mnist" in done.refused[0]


def test_sets_without_their_members_say_what_they_need(tmp_path):
    make_study(tmp_path / "r", standard("tension", seeds=2))
    done = rooms.export(tmp_path / "r", tmp_path / "o", files=Files(["svg"]))
    assert "tension (needs isolation)" in done.absent["digits"] and not done.files


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"width": "wide"}, "unknown width 'wide'; known: single, double, slide"),
        ({"style": "poster"}, "unknown style 'poster'; known: paper, talk"),
        ({"formats": ["jpg"]}, "unknown format 'jpg'; known: pdf, svg, png"),
        ({"formats": []}, "no format; known"),
        ({"style": "talk", "width": "single"}, "style talk does not fit width single"),
    ],
)
def test_a_wrong_choice_is_one_line_before_anything_is_written(choice, message):
    with pytest.raises(ExportError, match=re.escape(message)):
        Files(**choice)


def test_a_look_checks_its_values():
    with pytest.raises(ExportError, match="unknown metric 'loss'; known: validation_accuracy"):
        Look(metric="loss")
    with pytest.raises(ExportError, match="confidence is 95; allowed"):
        Look(confidence=95)


def test_the_data_of_any_figure_are_one_line_away(tmp_path):
    complete = make_results(tmp_path, seeds=2, names=("isolation", "frozen"))
    assert len(rooms.data("published-mnist-tiny", complete)) == 27
    assert rooms.data("association", complete)["n_adjustments"].iloc[0] == 27
    assert len(rooms.data("isolation", complete)) == 27
    assert rooms.data("groups", complete, kind="table")["name"].iloc[3] == "Epsilon − Neutral"
    with pytest.raises(
        ExportError, match="unknown figure 'isolatoin' for digits; known: isolation"
    ):
        rooms.data("isolatoin", complete)
    with pytest.raises(ResultsError, match="no isolation study on mnist"):
        rooms.data("isolation", complete, "mnist")
    with pytest.raises(ExportError, match="unknown kind"):
        rooms.data("isolation", complete, kind="picture")


def test_frozen_models_that_all_diverged_are_one_clear_error(tmp_path):
    study = standard("frozen", seeds=1)
    make_study(tmp_path, study, diverged=[(arm.name, 0) for arm in study.arms])
    with pytest.raises(ResultsError, match="every run of frozen diverged"):
        rooms.of_study("frozen", tmp_path)


def test_a_strength_that_was_not_evaluated_is_refused(complete):
    found = store.load(complete, "frozen", "digits")
    assert frozen_strength(found) == 0.5
    with pytest.raises(ExportError, match="strength is 0.44; allowed in this study: 0, 0.1"):
        frozen_strength(found, 0.44)
