"""Runs: how one is named, and how its model is kept without anything that can execute."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensors_to_bytes
from torch import nn

import domains
import shared_backbones
from domains import load_task
from domains.public import sha256_of
from domains.task import Fitted, Manifest, to_json_digest
from shared_backbones.backbone import BackboneSpec, LayerSpec, StageSpec
from shared_backbones.errors import BadInput
from shared_backbones.presets import Preset

from .config import RunConfig, build_preset, build_task, from_dict
from .store import write_bytes, write_json

FORMAT = 1  # of model.json
WEIGHTS, MODEL = "model.safetensors", "model.json"
# what of this room decides a result; the rest (reports, the command line) may change without a new run
_TRAINING_CODE = ("config.py", "evaluate.py", "bootstrap.py", "runs.py", "trainer")


@dataclass(frozen=True)
class Trained:
    """A trained model with all that it needs to be used again."""

    directory: Path
    config: RunConfig
    task: Any  # domains.task.Task
    preset: Preset
    fitted: Fitted
    model: nn.Module
    meta: Mapping[str, Any]  # what model.json says


def preset_to_dict(preset: Preset) -> dict[str, Any]:
    """A sentence of the grammar as plain data."""
    return json.loads(json.dumps(asdict(preset)))


def preset_from_dict(plain: Mapping[str, Any]) -> Preset:
    """The inverse of :func:`preset_to_dict`."""
    spec = plain["backbone"]

    def stages(rows: Sequence[Mapping[str, Any]]) -> tuple[StageSpec, ...]:
        return tuple(
            StageSpec(**{**row, "layers": tuple(LayerSpec(**layer) for layer in row["layers"])}) for row in rows
        )

    backbone = BackboneSpec(**{**spec, "stages": stages(spec["stages"]), "decoder": stages(spec.get("decoder", ()))})
    plain = {**plain, **{key: tuple(plain[key]) for key in ("tasks", "ranks") if key in plain}}
    return Preset(**{**plain, "backbone": backbone})


def _digest_of_sources(*places: Path) -> str:
    h = hashlib.sha256()
    for place in places:
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        for file in files:
            h.update(f"{file.relative_to(place.parent)}\n".encode() + file.read_bytes())
    return h.hexdigest()


@cache
def code_version(task: str) -> str:
    """Digest of the source that decides a result of a task: the backbones, the task's own domain, the trainer.

    Presets are not part of it: a run's own sentence stands in its key. Another domain's code is not either.
    """
    own = Path(str(sys.modules[load_task(task).__module__].__file__))
    room, here = Path(domains.__path__[0]), Path(__file__).parent
    # a task of Cambium's own lives in its domain's folder; another package's task is known by its one module
    places = [own.parent if own.is_relative_to(room) else own]
    places += sorted(room.glob("*.py"))
    places += [Path(shared_backbones.__path__[0]), *(here / name for name in _TRAINING_CODE)]
    return _digest_of_sources(*(place for place in places if place.exists()))


def run_key(config: RunConfig, manifest: Manifest) -> str:
    """The run's id, 12 hex digits: a digest of the resolved configuration, the data's content, the code, the seed.

    The same bytes under another path, and the same preset under another name, are the same run. Whether an
    ablation is wanted beside it changes nothing about it. A run to start from counts by its weights' digest.
    """
    if config.train.start is not None and config.train.start_sha256 is None:
        raise ValueError("the run to start from has no digest yet; see trainer.start.pinned")
    plain = config.to_dict()
    del plain["data"], plain["preset"]
    plain["train"] = {k: v for k, v in plain["train"].items() if k not in ("ablation", "start")}
    sentence = {k: v for k, v in preset_to_dict(build_preset(config)).items() if k not in ("name", "paper", "notes")}
    parts = {
        "config": plain,
        "preset": sentence,
        "data": manifest.sha256,
        "code": code_version(config.task),
    }
    return to_json_digest(parts)[:12]


def versions() -> dict[str, str]:
    """Releases that a result was made with."""
    named = {name: metadata.version(name) for name in ("cambium", "torch", "numpy", "lightning")}
    return {"python": platform.python_version(), **named}


def save_model(
    folder: Path, config: RunConfig, preset: Preset, fitted: Fitted, model: nn.Module, **more: Any
) -> dict[str, Any]:
    """Write ``model.safetensors`` and then ``model.json``, which holds the checksum of the first. Returns the latter.

    ``more``: plain facts to keep with the model.
    """
    # clones: tied weights share memory, which the format refuses
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    content = tensors_to_bytes(tensors, metadata={"format": "pt"})
    write_bytes(folder / WEIGHTS, content)
    meta = {
        "format": FORMAT,
        "task": config.task,
        "run": more.pop("run", folder.name),
        "weights_sha256": hashlib.sha256(content).hexdigest(),
        "versions": versions(),
        "config": config.to_dict(),
        "preset": preset_to_dict(preset),
        "fitted": fitted,
        **more,
    }
    write_json(folder / MODEL, meta)
    return meta


def read_meta(folder: Path) -> dict[str, Any]:
    """What ``model.json`` of a finished run says. Raises BadInput where there is none of this format."""
    path = folder / MODEL
    if not folder.is_dir():
        raise BadInput(f"no run at {folder}")
    if not path.is_file():
        raise BadInput(f"{folder} is not a finished run: it holds no {MODEL}")
    try:
        meta = json.loads(path.read_bytes())
        got = meta["format"]
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{path} cannot be read as a model's description") from None
    if got != FORMAT:
        made = meta.get("versions", {}).get("cambium", "unknown")
        raise BadInput(f"{path} has format {got} (Cambium {made}); this release reads format {FORMAT}: train again")
    return meta


def load_run(path: Path) -> Trained:
    """A finished run with its model on the CPU, in evaluation mode.

    Raises BadInput where it is not a run, is of another format, has been changed (checksum), or does not fit the
    code that is installed.
    """
    folder = Path(path).resolve()
    meta = read_meta(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise BadInput(f"{folder} is not a finished run: it holds no {WEIGHTS}")
    got = sha256_of(weights)
    if got != meta["weights_sha256"]:
        raise BadInput(f"{weights} has changed since training: sha256 {got}, expected {meta['weights_sha256']}")
    config = from_dict(meta["config"])
    preset, task = preset_from_dict(meta["preset"]), build_task(config)
    with torch.random.fork_rng(devices=[]):  # the caller's random state is the caller's
        model = task.build(meta["fitted"], preset)
    try:
        model.load_state_dict(load_tensors(weights.read_bytes()), strict=True)
    except RuntimeError as error:
        made, now = meta["versions"]["cambium"], versions()["cambium"]
        raise BadInput(
            f"{weights} does not fit the model that this code builds (made with Cambium {made}, this is {now}): "
            f"{' '.join(str(error).split())}"
        ) from None
    return Trained(folder, config, task, preset, meta["fitted"], model.eval(), meta)
