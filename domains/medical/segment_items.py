"""Training patches, half of them on structures, and validation windows that count every voxel once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float32, Int64, Shaped
from torch import Tensor

from ..task import Batch
from ..tiling import Tile
from ..tiling import plan as tiles_of
from .data.pairs import Grid
from .geometry import resample, resample_labels, shape_at
from .plan import Plan, factors
from .segment_source import IGNORED, SegmentData

HELD_BYTES = 3_000_000_000
PLACES = 4096  # of each structure of a case, from which patches are centred


@dataclass(frozen=True)
class Prepared:
    """A piece at the plan's spacing, normalised. places: flat positions of each structure that it holds."""

    image: Float32[Tensor, "C *axes"]
    labels: Int64[Tensor, "*axes"]
    places: tuple[Int64[np.ndarray, "_"], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.labels.shape)


def voxels_of(part: Shaped[np.ndarray, "C *axes"]) -> Float32[Tensor, "C *axes"]:
    """Voxels of any stored type, in memory of their own."""
    return torch.from_numpy(np.array(part, dtype=np.float32, order="C"))


def scaled_(x: Float32[Tensor, "C *axes"], plan: Plan, scale: Tensor, shift: Tensor) -> Float32[Tensor, "C *axes"]:
    """Normalised in place, by the factors of the whole image."""
    column = (-1, *[1] * (x.ndim - 1))
    if plan.normalise == "fixed":
        x = x.clamp_(torch.tensor(plan.low).reshape(column), torch.tensor(plan.high).reshape(column))
    return x.mul_(scale.reshape(column)).add_(shift.reshape(column))


def seen_by(grid: Grid, plan: Plan) -> Float32[Tensor, "C *axes"]:
    """The whole image at the plan's spacing, normalised."""
    shape = shape_at(grid.shape, grid.spacing, plan.spacing)
    scale, shift = (torch.from_numpy(v) for v in factors(grid.image, plan))
    return scaled_(resample(voxels_of(grid.image), shape).clone(), plan, scale, shift)


def prepare(grid: Grid, plan: Plan) -> Prepared:
    """A piece as the network is trained on it."""
    image = seen_by(grid, plan)
    assert grid.labels is not None
    labels = np.ascontiguousarray(resample_labels(grid.labels, image.shape[1:])).astype(np.int64)
    flat, rng, places = labels.ravel(), np.random.default_rng(0), []
    for structure in np.unique(flat[flat > 0]):
        at = np.flatnonzero(flat == structure)
        places.append(at if len(at) <= PLACES else np.sort(rng.choice(at, PLACES, replace=False)))
    return Prepared(image, torch.from_numpy(labels), tuple(places))


