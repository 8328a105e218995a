"""Published architectures as sentences in the grammar: one YAML each.

A preset file opens with comment lines (what it is, command, expected score with interval, seconds, machine) and holds::

    paper: title, authors, year
    tasks: [timeseries/forecast]        # who can use it; empty: any task that has its stem
    ranks: [1]                          # numbers of lattice axes that it serves, the paper's own first
    sets: false                         # true: its tokens are a set or a graph
    causal: false                       # true: causal along the first axis
    stem: variates                      # which stem turns raw data into tokens
    stem_options: {}
    layer_scale: null
    drop_path: 0.0
    stages:
      - dim: 128
        placement: pre                  # pre | post | peri
        norm: layer
        stride: 1                       # tokens per axis that the entry merges into one
        merge: patch                    # patch | conv, with merge_options
        repeat: 1                       # runs of the same blocks
        layers:
          - {mixer: attention, times: 2, heads: 8, channel: mlp, channel_options: {ratio: 4.0}, block: {norm: rms}}
    decoder: []                         # stages back up, from the coarsest; merge: patch | interpolate | attention
    head: {pool: mean}                  # options of the class head, of the paper's own network
    published: {input: [224, 224], channels: 3, classes: 1000, parameters: 28.3e6, macs: 4.5e9, source: Table 1}
    model: {}                           # options for the task's own head
    train: {lr: 1.0e-3}                 # recommended training settings, below the user's own

Rows that alternate are written once: ``{times: 3, group: [row, row]}`` runs the rows of the group in turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ..backbone import BackboneSpec, LayerSpec, StageSpec, with_mixer
from ..errors import BadRequest, unknown


@dataclass(frozen=True)
class Preset:
    """A named sentence: stem, backbone, and what the task's head and the trainer should start from."""

    name: str
    paper: str
    stem: str
    backbone: BackboneSpec
    tasks: tuple[str, ...] = ()
    stem_options: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    ranks: tuple[int, ...] = (1,)
    sets: bool = False
    causal: bool = False
    head: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, Any] = field(default_factory=dict)
    notes: str = ""  # the opening comment lines: command, expected score, seconds, machine


_STAGE_KEYS = {"dim", "placement", "norm", "stride", "layers", "merge", "merge_options", "repeat"}
_PRESET_KEYS = {"paper", "tasks", "stem", "stem_options", "layer_scale", "drop_path", "stages", "decoder", "model"}
_PRESET_KEYS |= {"train", "ranks", "sets", "causal", "head", "published"}
_LAYER_KEYS = {"mixer", "times", "channel", "channel_options", "block"}
_BLOCK_KEYS = {"placement", "norm", "layer_scale"}
_PUBLISHED_KEYS = {"input", "channels", "classes", "parameters", "macs", "source"}


def _checked(where: str, got: Mapping[str, Any], allowed: set[str]) -> Mapping[str, Any]:
    if not isinstance(got, Mapping):
        raise BadRequest(f"{where} is written as key: value pairs, got {got!r}")
    for key in got:
        if key not in allowed:
            raise unknown(f"key of {where}", key, allowed)
    return got


def _layers(where: str, rows: Sequence[Mapping[str, Any]]) -> tuple[LayerSpec, ...]:
    layers: list[LayerSpec] = []
    for row in rows:
        times = int(row.get("times", 1))
        if "group" in row:
            layers += _layers(where, _checked(f"a group of {where}", row, {"group", "times"})["group"]) * times
            continue
        if "mixer" not in row:
            raise BadRequest(f"{where}: every layer names its mixer, got {dict(row)}")
        options = {k: v for k, v in row.items() if k not in _LAYER_KEYS}
        block = _checked(f"block of {where}", row.get("block") or {}, _BLOCK_KEYS)
        layer = LayerSpec(row["mixer"], options, row.get("channel", "mlp"), row.get("channel_options") or {}, block)
        layers += [layer] * times
    return tuple(layers)


def _stages(name: str, rows: Sequence[Mapping[str, Any]]) -> tuple[StageSpec, ...]:
    where = f"a stage of preset {name!r}"
    return tuple(
        StageSpec(**{**_checked(where, row, _STAGE_KEYS), "layers": _layers(f"preset {name!r}", row["layers"])})
        for row in rows
    )


