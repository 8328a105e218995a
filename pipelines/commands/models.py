"""``cambium models``: what is registered, and which version is champion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..console import Answer, AsJson, Root
from . import show

app = typer.Typer(help="Registered models: list them, promote one.", no_args_is_help=True)


@app.command("list")
def list_models(root: Root = Path("runs"), as_json: AsJson = False) -> Answer:
    """Every registered version, its headline score and its aliases."""
    from ..registry import versions

    rows = versions(root)

    def text(console: Console) -> None:
        columns = ["model", "version", "aliases", "preset", "score", "run"]
        show.table(console, columns, [[r[c] for c in columns] for r in rows])

    return Answer({"models": rows}, text)


@app.command()
def promote(
    model: Annotated[str, typer.Argument(metavar="MODEL@VERSION|RUN", help="Such as timeseries-forecast@3.")],
    alias: Annotated[str, typer.Option("--alias", metavar="NAME")] = "champion",
    root: Root = Path("runs"),
    as_json: AsJson = False,
) -> Answer:
    """Give a version an alias, champion unless another is named."""
    from ..registry import promote as give

    result = give(model, root, alias)
    said = f"{result['model']}@{alias} is now version {result['version']} (run {result['run']})"
    return Answer(result, lambda console: console.print(said, markup=False, highlight=False))
