"""``cambium models``: what is registered, who is champion and why; challenge, promote, go back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from ..console import Answer, AsJson, Root
from . import show

app = typer.Typer(help="Registered models: list, show, challenge, promote, roll back.", no_args_is_help=True)
Model = Annotated[str, typer.Argument(metavar="MODEL@VERSION|RUN", help="Such as timeseries-forecast@3.")]
Name = Annotated[str, typer.Argument(metavar="MODEL", help="Such as timeseries-forecast.")]
Alias = Annotated[str, typer.Option("--alias", metavar="NAME")]
Margin = Annotated[float, typer.Option("--margin", help="By how much the headline metric must be better.")]
Guards = Annotated[
    str | None, typer.Option("--guards", metavar="a,b", help="Metrics that must not become worse; default: all.")
]
Slower = Annotated[float, typer.Option("--slower", help="How many times the seconds per item are still allowed.")]
Heavier = Annotated[float, typer.Option("--heavier", help="How many times the memory is still allowed.")]
Worst = Annotated[
    float, typer.Option("--worst", help="Share of the units, the worst served, that must not lose; 0: none.")
]
Draws = Annotated[int, typer.Option("--draws", help="Resamples of the test units.")]


def terms_of(guards: str | None, **given: float) -> Any:
    """The terms of a promotion from the options of a command; raises BadRequest for a value out of range."""
    from pydantic import ValidationError

    from shared_backbones.errors import BadRequest

    from ..promotion import Terms

    names = None if guards is None else tuple(n.strip() for n in guards.split(",") if n.strip())
    try:
        return Terms(guards=names, **given)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadRequest(f"--{first['loc'][0]}: {first['msg']}, got {first['input']!r}") from None


@app.command("list")
def list_models(root: Root = Path("runs"), as_json: AsJson = False) -> Answer:
    """Every registered version, its headline score and its aliases."""
    from ..registry import versions

    rows = versions(root)

    def text(console: Console) -> None:
        columns = ["model", "version", "aliases", "preset", "score", "run"]
        show.table(console, columns, [[r[c] for c in columns] for r in rows])

    return Answer({"models": rows}, text)


@app.command("show")
def show_model(model: Model, root: Root = Path("runs"), as_json: AsJson = False) -> Answer:
    """One version: its run, scores beside baselines, and what it was made of."""
    from ..findings import Run
    from ..registry import resolve

    run = Run(resolve(model, root))
    metrics = run.metrics
    facts = {k: metrics.get(k) for k in ("task", "run", "preset", "seed", "protocol")}
    facts |= {"data": (metrics.get("data") or {}).get("source"), "directory": str(run.folder)}

    def text(console: Console) -> None:
        show.pairs(console, facts)
        show.scores(console, metrics)

    return Answer({**facts, "metrics": metrics["metrics"], "cost": metrics.get("cost")}, text)


@app.command()
def promote(
    model: Model,
    alias: Alias = "champion",
    why: Annotated[str, typer.Option("--why", help="The reason, for the history.")] = "asked for",
    root: Root = Path("runs"),
    as_json: AsJson = False,
) -> Answer:
    """Give a version an alias, champion unless another is named."""
    from ..registry import promote as give

    return _given(give(model, root, alias, why=why))


@app.command()
def rollback(name: Name, alias: Alias = "champion", root: Root = Path("runs"), as_json: AsJson = False) -> Answer:
    """Give an alias back to the run that held it before."""
    from ..registry import rollback as go_back

    return _given(go_back(name, root, alias))


def _given(result: dict[str, Any]) -> Answer:
    said = f"{result['model']}@{result['alias']} is now version {result['version']} (run {result['run']})"
    return Answer(result, lambda console: console.print(said, markup=False, highlight=False))


@app.command()
def history(name: Name, root: Root = Path("runs"), as_json: AsJson = False) -> Answer:
    """Who held which alias from when on, and why."""
    from ..registry import history as past

    rows = past(name, root)

    def text(console: Console) -> None:
        columns = ["at", "alias", "version", "run", "why"]
        show.table(console, columns, [[r.get(c, "") for c in columns] for r in rows])

    return Answer({"model": name, "history": rows}, text)


@app.command()
def challenge(
    model: Model,
    data: Annotated[str | None, typer.Option("--data", metavar="SRC", help="Default: the challenger's own.")] = None,
    margin: Margin = 0.0,
    guards: Guards = None,
    slower: Slower = 3.0,
    heavier: Heavier = 3.0,
    worst: Worst = 0.1,
    draws: Draws = 1000,
    root: Root = Path("runs"),
    as_json: AsJson = False,
) -> Answer:
    """Score a version and the champion on the same test cases; the better one is champion afterwards."""
    from ..registry import resolve
    from ..retrain import settle

    challenger = resolve(model, root).resolve()
    champion = resolve(f"{challenger.parent.name}@champion", root).resolve()
    terms = terms_of(guards, margin=margin, slower=slower, heavier=heavier, worst=worst, draws=draws)
    result = settle(champion, challenger, root, data, terms)
    return Answer(result, lambda console: judged(console, result))


def judged(console: Console, result: dict[str, Any]) -> None:
    """A decision as people are told it."""
    verdict = "promoted" if result["promote"] else "the champion stays"
    found = " (decided before)" if result.get("reused") else ""
    console.print(Text(f"{verdict}{found}: {result['reason']}", style="bold"))
    if "gain" in result:
        rows = [[result["metric"], result["champion"], result["challenger"], *_span(result["gain"])]]
        rows += [[name, None, None, *_span(found)] for name, found in result["guards"].items()]
        show.table(console, ["metric", "champion", "challenger", "gain", "low", "high"], rows)


def _span(gain: dict[str, float]) -> list[float]:
    return [gain["value"], gain["low"], gain["high"]]
