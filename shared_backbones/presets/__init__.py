"""Published architectures as sentences in the grammar: one YAML each.

A preset file opens with comment lines (paper, command, expected score with interval, seconds, machine) and holds::

    paper: title, authors, year
    tasks: [timeseries/forecast]        # who can use it; empty: any task that has its stem
    stem: variates                      # which of the task's stems turns raw data into tokens
    stem_options: {}
    layer_scale: null
    drop_path: 0.0
    stages:
      - dim: 128
        placement: pre                  # pre | post | peri
        norm: layer
        stride: 1
        layers:
          - {mixer: attention, times: 2, heads: 8, channel: mlp, channel_options: {ratio: 4.0}}
    model: {}                           # options for the task's own head
    train: {lr: 1.0e-3}                 # recommended training settings, below the user's own
"""

from __future__ import annotations

from collections.abc import Mapping
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
    notes: str = ""  # the opening comment lines: command, expected score, seconds, machine


_STAGE_KEYS = {"dim", "placement", "norm", "stride", "layers"}
_PRESET_KEYS = {"paper", "tasks", "stem", "stem_options", "layer_scale", "drop_path", "stages", "model", "train"}
_LAYER_KEYS = {"mixer", "times", "channel", "channel_options"}


def _checked(where: str, got: Mapping[str, Any], allowed: set[str]) -> Mapping[str, Any]:
    for key in got:
        if key not in allowed:
            raise unknown(f"key of {where}", key, allowed)
    return got


def _layers(where: str, rows: list[Mapping[str, Any]]) -> tuple[LayerSpec, ...]:
    layers: list[LayerSpec] = []
    for row in rows:
        if "mixer" not in row:
            raise BadRequest(f"{where}: every layer names its mixer, got {dict(row)}")
        options = {k: v for k, v in row.items() if k not in _LAYER_KEYS}
        layer = LayerSpec(row["mixer"], options, row.get("channel", "mlp"), row.get("channel_options") or {})
        layers += [layer] * int(row.get("times", 1))
    return tuple(layers)


def parse_preset(name: str, text: str) -> Preset:
    """A preset from its YAML text; raises BadRequest for unknown keys."""
    raw = _checked(f"preset {name!r}", yaml.safe_load(text), _PRESET_KEYS)
    stages = tuple(
        StageSpec(
            dim=stage["dim"],
            layers=_layers(f"preset {name!r}", stage["layers"]),
            placement=stage.get("placement", "pre"),
            norm=stage.get("norm", "layer"),
            stride=stage.get("stride", 1),
        )
        for stage in (_checked(f"a stage of preset {name!r}", s, _STAGE_KEYS) for s in raw["stages"])
    )
    comments = [line.lstrip("# ").rstrip() for line in text.splitlines() if line.startswith("#")]
    return Preset(
        name=name,
        paper=raw["paper"],
        stem=raw["stem"],
        backbone=BackboneSpec(stages, raw.get("layer_scale"), raw.get("drop_path", 0.0)),
        tasks=tuple(raw.get("tasks") or ()),
        stem_options=raw.get("stem_options") or {},
        model=raw.get("model") or {},
        train=raw.get("train") or {},
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
    """A preset with plain changes: ``mixer`` (replaces every mixer, options dropped), ``dim``, ``depth``,
    ``drop_path``, ``layer_scale``, ``placement``, ``norm``, ``channel``; ``dim`` and ``depth`` only where there is
    one stage. Other names go to the task's own ``model`` options.
    """
    spec = preset.backbone
    if "mixer" in changes:
        spec = with_mixer(spec, changes.pop("mixer"))
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