def _preparer(data: SegmentData, rows: Int64[np.ndarray, "n 3"], plan: Plan) -> Callable[[int], Prepared]:
    largest = max(data.channels * int(np.prod(data.shapes[int(row[0])])) for row in rows)
    held = max(1, HELD_BYTES // (12 * largest))
    return lru_cache(maxsize=held)(lambda i: prepare(data.piece(rows[i]), plan))


def cut(piece: Prepared, start: Sequence[int], patch: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Image and labels of a patch; where it reaches beyond the piece the image is 0 and nothing is learned."""
    inside = tuple(slice(s, min(s + p, n)) for s, p, n in zip(start, patch, piece.shape, strict=True))
    image, labels = piece.image[(slice(None), *inside)], piece.labels[inside]
    missing = [p - n for p, n in zip(patch, labels.shape, strict=True)]
    if any(missing):
        pads = [v for m in reversed(missing) for v in (0, m)]
        image = torch.nn.functional.pad(image, pads)
        labels = torch.nn.functional.pad(labels, pads, value=IGNORED)
    return image, labels


class TrainingPatches:
    """Each item is ``plan.batch`` patches of random pieces, drawn from torch's random state."""

    def __init__(
        self,
        data: SegmentData,
        rows: Int64[np.ndarray, "n 3"],
        plan: Plan,
        *,
        items: int,
        oversample: float,
        augment: bool,
    ) -> None:
        self.prepared, self.pieces, self.plan = _preparer(data, rows, plan), len(rows), plan
        self.items, self.oversample, self.augment = items, oversample, augment

    def __len__(self) -> int:
        return self.items

    def batch(self, indices: Sequence[int]) -> Batch:
        drawn = [self._draw() for _ in range(len(indices) * self.plan.batch)]
        return stacked(drawn, self.plan.across)

    def _draw(self) -> tuple[Tensor, Tensor]:
        piece = self.prepared(int(torch.randint(self.pieces, ())))
        room = [max(0, n - p) for n, p in zip(piece.shape, self.plan.patch, strict=True)]
        start = [int(torch.randint(r + 1, ())) for r in room]
        if piece.places and float(torch.rand(())) < self.oversample:
            places = piece.places[int(torch.randint(len(piece.places), ()))]
            centre = np.unravel_index(int(places[int(torch.randint(len(places), ()))]), piece.shape)
            start = [min(max(int(c) - p // 2, 0), r) for c, p, r in zip(centre, self.plan.patch, room, strict=True)]
        image, labels = cut(piece, start, self.plan.patch)
        return augmented(image, labels) if self.augment else (image, labels)


def augmented(image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mirrored, turned by right angles where two sides are alike, brightened, and with noise."""
    mirrored = [axis for axis in range(labels.ndim) if bool(torch.rand(()) < 0.5)]
    image, labels = image.flip([1 + a for a in mirrored]), labels.flip(mirrored)
    for a in range(labels.ndim):
        for b in range(a + 1, labels.ndim):
            if 1 < labels.shape[a] == labels.shape[b] and bool(torch.rand(()) < 0.5):
                image, labels = image.transpose(1 + a, 1 + b), labels.transpose(a, b)
    gain, offset = 1 + 0.15 * torch.randn(()), 0.15 * torch.randn(())
    noise = 0.15 * torch.rand(()) * torch.randn(image.shape)
    return image * gain + offset + noise, labels


def stacked(patches: Iterable[tuple[Tensor, Tensor]], across: int | None) -> Batch:
    """Patches as a batch: image (B, C, *axes) and target (B, *axes), flat where the network is."""
    images, labels = zip(*patches, strict=True)
    image, target = torch.stack(images), torch.stack(labels)
    return {"image": image, "target": target} if across is None else {
        "image": image.squeeze(2 + across), "target": target.squeeze(1 + across)
    }  # fmt: skip


class Windows:
    """Items that cover pieces: every voxel counts in one of them."""

    def __init__(self, data: SegmentData, rows: Int64[np.ndarray, "n 3"], plan: Plan) -> None:
        self.prepared, self.plan = _preparer(data, rows, plan), plan
        self.tiles: list[tuple[int, Tile]] = []
        for i, row in enumerate(rows):
            case, start, stop = (int(v) for v in row)
            spacing = _spacing(data, case)
            shape = shape_at((*data.shapes[case][:-1], stop - start), spacing, plan.spacing)
            self.tiles += [(i, tile) for tile in tiles_of(shape, plan.patch)]

    def __len__(self) -> int:
        return len(self.tiles)

    def batch(self, indices: Sequence[int]) -> Batch:
        return stacked([self._window(*self.tiles[i]) for i in indices], self.plan.across)

    def _window(self, i: int, tile: Tile) -> tuple[Tensor, Tensor]:
        image, labels = cut(self.prepared(i), [s.start for s in tile.read], self.plan.patch)
        own = torch.full_like(labels, IGNORED)
        own[tile.inner] = labels[tile.inner]
        return image, own


def _spacing(data: SegmentData, case: int) -> tuple[float, ...]:
    return data.grid(case).spacing
