"""Checkpoints of sharded training: every device writes its own shards, nobody the whole, and nothing can execute.

torch.distributed.checkpoint keeps its index as a pickle; here it is JSON. Each device writes one safetensors file into
a new folder; when all have, the first names that folder in ``last.json``, which is replaced at once. Any number of
devices can go on from it: shards lie along the first axis, so in the order of the files they make the whole.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from ..store import write_bytes, write_text
from .checkpoint import Position

FORMAT, INDEX, FOLDER = 1, "last.json", "shards-"
State = dict[str, Tensor]


def _flat(position: Position, model: State, optimizer: dict[str, Any]) -> State:
    """Every tensor under one name; the whole weights of the best epoch are among them."""
    found = {f"model/{name}": value for name, value in model.items()}
    found |= {f"best/{name}": value for name, value in position.best.items()}
    for name, entries in optimizer.get("state", {}).items():
        found |= {f"optimizer/{name}/{key}": value for key, value in entries.items()}
    return found


def _mine(tensors: State, first: bool) -> State:
    """What this device writes: its shards, and if it is the first also what is the same on all."""
    from torch.distributed.tensor import DTensor

    found = {}
    for name, value in tensors.items():
        shard = isinstance(value, DTensor)
        here = value.to_local() if isinstance(value, DTensor) else value
        if (shard and here.numel()) or (first and not shard):
            found[name] = here.detach().cpu().contiguous().clone()
    return found


def save(path: Path, position: Position, model: State, optimizer: dict[str, Any], fabric: Fabric) -> None:
    """Replace the checkpoint whose index is ``path``; a collective call with sharded states.

    Raises DiskFull on a device that could not write, and then the one before still stands.
    """
    folder = path.parent / (FOLDER + str(fabric.broadcast(os.urandom(4).hex())))
    tensors = _flat(position, model, optimizer)
    name = f"{fabric.global_rank:05d}.safetensors"
    write_bytes(folder / name, to_bytes(_mine(tensors, fabric.is_global_zero)))
    fabric.barrier()
    if not fabric.is_global_zero:
        return
    index = {
        "format": FORMAT,
        "folder": folder.name,
        "files": [f"{rank:05d}.safetensors" for rank in range(fabric.world_size)],
        "shapes": {name: list(value.shape) for name, value in tensors.items()},
        "groups": optimizer.get("param_groups", []),
        "position": {f.name: getattr(position, f.name) for f in fields(position) if f.name != "best"},
    }
    write_text(path, json.dumps(index))  # an infinite loss is written as a word that json reads again
    for old in path.parent.glob(f"{FOLDER}*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)


def load(path: Path) -> tuple[Position, State, dict[str, Any]] | None:
    """The whole states of the checkpoint whose index is ``path``; None where there is none that is whole."""
    try:
        index = json.loads(path.read_bytes())
        if index["format"] != FORMAT:
            return None
        names = [Path(index["folder"]).name, *(Path(file).name for file in index["files"])]  # never above this folder
        files = [load_file(path.parent / names[0] / file) for file in names[1:]]
        whole = {name: _whole([f[name] for f in files if name in f], shape) for name, shape in index["shapes"].items()}
        position = Position(**index["position"], best=_below("best/", whole))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError):
        return None  # damaged: training starts again, which is slower and not wrong
    state: dict[str, State] = {}
    for name, value in _below("optimizer/", whole).items():
        parameter, _, key = name.rpartition("/")
        state.setdefault(parameter, {})[key] = value
    return position, _below("model/", whole), {"state": state, "param_groups": index["groups"]} if state else {}


def _below(prefix: str, tensors: State) -> State:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _whole(parts: list[Tensor], shape: list[int]) -> Tensor:
    """Shards in the order of their devices as one tensor; raises ValueError where some are missing."""
    found = torch.cat(parts) if len(parts) > 1 else parts[0] if parts else torch.empty(0)
    if list(found.shape) != shape:
        raise ValueError(f"shards of {shape} make {list(found.shape)}")
    return found
