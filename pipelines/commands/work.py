"""Commands that do the work: demo, train, retrain, evaluate, predict, compare, export, lineage, flow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from shared_backbones.errors import BadRequest

from ..console import FAILED, Answer, AsJson, Root
from . import show
from .models import Draws, Guards, Heavier, Margin, Slower, Worst, judged, terms_of

TaskName = Annotated[str, typer.Argument(metavar="DOMAIN/TASK", help="Such as timeseries/forecast.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder or id, or MODEL@champion.")]
Source = Annotated[str | None, typer.Option("--data", metavar="SRC", help="Path, URL, public name or `simulated`.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="a.b=c", help="An option; may be repeated.")]
PresetName = Annotated[str | None, typer.Option("--preset", metavar="NAME", help="See `cambium backbones`.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Options as YAML.")]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Of everything random.")]
Start = Annotated[str | None, typer.Option("--start", metavar="RUN", help="Begin with the weights of this run.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where runs are kept.")]
RUNS = Path("runs")


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where everything is written.")] = Path("runs/demo"),
    every: Annotated[bool, typer.Option("--all", help="Every task, not one of each domain.")] = False,
    as_json: AsJson = False,
) -> Answer:
    """Every domain on its simulator: trained, scored, used on new files. Prints one page to open."""
    from ..demo import demo as run_demo

    result = run_demo(out, every=every, quiet=as_json)

    def text(console: Console) -> None:
        for run in result["runs"]:
            console.print(f"{run['task']}: {run['verdict']}", markup=False, highlight=False)
        console.print("Open this page:", style="bold")
        print(result["index"])

    return Answer(result, text)


def _begun(sets: list[str] | None, start: str | None) -> list[str]:
    return [*(sets or ()), *([] if start is None else [f"train.start={json.dumps(start)}"])]


def train(
    task: TaskName,
    data: Source = None,
    preset: PresetName = None,
    config: ConfigFile = None,
    sets: Sets = None,
    seed: Seed = None,
    start: Start = None,
    out: Out = RUNS,
    as_json: AsJson = False,
) -> Answer:
    """Train, or find the finished run of the same request, or resume the unfinished one."""
    from ..config import resolve
    from ..findings import Run
    from ..registry import record
    from ..train import train as run_training

    request = resolve(task, data=data, preset=preset, file=config, sets=_begun(sets, start), seed=seed)
    folder = run_training(request, out, quiet=as_json)
    registered = record(folder, out)
    run = Run(folder)
    values = {
        **{
            k: run.metrics.get(k) for k in ("task", "run", "seed", "preset", "metrics", "baselines", "ablation", "cost")
        },
        "verdict": run.verdict(),
        "directory": str(folder),
        "report": str(folder / "report.html"),
        **registered,
    }
    return Answer(values, lambda console: show.run(console, run, registered))


def retrain(
    task: TaskName,
    data: Source = None,
    preset: PresetName = None,
    config: ConfigFile = None,
    sets: Sets = None,
    seed: Seed = None,
    start: Start = None,
    judge_on: Annotated[str | None, typer.Option("--judge-on", metavar="SRC", help="Default: the data's own.")] = None,
    margin: Margin = 0.0,
    guards: Guards = None,
    slower: Slower = 3.0,
    heavier: Heavier = 3.0,
    worst: Worst = 0.1,
    draws: Draws = 1000,
    accept: Annotated[bool, typer.Option("--accept-data", help="Another schema or range is meant.")] = False,
    out: Out = RUNS,
    as_json: AsJson = False,
) -> Answer:
    """Check the data, train a challenger, and let it become champion where it is better beyond chance."""
    from ..config import resolve
    from ..retrain import retrain as run_retraining

    request = resolve(task, data=data, preset=preset, file=config, sets=_begun(sets, start), seed=seed)
    terms = terms_of(guards, margin=margin, slower=slower, heavier=heavier, worst=worst, draws=draws)
    result = run_retraining(request, out, source=judge_on, terms=terms, accept_data=accept, quiet=as_json)

    def text(console: Console) -> None:
        if "judgement" in result:
            judged(console, result["judgement"])
        shown = ("model", "challenger", "champion", "promoted", "reason", "reused_run", "reused_decision", "directory")
        show.pairs(console, {k: result[k] for k in shown})

    return Answer(result, text)


def evaluate(
    run: RunName,
    data: Source = None,
    whole: Annotated[bool, typer.Option("--whole", help="Score all of the data, not its test part.")] = False,
    root: Root = RUNS,
    as_json: AsJson = False,
) -> Answer:
    """Score a finished run again, on its own test part or on other data."""
    from ..evaluate import evaluate as score
    from ..predict import find_model

    metrics = score(find_model(run, root), data, whole=whole)
    return Answer(metrics, lambda console: show.scores(console, metrics))


def predict(
    model: RunName,
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Files, folders, globs, URLs.")],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Outputs and the ledger; s3://... too.")],
    workers: Annotated[int, typer.Option("--workers", metavar="N", help="Processes.")] = 1,
    engine: Annotated[str, typer.Option("--engine", metavar="NAME", help="local, dask or ray.")] = "local",
    growing: Annotated[bool, typer.Option("--follow", help="One file that still grows, or - for a pipe.")] = False,
    idle: Annotated[float | None, typer.Option("--idle", metavar="S", help="With --follow: end after S s.")] = None,
    root: Root = RUNS,
    as_json: AsJson = False,
) -> Answer:
    """Use a model on new files. Run it again: what is done already stays, what is missing is done."""
    if growing:
        return _follow(model, inputs, out, idle, root)
    if idle is not None:
        raise BadRequest("--idle says when to stop following; give it with --follow")
    from ..predict import predict as run_batch

    with show.progress(quiet=as_json) as tick:
        summary = run_batch(model, inputs, out, workers=workers, engine=engine, root=root, progress=tick)
    return Answer(summary.to_json(), lambda console: show.batch(console, summary), summary.exit_code)


def _follow(model: str, inputs: list[str], out: str, idle: float | None, root: Path) -> Answer:
    from ..follow import follow

    if len(inputs) != 1 or "://" in out:
        raise BadRequest(f"--follow takes one growing file (or -) and a folder of this machine; got {inputs} and {out}")
    if idle is not None and not idle >= 0:
        raise BadRequest(f"--idle takes seconds from 0 on, got {idle:g}")
    facts = follow(model, inputs[0], Path(out), root=root, idle=idle)
    return Answer(facts, lambda console: show.pairs(console, facts))


def compare(
    task: TaskName,
    presets: Annotated[str | None, typer.Option("--presets", metavar="a,b,c", help="Default: the task's own.")] = None,
    mixers: Annotated[str | None, typer.Option("--mixers", metavar="a,b,c", help="In place of the preset's.")] = None,
    ladder: Annotated[bool, typer.Option("--ladder", help="Identity, random, pooling, ... attention too.")] = False,
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", help="Seeds 0 to N - 1 for each.")] = 1,
    data: Source = None,
    rates: Annotated[str | None, typer.Option("--lr", metavar="a,b,c", help="Sweep, chosen on validation.")] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary", metavar="a=1,2", help="An option's values; may be repeated, all combinations; data=A,B too."
        ),
    ] = None,
    ablation: Annotated[bool, typer.Option("--ablation/--no-ablation", help="Presets without mixing too.")] = True,
    metrics: Annotated[str | None, typer.Option("--metrics", metavar="a,b", help="Of the tables by setting.")] = None,
    config: ConfigFile = None,
    sets: Sets = None,
    out: Out = RUNS,
    as_json: AsJson = False,
) -> Answer:
    """Accuracy, cost and speed of presets, or of mixers in one preset, side by side, with ablation and baselines.

    A mixer is NAME or NAME:option=value, such as delta:decay=true:gate=true.
    """
    from domains import load_task
    from shared_backbones.errors import unknown

    from ..compare import compare as run_comparison

    shown = _listed(metrics, "--metrics") if metrics is not None else ()
    for name in shown:
        if name not in load_task(task).metric_facts:
            raise unknown(f"metric of {task}", name, load_task(task).metric_facts)
    result = run_comparison(
        task,
        _listed(presets, "--presets") if presets is not None else (),
        mixers=_listed(mixers, "--mixers") if mixers is not None else (),
        ladder=ladder,
        seeds=seeds,
        data=data,
        rates=[_number(rate, "--lr") for rate in _listed(rates, "--lr")] if rates is not None else None,
        file=config,
        sets=sets or (),
        vary=vary or (),
        ablation=ablation,
        out=out,
        quiet=as_json,
    )
    return Answer(result, lambda console: show.comparison(console, result, shown))


def lineage(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An output of a batch, or a file of a run.")],
    as_json: AsJson = False,
) -> Answer:
    """Where a file came from: model, training data, configuration and code."""
    from ..lineage import lineage as trace

    facts = trace(file)
    return Answer(facts, lambda console: show.pairs(console, facts))


def export(
    run: RunName,
    to: Annotated[str, typer.Option("--to", metavar="onnx|torch", help="The format.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Default: RUN/export-FORMAT.")] = None,
    root: Root = RUNS,
    as_json: AsJson = False,
) -> Answer:
    """Write a run's model for use without Cambium, checked against the original."""
    from ..export import export as write
    from ..predict import find_model

    result = write(find_model(run, root), to, out)
    return Answer(result, lambda console: show.exported(console, result))


