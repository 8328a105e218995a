"""``cambium backbones`` and ``cambium data``: what there is to choose from, and whether data can be used."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from shared_backbones.errors import BadRequest, unknown

from ..console import Answer, AsJson
from . import show

if TYPE_CHECKING:
    from domains.public import PublicData

backbones = typer.Typer(help="Architectures and mixers: papers, facts, parameters, cost.", no_args_is_help=True)
data = typer.Typer(help="Public data by name, and a check of your own.", no_args_is_help=True)
TOKENS = 256  # what costs are counted for
LATTICES = ((TOKENS,), (16, 16), (4, 8, 8))


# ---------------------------------------------------------------------------------------------- backbones


def _mixers_of(preset: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for stage in preset.backbone.stages:
        for layer in stage.layers:
            found[layer.mixer] = found.get(layer.mixer, 0) + 1
    return found


def _counted(spec: Any) -> dict[str, Any]:
    """Parameters and multiply-adds of a backbone on the first lattice of 256 tokens that it accepts."""
    import torch

    from shared_backbones.backbone import Backbone, Tokens
    from shared_backbones.flops import flops_of
    from shared_backbones.layout import Layout

    for axes in LATTICES:
        try:
            model = Backbone(spec, Tokens(rank=len(axes), provides=frozenset({"positions", "edges"}))).eval()
        except BadRequest:
            continue
        counted = {"parameters": sum(p.numel() for p in model.parameters()), "lattice": list(axes)}
        layout = Layout(axes, positions=torch.zeros(1, TOKENS, len(axes)), edges=torch.zeros(2, 0, dtype=torch.long))
        tokens = torch.zeros(1, TOKENS, model.dim_in)
        with torch.no_grad():
            return {**counted, "macs": flops_of(partial(model, tokens, layout)) // 2}
    return {"parameters": None, "lattice": None, "macs": None}


def _preset_row(name: str) -> dict[str, Any]:
    from shared_backbones.presets import load_preset

    preset = load_preset(name)
    return {
        "name": name,
        "paper": preset.paper,
        "tasks": list(preset.tasks),
        "stem": preset.stem,
        "mixers": _mixers_of(preset),
        **_counted(preset.backbone),
    }


@backbones.command("list")
def list_backbones(as_json: AsJson = False) -> Answer:
    """Presets (published architectures) and mixers (operators) by name."""
    from shared_backbones.mixers import list_mixers
    from shared_backbones.presets import preset_names

    presets = [_preset_row(name) for name in preset_names()]
    mixers = list_mixers()

    def text(console: Console) -> None:
        rows = [
            [p["name"], ", ".join(f"{n} x {m}" for m, n in p["mixers"].items()), p["parameters"], p["macs"], p["paper"]]
            for p in presets
        ]
        show.table(console, ["preset", "mixers", "parameters", f"multiply-adds, {TOKENS} tokens", "paper"], rows)
        facts = [
            [n, f["ranks"], "yes" if f["sets"] else "", ", ".join(f["needs"]), f["cost"]] for n, f in mixers.items()
        ]
        show.table(console, ["mixer", "lattice axes", "sets", "needs", "cost"], facts)
        console.print("Parameters and multiply-adds are of the backbone alone, without stem and head.", style="dim")

    return Answer({"presets": presets, "mixers": mixers}, text)


@backbones.command("show")
def show_backbone(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A preset, a preset file, or a mixer.")],
    as_json: AsJson = False,
) -> Answer:
    """One preset or mixer: paper, facts, options, parameters, multiply-adds."""
    from shared_backbones.mixers import MIXERS, list_mixers
    from shared_backbones.options import options_of
    from shared_backbones.presets import load_preset, preset_names

    from ..runs import preset_to_dict

    if name in MIXERS:
        mixer: dict[str, Any] = {"mixer": name, "summary": (MIXERS[name].__doc__ or "").strip().split("\n\n")[0]}
        mixer |= {**list_mixers()[name], "options": {k: _plain(v) for k, v in options_of(MIXERS[name]).items()}}
        return Answer(mixer, lambda console: show.pairs(console, mixer))
    if name not in preset_names() and not name.endswith((".yaml", ".yml")):
        raise unknown("preset or mixer", name, [*preset_names(), *MIXERS])
    preset = load_preset(name)
    facts = {n: f for n, f in list_mixers().items() if n in _mixers_of(preset)}
    row = _preset_row(name)
    values = {**row, "notes": preset.notes, "sentence": preset_to_dict(preset), "mixer_facts": facts}

    def text(console: Console) -> None:
        show.pairs(console, {k: v for k, v in row.items() if v not in (None, [], {})})
        for mixer_name, fact in facts.items():
            show.pairs(console, {"mixer": mixer_name, **fact})
        if preset.notes:
            console.print(preset.notes, style="dim", markup=False, highlight=False)

    return Answer(values, text)


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, list, tuple, dict)) or value is None else str(value)


# ---------------------------------------------------------------------------------------------- data


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
    from domains.public import data_home

    folder = data_home() / entry.domain / entry.name
    return "here" if all((folder / name).is_file() for name in entry.files) else "to fetch"


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
