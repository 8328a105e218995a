"""Scenes of one sensor one below the other on one lattice, with rows of nothing between them: a data set of tiles."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int32

from shared_backbones.errors import BadInput

from ..bands import Bands, difference
from .scene import Cube, Scene, Seen

OPEN_AT_ONCE = 64  # files


@dataclass(frozen=True)
class Tile:
    """A scene that is opened when it is read."""

    where: str
    shape: tuple[int, int]
    open: Callable[[], Scene]
    crs: str | None = None
    transform: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Mosaic:
    """Tiles below one another, ``gap`` rows apart, as wide as the widest; what lies between was not measured.

    ``starts``: the first row of every tile. A window that is not larger than the gap on either side of a pixel never
    joins two tiles.
    """

    where: str
    tiles: tuple[Tile, ...]
    bands: Bands
    gap: int
    crs: str | None = None
    transform: tuple[float, ...] | None = None
    nodata: float | None = None
    _open: OrderedDict[int, Scene] = field(default_factory=OrderedDict, compare=False, repr=False)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        heights = [t.shape[0] + self.gap for t in self.tiles]
        return tuple(int(v) for v in np.concatenate([[0], np.cumsum(heights)[:-1]]))

    @property
    def shape(self) -> tuple[int, int]:
        return sum(t.shape[0] + self.gap for t in self.tiles) - self.gap, max(t.shape[1] for t in self.tiles)

    @property
    def block(self) -> tuple[int, int]:
        return 1, 1

    def place(self, i: int) -> tuple[slice, slice]:
        """Rows and columns of a tile."""
        top, (rows, cols) = self.starts[i], self.tiles[i].shape
        return slice(top, top + rows), slice(0, cols)

    def _tile(self, i: int) -> Scene:
        if i not in self._open:
            self._open[i] = self.tiles[i].open()
            if len(self._open) > OPEN_AT_ONCE:
                self._open.popitem(last=False)
        return self._open[i]

    def read(self, rows: slice, cols: slice) -> tuple[Cube, Seen]:
        size = (len(self.bands), rows.stop - rows.start, cols.stop - cols.start)
        values, seen, starts = np.zeros(size, dtype=np.float32), np.zeros(size, dtype=bool), self.starts
        for i in range(max(0, bisect_right(starts, rows.start) - 1), len(self.tiles)):
            top, (high, wide) = starts[i], self.tiles[i].shape
            if top >= rows.stop:
                break
            own = slice(max(rows.start, top), min(rows.stop, top + high))
            across = slice(cols.start, min(cols.stop, wide))
            if own.start >= own.stop or across.start >= across.stop:
                continue
            inner = slice(own.start - top, own.stop - top)
            x, there = self._tile(i).read(inner, across)
            at = (slice(None), slice(own.start - rows.start, own.stop - rows.start), slice(0, x.shape[2]))
            values[at], seen[at] = x, there
        return values, seen

    def laid(self, pieces: Sequence[Any], fill: int) -> Int32[np.ndarray, "rows cols"]:
        """Arrays of the tiles' shapes, one each, on the whole lattice; ``fill`` between them."""
        out = np.full(self.shape, fill, dtype=np.int32)
        for i, piece in enumerate(pieces):
            out[self.place(i)] = piece
        return out


def mosaic(where: str, openers: Sequence[Callable[[], Scene]], gap: int) -> Mosaic:
    """Each tile is opened once to see that its bands are those of the first. Raises BadInput where they are not."""
    tiles, bands = [], None
    for opener in openers:
        scene = opener()
        if bands is None:
            bands = scene.bands
        other = difference(bands, scene.bands)
        if other is not None:
            raise BadInput(f"{scene.where}: {other.replace('the model was trained on', 'the first tile has')}; "
                           f"the tiles of {where} must be of one sensor")  # fmt: skip
        tiles.append(Tile(scene.where, scene.shape, opener, scene.crs, scene.transform))
    assert bands is not None
    return Mosaic(where, tuple(tiles), bands, gap)
