"""What a model sees of its inputs: their features, the tokens that enter its backbone and those that leave it.

A bounded sample of training rows travels with the model, so that later inputs can be held against it (:mod:`.drift`).
A row is an item's mean over its real tokens; where a task has few items (one large graph), it is a token. A task whose
training items are not cut as its predictions are (tiles of a scene) says ``drift_unit = "token"``, one whose training
items are varied or drawn unevenly says ``drift_part = "val"``, and one whose loss shows the model something else than a
prediction does has a ``glimpse(model, batch)``. Which features an input has (bands, series, channels), a task says by
``drift_inputs = (module, argument, axis)``: they stand along that axis of that argument of that part of the model (""
is the model itself; a name instead of a number is a key of its first argument). Where one input gives many rows that
are alike by themselves (windows of a table or of a recording), it says ``drift_pieces = True``. All are optional.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
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
WIDE = 32  # input features kept, evenly of all that vary
FEW = 32  # items; with fewer, tokens are the rows
Unit = Literal["item", "token"]
Inputs = tuple[str, int | str, int]  # see above


@dataclass
class Sample:
    """At most ``rows`` rows of all that were seen, each as likely as any other; the same for the same order.

    ``inputs``: how many of their last columns are input features, None while nothing was seen.
    """

    rows: int
    inputs: int | None = None
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    kept: np.ndarray | None = None  # (n, d)
    drawn: np.ndarray = field(default_factory=lambda: np.zeros(0))  # (n,), by which rows are kept

    def add(self, rows: np.ndarray) -> None:
        """Offer (n, d) rows."""
        drawn = np.concatenate([self.drawn, self.random.random(len(rows))])
        every = rows if self.kept is None else np.concatenate([self.kept, rows])
        self._keep(every, drawn)

    def join(self, other: Sample) -> None:
        """Take in what another process has seen of the same input, where its rows have the same columns."""
        if other.kept is None:
            return
        if self.kept is None:
            self.inputs, self.kept, self.drawn = other.inputs, other.kept, other.drawn
        elif (self.inputs, self.kept.shape[1]) == (other.inputs, other.kept.shape[1]):
            self._keep(np.concatenate([self.kept, other.kept]), np.concatenate([self.drawn, other.drawn]))

    def _keep(self, every: np.ndarray, drawn: np.ndarray) -> None:
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


def _features(given: tuple[Any, ...], inputs: Inputs, unit: Unit) -> Tensor | None:
    """(n, F) input features of a call, means over an item's places or those of every place; None where they are not."""
    _, argument, axis = inputs
    if isinstance(argument, str):
        x = given[0].get(argument) if given and isinstance(given[0], Mapping) else None
    else:
        x = given[argument] if len(given) > argument else None
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or len(x) == 0:
        return None
    x = x.detach().float().movedim(axis, -1)
    return x.flatten(0, -2) if unit == "token" else x.reshape(len(x), -1, x.shape[-1]).nanmean(1)


@contextmanager
def watched(
    model: nn.Module, rows: int, unit: Unit | None, inputs: Inputs | None = None, wide: int | None = None
) -> Iterator[Sample]:
    """While the block lasts, sample what passes the model's first backbone; nothing where it has none.

    ``unit`` None: nothing is sampled. ``wide``: how many input features rows have (default: as many as the first call
    shows); where a call shows others, they are no numbers.
    """
    sample, backbone = Sample(rows, wide), _backbone(model)
    newest: list[Tensor] = []

    def entered(module: nn.Module, given: tuple[Any, ...]) -> None:
        found = None if inputs is None or unit is None else _features(given, inputs, unit)
        newest[:] = [] if found is None else [found]

    def seen(module: nn.Module, given: tuple[Any, ...], found: Any) -> None:
        if unit is None or len(given) != 2 or len(given[0]) == 0:
            return
        (x, before), (y, after) = given, found
        parts = [_rows(x, before, unit)]
        if unit == "item" or y.shape[1] == x.shape[1]:
            parts.append(_rows(y, after, unit))
        n = len(parts[0])
        fits = newest and len(newest[0]) == n
        if sample.inputs is None:
            sample.inputs = newest[0].shape[1] if fits else 0
        fits = fits and newest[0].shape[1] == sample.inputs
        parts.append(newest[0] if fits else parts[0].new_full((n, sample.inputs), torch.nan))
        sample.add(torch.cat(parts, -1).cpu().numpy())

    if backbone is None or unit is None:
        yield sample
        return
    handles = [backbone.register_forward_hook(seen)]
    if inputs is not None:
        with suppress(AttributeError):  # another preset's model may have no such part
            handles.append(model.get_submodule(inputs[0]).register_forward_pre_hook(entered))
    try:
        yield sample
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Reference:
    """The training sample: standardised rows along principal directions, and how others are brought there."""

    rows: np.ndarray  # (n, d)
    mean: np.ndarray  # (c,)
    basis: np.ndarray  # (c, d)
    unit: Unit
    inputs: int = 0  # of the c columns, how many (the last) are input features
    names: tuple[str, ...] = ()  # of the d
    pieces: bool = False  # rows of one input are alike by themselves, and no independent draws

    def project(self, rows: np.ndarray) -> np.ndarray:
        """(m, c) -> (m, d), in standard deviations of the training sample along each direction.

        No number comes of what is no number, and nothing else is touched by it.
        """
        known = np.isfinite(rows)
        found = np.where(known, rows - self.mean, 0.0) @ self.basis
        found[(~known).astype(float) @ (self.basis != 0) > 0] = np.nan
        return found.astype(np.float32)


