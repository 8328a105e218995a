"""Checkpoints: whole or not there, and nothing in them can execute."""

from __future__ import annotations

import io
import pickle
import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..store import write_bytes

FORMAT = 1


@dataclass
class Position:
    """How far training has come. With the weights and the optimiser's state it determines all that follows."""

    epoch: int = 0  # epochs finished
    step: int = 0  # optimiser steps done in the epoch that is under way
    loss_sum: float = 0.0  # over the elements seen in that epoch
    loss_weight: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)  # one row per finished epoch; the first: untrained
    best_loss: float = float("inf")  # on validation
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)  # weights of the best epoch, on the CPU
    stale: int = 0  # epochs since then
    seconds: float = 0.0  # spent training, over all resumptions
    finished: bool = False


def save(path: Path, position: Position, model: dict[str, Tensor], optimizer: dict[str, Any]) -> None:
    """Replace the checkpoint at once. Raises DiskFull, and then the one before still stands."""
    content = io.BytesIO()  # torch's own file writer hides the reason when a disk is full
    state = {f.name: getattr(position, f.name) for f in fields(position)}
    torch.save({"format": FORMAT, "position": state, "model": model, "optimizer": optimizer}, content)
    write_bytes(path, content.getbuffer())


def load(path: Path) -> tuple[Position, dict[str, Tensor], dict[str, Any]] | None:
    """The checkpoint, or None where there is none that this code can go on from."""
    if not path.is_file():
        return None
    try:
        raw = torch.load(path, weights_only=True, map_location="cpu")
        if raw["format"] != FORMAT:
            return None
        return Position(**raw["position"]), raw["model"], raw["optimizer"]
    except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError, zipfile.BadZipFile):
        return None  # damaged: training starts again, which is slower and not wrong
