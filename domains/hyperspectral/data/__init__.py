"""Readers and writers of the field's formats: scenes by windows, labels, georeferenced outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared_backbones.errors import BadInput

from ..bands import Bands
from .arrays import described, open_mat, open_npy, sidecar
from .enmap import enmap_bands, enmap_metadata
from .folders import Member, members
from .labels import Labels, read_labels
from .luma import luma_of
from .mosaic import Mosaic, mosaic
from .multispectral import SENSORS, placed_by_sensor
from .quality import conditions
from .raster import CACHE_MB, RasterScene, crs_name, envi_data, gdal
from .scene import ArrayScene, CorruptBlock, Cube, Scene, Seen, Through
from .writer import Output, RasterWriter, copy_cube, cube_writer, finish_envi

HDF = (".h5", ".hdf5", ".he5", ".nc", ".nc4")


@dataclass(frozen=True)
class Described(Through):
    """A scene whose bands are described better than in its own file."""

    bands: Bands

    def read(self, rows: slice, cols: slice) -> tuple[Cube, Seen]:
        values, seen = self.inner.read(rows, cols)
        own = self.inner.bands
        if (own.scale, own.offset) == (self.bands.scale, self.bands.offset):
            return values, seen
        scale = np.array(self.bands.scale, dtype=np.float32)[:, None, None]
        return (values * scale + np.array(self.bands.offset, dtype=np.float32)[:, None, None]) * seen, seen


def open_scene(
    path: str | Path, *, variable: str | None = None, wavelengths: Sequence[float] | str | None = None
) -> Scene:
    """A scene from a GeoTIFF or other raster that GDAL reads, ENVI (header or data file), .mat, .npy, .zarr, HDF5,
    NetCDF; products of EnMAP, PRISMA and EMIT are known by what they hold.

    Bands are described by the file, else by a side-car ``<name>.json``, else by ``wavelengths``: nm, one per band, or
    "400-2500" for evenly spaced ones, or a multispectral sensor ("sentinel-2"). Raises BadInput for a missing, damaged
    or unsuitable file.
    """
    path = Path(path)
    if path.suffix.lower() == ".zarr" and path.is_dir():
        from .zarrs import open_zarr

        return _placed(open_zarr(path, variable), {}, wavelengths)
    if path.is_dir():
        raise BadInput(f"{path}: a folder, where the file of a scene is expected")
    if not path.is_file():
        near = [p.name for p in path.parent.glob(f"{path.stem}.*")][:3] if path.parent.is_dir() else []
        raise BadInput(f"{path}: no such file" + (f"; beside it: {', '.join(near)}" if near else ""))
    suffix = path.suffix.lower()
    scene: Scene
    if suffix == ".npy":
        scene = open_npy(path)
    elif suffix in HDF or (suffix == ".mat" and _is_hdf(path)):
        from .products import open_hdf

        scene = open_hdf(path, variable)
    elif suffix == ".mat":
        scene = open_mat(path, variable)
    else:
        scene = RasterScene(envi_data(path) if suffix == ".hdr" else path)
        metadata = enmap_metadata(path)
        if metadata is not None:
            scene = Described(scene, enmap_bands(metadata, len(scene.bands)))
    return _placed(scene, sidecar(path), wavelengths)


def beside(path: Path) -> list[Path]:
    """The files that say what a scene's numbers mean, where they exist: header, side-car, metadata; an ENVI header's
    data."""
    found = [path.with_suffix(".hdr"), path.with_name(f"{path.name}.hdr"), path.with_suffix(".json")]
    found.append(path.with_name(f"{path.name}.aux.xml"))
    if path.suffix.lower() == ".hdr" and path.is_file():
        found.append(envi_data(path))
    metadata = enmap_metadata(path) if path.parent.is_dir() else None
    found += [] if metadata is None else [metadata]
    return sorted({p for p in found if p.is_file() and p != path})


def _is_hdf(path: Path) -> bool:
    """Whether a .mat file is of version 7.3, which is HDF5 behind a heading."""
    with path.open("rb") as f:
        return f.read(10) == b"MATLAB 7.3"


def _placed(scene: Scene, extra: Mapping[str, Any], wavelengths: Sequence[float] | str | None) -> Scene:
    """The scene with its bands as a side-car or the user completes them."""
    bands = described(scene.where, scene.bands, extra)
    if bands.wavelength_nm is None and wavelengths is not None:
        if isinstance(wavelengths, str) and wavelengths.lower() in SENSORS:
            bands = placed_by_sensor(scene.where, bands, wavelengths)
        else:
            bands = bands.placed(spread(wavelengths, len(bands)))
    return scene if bands == scene.bands else Described(scene, bands)


def spread(wavelengths: Sequence[float] | str, count: int) -> list[float]:
    """Wavelengths (nm) for ``count`` bands, as a user states them: one each, or "first-last" evenly spaced."""
    if isinstance(wavelengths, str):
        first, _, last = wavelengths.partition("-")
        try:
            return [float(v) for v in np.linspace(float(first), float(last), count)]
        except ValueError as e:
            raise BadInput(
                f"wavelengths: expected 'FIRST-LAST' in nm such as '400-2500', or a sensor "
                f"({', '.join(SENSORS)}), got {wavelengths!r}"
            ) from e
    if len(wavelengths) != count:
        raise BadInput(f"wavelengths: {len(wavelengths)} values for {count} bands")
    return [float(w) for w in wavelengths]


__all__ = [
    "CACHE_MB",
    "ArrayScene",
    "CorruptBlock",
    "Described",
    "Labels",
    "Member",
    "Mosaic",
    "Output",
    "RasterScene",
    "RasterWriter",
    "Scene",
    "beside",
    "conditions",
    "copy_cube",
    "crs_name",
    "cube_writer",
    "finish_envi",
    "gdal",
    "luma_of",
    "members",
    "mosaic",
    "open_scene",
    "read_labels",
    "spread",
]
