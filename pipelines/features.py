"""What a model sees of its inputs: the tokens that enter its backbone and those that leave it, as a few numbers a row.

A bounded sample of training rows travels with the model, so that later inputs can be held against it (:mod:`.drift`).
A row is an item's mean over its real tokens; where a task has few items (one large graph), it is a token. A task whose
training items are not cut as its predictions are (tiles of a scene) says ``drift_unit = "token"``, one whose training
items are varied or drawn unevenly says ``drift_part = "val"``, and one whose loss shows the model something else than a
prediction does has a ``glimpse(model, batch)``; all are optional.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as arrays_to_bytes
from torch import Tensor, nn

from shared_backbones.backbone import Backbone, UNet

from .store import write_bytes

REFERENCE, FEATURES = "reference.safetensors", "features.npy"
ROWS, AN_INPUT = 512, 128  # rows kept of the training part, and of one input
DIRECTIONS = 8  # principal directions kept of what enters, and as many of what leaves
FEW = 32  # items; with fewer, tokens are the rows
Unit = Literal["item", "token"]


@dataclass
class Sample:
    """At most ``rows`` rows of all that were seen, each as likely as any other; the same for the same order."""

    rows: int
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    kept: np.ndarray | None = None  # (n, d)
    drawn: np.ndarray = field(default_factory=lambda: np.zeros(0))  # (n,), by which rows are kept

    def add(self, rows: np.ndarray) -> None:
        """Offer (n, d) rows."""
        drawn = np.concatenate([self.drawn, self.random.random(len(rows))])
        every = rows if self.kept is None else np.concatenate([self.kept, rows])
        keep = np.sort(np.argsort(drawn, kind="stable")[: self.rows])
        self.kept, self.drawn = every[keep], drawn[keep]


def _rows(x: Tensor, layout: Any, unit: Unit) -> Tensor:
    """(B, N, C) tokens -> (B, C) means over real tokens, or the real tokens themselves, (n, C)."""
    x = x.detach().float()
    mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if layout.mask is None else layout.mask
    if unit == "token":
        return x[mask]
    there = mask[..., None]
    return (x.masked_fill(~there, 0.0)).sum(1) / there.sum(1).clamp_min(1)


def _backbone(model: nn.Module) -> Backbone | UNet | None:
    return next((m for m in model.modules() if isinstance(m, (Backbone, UNet))), None)


@contextmanager
def watched(model: nn.Module, rows: int, unit: Unit | None) -> Iterator[Sample]:
    """While the block lasts, sample what passes the model's first backbone; nothing where it has none.

    ``unit`` None: nothing is sampled.
    """
    sample, backbone = Sample(rows), _backbone(model)

    def seen(module: nn.Module, given: tuple[Any, ...], found: Any) -> None:
        if unit is None or len(given) != 2 or len(given[0]) == 0:
            return
        (x, before), (y, after) = given, found
        parts = [_rows(x, before, unit)]
        if unit == "item" or y.shape[1] == x.shape[1]:
            parts.append(_rows(y, after, unit))
        sample.add(torch.cat(parts, -1).cpu().numpy())

    if backbone is None or unit is None:
        yield sample
        return
    handle = backbone.register_forward_hook(seen)
    try:
        yield sample
    finally:
        handle.remove()


@dataclass(frozen=True)
class Reference:
    """The training sample: standardised rows along principal directions, and how others are brought there."""

    rows: np.ndarray  # (n, d)
    mean: np.ndarray  # (c,)
    basis: np.ndarray  # (c, d)
    unit: Unit

    def project(self, rows: np.ndarray) -> np.ndarray:
        """(m, c) -> (m, d), in standard deviations of the training sample along each direction."""
        return ((rows - self.mean) @ self.basis).astype(np.float32)


def _directions(rows: np.ndarray) -> np.ndarray:
    """(n, c) centred -> (c, at most DIRECTIONS), scaled so that projections have unit variance."""
    _, size, across = np.linalg.svd(rows, full_matrices=False)
    size = size / np.sqrt(max(1, len(rows) - 1))
    keep = min(DIRECTIONS, int((size > 1e-6 * max(float(size[0]), 1e-12)).sum()))
    return across[:keep].T / size[:keep]


def reference_of(rows: np.ndarray, entering: int, unit: Unit) -> Reference:
    """From the (n, c) training rows, of which the first ``entering`` columns are what enters the backbone."""
    rows = rows.astype(np.float64)
    mean = rows.mean(0)
    blocks = [_directions(part) for part in np.split(rows - mean, [entering], 1) if part.shape[1]]
    basis = np.zeros((rows.shape[1], sum(b.shape[1] for b in blocks)))
    row = column = 0
    for block in blocks:
        basis[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    return Reference(((rows - mean) @ basis).astype(np.float32), mean, basis, unit)


def reference_items(task: Any, data: Any, split: Any, fitted: Any) -> Any:
    """The items that later inputs are held against: of the training part, or where those are varied, the validation."""
    return task.items(data, split, fitted, getattr(task, "drift_part", "train"))


def training_sample(task: Any, model: nn.Module, items: Any, size: int, unit: Unit) -> np.ndarray | None:
    """(n, c) rows of up to ROWS training items, in batches of ``size``; None where the model shows none."""
    order = np.random.default_rng(0).permutation(len(items))[:ROWS]
    see = getattr(task, "glimpse", task.loss)
    model.eval()
    with watched(model, ROWS, unit) as sample, torch.no_grad():
        for start in range(0, len(order), size):
            batch = items.batch(sorted(order[start : start + size].tolist()))
            device = next((p.device for p in model.parameters()), torch.device("cpu"))
            see(model, {name: value.to(device) for name, value in batch.items()})
    return sample.kept


def keep_reference(folder: Path, task: Any, model: nn.Module, items: Any, size: int) -> Reference | None:
    """Write ``reference.safetensors`` into a run's folder; None, and no file, where there is nothing to keep."""
    unit: Unit = getattr(task, "drift_unit", "item")
    rows = training_sample(task, model, items, size, unit)
    if unit == "item" and rows is not None and len(rows) < FEW:
        unit = "token"
        rows = training_sample(task, model, items, size, unit)
    backbone = _backbone(model)
    if backbone is None or rows is None or len(rows) < FEW or not np.isfinite(rows).all():
        return None
    found = reference_of(rows, backbone.dim_in, unit)
    if not found.rows.shape[1]:
        return None
    arrays = {"rows": found.rows, "mean": found.mean, "basis": found.basis}
    write_bytes(folder / REFERENCE, arrays_to_bytes(arrays, metadata={"unit": unit}))
    return found


def load_reference(folder: Path) -> Reference | None:
    """The sample that travels with a run, or None: a run of before, or a model without a backbone."""
    from safetensors import safe_open

    path = folder / REFERENCE
    if not path.is_file():
        return None
    with suppress(OSError, ValueError, KeyError), safe_open(path, "numpy") as file:
        unit: Unit = "token" if (file.metadata() or {}).get("unit") == "token" else "item"
        arrays = load_arrays(path.read_bytes())
        return Reference(arrays["rows"], arrays["mean"], arrays["basis"], unit)
    return None


def keep_features(reference: Reference, rows: np.ndarray, sink: Any) -> None:
    """Write what a model saw of one input, (n, d) along the reference's directions, to the input's outputs."""
    if rows.shape[1] != len(reference.mean):
        return
    with sink.file(FEATURES) as path, path.open("wb") as file:
        np.save(file, reference.project(rows).round(3), allow_pickle=False)
