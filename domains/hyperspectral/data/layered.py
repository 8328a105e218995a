"""Scenes in chunked arrays of other containers (HDF5, NetCDF, Zarr), read by windows, perhaps from several arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped
from rasterio.crs import CRS
from rasterio.errors import CRSError

from shared_backbones.errors import BadInput

from ..bands import Bands
from .raster import gdal
from .scene import CorruptBlock, Cube, Seen, physical


@dataclass(frozen=True)
class Layer:
    """An array of three axes that is read by slices. ``axes``: which of them is bands, rows, columns."""

    array: Any
    axes: tuple[int, int, int]
    order: tuple[int, ...] | None = None  # of its bands in the scene, by increasing wavelength; None: as stored

    @property
    def count(self) -> int:
        return int(self.array.shape[self.axes[0]])

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.array.shape[self.axes[1]]), int(self.array.shape[self.axes[2]])

    def read(self, rows: slice, cols: slice) -> Shaped[np.ndarray, "bands rows cols"]:
        index: list[slice] = [slice(None)] * 3
        index[self.axes[1]], index[self.axes[2]] = rows, cols
        found = np.asarray(self.array[tuple(index)]).transpose(self.axes)
        return found if self.order is None else found[list(self.order)]


@dataclass(frozen=True)
class LayeredScene:
    """A scene whose bands lie in one or more layers of the same lattice, one after the other."""

    where: str
    layers: tuple[Layer, ...]
    bands: Bands
    crs: str | None = None
    transform: tuple[float, ...] | None = None
    nodata: float | None = None

    def __post_init__(self) -> None:
        shapes = {layer.shape for layer in self.layers}
        if len(shapes) != 1:
            raise BadInput(f"{self.where}: its cubes have different lattices: {', '.join(map(str, sorted(shapes)))}")

    @property
    def shape(self) -> tuple[int, int]:
        return self.layers[0].shape

    @property
    def block(self) -> tuple[int, int]:
        chunks = getattr(self.layers[0].array, "chunks", None)
        if not chunks:
            return 1, self.shape[1]
        return int(chunks[self.layers[0].axes[1]]), int(chunks[self.layers[0].axes[2]])

    def read(self, rows: slice, cols: slice) -> tuple[Cube, Seen]:
        try:
            raw = np.concatenate([layer.read(rows, cols) for layer in self.layers])
        except (OSError, ValueError, RuntimeError) as e:  # h5py and zarr raise these for chunks that cannot be decoded
            raise CorruptBlock(
                f"{self.where}: rows {rows.start} to {rows.stop}, columns {cols.start} to {cols.stop} cannot be read: "
                f"{str(e).splitlines()[0]}. The file is damaged or incomplete there; copy it again"
            ) from e
        return physical(raw, self.bands, self.nodata)


@dataclass(frozen=True)
class LookedUpScene:
    """A swath on the lattice of its geolocation table: every place names the swath pixel that it shows.

    row_of, col_of: (rows, columns) positions in the swath, -1 where the table has none.
    """

    swath: LayeredScene
    row_of: Int[np.ndarray, "rows cols"]
    col_of: Int[np.ndarray, "rows cols"]
    crs: str | None
    transform: tuple[float, ...] | None

    @property
    def where(self) -> str:
        return self.swath.where

    @property
    def bands(self) -> Bands:
        return self.swath.bands

    @property
    def nodata(self) -> float | None:
        return self.swath.nodata

    @property
    def shape(self) -> tuple[int, int]:
        return self.row_of.shape[0], self.row_of.shape[1]

    @property
    def block(self) -> tuple[int, int]:
        return 1, 1

    def read(self, rows: slice, cols: slice) -> tuple[Cube, Seen]:
        r, c = self.row_of[rows, cols], self.col_of[rows, cols]
        there = (r >= 0) & (c >= 0)
        values = np.zeros((len(self.bands), *r.shape), dtype=np.float32)
        seen = np.zeros(values.shape, dtype=bool)
        if there.any():
            top, left = int(r[there].min()), int(c[there].min())
            box = slice(top, int(r[there].max()) + 1), slice(left, int(c[there].max()) + 1)
            found, measured = self.swath.read(*box)
            values[:, there] = found[:, r[there] - top, c[there] - left]
            seen[:, there] = measured[:, r[there] - top, c[there] - left]
        return values, seen


def wkt(where: str, crs: str | int) -> str:
    """A reference system as WKT, from an EPSG code or any text that PROJ knows. Raises BadInput for others."""
    with gdal():
        try:
            found = CRS.from_epsg(crs) if isinstance(crs, int) else CRS.from_user_input(crs)
            return str(found.to_wkt())
        except CRSError as e:
            raise BadInput(f"{where}: unknown reference system {str(crs)[:60]!r}") from e


def readable(path: Path) -> None:
    """Raise BadInput where a file of a container is not there."""
    if not path.exists():
        raise BadInput(f"{path}: no such file")