def flow(context: typer.Context) -> int:
    """The same pipelines under Prefect: `cambium flow run NAME`, `serve`, `deploy`."""
    if context.args[:1] and context.args[0] not in ("run", "serve", "deploy", "list"):
        from shared_backbones.errors import unknown

        raise unknown("flow command", context.args[0], ("run", "serve", "deploy", "list"))
    # as a process: the import direction holds, and the server that it starts is reaped with it
    owner = os.environ | {"CAMBIUM_FLOW_OWNER": str(os.getpid())}  # it ends with this process, however this one ends
    try:
        process = subprocess.Popen([sys.executable, "-m", "flows", *context.args], env=owner)
    except OSError as error:
        print(f"failed: cannot start the flow's process: {error}", file=sys.stderr)
        return FAILED
    while True:
        with suppress(KeyboardInterrupt):  # Ctrl-C reached the flow too, which ends its run and its server in order
            return process.wait()


def _listed(text: str, option: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise BadRequest(f"{option} takes names separated by commas, got {text!r}")
    return names


def _number(text: str, option: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise BadRequest(f"{option} takes numbers separated by commas, got {text!r}") from None
    if not value > 0:
        raise BadRequest(f"{option} takes numbers above 0, got {text}")
    return value


def register(app: typer.Typer) -> None:
    """Name the commands, in the order in which a newcomer needs them."""
    for command in (demo, train, retrain, evaluate, predict, compare, export, lineage):
        app.command()(command)
    everything: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command(context_settings=everything)(flow)
