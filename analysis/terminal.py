"""What a terminal shows: tables, durations, progress, and one line for an error."""

from __future__ import annotations

import errno
import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from analysis import design
    from analysis.exhibits import Exhibit, Look
    from analysis.reports import Outcome
    from analysis.rooms import Exported
    from analysis.store.verify import Findings


def print_table(head: Sequence[object], rows: Sequence[tuple]) -> None:
    """Columns as wide as their widest entry, numbers to the right."""
    table = [tuple(map(str, row)) for row in (head, *rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    numeric = [all(isinstance(row[c], int | float) for row in rows) for c in range(len(head))]
    for row in table:
        cells = [
            entry.rjust(width) if right else entry.ljust(width)
            for entry, width, right in zip(row, widths, numeric, strict=True)
        ]
        print("  ".join(cells).rstrip())


def print_exhibits(sentences: Iterable[str], shown: Iterable[Exhibit]) -> None:
    """What results say, in sentences and tables."""
    from analysis.tables import present

    print("\n".join(f"- {sentence}" for sentence in sentences))
    for exhibit in shown:
        table = present(exhibit.data, exhibit.digits, exhibit.columns)
        print(f"\n{exhibit.description}\n")
        print_table(tuple(table.columns), list(table.itertuples(index=False, name=None)))


def print_differences(
    results: Path, study: str, dataset: str, look: Look, preset: str, baseline: str
) -> None:
    """A study's arms beside its baseline: sentences, then differences with verdicts.

    Raises ResultsError, and ExportError where the study has no baseline.
    """
    from aba_core.identity import in_short
    from analysis import exhibits, tables
    from analysis.results import load
    from analysis.studies import arms

    result = load(results, study, dataset, preset)
    if result.declaration.study.frozen:
        raise exhibits.ExportError(f"{study} is a frozen study, whose arms are not compared")
    look.check(result)
    reference = baseline or arms.baseline_arm(result.declaration.study)
    table = arms.differences(result, look, baseline)
    if not reference:
        names = in_short(arm.name for arm in result.declaration.study.arms)
        raise exhibits.ExportError(
            f"{study} has no arm without a method; say --baseline ARM, one of: {names}"
        )
    print(f"\n== {study} on {dataset}: {look.label}, differences to {reference} ==\n")
    for sentence in arms.sentences(result, look, baseline):
        print(sentence)
    shown = tables.present(table, columns=["arm", "difference", "n", "verdict", "effect"])
    print()
    print_table(tuple(shown.columns), list(shown.itertuples(index=False, name=None)))
    over = tables.listed(sorted({scope for scope in table["scope"] if scope}))
    print(
        f"\nIntervals hold together at {100 * look.confidence:g} %"
        f"{f'; they are over {over}' * bool(over)}. {result.summary()}"
    )


def print_ledger(sentences: Iterable[str], decided: pd.DataFrame, rest: pd.DataFrame) -> None:
    """Each claim with its verdicts below it. From `claims.printable` and `claims.undecided`."""
    for claim, rows in decided.groupby("claim", sort=False):
        print(claim)
        for row in rows.to_dict("records"):
            over = f" over {row['interval over']}" if row["interval over"] else ""
            effect = f" {row['effect']}, n = {row['n']}{over}" if row["effect"] else ""
            test = f"; test: {row['test']}" if row["test"] else ""
            print(f"    {row['data set']}, {row['comparison']}: {row['verdict']}{effect}{test}")
    for claim, rows in rest.groupby("claim", sort=False):
        print(claim)
        for row in rows.to_dict("records"):
            where = f"{row['data set']}: " if row["data set"] else ""
            print(f"    {where}not tested. {row['why not']}")
    print()
    print("\n".join(sentences))
    if len(decided):
        print("Each verdict has a figure: aba figures STUDY, with the file that --csv names.")


def print_exported(done: Exported) -> None:
    """What an export leaves to say: what is incomplete, not there, or refused."""
    for note in done.notes:
        print(note)
    if done.absent:
        parts = [f"{', '.join(names)} on {name}" for name, names in done.absent.items()]
        print(f"no results of {'; '.join(parts)}")
    for line in done.refused:
        print(f"aba: {line}", file=sys.stderr)


def print_findings(results: Path, findings: Findings, taken_in: Iterable[str]) -> None:
    """What a look at a results folder found. taken_in: files new in its manifest."""
    for start, lines in (("taken in", taken_in), ("note", findings.notes)):
        for line in lines:
            print(f"{start}: {line}")
    for line in findings.problems:
        print(line)
    print(f"{results}: {findings.files} files with {findings.runs} runs are as they were written")


def report(
    names: list[str], results: Path, out: Path, given: Mapping[str, object], **options: Any
) -> int:
    """Run a batch of notebooks and say what comes of it; the number of reports that failed.

    options: of `reports.report`; "format" is what is written for each, by default a page.
    """
    from tqdm import tqdm

    from analysis import reports

    bar = tqdm(unit="report", disable=not sys.stderr.isatty(), leave=False)

    def start(total: int) -> None:
        bar.total = total
        bar.refresh()

    def say(outcome: Outcome) -> None:
        bar.update()
        line = f"{outcome.files[-1]} ({outcome.seconds:.0f} s)"
        if outcome.error:
            line = f"aba: {outcome.stem}: {outcome.error}"
        with tqdm.external_write_mode():
            print(line, file=sys.stderr if outcome.error else sys.stdout, flush=True)

    try:
        outcomes = reports.report(
            names,
            given,
            out,
            (str(options.pop("format", "html")),),
            options.pop("jobs", 2),
            say,
            usual={"results": str(results.resolve()), "dataset": "digits"},
            started=start,
            **options,
        )
    finally:
        bar.close()
    if len(outcomes) > 1:
        print_outcomes(outcomes)
    return sum(outcome.status != "finished" for outcome in outcomes)


def print_outcomes(outcomes: Iterable[Outcome]) -> None:
    """A batch of reports: notebook, parameters, time, status."""
    rows = [
        (
            outcome.notebook,
            ", ".join(f"{name}={value}" for name, value in outcome.given.items()),
            f"{outcome.seconds:.0f} s",
            outcome.status,
        )
        for outcome in outcomes
    ]
    print()
    print_table(("notebook", "parameters", "time", "status"), rows)


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return (
                f"{seconds / size:.1f} {unit}"
                if seconds < 10 * size
                else f"{seconds / size:.0f} {unit}"
            )
    return f"{seconds:.0f} s"


def print_large(table: pd.DataFrame, shown: pd.DataFrame, note: str) -> None:
    """The published table of large models beside ours, and what the open cells would cost: from
    `studies.large`."""
    print_table(tuple(shown.columns), list(shown.itertuples(index=False, name=None)))
    print(f"\n{textwrap.fill(note, 90)}\nTo fill the cells at published scale:")
    for command in dict.fromkeys(table["command"]):
        print(f"  {command}")


def print_plan(plan: design.Plan, label: str) -> None:
    """What a study needs to find an effect. label: of the metric."""
    from analysis.results import SHIPPED

    sd, (low, high) = plan.sd, plan.sd_by_arm
    pilot = "the shipped results" if plan.pilot == SHIPPED else plan.pilot
    print(
        f"{plan.study.name} on {plan.study.dataset}: to find a true difference of {plan.effect:g} "
        f"{'point' if plan.effect == 1 else 'points'} between two arms\n"
        f"in {100 * plan.power:g} % of such studies, two-sided, with "
        f"{100 * plan.alpha:g} % false positives. {label}.\n\n"
        f"Pilot: {plan.pilot_runs} runs of {plan.pilot_arms} arms in {pilot}\n"
        f"SD of runs: {sd.estimate:.2f} points [{sd.low:.2f}, {sd.high:.2f}], pooled over arms; "
        f"{low:.2f} to {high:.2f} by arm\n"
    )
    rows = [
        (
            "one" if option.comparisons == 1 else f"{option.comparisons}, Holm",
            f"{option.sd:.2f}",
            option.runs_per_arm,
            option.runs,
            option.to_run,
            duration(option.seconds),
            str(option.simulated),
        )
        for option in plan.options
    ]
    head = ("comparisons", "SD", "seeds per arm", "runs in all", "to run", "time here")
    print_table((*head, "power, pilot resampled"), rows)
    cores = "one run at a time" if plan.cores == 1 else f"shared by {plan.cores} cores"
    print(
        "\nThe second SD is the upper end of its interval. Time: the pilot's "
        f"{plan.seconds:.1f} s on {plan.device}\nfor one seed of every arm, {cores}"
        + (", without the runs that choose strengths." if plan.study.tuning else ".")
    )


def bars() -> Callable[[str, int, int], None]:
    """Progress: a bar on a terminal, a plain line now and then elsewhere."""
    from tqdm import tqdm

    if sys.stderr.isatty():
        bar: dict[str, Any] = {}

        def draw(label: str, done: int, total: int) -> None:
            if bar.get("label") != label:
                bar.update(
                    label=label, bar=tqdm(total=total, unit="step", unit_scale=True, desc=label)
                )
            bar["bar"].update(done - bar["bar"].n)
            if done >= total:
                bar["bar"].close()

        return draw
    last: dict[str, Any] = {"label": None}

    def line(label: str, done: int, total: int) -> None:
        now = time.monotonic()
        if last["label"] != label:
            last.update(label=label, start=now, said=now, finished=False)
        if last["finished"]:
            return
        if done >= total > 0:
            last["finished"] = True
            print(f"{label}: done in {now - last['start']:.0f} s", file=sys.stderr, flush=True)
        elif done and now - last["said"] >= 10:
            left = (now - last["start"]) * (total - done) / done
            # Processes that have just begun say nothing yet of how fast they are.
            told = f", about {left:.0f} s left" if done >= total / 50 else ""
            last["said"] = now
            print(f"{label}: {100 * done / total:.0f} %{told}", file=sys.stderr, flush=True)

    return line


def pair(entry: str, needed: str) -> tuple[str, str]:
    """NAME=VALUE in two. needed: how it is to look, for the error."""
    name, separator, value = entry.partition("=")
    if not separator or not name or not value:
        raise typer.BadParameter(f"{entry!r}; needed: {needed}")
    return name, value


def once(origin: dict[str, str], name: str, where: str) -> None:
    """Note where a parameter is given. Raises typer.BadParameter where it is given twice."""
    if name in origin:
        raise typer.BadParameter(f"{name} is given by {origin[name]} and by {where}; choose one")
    origin[name] = where


def trust(modules: list[str] | None) -> list[str] | None:
    """What --trust says, here and in the processes of reports."""
    from aba_core.identity import TRUST

    if modules:
        before = os.environ.get(TRUST, "").split(",")
        os.environ[TRUST] = ",".join(name for name in [*before, *modules] if name)
    return modules


def stop_as_by_ctrl_c() -> None:
    """SIGTERM, as schedulers send it, ends a command as Ctrl-C does."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)


KEEPS_RUNS = ("run", "card", "demo")  # commands that continue where they were stopped
USAGE_ERRORS = ("StudyError", "ReportError", "ExportError", "PlanError")


REMEDIES = {
    errno.ENOSPC: "free some space there; finished runs are kept, the same command continues",
    errno.EDQUOT: "free some of the quota; finished runs are kept, the same command continues",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that can be written to",
    errno.ENOTDIR: "a file is where a folder is needed; choose another folder",
    errno.EEXIST: "a file is where a folder is needed; choose another folder",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f); finished runs are kept",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n)",
}


def _environment(error: BaseException) -> str:
    """One line for what the machine refuses, with the remedy."""
    if isinstance(error, OSError):
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        remedy = REMEDIES.get(error.errno or 0, "")
        return " ".join((what + f"; {remedy}" * bool(remedy)).split())
    if isinstance(error, MemoryError):
        return "memory is short; finished runs are kept, try fewer --processes"
    return (
        "a worker ended before its time, as when memory is short; finished runs are kept, the "
        "same command continues, with fewer --processes where that was why"
    )


def _cure(error: Any) -> str:
    """Where a command is explained that was not understood as a whole."""
    if error.format_message().startswith("No such command"):
        return "; aba --help lists the commands"
    context = getattr(error, "ctx", None)
    whole = ("MissingParameter", "NoSuchOption", "BadOptionUsage")
    if type(error).__name__ not in whole or context is None or context.parent is None:
        return ""
    return f"; aba {context.info_name} --help lists what it takes"


def _usage(error: Any) -> str:
    """One line for a command that was not understood; the help where nothing was asked."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return error.format_message()
    # Those of pydantic, which converts values.
    problems: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
    if not problems or getattr(error, "param", None) is None:
        return f"aba: {error.format_message().rstrip('.')}{_cure(error)}"
    given, kind, context = (problems[0].get(name, "") for name in ("input", "type", "ctx"))
    option = error.param.opts[0]
    needed = "numbers" if kind.startswith("float") else "whole numbers"
    if kind == "greater_than_equal":
        needed += f" from {context['ge']}"
    elif not kind.startswith(("int", "float")):
        reason = problems[0]["msg"].removeprefix("Value error, ")
        known = reason.partition(" is not one of ")[2].rstrip(".").replace("'", "")
        if not known:
            return f"aba: {option} {given}: {reason}"
        needed = known
    return f"aba: {option} {given}; allowed: {needed}"


def exit_code(command: Callable[[], object]) -> int:
    """Run a command; the exit code. One line for every error that a user can cause."""
    # typer brings its own copy of click since 0.27: take the class from where typer has it.
    usage_error: type[Exception] = next(
        base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
    )
    try:
        # Without its standalone mode typer returns the code of an Exit, or what the command did.
        returned = command()
        code = returned if isinstance(returned, int) else 0
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except usage_error as error:
        print(_usage(error), file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1
    except (OSError, BrokenExecutor, MemoryError) as error:
        print(f"aba: {_environment(error)}", file=sys.stderr)
        return 1
    except ValueError as error:
        # Every module's own errors are ValueErrors whose text names the value and what is allowed.
        if type(error) is ValueError or not type(error).__module__.startswith(("analysis", "aba")):
            raise
        print(f"aba: {error}", file=sys.stderr)
        return 2 if type(error).__name__ in USAGE_ERRORS else 1
    if code == 130:  # typer's own answer to Ctrl-C, as a shell's
        kept = sys.argv[1:2] and sys.argv[1] in KEEPS_RUNS
        rest = "; finished runs are kept, the same command continues" if kept else ""
        print(f"aba: stopped{rest}", file=sys.stderr)
    return code
