"""Georeferenced outputs, written block by block. Callers give a path to write aside and move it into place."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import rasterio
from jaxtyping import Shaped
from rasterio.enums import Resampling
from rasterio.errors import RasterioError, RasterioIOError
from rasterio.shutil import copy as copy_file
from rasterio.transform import Affine
from rasterio.windows import Window

from shared_backbones.errors import BadInput

from ..bands import Bands
from .raster import gdal
from .scene import Lattice, Scene

Colour = tuple[int, int, int, int]
Output = Literal["geotiff", "cog"]
FEW = 16  # bands; a cube of more has no overviews: whoever looks at it from afar looks at three of them
SMALLEST = 256  # px, of the larger side of the last overview; a raster of twice that or less needs none


class RasterWriter:
    """A raster file that is filled by windows and checked when it is closed; a context manager.

    Raises BadInput where the disk cannot hold it. ``like`` gives lattice, CRS and transform. ``overviews``: how the
    pixels of a GeoTIFF are put together in its smaller copies, "mode" for classes. ``output`` "cog": cloud-optimised.
    """

    def __init__(
        self,
        path: Path,
        like: Lattice,
        count: int,
        dtype: str,
        *,
        nodata: float | None,
        names: Sequence[str] = (),
        colours: Mapping[int, Colour] | None = None,
        band_tags: Sequence[Mapping[str, str]] = (),
        tags: Mapping[str, str] | None = None,
        unit: str = "",
        scale: Sequence[float] | None = None,
        offset: Sequence[float] | None = None,
        driver: str = "GTiff",
        overviews: Literal["mode", "average"] = "average",
        output: Output = "geotiff",
        **creation: Any,
    ) -> None:
        self.path, self.like, self.overviews = path, like, overviews
        self.output = driver.lower() if driver != "GTiff" else output
        rows, cols = like.shape
        size = rows * cols * count * np.dtype(dtype).itemsize
        room = shutil.disk_usage(path.parent).free
        if room < (size if not creation.get("compress") else 0) + 2**20:
            raise BadInput(f"{path}: the disk has {room >> 20} MB left, the output needs up to {(size >> 20) + 1} MB")
        profile: dict[str, Any] = {"height": rows, "width": cols, "count": count, "dtype": dtype, "nodata": nodata}
        profile |= {"driver": driver, **creation}
        if like.crs:
            profile["crs"] = like.crs
        if like.transform:
            profile["transform"] = Affine(*like.transform)
        with gdal(), DiskErrors(path):
            self._file = rasterio.open(path, "w", **profile)
            for i, name in enumerate(names):
                self._file.set_band_description(i + 1, name)
            for i, band in enumerate(band_tags):
                self._file.update_tags(i + 1, **band)
            if tags:
                self._file.update_tags(**tags)
            if unit:
                self._file.units = (unit,) * count
            if scale is not None:
                self._file.scales = tuple(scale)
            if offset is not None:
                self._file.offsets = tuple(offset)
            if colours:
                self._file.write_colormap(1, dict(colours))

    def write(self, rows: slice, cols: slice, values: Shaped[np.ndarray, "bands rows cols"]) -> None:
        """Fill a window."""
        with gdal(), DiskErrors(self.path):
            self._file.write(values, window=Window.from_slices((rows.start, rows.stop), (cols.start, cols.stop)))

    def __enter__(self) -> RasterWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with gdal():
            if kind is not None:
                with contextlib.suppress(RasterioError, OSError):  # the first error is the one to report
                    self._file.close()
                return
            with DiskErrors(self.path):
                self._file.close()
                if self.output == "geotiff" and self._file.count <= FEW:
                    _add_overviews(self.path, Resampling[self.overviews])
                elif self.output == "cog":
                    _optimise(self.path, self.overviews)
                _check_whole(self.path)


def _add_overviews(path: Path, how: Resampling) -> None:
    """Copies of half the size and less, inside the file, for whoever looks at it from afar."""
    with rasterio.open(path) as file:
        side, squeezed = max(file.shape), file.compression is not None
    factors = [2**k for k in range(1, 31) if side / 2 ** (k - 1) > 2 * SMALLEST]
    if factors:
        with rasterio.Env(COMPRESS_OVERVIEW="DEFLATE" if squeezed else "NONE"), rasterio.open(path, "r+") as file:
            file.build_overviews(factors, how)


def _optimise(path: Path, how: str) -> None:
    """The file as a cloud-optimised GeoTIFF: tiles and overviews in the order in which a reader far away asks."""
    aside = path.with_name(f"{path.name}.cog")
    try:
        copy_file(path, aside, driver="COG", compress="DEFLATE", overview_resampling=how.upper(), bigtiff="IF_SAFER")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _check_whole(path: Path) -> None:
    """GDAL may only log what goes wrong in a late write: read the last window back."""
    with rasterio.open(path) as file:
        for i in range(1, file.count + 1):
            file.read(i, window=Window(file.width - 1, file.height - 1, 1, 1))


class DiskErrors:
    """Turns what GDAL and the system say about a failed write into one clear error."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, RasterioError | RasterioIOError) or (
            isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)
        ):
            room = shutil.disk_usage(self.path.parent).free
            reason = str(error.__cause__ or error).splitlines()[0]
            raise BadInput(
                f"{self.path}: cannot be written ({reason}); {room >> 20} MB are left on that disk. "
                "Free some room or choose another --out"
            ) from error


