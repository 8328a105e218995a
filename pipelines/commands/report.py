"""``cambium report``: pages about runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..console import Answer, AsJson, Root

app = typer.Typer(help="Pages about runs.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `site` a command of its own while it is the only one."""


@app.command("site")
def write_site(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Where the site is written.")],
    root: Root = Path("runs"),
    as_json: AsJson = False,
) -> Answer:
    """One static site of all runs: compared, their reports, and who is champion and why."""
    from ..site import site

    result = site(root, out)

    def text(console: Console) -> None:
        console.print(f"{result['runs']} runs. Open this page:", style="bold", markup=False, highlight=False)
        print(result["index"])

    return Answer(result, text)
