"""Commands for what one leaves running: watch, backfill, sweep, cleanup."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from ..console import Answer, AsJson, Root
from . import show
from .work import RUNS, ConfigFile, Out, PresetName, RunName, Seed, Sets, Source, TaskName

Where = Annotated[str, typer.Option("--out", metavar="DIR", help="Outputs and the ledger; s3://... too.")]
Workers = Annotated[int, typer.Option("--workers", metavar="N", help="Processes.")]
Engine = Annotated[str, typer.Option("--engine", metavar="NAME", help="local, dask or ray.")]


def _batch(result: dict[str, Any]) -> Answer:
    def text(console: Console) -> None:
        console.print(result["said"], style="bold", markup=False, highlight=False)
        for row in (*result["refused"], *result["failed"]):
            print(f"  {row['input']}: {row['reason']}")
        for day in result.get("missing", ()):
            print(f"  no input for {day}")
        print(f"ledger: {result['ledger']}")

    return Answer(result, text, result["exit_code"])


def watch(
    model: RunName,
    inbox: Annotated[list[str], typer.Argument(metavar="FOLDER...", help="Folders to look into.")],
    out: Where,
    workers: Workers = 1,
    engine: Engine = "local",
    settle: Annotated[float, typer.Option("--settle", metavar="S", help="Seconds a file must have rested.")] = 5.0,
    root: Root = RUNS,
    as_json: AsJson = False,
) -> Answer:
    """Predict what is new in folders, once; a schedule calls it again (`cambium flow serve`, cron)."""
    from ..jobs import batch_predict

    return _batch(batch_predict(model, inbox, out, workers=workers, engine=engine, root=root, settle=settle))


def backfill(
    model: RunName,
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="One input a day, such as in/%Y-%m-%d.csv.")],
    out: Where,
    first: Annotated[str, typer.Option("--from", metavar="DATE", help="First day, such as 2026-01-01.")],
    last: Annotated[str, typer.Option("--to", metavar="DATE", help="Last day, itself included.")],
    workers: Workers = 1,
    engine: Engine = "local",
    root: Root = RUNS,
    as_json: AsJson = False,
) -> Answer:
    """Predict the inputs of a range of days; days that were done stay."""
    from ..jobs import backfill as catch_up

    return _batch(catch_up(model, pattern, first, last, out, workers=workers, engine=engine, root=root))


def sweep(
    task: TaskName,
    grid: Annotated[
        list[str] | None, typer.Option("--grid", metavar="NAME=a,b,c", help="An axis of a grid; may be repeated.")
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option("--search", metavar="NAME=LOW:HIGH[:log]", help="An axis that Optuna searches; or NAME=a,b,c."),
    ] = None,
    trials: Annotated[int, typer.Option("--trials", metavar="N", help="Points that a search tries.")] = 20,
    data: Source = None,
    preset: PresetName = None,
    config: ConfigFile = None,
    sets: Sets = None,
    seed: Seed = None,
    out: Out = RUNS,
    as_json: AsJson = False,
) -> Answer:
    """Train every point of a grid, or those a search proposes; the best is chosen by validation alone."""
    from ..sweep import sweep as run_sweep

    where: dict[str, Any] = {"search": search or (), "trials": trials}
    request: dict[str, Any] = {"data": data, "preset": preset, "file": config, "sets": sets or (), "seed": seed}
    result = run_sweep(task, grid or (), out, **where, **request, quiet=as_json)

    def text(console: Console) -> None:
        names = list(result["options"])
        rows = [[*(row["options"][n] for n in names), row["val_loss"], row["run"]] for row in result["rows"]]
        show.table(console, [*names, "validation loss", "run"], rows)
        console.print(f"{result['said']}; best: {result['directory']}", markup=False, highlight=False)

    return Answer(result, text)


def cleanup(
    days: Annotated[float, typer.Option("--days", metavar="N", help="What is younger stays.")] = 90.0,
    dry: Annotated[bool, typer.Option("--dry", help="Only tell what would be removed.")] = False,
    root: Root = RUNS,
    as_json: AsJson = False,
) -> Answer:
    """Remove old unfinished trainings and old runs that never held an alias."""
    from ..jobs import cleanup as clean

    result = clean(root, days_kept=days, dry=dry)

    def text(console: Console) -> None:
        for path in result["removed"]:
            print(path)
        console.print(result["said"], markup=False, highlight=False)

    return Answer(result, text)


def register(app: typer.Typer) -> None:
    """Name the commands."""
    for command in (watch, backfill, sweep, cleanup):
        app.command()(command)