def _directions(rows: np.ndarray) -> np.ndarray:
    """(n, c) centred -> (c, at most DIRECTIONS), scaled so that projections have unit variance."""
    _, size, across = np.linalg.svd(rows, full_matrices=False)
    size = size / np.sqrt(max(1, len(rows) - 1))
    keep = min(DIRECTIONS, int((size > 1e-6 * max(float(size[0]), 1e-12)).sum()))
    return across[:keep].T / size[:keep]


def _varying(rows: np.ndarray) -> np.ndarray:
    """(n, F) centred -> (F, at most WIDE): features as they are, scaled to unit variance, evenly of those that vary."""
    spread = rows.std(0, ddof=1)
    there = np.flatnonzero(np.isfinite(spread) & (spread > 1e-12))
    kept = there[np.unique(np.linspace(0, len(there) - 1, min(WIDE, len(there))).round().astype(int))]
    basis = np.zeros((rows.shape[1], len(kept)))
    basis[kept, np.arange(len(kept))] = 1 / spread[kept]
    return basis


def reference_of(rows: np.ndarray, entering: int, unit: Unit, inputs: int = 0) -> Reference:
    """From the (n, c) training rows: ``entering`` columns enter the backbone, the last ``inputs`` are input features,
    those between leave it."""
    rows = rows.astype(np.float64)
    mean = rows.mean(0)
    tokens, features = np.split(rows - mean, [rows.shape[1] - inputs], 1)
    blocks = [_directions(part) for part in np.split(tokens, [entering], 1) if part.shape[1]]
    directions = sum(b.shape[1] for b in blocks)
    blocks += [_varying(features)] if inputs else []
    basis = np.zeros((rows.shape[1], sum(b.shape[1] for b in blocks)))
    row = column = 0
    for block in blocks:
        basis[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    which = basis[len(mean) - inputs :, directions:].argmax(0) if inputs else []
    names = [f"direction {i + 1}" for i in range(directions)] + [f"input {i + 1}" for i in which]
    return Reference(((rows - mean) @ basis).astype(np.float32), mean, basis, unit, inputs, tuple(names))


def reference_items(task: Any, data: Any, split: Any, fitted: Any) -> Any:
    """The items that later inputs are held against: of the training part, or where those are varied, the validation."""
    return task.items(data, split, fitted, getattr(task, "drift_part", "train"))


def training_sample(task: Any, model: nn.Module, items: Any, size: int, unit: Unit, wide: int | None = None) -> Sample:
    """(n, c) rows of up to ROWS training items, in batches of ``size``; ``kept`` is None where the model shows none."""
    order = np.random.default_rng(0).permutation(len(items))[:ROWS]
    see = getattr(task, "glimpse", task.loss)
    model.eval()
    with watched(model, ROWS, unit, getattr(task, "drift_inputs", None), wide) as sample, torch.no_grad():
        for start in range(0, len(order), size):
            batch = items.batch(sorted(order[start : start + size].tolist()))
            device = next((p.device for p in model.parameters()), torch.device("cpu"))
            see(model, {name: value.to(device) for name, value in batch.items()})
    return sample


def keep_reference(folder: Path, task: Any, model: nn.Module, items: Any, size: int) -> Reference | None:
    """Write ``reference.safetensors`` into a run's folder; None, and no file, where there is nothing to keep."""
    unit: Unit = getattr(task, "drift_unit", "item")
    sample = training_sample(task, model, items, size, unit)
    if unit == "item" and sample.kept is not None and len(sample.kept) < FEW:
        unit = "token"
        sample = training_sample(task, model, items, size, unit)
    backbone, rows, inputs = _backbone(model), sample.kept, sample.inputs or 0
    if rows is not None and inputs and not np.isfinite(rows[:, -inputs:]).all():
        rows, inputs = rows[:, :-inputs], 0  # features with gaps are not held against anything
    if backbone is None or rows is None or len(rows) < FEW or not np.isfinite(rows).all():
        return None
    found = reference_of(rows, backbone.dim_in, unit, inputs)
    if not found.rows.shape[1]:
        return None
    arrays = {"rows": found.rows, "mean": found.mean, "basis": found.basis}
    pieces = unit == "token" or bool(getattr(task, "drift_pieces", False))
    facts = {"unit": unit, "inputs": str(inputs), "names": json.dumps(found.names), "pieces": json.dumps(pieces)}
    write_bytes(folder / REFERENCE, arrays_to_bytes(arrays, metadata=facts))
    return replace(found, pieces=pieces)


def load_reference(folder: Path) -> Reference | None:
    """The sample that travels with a run, or None: a run of before, or a model without a backbone."""
    from safetensors import safe_open

    path = folder / REFERENCE
    if not path.is_file():
        return None
    with suppress(OSError, ValueError, KeyError), safe_open(path, "numpy") as file:
        facts = file.metadata() or {}
        unit: Unit = "token" if facts.get("unit") == "token" else "item"
        arrays = load_arrays(path.read_bytes())
        names = json.loads(facts.get("names", "[]")) or [f"direction {i + 1}" for i in range(arrays["rows"].shape[1])]
        inputs = int(facts.get("inputs", "0"))
        pieces = bool(json.loads(facts.get("pieces", json.dumps(unit == "token"))))
        return Reference(arrays["rows"], arrays["mean"], arrays["basis"], unit, inputs, tuple(map(str, names)), pieces)
    return None


def keep_features(reference: Reference, rows: np.ndarray, sink: Any) -> None:
    """Write what a model saw of one input, (n, d) along the reference's directions, to the input's outputs."""
    if rows.shape[1] != len(reference.mean):
        return
    with sink.file(FEATURES) as path, path.open("wb") as file:
        np.save(file, reference.project(rows).round(3), allow_pickle=False)
