"""A function of windows applied to a whole scene: read with a halo, corrupted blocks found, bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from shared_backbones.errors import BadInput

from ..journal import Windows, stream_kept
from ..task import Fitted, Sink
from ..tiling import Slices, Tile
from .data import CACHE_MB, CorruptBlock, Scene

WINDOW_PIXELS = 128 * 128  # of one window: what a model holds for each of them is the larger part of the memory
WINDOW_VALUES = 4_000_000  # numbers of the scene in one window: 16 MB as float32, of which some copies are alive
UNIT_RATIO = 20.0  # brightness that differs by more than this from training is another unit, not another light


def stream_scene(
    scene: Scene,
    used: list[int],
    apply: Callable[[Tensor], Tensor],
    write: Callable[[Slices, Tensor], None],
    sink: Sink,
    *,
    gives: int,
    halo: int,
    tile: int,
    corrupt: list[str],
    lost: float = -1.0,
    name: str = "windows",
) -> None:
    """Windows (bands, rows, columns) of the used bands, NaN where not measured, through ``apply`` to ``write``.

    gives: numbers per pixel that ``apply`` returns. tile: side of a window in pixels, 0: chosen by how the file is
    stored. name: of this scene among those of one input. A window that cannot be decoded becomes ``lost`` everywhere,
    and a line of ``corrupt``. Where the sink keeps what a killed run had finished, that is written again, not made
    again.
    """
    count = len(used)

    def read(at: Slices) -> Tensor:
        values, seen = scene.read(at[0], at[1])
        whole = count == len(values) and used == list(range(count))
        cube = torch.from_numpy(values if whole else values[used])
        if seen.all():
            return cube
        return cube.masked_fill_(~torch.from_numpy(seen if whole else seen[used]), torch.nan)

    def on_error(tile: Tile, error: Exception) -> Tensor:
        if not isinstance(error, CorruptBlock):
            raise error
        rows, cols = tile.core
        corrupt.append(f"rows {rows.start} to {rows.stop}, columns {cols.start} to {cols.stop}: {error}")
        return torch.full((gives, *tile.shape), lost)

    size = window_size(scene, tile)
    where = {"shape": list(scene.shape), "tile": list(size), "halo": halo, "gives": gives}
    windows = Windows(read, apply, on_error, scene.shape, size, halo=halo)
    stream_kept(windows, write, sink, name, where, corrupt)


def window_size(scene: Scene, asked: int) -> tuple[int, int]:
    """Rows and columns of a window: within the budget of memory, along the way the file is stored."""
    if asked:
        return asked, asked
    side = int(max(256, min(WINDOW_PIXELS, WINDOW_VALUES // len(scene.bands))) ** 0.5)
    rows, cols = scene.shape
    block_rows, block_cols = scene.block
    if block_cols >= cols > side:
        # strips of whole rows: those of one row of windows should stay in GDAL's cache while it walks along them
        cached = CACHE_MB * 2**20 // (2 * 4 * len(scene.bands) * cols)
        high = max(16, min(side, cached))
        return min(rows, high), min(cols, side * side // high)
    return (
        min(rows, max(1, side // block_rows) * block_rows if block_rows <= side else side),
        min(cols, max(1, side // block_cols) * block_cols if block_cols <= side else side),
    )


def same_unit(fitted: Fitted, scene: Scene, used: list[int]) -> None:
    """Raise BadInput where values are of quite another size than in training: reflectance and its 10000-fold."""
    typical = float(np.median(np.abs(fitted["mean"])))
    brightness = []
    rows, cols = scene.shape
    for part in (0.5, 0.25, 0.75):
        top, left = int(part * max(0, rows - 16)), int(part * max(0, cols - 16))
        try:
            values, seen = scene.read(slice(top, min(rows, top + 16)), slice(left, min(cols, left + 16)))
        except CorruptBlock:
            continue
        values, seen = values[used], seen[used]
        if seen.any():
            brightness.append(float(np.median(np.abs(values[seen]))))
    if not brightness or typical == 0:
        return
    ratio = max(brightness) / typical
    if ratio < 1 / UNIT_RATIO or min(brightness) / typical > UNIT_RATIO:
        raise BadInput(
            f"{scene.where}: its values are typically {max(brightness):.4g}, in training they were {typical:.4g}: "
            "is it in another unit (reflectance in 0..1 against reflectance x 10000)? State its scale in the file, or "
            'in a side-car .json beside it as {"scale": ...}'
        )