def band_tags(bands: Bands) -> list[dict[str, str]]:
    """What a GeoTIFF's bands are tagged with, as the reader here (and GDAL's ENVI driver) names it."""
    tags: list[dict[str, str]] = [{"bbl": str(int(g))} for g in bands.good]
    for i, tag in enumerate(tags):
        if bands.wavelength_nm is not None:
            tag |= {"wavelength": repr(bands.wavelength_nm[i]), "wavelength_units": "Nanometers"}
        if bands.fwhm_nm is not None:
            tag["fwhm"] = repr(bands.fwhm_nm[i])
    return tags


def cube_writer(
    path: Path, like: Lattice, dtype: str, *, bands: Bands | None = None, nodata: float | None = None, **creation: Any
) -> RasterWriter:
    """A writer for a cube of the scene's bands (or of ``bands``): ENVI where the path ends in .img, else GeoTIFF."""
    bands = like.bands if bands is None else bands
    envi = path.suffix.lower() == ".img"
    writer = RasterWriter(
        path,
        like,
        len(bands),
        dtype,
        nodata=like.nodata if nodata is None else nodata,
        names=bands.names,
        band_tags=[] if envi else band_tags(bands),
        unit="" if envi else bands.unit,
        scale=None if envi else bands.scale,
        offset=None if envi else bands.offset,
        driver="ENVI" if envi else "GTiff",
        **creation,
    )
    return writer


def envi_fields(bands: Bands) -> str:
    """Lines that complete an ENVI header. Raises BadInput for scales that such a header cannot hold."""
    if any(o != 0 for o in bands.offset) or len(set(bands.scale)) != 1:
        raise BadInput("an ENVI header holds one scale factor and no offset; write a GeoTIFF instead")
    lines = [f"bbl = {{{', '.join(str(int(g)) for g in bands.good)}}}"]
    if bands.scale[0] != 1:
        lines.append(f"reflectance scale factor = {1 / bands.scale[0]!r}")
    if bands.wavelength_nm is not None:
        lines += ["wavelength units = Nanometers", f"wavelength = {{{', '.join(map(repr, bands.wavelength_nm))}}}"]
    if bands.fwhm_nm is not None:
        lines.append(f"fwhm = {{{', '.join(map(repr, bands.fwhm_nm))}}}")
    return "\n".join(lines) + "\n"


def copy_cube(scene: Scene, path: Path, dtype: str = "float32", *, rows_at_once: int = 64, **creation: Any) -> None:
    """A scene as a GeoTIFF (.tif) or ENVI (.img with .hdr), its stored numbers, bands and georeference unchanged.

    Raises BadInput where the format cannot hold the scene's transform (ENVI: rotated with oblong pixels).
    """
    rows, cols = scene.shape
    scale = np.array(scene.bands.scale, dtype=np.float64)[:, None, None]
    offset = np.array(scene.bands.offset, dtype=np.float64)[:, None, None]
    whole = np.dtype(dtype).kind in "iu"
    fields = envi_fields(scene.bands) if path.suffix.lower() == ".img" else ""
    with cube_writer(path, scene, dtype, **creation) as writer:
        for start in range(0, rows, rows_at_once):
            span, width = slice(start, min(rows, start + rows_at_once)), slice(0, cols)
            values, seen = scene.read(span, width)
            stored = (values.astype(np.float64) - offset) / scale
            if scene.nodata is not None:
                stored[~seen] = scene.nodata
            writer.write(span, width, (np.round(stored) if whole else stored).astype(dtype))
    if fields:
        finish_envi(path, scene, scene.bands)


def finish_envi(path: Path, like: Lattice, bands: Bands) -> None:
    """Write what GDAL leaves out into the header beside an ENVI file, and check that it holds the transform.

    Raises BadInput where it does not (rotated with oblong pixels).
    """
    with path.with_suffix(".hdr").open("a") as header:
        header.write(envi_fields(bands))
    with gdal(), rasterio.open(path) as file:
        kept = tuple(file.transform)[:6]
    if like.transform is not None and not np.allclose(kept, like.transform, rtol=1e-6):
        raise BadInput(f"{path}: an ENVI header cannot hold the transform {like.transform}; write a GeoTIFF instead")
