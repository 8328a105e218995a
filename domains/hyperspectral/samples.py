"""Training and scoring windows: a core of labelled pixels and the halo that their patches look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ..task import Batch
from .source import SceneData
from .splits import near

CACHE_BYTES = 512 * 2**20  # windows kept in memory between epochs


@dataclass
class _Cache:
    """Windows read before, up to a number of bytes in all."""

    room: int = CACHE_BYTES
    kept: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def put(self, key: int, value: tuple[Tensor, Tensor]) -> None:
        size = sum(t.numel() * t.element_size() for t in value)
        if size <= self.room:
            self.room -= size
            self.kept[key] = value


class Tiles:
    """Windows of one part of a split: the tiles of a grid that hold any of its pixels.

    A batch: "cube" (B, bands, S, S) physical values of the used bands, "seen" (B, bands, S, S), "target" (B, S, S) the
    class position at the part's pixels in the core, -1 elsewhere; S = tile + 2 halo. Only what the patches of the
    part's pixels may see is handed out; the rest, and what lies outside the scene, is not ``seen``.
    """

    def __init__(
        self,
        data: SceneData,
        at: Int64[np.ndarray, "n"],
        bands: Sequence[int],
        tile: int,
        halo: int,
        *,
        augment: bool = False,
        light: float = 0.0,
        sample_bands: bool = False,
    ) -> None:
        self.data, self.bands, self.sample_bands = data, np.array(bands), sample_bands
        self.tile, self.halo, self.augment, self.light = tile, halo, augment, light
        rows, cols = np.divmod(at, data.index.shape[1])
        self.corners = np.unique(np.stack([rows // tile, cols // tile], 1), axis=0) * tile
        chosen = np.zeros(data.index.size, dtype=bool)
        chosen[at] = True
        self._target = np.where(chosen.reshape(data.index.shape), data.index, -1)
        self._near = near(at, data.index.shape, halo)
        self._cache = _Cache()

    def __len__(self) -> int:
        return len(self.corners)

    def _read(self, i: int) -> tuple[Float[Tensor, "b S S"], Bool[Tensor, "b S S"]]:
        if i in self._cache.kept:
            return self._cache.kept[i]
        top, left = (int(v) - self.halo for v in self.corners[i])
        side = self.tile + 2 * self.halo
        rows, cols = (
            slice(max(0, a), min(n, a + side)) for a, n in zip((top, left), self.data.index.shape, strict=True)
        )
        cube = torch.zeros(len(self.bands), side, side)
        seen = torch.zeros(len(self.bands), side, side, dtype=torch.bool)
        values, measured = self.data.read(rows, cols)
        measured = measured[self.bands] & self._near[rows, cols]
        inner = (slice(None), slice(rows.start - top, rows.stop - top), slice(cols.start - left, cols.stop - left))
        cube[inner] = torch.from_numpy(np.where(measured, values[self.bands], np.float32(0)))
        seen[inner] = torch.from_numpy(measured)
        self._cache.put(i, (cube, seen))
        return cube, seen

    def _target_of(self, i: int) -> Int64[np.ndarray, "S S"]:
        side = self.tile + 2 * self.halo
        target = np.full((side, side), -1, dtype=np.int64)
        top, left = self.corners[i]
        core = self._target[top : top + self.tile, left : left + self.tile]
        target[self.halo : self.halo + core.shape[0], self.halo : self.halo + core.shape[1]] = core
        return target

    def batch(self, indices: Sequence[int]) -> Batch:
        """Tiles by number; ``augment`` turns and flips them, ``light`` brightens them, ``sample_bands`` shows some of
        the bands, the same for the batch: all by torch's random state.
        """
        cubes, masks, targets = [], [], []
        for i in indices:
            cube, seen = self._read(int(i))
            target = torch.from_numpy(self._target_of(int(i)))
            if self.augment:
                turns, flip = (int(v) for v in torch.randint(0, 4, (2,)))
                cube, seen, target = (_turned(t, turns, flip < 2) for t in (cube, seen, target))
            if self.light:
                cube = cube * (1 + self.light * torch.randn(())).clamp_min(0.1)
            cubes.append(cube)
            masks.append(seen)
            targets.append(target)
        seen = torch.stack(masks)
        if self.sample_bands:
            seen = seen & band_sample(seen.shape[1])[:, None, None]
        return {"cube": torch.stack(cubes), "seen": seen, "target": torch.stack(targets)}

    def place(self, i: int) -> Int64[Tensor, "S S"]:
        """The flat index (row * columns + column) of each pixel of a tile that is not augmented."""
        top, left = (int(v) - self.halo for v in self.corners[i])
        side = torch.arange(self.tile + 2 * self.halo)
        return (top + side)[:, None] * self.data.index.shape[1] + (left + side)[None, :]

    def one_by_one(self) -> Iterator[tuple[Batch, Int64[np.ndarray, "n"]]]:
        """Every tile as a batch of one, with the flat indices of its target pixels (in row-major order)."""
        for i in range(len(self)):
            batch = self.batch([i])
            yield batch, self.place(i)[batch["target"][0] >= 0].numpy()


def band_sample(count: int) -> Bool[Tensor, "b"]:
    """True for the bands to show: how many is drawn from 1 to ``count``, then which.

    The channel sampling of "Channel Vision Transformers" (Bao et al. 2024), by torch's random state.
    """
    kept = int(torch.randint(1, count + 1, ()))
    return torch.rand(count).argsort().argsort() < kept


def _turned(x: Tensor, turns: int, flip: bool) -> Tensor:
    x = torch.rot90(x, turns, (-2, -1))
    return (x.flip(-1) if flip else x).contiguous()