def parse_preset(name: str, text: str) -> Preset:
    """A preset from its YAML text; raises BadRequest for unknown keys."""
    raw = _checked(f"preset {name!r}", yaml.safe_load(text), _PRESET_KEYS)
    comments = [line.lstrip("# ").rstrip() for line in text.splitlines() if line.startswith("#")]
    return Preset(
        name=name,
        paper=raw["paper"],
        stem=raw["stem"],
        backbone=BackboneSpec(
            _stages(name, raw["stages"]),
            raw.get("layer_scale"),
            raw.get("drop_path", 0.0),
            _stages(name, raw.get("decoder") or ()),
        ),
        tasks=tuple(raw.get("tasks") or ()),
        stem_options=raw.get("stem_options") or {},
        model=raw.get("model") or {},
        train=raw.get("train") or {},
        ranks=tuple(raw.get("ranks") or (1,)),
        sets=raw.get("sets", False),
        causal=raw.get("causal", False),
        head=raw.get("head") or {},
        published=_checked(f"published of preset {name!r}", raw.get("published") or {}, _PUBLISHED_KEYS),
        notes="\n".join(comments),
    )


def preset_names() -> list[str]:
    """Names of the presets that ship with Cambium."""
    return sorted(f.name.removesuffix(".yaml") for f in resources.files(__name__).iterdir() if f.name.endswith(".yaml"))


def load_preset(name: str) -> Preset:
    """A shipped preset by name, or a user's own by the path of its YAML file."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise BadRequest(f"no preset file {name}")
        return parse_preset(path.stem, path.read_text())
    if name not in preset_names():
        raise unknown("preset", name, preset_names())
    return parse_preset(name, (resources.files(__name__) / f"{name}.yaml").read_text())


def adjust(preset: Preset, **changes: Any) -> Preset:
    """A preset with plain changes: ``mixer`` (a name, or as in a layer's row; replaces all), ``dim``, ``depth``,
    ``drop_path``, ``layer_scale``, ``placement``, ``norm``, ``channel``; ``dim`` and ``depth`` only where there is
    one stage. Other names go to the task's own ``model`` options.
    """
    spec = preset.backbone
    if "mixer" in changes:
        asked = changes.pop("mixer")
        options = dict(asked) if isinstance(asked, Mapping) else {"mixer": asked}
        if not isinstance(options.get("mixer"), str):
            raise BadRequest(f"mixer is a name or {{mixer: NAME, option: value}}, got {asked!r}")
        spec = with_mixer(spec, options.pop("mixer"), **options)
    for key in ("dim", "depth"):
        if key in changes:
            if len(spec.stages) != 1:
                raise BadRequest(f"{key} can be set on a preset of one stage; {preset.name!r} has {len(spec.stages)}")
            stage, value = spec.stages[0], int(changes.pop(key))
            if value < 1:
                raise BadRequest(f"model.{key} must be at least 1, got {value}")
            layers = stage.layers if key == "dim" else tuple(stage.layers[i % len(stage.layers)] for i in range(value))
            spec = replace(spec, stages=(replace(stage, layers=layers, dim=value if key == "dim" else stage.dim),))
    for key in ("drop_path", "layer_scale"):
        if key in changes:
            spec = replace(spec, **{key: changes.pop(key)})
    for key in ("placement", "norm"):
        if key in changes:
            value = changes.pop(key)
            spec = replace(spec, stages=tuple(replace(s, **{key: value}) for s in spec.stages))
    if "channel" in changes:
        channel = changes.pop("channel")
        spec = replace(
            spec,
            stages=tuple(
                replace(s, layers=tuple(replace(x, channel=channel, channel_options={}) for x in s.layers))
                for s in spec.stages
            ),
        )
    return replace(preset, backbone=spec, model={**preset.model, **changes})


def shallow(preset: Preset) -> Preset:
    """The same sentence with every run of equal rows said once: as wide as the original, cheap to try."""

    def once(stages: tuple[StageSpec, ...]) -> tuple[StageSpec, ...]:
        kept = []
        for stage in stages:
            layers: list[LayerSpec] = []
            for layer in stage.layers:
                if layer not in layers:
                    layers.append(layer)
            kept.append(replace(stage, layers=tuple(layers), repeat=min(stage.repeat, 2)))
        return tuple(kept)

    spec = preset.backbone
    return replace(preset, backbone=replace(spec, stages=once(spec.stages), decoder=once(spec.decoder)))
