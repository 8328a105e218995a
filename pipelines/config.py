"""Configuration: typed, layered, plain YAML. A mistake becomes one sentence: what, what is allowed, what was got."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError, field_validator

from domains import load_task
from domains.task import TaskConfig
from shared_backbones.channel import CHANNELS
from shared_backbones.errors import BadRequest, unknown
from shared_backbones.mixers import MIXERS
from shared_backbones.options import check_options
from shared_backbones.presets import Preset, adjust, load_preset

M = TypeVar("M", bound=BaseModel)
RESERVED = ("task", "data", "preset", "seed", "train", "model")  # top-level names that no task option may take


class TrainConfig(BaseModel):
    """How to train. The same for every task; each task and each preset may start from other values."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: int = Field(default=10, ge=0)  # 0: score the model as it was initialised
    batch_size: int = Field(default=32, ge=1)  # over all devices together
    lr: float = Field(default=1e-3, gt=0)  # peak of the schedule
    weight_decay: float = Field(default=0.01, ge=0)  # on matrices only: not on norms, biases and scales
    warmup: float = Field(default=0.05, ge=0, le=1)  # fraction of all steps over which the rate rises linearly
    schedule: Literal["cosine", "constant"] = "cosine"  # after the warm-up
    patience: int | None = Field(
        default=None, ge=1
    )  # epochs without a better validation loss before stopping; None: never
    clip: float | None = Field(default=1.0, gt=0)  # largest norm of the gradient; None: not clipped
    accumulate: int = Field(default=1, ge=1)  # batches per optimiser step
    precision: Literal["32", "bf16-mixed"] = "32"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"  # auto: a CUDA device when there is one
    devices: int = Field(default=1, ge=1)
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"  # auto: ddp on several devices; fsdp: weights in shards
    recompute: bool = False  # activations inside blocks are computed again in backward: less memory, more time
    checkpoint_every: int = Field(default=200, ge=1)  # optimiser steps; there is one at every epoch's end too
    threads: int | None = Field(default=None, ge=1)  # of one process; None: what the machine offers
    ablation: bool = False  # train the same preset with mixer "identity" too, and report it beside the score
    start: str | None = None  # a run, or NAME@alias, whose weights are taken where name and shape are the same
    start_sha256: str | None = None  # of that run's weights; found when training is asked for
    layer_decay: float = Field(default=1.0, gt=0, le=1)  # of the rate, per block away from the head

    @field_validator("precision", "start", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value  # YAML reads 32 as a number, and some runs' ids


class RunConfig(BaseModel):
    """A resolved request: with the data's content and the code it determines the result."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    data: str
    preset: str
    seed: int = Field(default=0, ge=0, lt=2**32)
    train: TrainConfig = TrainConfig()
    model: dict[str, Any] = Field(default_factory=dict)  # changes to the preset, see shared_backbones.presets.adjust
    options: SerializeAsAny[TaskConfig]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the task's options flat beside the rest, as they stand in the YAML."""
        plain = self.model_dump(mode="json")
        return {**{k: plain[k] for k in RESERVED}, **plain["options"]}


class _Loader(yaml.SafeLoader):
    """safe_load that reads ``1e-3`` as a number, as YAML 1.2 does (1.1 wants ``1.0e-3``)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def read_yaml(text: str, where: str) -> Any:
    """Plain values from YAML text; tags that would build objects are refused."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  a SafeLoader
    except yaml.YAMLError as error:
        raise BadRequest(f"{where} is not plain YAML: {' '.join(str(error).split())}") from None


def parse_set(text: str) -> tuple[list[str], Any]:
    """``"train.lr=1e-3"`` -> (["train", "lr"], 0.001). Raises BadRequest where there is no name or no ``=``."""
    name, equals, value = text.partition("=")
    path = [part.strip() for part in name.split(".")]
    if not equals or not all(path):
        raise BadRequest(f"--set takes NAME=VALUE, such as train.lr=1e-3; got {text!r}")
    return path, read_yaml(value, f"the value of --set {text}")


def merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, ``high`` above ``low``; anything that is not a mapping on both sides is replaced whole."""
    both = dict(low)
    for key, value in high.items():
        below = both.get(key)
        both[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return both


def _nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    return {path[0]: value if len(path) == 1 else _nested(path[1:], value)}


def _model_at(model: type[BaseModel], path: Sequence[Any]) -> type[BaseModel] | None:
    """The pydantic model that stands at a dotted path, as far as it can be told from the annotations."""
    for part in path:
        info = model.model_fields.get(str(part))
        candidates = [info.annotation, *getattr(info.annotation, "__args__", ())] if info else []
        found = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not found:
            return None
        model = found[0]
    return model


def option_names(config: type[TaskConfig]) -> list[str]:
    """Every dotted name that ``--set`` takes for a task."""
    return [*config.model_fields, *(f"train.{name}" for name in TrainConfig.model_fields), "model.*"]


def _unknown_option(name: str, allowed: Sequence[str], everywhere: Sequence[str]) -> BadRequest:
    """Names the nearest options, also those of the same last word in another group (lr -> train.lr)."""
    last = name.rpartition(".")[2]
    near = [n for n in everywhere if n.rpartition(".")[2] == last]
    near += difflib.get_close_matches(name, [*everywhere, *allowed], n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(repr(n) for n in dict.fromkeys(near))}?" if near else ""
    return BadRequest(f"unknown option {name!r}{hint} (allowed here: {', '.join(allowed)})")


def _sentence(error: Any, prefix: str, model: type[BaseModel], everywhere: Sequence[str]) -> BadRequest:
    """One pydantic error as one sentence."""
    loc = [part for part in error["loc"] if not str(part).startswith("function-")]
    name = prefix + ".".join(str(part) for part in loc)
    if error["type"] == "extra_forbidden":
        at = _model_at(model, loc[:-1])
        group = prefix + "".join(f"{part}." for part in loc[:-1])
        return _unknown_option(name, [group + field for field in at.model_fields] if at else [], everywhere)
    if error["type"] == "missing":
        return BadRequest(f"option {name!r} is required and was not given")
    said = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ").removeprefix("Input ")
    subject = f"option {name!r}" if name else "the options"
    got = "" if isinstance(error["input"], Mapping) and not loc else f", got {error['input']!r}"
    return BadRequest(f"{subject}: {said}{got}" if not said.startswith("should") else f"{subject} {said}{got}")


def validated(model: type[M], values: Any, prefix: str = "", everywhere: Sequence[str] = ()) -> M:
    """A pydantic model from plain values; raises BadRequest with the first fault, and how many more there are."""
    try:
        return model.model_validate(values)
    except ValidationError as failure:
        errors = failure.errors()
        first = _sentence(errors[0], prefix, model, everywhere)
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise BadRequest(f"{first}{more}") from None


def _absolute(name: str) -> str:
    """A path made absolute, so that a run can be evaluated from elsewhere; names of data sets stay names."""
    path = Path(name)
    return str(path.resolve()) if (path.suffix or len(path.parts) > 1) and path.exists() else name


def _file_layer(file: Path | None, task: str) -> dict[str, Any]:
    if file is None:
        return {}
    if not file.is_file():
        raise BadRequest(f"no configuration file {file}")
    layer = read_yaml(file.read_text(), f"configuration {file}") or {}
    if not isinstance(layer, dict) or not all(isinstance(key, str) for key in layer):
        raise BadRequest(f"configuration {file} must hold named options, got {type(layer).__name__}")
    if layer.get("task", task) != task:
        raise BadRequest(f"configuration {file} is for task {layer['task']!r}, not {task!r}")
    return layer


def resolve(
    task: str,
    *,
    data: str | None = None,
    preset: str | None = None,
    file: Path | None = None,
    sets: Sequence[str] = (),
    seed: int | None = None,
) -> RunConfig:
    """A complete configuration from its layers, each above the one before: the trainer's defaults, the task's, the
    preset's, the file's, ``--set``. ``data``, ``preset`` and ``seed`` stand above the file; left out, they are the
    file's, or else ``simulated``, the task's default and 0.

    Raises BadRequest for unknown names (with the nearest ones) and for values out of range.
    """
    cls = load_task(task)
    layer = _file_layer(file, task)
    for text in sets:
        path, value = parse_set(text)
        layer = merge(layer, _nested(path, value))
    for name, given in (("data", data), ("preset", preset), ("seed", seed)):
        if given is not None:
            layer[name] = given
    name = _absolute(str(layer.get("preset") or cls.default_preset))
    asked = {"train": layer.get("train") or {}, "model": layer.get("model") or {}}
    for key, value in asked.items():
        if not isinstance(value, Mapping):
            raise BadRequest(f"option {key!r} holds named options, such as {key}.NAME=VALUE; got {value!r}")
    everywhere = option_names(cls.Config)
    sentence = load_preset(name)
    if sentence.tasks and task not in sentence.tasks:
        raise BadRequest(f"preset {name!r} is for {', '.join(sentence.tasks)}, not for {task!r}")
    train = merge(merge(dict(cls.train_defaults), sentence.train), asked["train"])
    options = {key: value for key, value in layer.items() if key not in RESERVED}
    config = {
        "task": task,
        "data": _absolute(str(layer.get("data") or "simulated")),
        "preset": name,
        "seed": layer.get("seed", 0),
        "train": validated(TrainConfig, train, "train.", everywhere),
        "model": dict(asked["model"]),
        "options": validated(cls.Config, options, "", [*everywhere, *RESERVED]),
    }
    return validated(RunConfig, config)


def from_dict(plain: Mapping[str, Any]) -> RunConfig:
    """The inverse of :meth:`RunConfig.to_dict`; nothing is filled in but defaults of the classes themselves."""
    missing = [key for key in RESERVED if key not in plain]
    if missing:
        raise BadRequest(f"a resolved configuration names {', '.join(RESERVED)}; missing: {', '.join(missing)}")
    cls = load_task(plain["task"])
    options = validated(cls.Config, {k: v for k, v in plain.items() if k not in RESERVED})
    train = validated(TrainConfig, plain["train"], "train.")
    return validated(RunConfig, {**{key: plain[key] for key in RESERVED}, "train": train, "options": options})


def to_yaml(config: RunConfig) -> str:
    """The configuration as YAML that ``--config`` takes."""
    return yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)


def from_yaml(text: str, where: str = "configuration") -> RunConfig:
    """The inverse of :func:`to_yaml`."""
    plain = read_yaml(text, where)
    if not isinstance(plain, dict):
        raise BadRequest(f"{where} must hold named options")
    return from_dict(plain)


def build_task(config: RunConfig) -> Any:
    """The task of a configuration (see :class:`domains.task.Task`)."""
    return load_task(config.task)(config.options)


def build_preset(config: RunConfig) -> Preset:
    """The preset of a configuration with the changes that ``model`` asks for.

    Raises BadRequest for a mixer, a channel layer or an option of theirs that is not there.
    """
    preset = adjust(load_preset(config.preset), **config.model)
    for layer in (layer for stage in preset.backbone.stages for layer in stage.layers):
        if layer.mixer not in MIXERS:
            raise unknown("mixer", layer.mixer, MIXERS)
        if layer.channel not in CHANNELS:
            raise unknown("channel layer", layer.channel, CHANNELS)
        check_options(f"mixer {layer.mixer!r}", MIXERS[layer.mixer], layer.mixer_options)
        check_options(f"channel layer {layer.channel!r}", CHANNELS[layer.channel], layer.channel_options)
    return preset
