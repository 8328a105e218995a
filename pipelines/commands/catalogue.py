"""``cambium data``: what there is by name, and whether data can be used."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from shared_backbones.errors import BadRequest, unknown

from ..console import Answer, AsJson
from . import show

if TYPE_CHECKING:
    from domains.public import PublicData

data = typer.Typer(help="Public data by name, and a check of your own.", no_args_is_help=True)


def public_data() -> dict[str, PublicData]:
    """Every public data set that a domain's ``datasets.py`` names, by name."""
    import domains
    from domains.public import PublicData

    found: dict[str, PublicData] = {}
    for room in pkgutil.iter_modules(domains.__path__):
        if not room.ispkg or not (Path(domains.__path__[0]) / room.name / "datasets.py").is_file():
            continue
        entries: Mapping[str, Any] = importlib.import_module(f"domains.{room.name}.datasets").DATASETS
        for name, entry in entries.items():  # a domain may wrap one in what its files leave unsaid
            found[name] = entry if isinstance(entry, PublicData) else entry.data
    return dict(sorted(found.items()))


def _known(name: str) -> PublicData:
    sets = public_data()
    if name not in sets:
        raise unknown("public data set", name, sets)
    return sets[name]


def _state(entry: PublicData) -> str:
    """Whether the files are here; their checksums are looked at when they are used."""
    return "here" if all((entry.place / name).is_file() for name in entry.files) else "to fetch"


@data.command("list")
def list_data(as_json: AsJson = False) -> Answer:
    """Public data sets: task, licence, standard protocol, and whether the files are on this machine."""
    from domains.public import data_home

    sets = public_data()
    rows = [
        {
            "name": e.name,
            "task": e.task,
            "state": _state(e),
            "licence": e.licence,
            "source": e.source,
            "protocol": e.protocol,
        }
        for e in sets.values()
    ]

    def text(console: Console) -> None:
        columns = ["name", "task", "state", "licence", "source"]
        show.table(console, columns, [[r[c] for c in columns] for r in rows])
        console.print(f"Files are looked for in {data_home()} (CAMBIUM_DATA).", style="dim", soft_wrap=True)

    return Answer({"home": str(data_home()), "data": rows}, text)


@data.command("get")
def get_data(
    name: Annotated[str, typer.Argument(metavar="NAME", help="See `cambium data list`.")], as_json: AsJson = False
) -> Answer:
    """Fetch a public data set and check it; one that is here already needs no network."""
    from domains.public import fetch

    entry = _known(name)
    try:
        files = fetch(entry)
    except OSError as error:  # requests' errors are OSErrors too
        raise BadRequest(
            f"cannot fetch public data set {name!r}: {error}. Fetch the files by hand into a folder "
            f"{entry.domain}/{entry.name} below CAMBIUM_DATA: {', '.join(f.url for f in entry.files.values())}"
        ) from None
    values = {
        "name": name,
        "licence": entry.licence,
        "source": entry.source,
        "protocol": entry.protocol,
        "files": {file: {"path": str(path), "sha256": entry.files[file].sha256} for file, path in files.items()},
    }

    def text(console: Console) -> None:
        show.pairs(console, {k: v for k, v in values.items() if k != "files"})
        for path in files.values():
            print(path)

    return Answer(values, text)


@data.command("check")
def check_data(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Path, URL, public name or `simulated`.")],
    task: Annotated[str | None, typer.Option("--task", metavar="DOMAIN/TASK", help="Who is to read it.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="a.b=c", help="An option of the task.")] = None,
    as_json: AsJson = False,
) -> Answer:
    """Whether a task can use this data, and if not, why: opened, split and audited; nothing is trained."""
    from ..config import resolve
    from ..ingest import check

    known = public_data()
    task = task or (known[source].task if source in known else "")
    if not task:
        from domains import all_tasks

        raise BadRequest(f"say who is to read {source}: --task with one of {', '.join(sorted(all_tasks()))}")
    result = check(resolve(task, data=source, sets=sets or ()))
    return Answer(result, lambda console: show.checked(console, result))
