"""Tables of results: finished runs in, data frames out; and data frames to LaTeX, Markdown and CSV.

A runs frame has one row per (arm, seed) at the final step, with the columns arm, seed, status
("finished" or "diverged") and the metrics. Accuracies are in percent, differences in points. A
number NAME with an interval has the columns NAME, NAME_low and NAME_high; `present` joins them.
Diverged runs stay in the means with the accuracy they have, and are counted in n_diverged; runs
without an accuracy (NaN) cannot enter a mean and are counted in n_missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd

from analysis import statistics
from analysis.statistics import CONFIDENCE, Interval

REFERENCE = Path(__file__).resolve().parents[1] / "data" / "reference"
REFERENCES = ("isolation", "hypothesis", "benchmark", "benchmark_large", "offset_form")

GROUPS = ("Neutral", "Delta", "Epsilon")
GROUP_SETS: dict[str, tuple[str, ...]] = {
    "Neutral": ("Neutral",),
    "Delta": ("Delta",),
    "Epsilon": ("Epsilon",),
    "Eps. & Neu.": ("Epsilon", "Neutral"),
    "Eps. & Del.": ("Epsilon", "Delta"),
    "Del. & Neu.": ("Delta", "Neutral"),  # absent from the published experiment
    "All": ("Neutral", "Delta", "Epsilon"),
}
CONTRASTS = (("Epsilon", "Neutral"), ("Neutral", "Delta"), ("Epsilon", "Delta"))

# Lowest gain of each rating. Reproduces 80 of the 81 published ratings (not CIFAR-10, index 4).
RATINGS = (("Top", 0.70), ("Good", 0.25), ("Medium", -0.23))


# --- published tables and the 27 adjustments -----------------------------------------------------


def reference(name: str) -> pd.DataFrame:
    """A published table: isolation, hypothesis, benchmark, benchmark_large or offset_form.

    Accuracies in percent. Raises ValueError for an unknown name, FileNotFoundError for a missing
    file. Source: the slides of the thesis, see data/reference.
    """
    if name not in REFERENCES:
        raise ValueError(f"unknown published table {name!r}; known: {', '.join(REFERENCES)}")
    path = REFERENCE / f"published_{name}.csv"
    if not path.is_file():
        raise FileNotFoundError(
            f"published table {path.name} is missing from data/reference; restore it from git"
        )
    return pd.read_csv(path)


def adjustment_table() -> pd.DataFrame:
    """The 27 adjustments in the published order, with their offset form.

    Columns: index, low, middle, high (each −1, 0 or 1), group, offset (= middle), low_offset
    (= low − middle), high_offset (= high − middle).
    """
    table = reference("isolation")
    table = table[table["dataset"] == table["dataset"].iloc[0]]
    table = table[["index", "low", "middle", "high", "group"]].reset_index(drop=True)
    table["offset"] = table["middle"]
    table["low_offset"] = table["low"] - table["middle"]
    table["high_offset"] = table["high"] - table["middle"]
    return table


def members(groups: str | Sequence[str]) -> list[int]:
    """Indices of the adjustments in a group set ("Eps. & Del.") or in a list of groups."""
    if isinstance(groups, str):
        if groups not in GROUP_SETS:
            raise ValueError(f"unknown group set {groups!r}; known: {', '.join(GROUP_SETS)}")
        groups = GROUP_SETS[groups]
    table = adjustment_table()
    return [int(i) for i in table.loc[table["group"].isin(list(groups)), "index"]]


def gain(mean: float, baseline: float, best: float) -> float:
    """(mean − baseline) / (best − baseline), accuracies in percent.

    NaN where no adjustment beats the baseline, since the scale is then undefined.
    """
    return (mean - baseline) / (best - baseline) if best > baseline else math.nan


def rating(mean: float, baseline: float, best: float) -> str:
    """Top, Good, Medium or Bad by the gain; "" where the gain is undefined. See `RATINGS`."""
    value = gain(mean, baseline, best)
    if not math.isfinite(value):
        return ""
    return next((name for name, lowest in RATINGS if value >= lowest - 1e-9), "Bad")


def _rate(table: pd.DataFrame, baseline: float) -> pd.DataFrame:
    best = table["mean"].max()
    table["gain"] = [gain(mean, baseline, best) for mean in table["mean"]]
    table["rating"] = [rating(mean, baseline, best) for mean in table["mean"]]
    table.loc[table["index"] == 0, "rating"] = "Baseline"
    return table


# --- runs to samples -----------------------------------------------------------------------------


def _require(frame: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    absent = [name for name in columns if name not in frame.columns]
    if absent:
        raise ValueError(
            f"{what} lack the columns {', '.join(absent)}; they have {', '.join(frame.columns)}"
        )


def _check_runs(runs: pd.DataFrame, metric: str, what: str = "runs") -> None:
    """One experiment, one row per (arm, seed)."""
    _require(runs, ("arm", "seed", "status", metric), what)
    for column in ("dataset", "subset", "model", "batch_norm", "target"):
        if column in runs.columns and runs[column].nunique() > 1:
            found = ", ".join(str(value) for value in runs[column].dropna().unique())
            raise ValueError(f"{what} mix several values of {column} ({found}); choose one first")
    repeated = runs[runs.duplicated(["arm", "seed"])]
    if len(repeated):
        arm, seed = repeated.iloc[0][["arm", "seed"]]
        raise ValueError(
            f"{what} have several rows for arm {arm!r}, seed {seed}; keep the last step"
        )


def _values(runs: pd.DataFrame, arm: str, metric: str) -> np.ndarray:
    values = runs.loc[runs["arm"] == arm, metric].to_numpy(dtype=np.float64)
    return values[np.isfinite(values)]


def _counts(runs: pd.DataFrame, metric: str) -> dict[str, int]:
    finite = np.isfinite(runs[metric].to_numpy(dtype=np.float64))
    return {
        "n": int(finite.sum()),
        "n_diverged": int((runs["status"] == "diverged").sum()),
        "n_missing": int((~finite).sum()),
    }


def _triple(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _mean(values: np.ndarray, metric: str, rng: np.random.Generator, confidence: float) -> Interval:
    """Interval of the mean; that of an accuracy ends at 0 and 100 %."""
    interval = statistics.mean_interval(values, rng, confidence=confidence)
    if not metric.endswith("accuracy") or not math.isfinite(interval.low):
        return interval
    return replace(interval, low=max(interval.low, 0.0), high=min(interval.high, 100.0))


def arm_name(index: int) -> str:
    """The arm that trains with one adjustment alone."""
    return f"adjustment {index}"


# --- isolation -----------------------------------------------------------------------------------


def isolation_table(
    runs: pd.DataFrame,
    rng: np.random.Generator,
    *,
    metric: str = "validation_accuracy",
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """Each adjustment trained alone: 27 rows in the published order, whatever is missing.

    runs: the arms "adjustment 0" to "adjustment 26" (others are ignored). Columns: index, low,
    middle, high, group, n, n_diverged, n_missing, max, mean (with interval), sd, gain, rating.
    An adjustment without runs has n = 0 and NaN. Gain and rating refer to adjustment 0, or to the
    arm "vanilla" where adjustment 0 has no runs, and take more for better. The maximum only
    rebuilds the published column.
    """
    _check_runs(runs, metric)
    rows = []
    for stream, entry in zip(rng.spawn(27), adjustment_table().to_dict("records"), strict=True):
        name = arm_name(int(entry["index"]))
        values = _values(runs, name, metric)
        row = {key: entry[key] for key in ("index", "low", "middle", "high", "group")}
        row |= _counts(runs[runs["arm"] == name], metric)
        row["max"] = values.max() if values.size else math.nan
        row |= _triple("mean", _mean(values, metric, stream, confidence))
        row["sd"] = values.std(ddof=1) if values.size > 1 else math.nan
        rows.append(row)
    table = pd.DataFrame(rows)
    baseline = float(table["mean"].iloc[0])
    if not math.isfinite(baseline):
        vanilla = _values(runs, "vanilla", metric)
        baseline = float(vanilla.mean()) if vanilla.size else math.nan
    return _rate(table, baseline)


def published_isolation_table(dataset: str) -> pd.DataFrame:
    """The published means and maxima of five runs in the form of `isolation_table`.

    Intervals and standard deviations were not published: NaN. The rating is computed, the printed
    one is in the column published_rating.
    """
    table = reference("isolation")
    known = list(table["dataset"].unique())
    if dataset not in known:
        raise ValueError(f"unknown published dataset {dataset!r}; known: {', '.join(known)}")
    table = table[table["dataset"] == dataset].reset_index(drop=True)
    result = table[["index", "low", "middle", "high", "group"]].copy()
    result["n"], result["n_diverged"], result["n_missing"] = 5, 0, 0
    result["max"] = table["max_of_5"].astype(float)
    result["mean"] = table["mean_of_5"].astype(float)
    for name in ("mean_low", "mean_high", "sd"):
        result[name] = math.nan
    result = _rate(result, float(result["mean"].iloc[0]))
    result["published_rating"] = table["rating"]
    return result


def published_hypothesis_table(dataset: str) -> pd.DataFrame:
    """The published hypothesis experiment in the form of `hypothesis_table`.

    One row per published set. Best member and best group are taken from the published means and
    therefore not cross-fitted: those columns, and all intervals, are NaN.
    """
    isolation = dict(enumerate(published_isolation_table(dataset)["mean"].tolist()))
    table = reference("hypothesis")
    table = table[table["dataset"] == dataset].set_index("group")
    sets = dict(zip(table.index, table["all_of_group"].tolist(), strict=True))
    rows: list[dict[str, object]] = []
    for name in (name for name in GROUP_SETS if name in table.index):
        row: dict[str, object] = {"set": name, "n": 5, "n_diverged": 0, "n_missing": 0}
        row |= {"n_members": len(members(name)), "n_members_diverged": 0}
        for column in ("all_of_group", "mean_of_members", "difference"):
            number = float(table.loc[name, column])  # type: ignore[arg-type]
            row |= {column: number, f"{column}_low": math.nan, f"{column}_high": math.nan}
        best_index = max(members(name), key=lambda index: isolation[index])
        row |= {"best_member": best_index, "best_member_mean": float(isolation[best_index])}
        joined = GROUP_SETS[name] if len(GROUP_SETS[name]) > 1 else ()
        row["best_group"] = max(joined, key=lambda group: sets[group], default="")
        for best in ("best_member", "best_group"):
            for column in (f"{best}_crossfitted", f"difference_to_{best}"):
                row |= {column: math.nan, f"{column}_low": math.nan, f"{column}_high": math.nan}
        rows.append(row)
    return pd.DataFrame(rows)


def group_table(
    table: pd.DataFrame, rng: np.random.Generator, *, confidence: float = CONFIDENCE
) -> pd.DataFrame:
    """Means of the three groups and their contrasts, the adjustment being the unit (9 per group).

    table: from `isolation_table`. Rows: the three groups, then Epsilon − Neutral, Neutral − Delta
    and Epsilon − Delta. Columns: name, n_adjustments, estimate (percent, points; with interval),
    effect (Hedges' g), p_welch, p_permutation and p_holm (of the permutation p, three contrasts).
    The interval says how far the result would carry to other adjustments of the group; runs
    narrow it only as far as they sharpen each adjustment's mean.
    """
    _require(table, ("group", "mean"), "isolation table")
    known = table[np.isfinite(table["mean"])]
    means = {g: known.loc[known["group"] == g, "mean"].to_numpy(dtype=np.float64) for g in GROUPS}
    rows: list[dict[str, object]] = []
    for group in GROUPS:
        interval = statistics.mean_interval(means[group], rng, confidence=confidence)
        rows.append(
            {"name": group, "n_adjustments": interval.n, **_triple("estimate", interval)}
            | dict.fromkeys(("effect", "p_welch", "p_permutation"), math.nan)
        )
    for first, second in CONTRASTS:
        a, b = means[first], means[second]
        interval = statistics.difference_interval(a, b, rng, confidence=confidence)
        rows.append(
            {
                "name": f"{first} − {second}",
                "n_adjustments": interval.n,
                **_triple("estimate", interval),
                "effect": statistics.hedges_g(a, b),
                "p_welch": statistics.welch_p(a, b),
                "p_permutation": statistics.permutation_p(a, b, rng),
            }
        )
    result = pd.DataFrame(rows)
    result["p_holm"] = statistics.holm(result["p_permutation"])
    return result


def association_table(
    table: pd.DataFrame, rng: np.random.Generator, *, confidence: float = CONFIDENCE
) -> pd.DataFrame:
    """How well the group, and high − low, account for the 27 mean accuracies.

    table: from `isolation_table`. Rows: eta squared of the group (with a permutation p, no
    interval), Pearson's and Spearman's correlation of high − low with the mean. Columns: name,
    n_adjustments, estimate (with interval), p_permutation.
    """
    _require(table, ("group", "mean", "low", "high"), "isolation table")
    known = table[np.isfinite(table["mean"])]
    mean = known["mean"].to_numpy(dtype=np.float64)
    slope = (known["high"] - known["low"]).to_numpy(dtype=np.float64)
    group = known["group"].to_numpy(dtype=str)
    count = len(known)
    eta = Interval(
        statistics.eta_squared(mean, group) if count else math.nan,
        math.nan,
        math.nan,
        count,
        confidence,
        "none",
    )
    p = statistics.eta_squared_p(mean, group, rng) if count else math.nan
    rows: list[dict[str, object]] = [
        {"name": "η² of the group", "n_adjustments": count, **_triple("estimate", eta)}
        | {"p_permutation": p}
    ]
    for kind, label in (("pearson", "Pearson"), ("spearman", "Spearman")):
        interval = statistics.correlation(slope, mean, rng, kind=kind, confidence=confidence)
        rows.append(
            {"name": f"{label} of high − low", "n_adjustments": count}
            | _triple("estimate", interval)
            | {"p_permutation": math.nan}
        )
    return pd.DataFrame(rows)


# --- sets of adjustments -------------------------------------------------------------------------


def crossfitted_best(runs: pd.DataFrame, arms: Sequence[str], metric: str) -> np.ndarray:
    """Accuracies of the best arm, chosen without the run it is judged on. Returns [seed].

    For each seed: choose the arm with the highest mean over all *other* seeds, among the arms that
    have this seed, and take its accuracy at this seed. The mean over seeds estimates what choosing
    the best arm by validation gives on a fresh run. The plain maximum of 27 means is too high by
    about two standard errors even where all arms are equal. Empty below two seeds.

    Intervals from these values are a little short, because the choices overlap: against a set as
    good as the best of 27 a nominal 95 % covers .90 (five or ten seeds, arms 2 points apart), and
    .92 (five) and .84 (ten) where all arms are equal.
    """
    wanted = runs[runs["arm"].isin(list(arms)) & np.isfinite(runs[metric].astype(float))]
    values = wanted.pivot(index="seed", columns="arm", values=metric).sort_index()
    values = values[[arm for arm in arms if arm in values.columns]]
    grid = values.to_numpy(dtype=np.float64)  # [seed, arm]
    present = np.isfinite(grid)
    chosen = []
    for seed in range(len(grid)):
        others = np.delete(present, seed, axis=0)
        sums = np.where(others, np.delete(grid, seed, axis=0), 0.0).sum(axis=0)
        means = np.divide(
            sums, others.sum(axis=0), out=np.full(sums.shape, -np.inf), where=others.any(axis=0)
        )
        means[~present[seed]] = -np.inf
        if np.isfinite(means).any():
            chosen.append(grid[seed, int(means.argmax())])
    return np.array(chosen, dtype=np.float64)


def hypothesis_table(
    isolation_runs: pd.DataFrame,
    tension_runs: pd.DataFrame,
    rng: np.random.Generator,
    *,
    metric: str = "validation_accuracy",
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """Each set of groups against the mean of its members, its best member and its best group.

    isolation_runs: arms "adjustment 0" to "adjustment 26". tension_runs: arms named as in
    `GROUP_SETS`. One row per set, also where runs are missing. Columns (percent, points):

    - set, n, n_diverged, n_missing: runs of the set; n_members, n_members_diverged: adjustments
      with runs, and diverged runs among them.
    - all_of_group: mean over the set's runs. mean_of_members: mean of the members' means.
      difference: the published measure. It rises by itself where poor members lower the mean.
    - best_member (index), best_member_mean: the winner among the members, its mean inflated by
      the choice.
    - best_member_crossfitted: the same winner's accuracy without that inflation, by
      `crossfitted_best`. difference_to_best_member: all_of_group minus that.
    - best_group, difference_to_best_group: for sets that join groups, the set against the best of
      the joined groups' own sets, cross-fitted in the same way.

    All with intervals (NAME_low, NAME_high) over runs, arms taken as independent. Source: the
    hypothesis experiment of the slides; the last two comparisons are ours.
    """
    _check_runs(isolation_runs, metric, "isolation runs")
    _check_runs(tension_runs, metric, "tension runs")
    isolated = {i: _values(isolation_runs, arm_name(i), metric) for i in range(27)}
    rows = []
    for name, stream in zip(GROUP_SETS, rng.spawn(len(GROUP_SETS)), strict=True):
        own = _values(tension_runs, name, metric)
        arms = [arm_name(i) for i in members(name)]
        present = [i for i in members(name) if isolated[i].size]
        samples = [isolated[i] for i in present]
        share = np.full(len(samples), 1 / max(1, len(samples)))

        row: dict[str, object] = {"set": name}
        row |= _counts(tension_runs[tension_runs["arm"] == name], metric)
        row["n_members"] = len(present)
        row["n_members_diverged"] = _counts(
            isolation_runs[isolation_runs["arm"].isin(arms)], metric
        )["n_diverged"]
        row |= _triple("all_of_group", statistics.mean_interval(own, stream, confidence=confidence))
        empty = np.array([])
        row |= _triple(
            "mean_of_members",
            statistics.contrast_interval(
                samples or [empty], share if samples else [1.0], stream, confidence=confidence
            ),
        )
        row |= _triple(
            "difference",
            statistics.contrast_interval(
                [own, *(samples or [empty])],
                [1.0, *(-share if samples else [-1.0])],
                stream,
                confidence=confidence,
            ),
        )
        best = max(present, key=lambda i: isolated[i].mean(), default=None)
        row["best_member"] = math.nan if best is None else best
        row["best_member_mean"] = math.nan if best is None else isolated[best].mean()
        row |= _against_best(isolation_runs, arms, own, "best_member", metric, stream, confidence)

        joined = GROUP_SETS[name] if len(GROUP_SETS[name]) > 1 else ()
        candidates = [group for group in joined if _values(tension_runs, group, metric).size]
        row["best_group"] = max(
            candidates, key=lambda group: _values(tension_runs, group, metric).mean(), default=""
        )
        row |= _against_best(
            tension_runs, candidates, own, "best_group", metric, stream, confidence
        )
        rows.append(row)
    table = pd.DataFrame(rows)
    table["best_member"] = table["best_member"].astype("Int64")
    return table


def _against_best(
    runs: pd.DataFrame,
    arms: Sequence[str],
    own: np.ndarray,
    name: str,
    metric: str,
    rng: np.random.Generator,
    confidence: float,
) -> dict[str, float]:
    best = crossfitted_best(runs, arms, metric)
    return _triple(f"{name}_crossfitted", _mean(best, metric, rng, confidence)) | _triple(
        f"difference_to_{name}",
        statistics.difference_interval(own, best, rng, confidence=confidence),
    )


# --- beside the published tables -----------------------------------------------------------------


def published_order_table(
    table: pd.DataFrame, rng: np.random.Generator, *, confidence: float = CONFIDENCE
) -> pd.DataFrame:
    """Spearman's rank correlation of the 27 means with the published ones, and of those.

    table: from `isolation_table`. One row per pair of experiments: first ("this study" or
    "published NAME"), second, n_adjustments, spearman (with interval over adjustments).
    """
    means = {"this study": table["mean"]}
    for name in reference("isolation")["dataset"].unique():
        means[f"published {name}"] = published_isolation_table(name)["mean"]
    rows = []
    for first, second in combinations(means, 2):
        both = np.isfinite(means[first]) & np.isfinite(means[second])
        found = statistics.correlation(
            means[first][both], means[second][both], rng, confidence=confidence
        )
        rows.append(
            {"first": first, "second": second, "n_adjustments": found.n}
            | _triple("spearman", found)
        )
    return pd.DataFrame(rows)


def published_difference_table(table: pd.DataFrame) -> pd.DataFrame:
    """Set minus mean of its members, here (with interval) and in each published experiment.

    table: from `hypothesis_table`. Columns: set, here, "published NAME" (points).
    """
    names = ["difference", "difference_low", "difference_high"]
    beside = table[["set", *names]].rename(columns=lambda name: name.replace("difference", "here"))
    for name in reference("hypothesis")["dataset"].unique():
        printed = published_hypothesis_table(name).set_index("set")["difference"]
        beside[f"published {name}"] = beside["set"].map(printed)
    return beside


# The published experiments on our data sets. Any other data set is held against all of them, and
# then only orders and signs mean anything.
PUBLISHED = {"mnist": "mnist-tiny", "cifar10": "cifar10-tiny", "news": "20newsgroups-tiny"}
_BENCHMARKS = {"mnist-tiny": "mnist", "cifar10-tiny": "cifar", "20newsgroups-tiny": "news"}
_METHODS = {
    "vanilla": "Vanilla",
    "challenger": "Challenger",
    "mendaba": "MendABA",
    "fastaba": "FastABA",
    "fastaba-ce": "FastABA-CE",
}
# What the slides say of the published runs; "not stated" is theirs too. Epochs are the benchmark's.
PUBLISHED_SETTINGS = {
    "mnist-tiny": {"data": "mnist, 100 images", "model": "vgg11", "epochs": "1000"},
    "cifar10-tiny": {"data": "cifar10, 1000 images", "model": "vgg16", "epochs": "500"},
    "20newsgroups-tiny": {
        "data": "news, 2000 texts",
        "model": "small CNN",
        "epochs": "100",
        "words of a text": "the first 1000",
        "word vectors": "100 numbers a word, source not stated",
    },
}


def published_for(dataset: str) -> tuple[str, ...]:
    """The published experiments that results on a data set are held against."""
    return (PUBLISHED[dataset],) if dataset in PUBLISHED else tuple(PUBLISHED.values())


def settings_table(runs: pd.DataFrame, published: Sequence[str]) -> pd.DataFrame:
    """What differs before any number does: one row a setting, here and in each experiment."""
    ran = runs.iloc[0]
    per_arm = runs.groupby("arm")["seed"].nunique()
    low, high = int(per_arm.min()), int(per_arm.max())
    strengths = ", ".join(f"{s:g}" for s in sorted(runs["strength"].dropna().unique()))
    targets = ", ".join(sorted({str(t) for t in runs.get("target", ()) if t and t == t}))
    here = {
        "data": f"{ran['dataset']}, {ran.get('subset', 'subset not recorded')}",
        "model": f"{ran['model']}{' with batch norm' * bool(ran['batch_norm'])}",
        "epochs": f"{ran['epochs']:g}",
        "strength": strengths or "none",
        "target": targets or "not recorded",
        "runs an arm": f"{low}" if low == high else f"{low} to {high}",
    }
    if ran["dataset"] == "news":
        tokens = int(ran.get("tokens", 0) or 0)
        here["words of a text"] = f"the first {tokens}" if tokens else "the first 1000"
        made = {"corpus": "made from the training texts (PPMI and SVD)", "glove": "GloVe"}
        here["word vectors"] = made.get(str(ran.get("embedding", "")), "not recorded")
    rows = []
    for name in (*here, *(("word vectors",) if "word vectors" not in here else ())):
        row = {"setting": name, "this study": here.get(name, "no words")}
        for other in published:
            usual = {"runs an arm": "5", "word vectors": "no words"}.get(name, "not stated")
            row[f"published {other}"] = PUBLISHED_SETTINGS[other].get(name, usual)
        rows.append(row)
    words = any("word vectors" in PUBLISHED_SETTINGS[other] for other in published)
    return pd.DataFrame(rows if words or "word vectors" in here else rows[:-1])


def beside_published(table: pd.DataFrame, published: str) -> pd.DataFrame:
    """The 27 means here (with interval) and published, with both ratings.

    table: from `isolation_table`.
    """
    names = ["index", "low", "middle", "high", "group", "mean", "mean_low", "mean_high", "rating"]
    result = table[names].copy()
    other = published_isolation_table(published)
    result["published_mean"] = other["mean"].to_numpy()
    result["published_rating"] = other["published_rating"].to_numpy()
    return result


def order_agreement_table(
    table: pd.DataFrame,
    published: Sequence[str],
    rng: np.random.Generator,
    *,
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """How far the 27 stand in the published order; the adjustment is the unit.

    table: from `isolation_table`. One row per experiment. Columns: published, n_adjustments, and
    with BCa intervals over adjustments spearman, kendall (tau-b), rating_share (equal ratings among
    the n_ratings adjustments rated in both, the baseline left out) and rating_kappa.
    """
    rows = []
    for name in published:
        both = beside_published(table, name)
        known = both[np.isfinite(both["mean"]) & np.isfinite(both["published_mean"])]
        row: dict[str, object] = {"published": name, "n_adjustments": len(known)}
        for kind in ("spearman", "kendall"):
            found = statistics.correlation(
                known["mean"], known["published_mean"], rng, kind=kind, confidence=confidence
            )
            row |= _triple(kind, found)
        scale = {rating: number for number, (rating, _) in enumerate((*RATINGS, ("Bad", 0.0)))}
        rated = known[known["rating"].isin(scale) & known["published_rating"].isin(scale)]
        pair = [rated[c].map(scale).to_numpy(np.float64) for c in ("rating", "published_rating")]
        row["n_ratings"] = len(rated)
        for measure, statistic in (("rating_share", _share), ("rating_kappa", _kappa)):
            found = Interval(math.nan, math.nan, math.nan, len(rated), confidence, "none")
            if len(rated) >= 5:
                found = statistics.bootstrap_interval(
                    pair, statistic, rng, confidence=confidence, resamples=1_999, paired=True
                )
            row |= _triple(measure, found)
        rows.append(row)
    return pd.DataFrame(rows)


def _share(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.asarray((a == b).mean(axis))


def _kappa(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    """Cohen's kappa along an axis; 1 where both give one and the same label to all."""
    observed = (a == b).mean(axis)
    expected = sum((a == k).mean(axis) * (b == k).mean(axis) for k in range(len(RATINGS) + 1))
    rest = 1 - np.asarray(expected)
    return np.asarray(np.where(rest > 0, (observed - expected) / np.where(rest > 0, rest, 1), 1.0))


def verdict(low: float, high: float) -> str:
    """ "above" or "below" 0 where the whole interval is, "inconclusive" otherwise."""
    return "above" if low > 0 else "below" if high < 0 else "inconclusive"


def _agreement(here: str, there: str) -> str:
    if "inconclusive" in (here, there):
        return "inconclusive"
    return "same" if here == there else "opposite"


def contrast_agreement_table(
    table: pd.DataFrame,
    published: Sequence[str],
    rng: np.random.Generator,
    *,
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """The three group contrasts here and published, both with the adjustment as the unit.

    table: from `isolation_table`. One row per (contrast, experiment). Columns: contrast, published,
    here and there (points, with intervals), verdict_here, verdict_there (see `verdict`), agreement:
    "same" or "opposite" sign, "inconclusive" where either interval includes 0.
    """
    own = group_table(table, rng, confidence=confidence).set_index("name")
    rows = []
    for name in published:
        other = group_table(published_isolation_table(name), rng, confidence=confidence)
        other = other.set_index("name")
        for first, second in CONTRASTS:
            contrast = f"{first} − {second}"
            row: dict[str, object] = {"contrast": contrast, "published": name}
            for key, source in (("here", own), ("there", other)):
                ends = ("estimate", "estimate_low", "estimate_high")
                numbers = [float(source[end][contrast]) for end in ends]
                row |= dict(zip((key, f"{key}_low", f"{key}_high"), numbers, strict=True))
                row[f"verdict_{key}"] = verdict(*numbers[1:])
            row["agreement"] = _agreement(str(row["verdict_here"]), str(row["verdict_there"]))
            rows.append(row)
    result = pd.DataFrame(rows)
    order = [f"{first} − {second}" for first, second in CONTRASTS]
    return result.sort_values(
        "contrast", key=lambda c: c.map(order.index), kind="stable"
    ).reset_index(drop=True)


# Expectation of the largest of five normal values, in standard deviations.
_MAXIMUM_OF_FIVE = 1.163
PUBLISHED_RUNS = 5


def published_sd(published: str) -> float:
    """Standard deviation between published runs of one adjustment, from their maxima and means.

    The median over the 27 of (maximum − mean) / 1.163, points; the slides print none.
    """
    table = published_isolation_table(published)
    return float((table["max"] - table["mean"]).median() / _MAXIMUM_OF_FIVE)


def _normal(estimate: float, error: float, confidence: float) -> tuple[float, float]:
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * error
    return estimate - half, estimate + half


def set_agreement_table(
    table: pd.DataFrame, published: Sequence[str], *, confidence: float = CONFIDENCE
) -> pd.DataFrame:
    """Set minus mean of its members here and published.

    table: from `hypothesis_table`. One row per (set, experiment). Columns: set, published, here
    (points, with interval over runs), there (as published, with an approximate interval: normal,
    five runs an arm, their deviation by `published_sd`), verdict_here, verdict_there, agreement:
    of the signs, "inconclusive" where either interval includes 0.
    """
    own = table.set_index("set")
    rows = []
    for name in published:
        other = published_hypothesis_table(name).set_index("set")["difference"]
        for group_set, number in zip(map(str, other.index), other.tolist(), strict=True):
            numbers = [float(own[f"difference{e}"][group_set]) for e in ("", "_low", "_high")]
            runs = PUBLISHED_RUNS * np.array([1, len(members(group_set))])
            error = published_sd(name) * math.sqrt((1 / runs).sum())
            low, high = _normal(number, error, confidence)
            here, there = verdict(*numbers[1:]), verdict(low, high)
            row: dict[str, object] = {"set": group_set, "published": name}
            row |= dict(zip(("here", "here_low", "here_high"), numbers, strict=True))
            row |= {"there": number, "there_low": low, "there_high": high}
            row |= {"verdict_here": here, "verdict_there": there}
            row["agreement"] = _agreement(here, there)
            rows.append(row)
    result = pd.DataFrame(rows)
    order = list(GROUP_SETS)
    return result.sort_values("set", key=lambda c: c.map(order.index), kind="stable").reset_index(
        drop=True
    )


def benchmark_agreement_table(
    runs: pd.DataFrame,
    published: Sequence[str],
    rng: np.random.Generator,
    *,
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """Medians of the methods, and their means less Vanilla's, here and published (tiny subsets).

    runs: a benchmark study's. One row per (experiment, split, method). Columns: published, split
    ("validation", "test with batch norm", ...), method, n, here_median, here_sd, there_median,
    there_sd (percent), there_strength, here (mean less Vanilla's mean, points, with interval over
    runs), there (median less Vanilla's median, with an approximate interval: normal, from the
    published deviations of what are taken to be five runs), verdict_here, verdict_there, agreement:
    of the signs, "inconclusive" where either interval includes 0.
    """
    _require(runs, ("arm", "seed", "status", "batch_norm"), "runs")
    norm = "yes" if bool(runs["batch_norm"].iloc[0]) else "no"
    table = reference("benchmark")
    rows = []
    for name in published:
        chosen = table[
            (table["dataset"] == _BENCHMARKS[name])
            & (table["subset"] == "tiny")
            & (table["batch_norm"] == norm)
        ]
        for split, short in (("validation", "val"), ("test", "test")):
            there = chosen[chosen["split"] == short].set_index("method")
            vanilla = _values(runs, "Vanilla", f"{split}_accuracy")
            for method, title in _METHODS.items():
                values = _values(runs, title, f"{split}_accuracy")
                found = Interval(math.nan, math.nan, math.nan, 0, confidence, "none")
                if method != "vanilla":
                    found = statistics.difference_interval(
                        values, vanilla, rng, confidence=confidence
                    )
                median, sd, strength = (
                    float(there[column][method]) for column in ("median", "std", "strength")
                )
                less = median - float(there["median"]["vanilla"])
                row: dict[str, object] = {"published": name, "method": title}
                row["split"] = split + " with batch norm" * (norm == "yes")
                row |= {
                    "n": values.size,
                    "here_median": float(np.median(values)) if values.size else math.nan,
                    "here_sd": values.std(ddof=1) if values.size > 1 else math.nan,
                    "there_median": median,
                    "there_sd": sd,
                    "there_strength": strength,
                }
                row |= _triple("here", found)
                # The median of normal values varies √(π/2) times as much as their mean.
                spread = math.hypot(sd, float(there["std"]["vanilla"]))
                error = spread * math.sqrt(math.pi / 2 / PUBLISHED_RUNS)
                low, high = _normal(less, error, confidence)
                row |= dict.fromkeys(("there", "there_low", "there_high"), math.nan)
                row |= dict.fromkeys(("verdict_here", "verdict_there", "agreement"), "")
                if method != "vanilla":
                    row |= {"there": less, "there_low": low, "there_high": high}
                    row["verdict_there"] = verdict(low, high)
                if method != "vanilla" and values.size:
                    row["verdict_here"] = here = verdict(found.low, found.high)
                    row["agreement"] = _agreement(here, verdict(low, high))
                rows.append(row)
    return pd.DataFrame(rows)


# --- frozen models -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """Share of adjustments with equal labels, Cohen's kappa, and the number compared."""

    share: float
    kappa: float
    n: int


def frozen_runs(frozen: pd.DataFrame, strength: float) -> pd.DataFrame:
    """Changes at one strength, averaged over the adjustments of a group.

    Rows: (arm, group, seed); columns accuracy_change, loss_change, class_score_change.
    """
    names = ["accuracy_change", "loss_change", "class_score_change"]
    _require(frozen, ("arm", "seed", "adjustment", "strength", *names), "frozen results")
    group = adjustment_table().set_index("index")["group"]
    here = frozen[np.isclose(frozen["strength"].astype(float), strength)]
    here = here.assign(group=here["adjustment"].map(group))
    return here.groupby(["arm", "group", "seed"])[names].mean()


def frozen_group_table(
    frozen: pd.DataFrame,
    rng: np.random.Generator,
    *,
    strength: float,
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """What the groups do to frozen models at one strength: one row per (arm, group).

    Columns: arm, group, n (models), and with intervals over models accuracy_change (points),
    loss_change (nats), class_score_change (logits).
    """
    by_run = frozen_runs(frozen, strength)
    rows = []
    for arm in frozen["arm"].unique():
        for group in ("Epsilon", "Neutral", "Delta"):
            own = by_run.loc[(arm, group)]
            row: dict[str, object] = {"arm": arm, "group": group, "n": len(own)}
            for name in by_run.columns:
                values = own[name].to_numpy(np.float64)
                values = values[np.isfinite(values)]
                found = statistics.mean_interval(values, rng, confidence=confidence)
                row |= _triple(str(name), found)
            rows.append(row)
    return pd.DataFrame(rows)


def frozen_of_one_arm(frozen: pd.DataFrame, arm: str | None = None) -> pd.DataFrame:
    """The rows of one arm; `arm` may be left out where there is one, or no column "arm"."""
    if "arm" not in frozen.columns:
        return frozen
    arms = [str(name) for name in frozen["arm"].unique()]
    if arm is None and len(arms) > 1:
        raise ValueError(f"frozen results hold several arms ({', '.join(arms)}); choose one")
    if arm is not None and arm not in arms:
        raise ValueError(f"unknown arm {arm!r}; frozen results hold {', '.join(arms)}")
    return frozen if arm is None else frozen[frozen["arm"] == arm]


def measured_group_table(
    frozen: pd.DataFrame,
    rng: np.random.Generator,
    *,
    strength: float,
    arm: str | None = None,
    threshold: float = 0.0,
    metric: str = "loss_change",
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """Group of each adjustment by what it does to a frozen model's loss. 27 rows.

    frozen: one row per (arm, seed, adjustment, strength) with the change of the loss against the
    unadjusted input; `arm` may be left out where there is one. An adjustment is Epsilon where the
    whole interval over seeds lies above `threshold`, Delta where it lies below −threshold, Neutral
    otherwise, and "" where there is no interval (one seed).

    threshold is the change of loss that counts as none, in the unit of `metric`. With 0 the label
    depends on the number of seeds: with many, the smallest change stops being Neutral; with few,
    Neutral may only mean too few. Choose it beforehand, for example as 5 % of the unadjusted loss.
    `equivalent` tells the Neutral adjustments whose whole interval lies within ±threshold.

    Columns: index, low, middle, high, group (nominal), n, n_missing, change (with interval),
    measured_group, equivalent, agrees.
    """
    _require(frozen, ("seed", "adjustment", "strength", metric), "frozen results")
    if threshold < 0:
        raise ValueError(f"threshold {threshold} is negative; give the size of a change, 0 or more")
    chosen = frozen_of_one_arm(frozen, arm)
    strengths = np.sort(chosen["strength"].dropna().unique())
    if not np.isclose(strengths, strength).any():
        known = ", ".join(f"{value:g}" for value in strengths)
        raise ValueError(f"no frozen results at strength {strength:g}; known: {known}")
    chosen = chosen[np.isclose(chosen["strength"].astype(float), strength)]
    if chosen.duplicated(["seed", "adjustment"]).any():
        raise ValueError("frozen results repeat a (seed, adjustment); choose one dataset and model")

    rows = []
    for stream, entry in zip(rng.spawn(27), adjustment_table().to_dict("records"), strict=True):
        values = chosen.loc[chosen["adjustment"] == entry["index"], metric].to_numpy(np.float64)
        finite = values[np.isfinite(values)]
        interval = statistics.mean_interval(finite, stream, confidence=confidence)
        if interval.low > threshold:
            label = "Epsilon"
        elif interval.high < -threshold:
            label = "Delta"
        else:
            label = "Neutral" if math.isfinite(interval.low) else ""
        row = {key: entry[key] for key in ("index", "low", "middle", "high", "group")}
        row |= {"n": finite.size, "n_missing": values.size - finite.size}
        row |= _triple("change", interval)
        row["measured_group"] = label
        row["equivalent"] = interval.low >= -threshold and interval.high <= threshold
        row["agrees"] = label == entry["group"]
        rows.append(row)
    return pd.DataFrame(rows)


def agreement(table: pd.DataFrame) -> Agreement:
    """Agreement of nominal and measured groups in a `measured_group_table`; undecided left out.

    Chance gives a share of about 1/3 and a kappa of 0.
    """
    _require(table, ("group", "measured_group"), "measured group table")
    decided = table[table["measured_group"] != ""]
    if decided.empty:
        return Agreement(math.nan, math.nan, 0)
    nominal = decided["group"].to_numpy(dtype=str)
    measured = decided["measured_group"].to_numpy(dtype=str)
    return Agreement(
        float((nominal == measured).mean()),
        statistics.cohens_kappa(nominal, measured),
        len(decided),
    )


# --- benchmark -----------------------------------------------------------------------------------


def benchmark_table(
    runs: pd.DataFrame, rng: np.random.Generator, *, confidence: float = CONFIDENCE
) -> pd.DataFrame:
    """Each method (arm) at its strength, on validation and on test; methods in order of appearance.

    One row per (dataset, subset, model, batch_norm, arm, strength), as far as runs has these
    columns. Columns: those, n, n_diverged, n_missing, and for validation and test the median, sd
    and mean (with interval) of the accuracy. The median and sd are the published form.
    """
    metrics = ("validation_accuracy", "test_accuracy")
    _require(runs, ("arm", "seed", "status", *metrics), "runs")
    wanted = ("dataset", "subset", "model", "batch_norm", "arm", "strength")
    keys = [name for name in wanted if name in runs.columns]
    if runs.duplicated([*keys, "seed"]).any():
        raise ValueError("runs have several rows for one arm and seed; keep the last step")
    groups = list(runs.groupby(keys, sort=False, dropna=False))
    rows = []
    for (key, part), stream in zip(groups, rng.spawn(len(groups)), strict=True):
        row: dict[str, object] = dict(zip(keys, key, strict=True))
        row |= _counts(part, metrics[0])
        for metric in metrics:
            values = part[metric].to_numpy(dtype=np.float64)
            values = values[np.isfinite(values)]
            split = metric.removesuffix("_accuracy")
            row[f"{split}_median"] = float(np.median(values)) if values.size else math.nan
            row[f"{split}_sd"] = values.std(ddof=1) if values.size > 1 else math.nan
            row |= _triple(f"{split}_mean", _mean(values, metric, stream, confidence))
        rows.append(row)
    return pd.DataFrame(rows)


# --- sentences -----------------------------------------------------------------------------------


def _minus(text: str) -> str:
    return text.replace("-", "−")


def interval_text(estimate: float, low: float, high: float, digits: int = 1) -> str:
    """Text such as 55.3 [53.1, 57.2]; without an interval 55.3, without a number "–"."""
    if not math.isfinite(estimate):
        return "–"
    text = f"{_rounded(estimate, digits)}"
    if math.isfinite(low) and math.isfinite(high):
        text += f" [{_rounded(low, digits)}, {_rounded(high, digits)}]"
    return text


def _rounded(value: float, digits: int) -> str:
    return _minus(f"{round(value, digits) + 0.0:.{digits}f}")


def comparison_sentence(
    first: str, second: str, estimate: float, low: float, high: float, digits: int = 1
) -> str:
    """Such as: Epsilon above Neutral by 3.1 points [2.0, 4.2]; inconclusive where 0 is inside."""
    if not math.isfinite(estimate):
        return f"{first} against {second}: no runs"
    numbers = interval_text(estimate, low, high, digits).replace(" [", " points [")
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{first} against {second} inconclusive without an interval: {numbers} points"
    if low <= 0 <= high:
        return f"{first} against {second} inconclusive: {numbers}"
    near, far = sorted((abs(low), abs(high)))
    numbers = interval_text(abs(estimate), near, far, digits).replace(" [", " points [")
    return f"{first} {'above' if estimate > 0 else 'below'} {second} by {numbers}"


def isolation_sentence(table: pd.DataFrame) -> str:
    """The three contrasts of a `group_table` in words."""
    rows = {row["name"]: row for row in table.to_dict("records")}
    parts = []
    for first, second in CONTRASTS:
        row = rows[f"{first} − {second}"]
        numbers = (row["estimate"], row["estimate_low"], row["estimate_high"])
        parts.append(comparison_sentence(first, second, *numbers))
    return "; ".join(parts) + "."


def _list(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _everywhere(published: Sequence[str]) -> str:
    """Such as: in the published experiment, in all three published experiments."""
    if len(published) == 1:
        return "in the published experiment"
    return f"in all {'three' if len(published) == 3 else len(published)} published experiments"


def order_sentences(order: pd.DataFrame, contrasts: pd.DataFrame, same_data: bool) -> list[str]:
    """Agreement of the 27 and of the groups with the published, in words.

    order: from `order_agreement_table`; contrasts: from `contrast_agreement_table`. same_data:
    whether the published experiment used the same data set, so that ratings mean the same.
    """
    sentences = []
    published = list(dict.fromkeys(contrasts["published"]))
    if (contrasts["agreement"] == "same").all():
        first = contrasts[contrasts["published"] == published[0]]
        wins = [
            pair[row == "below"] for pair, row in zip(CONTRASTS, first["verdict_here"], strict=True)
        ]
        ranks = sorted(GROUPS, key=wins.count, reverse=True)
        sentences.append(
            f"The groups stand in the same order here and {_everywhere(published)}: "
            f"{' above '.join(ranks)}."
        )
    else:
        for contrast, rows in contrasts.groupby("contrast", sort=False):
            by_kind = {
                kind: list(rows.loc[rows["agreement"] == kind, "published"])
                for kind in ("same", "opposite", "inconclusive")
            }
            words = {"same": "same sign as in", "opposite": "opposite to", "inconclusive": ""}
            parts = [f"{words[k]} {_list(by_kind[k])}" for k in ("same", "opposite") if by_kind[k]]
            if by_kind["inconclusive"]:
                here = rows["verdict_here"].iloc[0] == "inconclusive"
                parts.append(
                    "inconclusive here"
                    if here
                    else f"inconclusive in {_list(by_kind['inconclusive'])}"
                )
            own = rows.iloc[0]
            numbers = interval_text(own["here"], own["here_low"], own["here_high"])
            sentences.append(f"{contrast}: {'; '.join(parts)} (here {numbers} points).")
    for row in order.to_dict("records"):
        numbers = interval_text(row["spearman"], row["spearman_low"], row["spearman_high"], 2)
        kind = {
            "above": "The 27 adjustments rank alike here and in",
            "below": "The 27 adjustments rank in opposite order here and in",
            "inconclusive": "Whether the 27 adjustments rank alike is inconclusive for",
        }[verdict(row["spearman_low"], row["spearman_high"])]
        sentences.append(f"{kind} {row['published']}: Spearman {numbers}.")
        if same_data and row["n_ratings"] and math.isfinite(row["rating_share"]):
            numbers = interval_text(
                row["rating_kappa"], row["rating_kappa_low"], row["rating_kappa_high"], 2
            )
            kind = verdict(row["rating_kappa_low"], row["rating_kappa_high"])
            than = {
                "above": "more than by chance",
                "below": "less than by chance",
                "inconclusive": "inconclusive against chance",
            }[kind]
            sentences.append(
                f"{round(row['rating_share'] * row['n_ratings'])} of {row['n_ratings']} ratings "
                f"are as published: κ {numbers}, {than}."
            )
    return sentences


def set_sentences(sets: pd.DataFrame, same_data: bool) -> list[str]:
    """Agreement of a `set_agreement_table` in words, one sentence an experiment and a dissent."""
    sentences = []
    for published, rows in sets.groupby("published", sort=False):
        for word in ("above", "below"):
            agree = (rows["agreement"] == "same") & (rows["verdict_here"] == word)
            same = list(rows.loc[agree, "set"])
            if same:
                sentences.append(
                    f"Sets {word} the mean of their members, as in {published}: {_list(same)}."
                )
        for row in rows[rows["agreement"] != "same"].to_dict("records"):
            what = "advantage" if row["there"] > 0 else "disadvantage"
            what += f" of the set {row['set']}"
            sentences.append(_dissent(what, row, str(published), same_data))
    return sentences


def benchmark_sentences(benchmark: pd.DataFrame, same_data: bool) -> list[str]:
    """Agreement of a `benchmark_agreement_table` in words: each method against Vanilla."""
    sentences = []
    rated = benchmark[benchmark["agreement"] != ""]
    for (published, split), rows in rated.groupby(["published", "split"], sort=False):
        where = f"{published} ({split})"
        for sign, word in ((1, "above"), (-1, "below")):
            same = rows[(rows["agreement"] == "same") & (np.sign(rows["there"]) == sign)]
            if len(same):
                sentences.append(f"{_list(list(same['method']))} {word} Vanilla, as in {where}.")
        for row in rows[rows["agreement"] != "same"].to_dict("records"):
            what = "advantage" if row["there"] > 0 else "disadvantage"
            sentences.append(
                _dissent(f"{what} of {row['method']} against Vanilla", row, where, same_data)
            )
    return sentences


def _dissent(what: str, row: dict, where: str, same_data: bool) -> str:
    """Such as: The published advantage of X does not appear: −1.0 points [−2.0, −0.1] here."""

    def numbers(name: str) -> str:
        text = interval_text(row[name], row[f"{name}_low"], row[f"{name}_high"])
        return text.replace(" [", " points [") if "[" in text else f"{text} points"

    here = numbers("here")
    there = f"against {numbers('there')} in {where}" if same_data else f"against {where}"
    if row["agreement"] == "opposite":
        return f"The published {what} does not appear: {here} here, {there}."
    if row["verdict_there"] == "inconclusive":
        return f"The published {what} is itself inconclusive: {here} here, {there}."
    return f"The published {what} is inconclusive here: {here}, {there}."


def hypothesis_sentences(table: pd.DataFrame) -> list[str]:
    """One sentence per set of a `hypothesis_table`: against its mean, best member, best group."""
    sentences = []
    for row in table.to_dict("records"):
        pairs = [
            ("difference", "the mean of its members"),
            ("difference_to_best_member", "its best member"),
        ]
        if len(GROUP_SETS[row["set"]]) > 1:
            pairs.append(("difference_to_best_group", "its best group"))
        parts = [
            comparison_sentence(
                "" if i else row["set"], other, row[key], row[f"{key}_low"], row[f"{key}_high"]
            ).strip()
            for i, (key, other) in enumerate(pairs)
        ]
        sentences.append("; ".join(parts) + ".")
    return sentences


# --- presentation --------------------------------------------------------------------------------

# The columns of `hypothesis_table` that fit a page.
HYPOTHESIS_COLUMNS = (
    "set",
    "n",
    "n_diverged",
    "all_of_group",
    "mean_of_members",
    "difference",
    "difference_to_best_member",
    "difference_to_best_group",
)

# What `aba_core.mechanism` measures: column and label.
MEASURES = {
    "cosine_epsilon_delta": "Cosine: Epsilon, Delta",
    "cosine_epsilon_neutral": "Cosine: Epsilon, Neutral",
    "cosine_delta_neutral": "Cosine: Delta, Neutral",
    "cosine_epsilon_clean": "Cosine: Epsilon, clean",
    "cosine_delta_clean": "Cosine: Delta, clean",
    "cosine_neutral_clean": "Cosine: Neutral, clean",
    "coherence_epsilon": "Coherence: Epsilon",
    "coherence_delta": "Coherence: Delta",
    "coherence_neutral": "Coherence: Neutral",
    "coherence_all": "Coherence: all three",
    "violation_epsilon": "Epsilon, loss fell (share)",
    "violation_delta": "Delta, loss rose (share)",
    "linearity_error": "Linearity error (ratio)",
    "eigenvalue_clean": "Largest eigenvalue, clean",
    "eigenvalue_augmented": "Largest eigenvalue, augmented",
    "trace_clean": "Trace, clean",
    "trace_augmented": "Trace, augmented",
    "first_layer_clean": "First-layer gradient, clean",
    "first_layer_epsilon": "First-layer gradient, Epsilon",
    "first_layer_delta": "First-layer gradient, Delta",
    "first_layer_neutral": "First-layer gradient, Neutral",
    "loss_clean": "Loss on the probe, clean (nats)",
    "loss_augmented": "Loss on the probe, augmented (nats)",
}
LABELS = {
    **MEASURES,
    "n": "Runs",
    "n_diverged": "Diverged",
    "n_missing": "No accuracy",
    "n_adjustments": "Adjustments",
    "n_members": "Members",
    "n_members_diverged": "Members' diverged runs",
    "max": "Maximum (%)",
    "mean": "Mean (%)",
    "sd": "SD",
    "all_of_group": "All of group (%)",
    "mean_of_members": "Mean of members (%)",
    "difference": "Difference (points)",
    "best_member": "Best member",
    "best_member_mean": "Its mean (%)",
    "best_member_crossfitted": "Best member, cross-fitted (%)",
    "difference_to_best_member": "Difference to best member (points)",
    "best_group_crossfitted": "Best group, cross-fitted (%)",
    "difference_to_best_group": "Difference to best group (points)",
    "change": "Change of loss",
    "smallest_detectable": "Detectable (points)",
    "hypothesis": "Hypothesis",
    "comparison": "Deciding comparison",
    "label": "Comparison",
    "p_value": "p",
    "here": "Here (points)",
    "there": "Published (points)",
    "verdict_here": "Sign here",
    "verdict_there": "Sign published",
    "spearman": "Spearman",
    "kendall": "Kendall",
    "n_ratings": "Rated in both",
    "rating_share": "Equal ratings",
    "rating_kappa": "κ of ratings",
    "here_median": "Median here (%)",
    "here_sd": "SD here",
    "there_median": "Median published (%)",
    "there_sd": "SD published",
    "there_strength": "Strength published",
    "published_mean": "Published mean (%)",
    "published_rating": "Published rating",
    "effect": "Hedges' g",
    "p_welch": "p (Welch)",
    "p_permutation": "p (permutation)",
    "p_holm": "p (Holm)",
    "a": "a (SD)",
    "b": "b (points)",
    "indirect": "Indirect (points)",
    "total": "Effect (points)",
    "batch_norm": "Batch norm",
    "validation_sd": "Validation SD",
    "test_sd": "Test SD",
    "validation_median": "Validation median (%)",
    "test_median": "Test median (%)",
    "validation_mean": "Validation mean (%)",
    "test_mean": "Test mean (%)",
    "source": "What differs",
    "accuracy_sd": "SD of accuracy (points)",
    "accuracy_sd_error": "Its error",
    "loss_sd": "SD of cross-entropy (nats)",
    "loss_sd_error": "Its error (nats)",
    "disagreement": "Disagreement (%)",
    "logit_correlation": "ρ of logits",
    "ensemble_gain": "Ensemble gain (points)",
    "ratio": "SD over that of all",
    "reduction": "Reduction (%)",
}


def present(
    table: pd.DataFrame, digits: int = 1, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """A table of text for readers: intervals joined to their number, rounded, columns labelled.

    digits: decimals of percents and points. Columns within ±1.5 (correlations, losses), gains and
    effect sizes get at least two; p-values three; strengths are printed as they are. columns: the
    ones to show, in order (all).
    """
    result: dict[str, list[str]] = {}
    for name in _shown_columns(table, columns):
        places = _digits(table[name], digits)
        if f"{name}_low" in table and f"{name}_high" in table:
            ends = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
            texts = [interval_text(float(x), float(y), float(z), places) for x, y, z in ends]
        else:
            texts = [_cell(name, value, places) for value in table[name]]
        result[LABELS.get(name, name.replace("_", " ").capitalize())] = texts
    return pd.DataFrame(result)


def _shown_columns(table: pd.DataFrame, columns: Sequence[str] | None) -> list[str]:
    """The columns asked for, or all, except the ends of intervals."""
    if columns is not None:
        _require(table, columns, "table")
        return list(columns)
    ends = {f"{name}_{end}" for name in table.columns for end in ("low", "high")}
    return [str(name) for name in table.columns if name not in ends]


def _digits(values: pd.Series, digits: int) -> int:
    """At least two decimals for correlations, gains, effect sizes and losses."""
    if values.name in ("gain", "effect"):
        return max(digits, 2)
    if values.name in ("logit_correlation", "loss_sd", "loss_sd_error"):
        return max(digits, 3)
    small = pd.api.types.is_numeric_dtype(values) and values.abs().max() <= 1.5
    return max(digits, 2) if small else digits


def _cell(column: str, value: object, digits: int) -> str:
    if isinstance(value, str):
        return value or "–"
    if value is None or bool(pd.isna(value)):  # type: ignore[call-overload]
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return _minus(str(value))
    number = float(value)  # type: ignore[arg-type]
    if column.startswith("p_"):
        return "<0.001" if number < 0.001 else f"{number:.3f}"
    return f"{number:g}" if column.endswith("strength") else _rounded(number, digits)


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "−": "$-$",
    "–": "--",
    "η": r"$\eta$",
    "κ": r"$\kappa$",
    "±": r"$\pm$",
    "²": r"$^2$",
    "ρ": r"$\rho$",
}


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def latex(table: pd.DataFrame, digits: int = 1, columns: Sequence[str] | None = None) -> str:
    """A booktabs tabular (needs \\usepackage{booktabs}); numbers to the right. See `present`."""
    shown = present(table, digits, columns)
    numeric = [
        pd.api.types.is_numeric_dtype(table[name]) and not pd.api.types.is_bool_dtype(table[name])
        for name in _shown_columns(table, columns)
    ]
    lines = [
        rf"\begin{{tabular}}{{{''.join('r' if right else 'l' for right in numeric)}}}",
        r"\toprule",
        " & ".join(_escape(name) for name in shown.columns) + r" \\",
        r"\midrule",
        *(" & ".join(_escape(cell) for cell in row) + r" \\" for row in shown.to_numpy()),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def markdown(table: pd.DataFrame, digits: int = 1, columns: Sequence[str] | None = None) -> str:
    """A Markdown table. See `present`."""
    shown = present(table, digits, columns)
    rows = [list(shown.columns), ["---"] * shown.shape[1], *shown.to_numpy().tolist()]
    return "".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |\n" for row in rows
    )


def save_table(
    table: pd.DataFrame,
    stem: str | Path,
    digits: int = 1,
    columns: Sequence[str] | None = None,
) -> list[Path]:
    """Write STEM.csv (full precision, all columns), STEM.tex and STEM.md; return the paths."""
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    texts = {
        "csv": csv_text(table),
        "tex": latex(table, digits, columns),
        "md": markdown(table, digits, columns),
    }
    paths = []
    for ending, text in texts.items():
        paths.append(stem.with_name(f"{stem.name}.{ending}"))
        paths[-1].write_text(text, encoding="utf-8")
    return paths


def csv_text(table: pd.DataFrame) -> str:
    """Comma-separated, full precision, all columns."""
    return table.to_csv(index=False, lineterminator="\n")


with_interval, values_of = _triple, _values


def shown_counts(table: pd.DataFrame, *names: str) -> list[str]:
    """The columns of counts that say something."""
    return [name for name in names if table[name].any()]
