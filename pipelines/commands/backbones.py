"""``cambium backbones``: published architectures and the operators that they are sentences of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from shared_backbones.errors import BadRequest, CambiumError, unknown

from ..console import DONE, FAILED, Answer, AsJson
from ..events import tell
from ..wording import words
from . import show

if TYPE_CHECKING:
    from shared_backbones.backbone import LayerSpec
    from shared_backbones.presets import Preset

backbones = typer.Typer(help="Architectures and mixers: papers, facts, parameters, cost.", no_args_is_help=True)
CLAIM = 0.03  # how far a preset may stand from what its paper states
Input = Annotated[str | None, typer.Option("--input", metavar="AxB", help="Extents of the raw lattice: 512x512.")]


def metric(number: float | None) -> str:
    """28288354 -> "28.29 M"."""
    if number is None:
        return ""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return f"{number:.4g}"


def _setting(preset: Preset, given: str | None = None) -> dict[str, Any]:
    """Extents, channels and classes to count a preset at: those asked for, those of its paper, or small ones."""
    said = preset.published
    setting = {"axes": tuple(said["input"]) if said else None, "channels": 3, "classes": 0}
    setting |= {key: said[key] for key in ("channels", "classes") if key in said}
    if given is not None:
        try:
            setting["axes"] = tuple(int(n) for n in given.lower().split("x"))
        except ValueError:
            raise BadRequest(f"--input takes extents such as 512x512, got {given!r}") from None
    return setting


def _said(layer: LayerSpec) -> str:
    """A layer as one would say it: window 7 + mlp."""

    def sentence(part: Any) -> str:
        if isinstance(part, str):
            return part
        inner = part.get("inner")
        if inner is None:
            return str(part["mixer"])
        parts = [inner] if isinstance(inner, (str, Mapping)) else list(inner)
        return f"{part['mixer']}({', '.join(sentence(p) for p in parts)})"

    mixer = sentence({"mixer": layer.mixer, "inner": layer.mixer_options.get("inner")})
    marks = [f"{k} {v}" for k, v in layer.mixer_options.items() if isinstance(v, int) and not isinstance(v, bool)]
    mixer += f" ({', '.join(marks)})" if marks else ""
    return mixer if layer.channel == "none" else f"{mixer} + {layer.channel}"


def _rows(layers: Sequence[LayerSpec]) -> str:
    """The layers of a stage, repeated runs said once."""
    said = [_said(layer) for layer in layers]
    for width in range(1, len(said) // 2 + 1):
        if len(said) % width == 0 and said == said[:width] * (len(said) // width):
            return f"{len(said) // width} x [{', '.join(said[:width])}]"
    runs: list[list[Any]] = []
    for name in said:
        if runs and runs[-1][1] == name:
            runs[-1][0] += 1
        else:
            runs.append([1, name])
    return ", ".join(name if n == 1 else f"{n} x [{name}]" for n, name in runs)


def _drawn(preset: Preset) -> dict[str, str]:
    """What each part of the network says, by the names that a profile gives them."""
    spec = preset.backbone
    drawn = {"stem": preset.stem, "norm": spec.stages[-1].norm, "head": str(preset.head.get("pool", "mean"))}
    for word, stages in (("stage", spec.stages), ("up", spec.decoder)):
        for i, stage in enumerate(stages):
            entry = f"{'merge' if word == 'stage' else 'expand'} {stage.stride}, " if stage.stride > 1 else ""
            again = f", {stage.repeat} times over" if stage.repeat > 1 else ""
            drawn[f"{word} {i + 1}"] = f"{entry}{_rows(stage.layers)}{again}; {stage.placement} {stage.norm}"
    return drawn


def _facts(preset: Preset) -> dict[str, Any]:
    from shared_backbones.assemble import cost_of, mixers_of

    return {
        "name": preset.name,
        "paper": preset.paper,
        "tasks": list(preset.tasks),
        "stem": preset.stem,
        "ranks": list(preset.ranks),
        "sets": preset.sets,
        "causal": preset.causal,
        "mixers": mixers_of(preset),
        "cost": cost_of(preset),
    }


def _row(name: str) -> dict[str, Any]:
    from shared_backbones.assemble import parameters
    from shared_backbones.presets import load_preset

    preset = load_preset(name)
    setting = _setting(preset)
    return {**_facts(preset), "parameters": parameters(preset, setting["channels"], setting["classes"])}


@backbones.command("list")
def list_backbones(as_json: AsJson = False) -> Answer:
    """Presets (published architectures) and mixers (operators) by name."""
    from shared_backbones.mixers import list_mixers
    from shared_backbones.presets import preset_names

    presets = [_row(name) for name in preset_names()]
    mixers = list_mixers()

    def text(console: Console) -> None:
        rows = [
            [
                p["name"],
                ", ".join(map(str, p["ranks"])) + (", set" if p["sets"] else "") + (", causal" if p["causal"] else ""),
                ", ".join(p["mixers"]),
                metric(p["parameters"]),
                p["cost"],
                p["paper"],
            ]
            for p in presets
        ]
        show.table(console, ["preset", "rank", "mixers", "parameters", "cost", "paper"], rows)
        facts = [[n, *_mixer_cells(f)] for n, f in mixers.items()]
        show.table(console, ["mixer", "rank", "sets", "causal axes", "needs", "cost", "overtakes at"], facts)
        note = "Multiply-adds at an input: `show NAME --input AxB`. "
        note += "Overtakes at: tokens from which training it takes less time than softmax attention, as measured."
        console.print(f"{len(presets)} presets, {len(mixers)} mixers. {note}", style="dim")

    return Answer({"presets": presets, "mixers": mixers}, text)


def _mixer_cells(facts: Mapping[str, Any]) -> list[Any]:
    axes, lengths = ", ".join(map(str, facts["causal_axes"])), facts["efficiency_length"]
    overtakes = lengths.get("causal training" if axes == "0" else "all training", "")
    ranks, sets = ", ".join(map(str, facts["ranks"])), "yes" if facts["sets"] else ""
    return [ranks, sets, axes, facts["needs"], facts["cost"], overtakes]


@backbones.command("show")
def show_backbone(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A preset, a preset file, or a mixer.")],
    given: Input = None,
    channels: Annotated[int | None, typer.Option("--channels", help="Channels of the raw input.")] = None,
    classes: Annotated[int | None, typer.Option("--classes", help="Scores of a class head; 0 for none.")] = None,
    as_json: AsJson = False,
) -> Answer:
    """One preset drawn stage by stage with shapes, parameters and multiply-adds; or one mixer and its options."""
    from shared_backbones.assemble import profile
    from shared_backbones.mixers import MIXERS, list_mixers
    from shared_backbones.options import options_of
    from shared_backbones.presets import load_preset, preset_names

    from ..runs import preset_to_dict

    if name in MIXERS and name not in preset_names():
        mixer: dict[str, Any] = {"mixer": name, "summary": (MIXERS[name].__doc__ or "").strip().split("\n\n")[0]}
        mixer |= {**list_mixers()[name], "options": {k: _plain(v) for k, v in options_of(MIXERS[name]).items()}}
        return Answer(mixer, lambda console: show.pairs(console, mixer))
    if name not in preset_names() and not name.endswith((".yaml", ".yml")):
        raise unknown("preset or mixer", name, [*preset_names(), *MIXERS])
    preset = load_preset(name)
    setting = _setting(preset, given)
    setting |= {k: v for k, v in (("channels", channels), ("classes", classes)) if v is not None}
    drawn = _drawn(preset)
    parts: list[dict[str, Any]] = [
        {"part": p.name, "says": drawn[p.name], "axes": list(p.axes), "dim": p.dim, **_spent(p)}
        for p in profile(preset, **setting)
    ]
    total = {key: sum(p[key] for p in parts) for key in ("parameters", "macs")}
    facts = {n: f for n, f in list_mixers().items() if n in _facts(preset)["mixers"]}
    sentence = preset_to_dict(preset)
    values = {**_facts(preset), **setting, "parts": parts, **total, "published": dict(preset.published)}
    values |= {"notes": preset.notes, "sentence": sentence, "mixer_facts": facts}

    def text(console: Console) -> None:
        show.pairs(console, {k: v for k, v in _facts(preset).items() if v not in (None, [], {})})
        rows = [
            [p["part"], p["says"], " x ".join(map(str, [*p["axes"], p["dim"]])), *map(metric, _spent_of(p))]
            for p in parts
        ]
        rows.append(["total", "", "", metric(total["parameters"]), metric(total["macs"])])
        if preset.published:
            said = preset.published
            rows.append(["paper", said.get("source", ""), "", metric(said["parameters"]), metric(said.get("macs"))])
        show.table(console, ["", "", "leaves", "parameters", "multiply-adds"], rows)
        if preset.notes:
            console.print(preset.notes, style="dim", markup=False, highlight=False)

    return Answer(values, text)


def _spent(part: Any) -> dict[str, int]:
    return {"parameters": part.parameters, "macs": part.macs}


def _spent_of(row: Mapping[str, Any]) -> tuple[int, int]:
    return row["parameters"], row["macs"]


@backbones.command("published")
def published(as_json: AsJson = False) -> Answer:
    """What papers state about their architectures, beside what ours count: parameters and multiply-adds."""
    from shared_backbones.assemble import count
    from shared_backbones.presets import load_preset, preset_names

    rows: list[dict[str, Any]] = []
    for preset in map(load_preset, preset_names()):
        if not preset.published:
            continue
        said, got = preset.published, count(preset, **_setting(preset))
        row: dict[str, Any] = {"name": preset.name, "input": list(said["input"]), "source": said.get("source", "")}
        for key in ("parameters", "macs"):
            row[key] = got[key]
            row |= {f"{key}_published": said[key], f"{key}_off": got[key] / said[key] - 1} if key in said else {}
        rows.append(row)
    worst = max((abs(r[k]) for r in rows for k in ("parameters_off", "macs_off") if k in r), default=0.0)

    def cell(row: Mapping[str, Any], key: str) -> list[str]:
        if f"{key}_published" not in row:
            return [metric(row[key]), "", ""]
        return [metric(row[key]), metric(row[f"{key}_published"]), f"{row[f'{key}_off']:+.1%}"]

    def text(console: Console) -> None:
        columns = ["preset", "input", "parameters", "paper", "", "multiply-adds", "paper", "", "source"]
        cells = [
            [r["name"], "x".join(map(str, r["input"])), *cell(r, "parameters"), *cell(r, "macs"), r["source"]]
            for r in rows
        ]
        show.table(console, columns, cells)
        console.print(f"{len(rows)} configurations; the farthest is {worst:.1%} off.", style="dim")

    return Answer({"rows": rows, "worst": worst}, text, DONE if worst <= CLAIM else FAILED)


@backbones.command("check")
def check(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Presets; all when none is named.")] = None,
    as_json: AsJson = False,
) -> Answer:
    """Whether presets build, run and learn on every rank they declare, travel through safetensors, and export."""
    from shared_backbones.assemble import exported_difference, trial
    from shared_backbones.presets import load_preset, preset_names, shallow

    rows: list[dict[str, Any]] = []
    listed = names or preset_names()
    for number, preset in enumerate(map(load_preset, listed), 1):
        tell("preset", f"[{number}/{len(listed)}] {preset.name}", name=preset.name)  # a trace takes up to a minute
        row: dict[str, Any] = {"name": preset.name, "ranks": list(preset.ranks), "reason": ""}
        try:
            for rank in preset.ranks:
                trial(shallow(preset), rank)
            row["exported_difference"] = exported_difference(shallow(preset))
            row["passed"] = row["exported_difference"] < 1e-4
        except (CambiumError, RuntimeError, ValueError, AssertionError) as error:
            row |= {"passed": False, "reason": f"{type(error).__name__}: {str(error)[:500]}"}
        rows.append(row)

    def text(console: Console) -> None:
        columns = ["preset", "rank", "passed", "export differs by", ""]
        cells = [[r["name"], r["ranks"], r["passed"], r.get("exported_difference"), r["reason"]] for r in rows]
        show.table(console, columns, cells)
        failed = [r["name"] for r in rows if not r["passed"]]
        verdict = f"{len(rows) - len(failed)} of {len(rows)} passed"
        console.print(Text(f"{verdict}{': not ' + words(', '.join(failed)) if failed else ''}", style="bold"))

    return Answer({"rows": rows}, text, DONE if all(r["passed"] for r in rows) else FAILED)


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, list, tuple, dict)) or value is None else str(value)
