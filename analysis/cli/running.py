"""Training: run a study, plan one, run the demonstration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analysis import terminal
from analysis.cli.options import (
    CpuProcesses,
    Device,
    Metric,
    OfDataset,
    Out,
    Preset,
    Results,
    Seeds,
    Set,
    Track,
    Usual,
    app,
    shipped,
)

if TYPE_CHECKING:
    from analysis.study import Study


@app.command()
def run(
    study: Annotated[
        str,
        typer.Argument(
            metavar="STUDY",
            help="A standard study, as `aba studies` lists them, or a YAML or Python file.",
        ),
    ],
    dataset: OfDataset = None,
    preset: Preset = None,
    seeds: Seeds = None,
    set_: Set = None,
    results: Results = Path("results"),
    device: Device = "auto",
    processes: CpuProcesses = None,
    engine: Annotated[
        str,
        typer.Option(metavar="NAME", help="Engine: auto, processes, gpu, or your module:function."),
    ] = "auto",
    scheduler: Annotated[
        str | None,
        typer.Option(help="Dask scheduler: local, slurm, tcp://HOST:PORT or tls://HOST:PORT."),
    ] = None,
    cluster: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OPTION=VALUE", help="Scheduler option, such as workers=4; repeatable."
        ),
    ] = None,
    graphs: Annotated[
        bool, typer.Option("--graphs", help="Record each step as a CUDA graph (GPU only).")
    ] = False,
    until: Annotated[
        str | None, typer.Option(help="decided: add subsets until no verdict is open.")
    ] = None,
    max_seeds: Annotated[int | None, typer.Option(help="Most subsets, with --until.")] = None,
    track: Track = "",
) -> None:
    """Train the runs that a study still lacks.

    Finished runs are kept and never repeated. After Ctrl-C, the same command continues.

    \b
    Examples:
      aba run isolation --dataset digits
      aba run tension --dataset mnist --preset standard --device cuda
      aba run isolation --set strength=0.5 --seeds 10
      aba run my_study.yaml
      aba run my_study.py
      aba run hypotheses --until decided --max-seeds 100
      aba run tension --scheduler tcp://10.0.0.1:8786
      torchrun --nproc-per-node 2 -m analysis.cli run one_large_model.yaml
    """
    from analysis.cluster.engine import choose
    from analysis.engines import among_ranks
    from analysis.studies import find_study

    declared = find_study(study, dataset, preset, seeds, set_ or ())
    asked = choose(scheduler, cluster or (), engine=engine, processes=processes)
    with among_ranks(asked, device) as trains:
        if trains is None:
            return
        options: dict[str, Any] = dict(
            device=device, processes=processes, graphs=graphs, track=track
        )
        complete = _run_until(declared, results, until, max_seeds, engine=trains, **options)
    if not complete:
        raise typer.Exit(1)


def _run_until(
    study: Study, results: Path, until: str | None, max_seeds: int | None, **options: Any
) -> bool:
    """Run a study, and with `until` or `max_seeds` add subsets to it; whether all is there."""
    if until is None and max_seeds is None:
        return _run(study, results, **options)
    from analysis import additions

    return additions.add(study, results, until, max_seeds, progress=terminal.bars(), **options)


def _run(study: Study, results: Path, **options: Any) -> bool:
    """Run a study and say what came of it; whether all of it is there."""
    from analysis import runner

    done = runner.run(study, results, progress=terminal.bars(), **options)
    print(done.result.summary())
    print(f"{done}, in {results}/")
    return not done.result.missing


@app.command()
def card(
    study: Annotated[
        str | None,
        typer.Argument(metavar="STUDY", help="A study whose arms are judged."),
    ] = None,
    dataset: OfDataset = None,
    preset: Preset = None,
    arms: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Arms of the study; without one, methods, sets of adjustments or noise.",
        ),
    ] = None,
    aspects: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="calibration, selective, ood, corruption, attacks, geometry, memory, ensembles.  "
            "[default: all]",
        ),
    ] = None,
    seeds: Seeds = None,
    others: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Data sets that serve as unfamiliar inputs."),
    ] = None,
    set_: Set = None,
    results: Results = Path("results"),
    out: Out = Path("reports"),
    device: Device = "auto",
    processes: CpuProcesses = None,
) -> None:
    """Judge arms by everything besides accuracy.

    Measures calibration, selective prediction, unfamiliar inputs, corruption, attacks, geometry,
    memory and ensembles of every run, on test samples. Arms are compared with Vanilla within fresh
    training subsets. Prints the estimated cost first. There is no single score.

    \b
    Examples:
      aba card --dataset digits
      aba card --arms all,mendaba,mixup --aspects calibration,attacks --seeds 10
      aba card --others mnist
      aba card my_study.yaml
    """
    import shlex
    import sys

    from analysis import exhibits, reading_cards, rooms
    from analysis.studies import card as room

    declared = reading_cards.declared(
        study, dataset, preset, seeds, set_ or (), reading_cards.Asked(arms, aspects, others)
    )
    print(reading_cards.estimate(declared))
    if not _run(declared, results, device=device, processes=processes):
        raise typer.Exit(1)
    shown = rooms.of_study(declared.name, results, declared.dataset, reading_cards.LOOK)
    table = shown.tables["card-long"].data
    print("\n".join(room.sentences(table)))
    print(reading_cards.spent(shown.tables["card-cost"].data))
    command = shlex.join(["aba", *sys.argv[1:]])
    for exhibit in shown.all():
        exhibits.write(exhibit, out, command=command)
    print(f"Figures are in {out / 'figures'}, tables in {out / 'tables'}.")


@app.command("try")
def try_(
    data: Annotated[
        str,
        typer.Argument(metavar="DATA", help="A file .csv or .npz (x, y), or module:function."),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="A model's name, or module:function.  [default: small_cnn or mlp]"),
    ] = None,
    label: Annotated[
        str, typer.Option(help="Column of labels in a CSV file.  [default: the last]")
    ] = "",
    replicates: Annotated[int, typer.Option(help="Training subsets that are reported.")] = 12,
    train_samples: Annotated[
        int | None, typer.Option(help="Samples of a subset.  [default: half of those there are]")
    ] = None,
    steps: Annotated[int, typer.Option(help="Training steps of each model.")] = 150,
    seed: Annotated[int, typer.Option(help="Seed of the split and the bootstrap.", min=0)] = 0,
    out: Out = Path("reports"),
) -> None:
    """Answer whether ABA helps on your own data.

    The answer is one sentence, a table and a forest plot.

    The presets, placebos and other regularisers are tuned alike on training subsets that are not
    reported, then compared on fresh subsets with new seeds. Takes about ten seconds on a
    thousand rows. In Python: analysis.own.compare(x, y, build).

    \b
    Examples:
      aba try wine.csv --label grower
      aba try pictures.npz --model small_cnn --replicates 20
      aba try my_parts:wine --model my_parts:wide
    """
    import shlex
    import sys

    from analysis import own, own_data

    own_data.check_folder(out)
    x, y = own_data.read(data, label)
    if told := own_data.described(data, label):
        typer.echo(told, err=True)
    name = re.sub(r"[^A-Za-z0-9_]+", "_", Path(data.rpartition(":")[2]).stem).strip("_") or "own"
    named: dict[str, Any] = {} if own.is_splits(x) else {"name": name}
    answer = own.compare(
        x,
        y,
        model,
        steps=steps,
        replicates=replicates,
        train_samples=train_samples,
        seed=seed,
        progress=terminal.bars(),
        **named,
    )
    print(answer)
    made = answer.save(out, shlex.join(["aba", *sys.argv[1:]]))
    picture, table = (next(one for one in made if one.suffix == kind) for kind in (".png", ".md"))
    print(f"\nThe forest plot is {picture} (also as PDF and SVG), the table is {table}.")


@app.command("plan")
def plan_(
    study: Annotated[
        str,
        typer.Argument(
            metavar="STUDY", help="A standard study, a YAML or Python file, or a study in results."
        ),
    ],
    effect: Annotated[
        float, typer.Option(help="True difference of two arms to detect, in points.")
    ] = 1.0,
    power: Annotated[float, typer.Option(help="Probability of detecting it.")] = 0.8,
    comparisons: Annotated[
        int | None,
        typer.Option(help="Comparisons to correct for.  [default: arms less one]"),
    ] = None,
    dataset: OfDataset = None,
    preset: Preset = None,
    metric: Metric = "validation_accuracy",
    results: Results = Path("results"),
) -> None:
    """Compute the seeds that an effect needs, and their time.

    Uses the spread of pilot runs: those in the results folder, or else the shipped ones. Nothing is
    trained. Without a pilot, exits with code 2 and names the command that makes one. For a study of
    large models, prints their published table beside ours, with the cost of open cells.

    \b
    Examples:
      aba plan tension --effect 1.0 --power 0.8
      aba plan isolation --dataset mnist --preset standard --effect 0.5
      aba plan large-resnet50
    """
    from analysis import by_name, design, exhibits, rooms
    from analysis.results import load
    from analysis.studies import find_study

    if study.startswith("large-") and not Path(study).suffix:
        from analysis.studies import large

        find_study(study)  # refuses unknown names
        ran = {name for names in rooms.studies_by_dataset(results).values() for name in names}
        if isinstance(results, Usual) and not ran & {*large.ROWS, *large.WITHIN}:
            results = shipped(f"no runs of large models in {results}/")
        table = large.table(results)
        terminal.print_large(table, large.side_by_side(table), large.note(table))
        return
    label = exhibits.Look(metric).label
    if not Path(study).suffix and by_name.own_studies([study], results):
        ((_, of_dataset), *_) = by_name.datasets_of(study, results, [dataset] if dataset else None)
        declared = load(results, study, of_dataset, preset or "").declaration.study
    else:
        declared = find_study(study, dataset, preset)
    try:
        plan = design.plan(
            declared, results, effect, power=power, comparisons=comparisons, metric=metric
        )
    except design.PlanError as error:  # which knows the study's name, and not its file
        told = str(error).replace(f"aba run {declared.name}.yaml", f"aba run {study}")
        raise design.PlanError(told) from error
    terminal.print_plan(plan, label)


# What these read takes far longer than the demo: their reports show the results that are shipped.
OF_SHIPPED = (
    *("00_claims", "06_hypotheses", "07_mechanism", "08_variability"),
    *("10_comparators", "11_attributions", "12_report_card"),
)
# The demo's longest reports, the longest first: so no process ends long after the other.
LONGEST = (
    *("12_report_card", "06_hypotheses", "09_your_own", "00_claims"),
    *("07_mechanism", "01_adjustments", "10_comparators"),
)


@app.command()
def demo(results: Results = Path("results"), out: Out = Path("reports")) -> None:
    """Train three studies on digits and write every report.

    Takes little more than a minute. Trains isolation, tension and frozen with preset quick;
    finished runs are kept. The other reports show the shipped results, because their studies take
    longer.

    \b
    Examples:
      aba demo
      aba demo --results /tmp/results --out /tmp/reports
    """
    from analysis import reports
    from analysis.results import SHIPPED
    from analysis.studies import standard_study

    reports.make_folder(out)  # not after the training
    place = {name: number for number, name in enumerate(LONGEST)}
    names = sorted(reports.notebooks(), key=lambda name: place.get(name, len(LONGEST)))
    shipped = {name: {"results": str(SHIPPED)} for name in OF_SHIPPED}
    with reports.Processes(warm=True, training=True) as processes:
        processes.warm_up()  # while studies train
        for name in ("isolation", "tension", "frozen"):
            _run(standard_study(name, "digits", "quick"), results)
        options = {"force": True, "processes": processes, "instead": shipped}
        failed = terminal.report(names, results, out, {}, **options)
    if failed:
        raise typer.Exit(1)
    print(
        f"Open {out / 'index.html'}; figures are in {out / 'figures'}, tables in {out / 'tables'}."
    )
