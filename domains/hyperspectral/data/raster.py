"""Scenes in GeoTIFF (and COG) and ENVI files, through GDAL; the one place that sets GDAL's environment."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from jaxtyping import Shaped
from rasterio.crs import CRS
from rasterio.enums import Interleaving
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.windows import Window

from shared_backbones.errors import BadInput

from ..bands import Bands, parse_numbers, to_nanometres
from .scene import CorruptBlock, Cube, Seen, physical

CACHE_MB = 64  # GDAL's default is 5 % of the machine's memory, which is what makes "streaming" readers grow
ENVI_DATA = ("", ".img", ".dat", ".bsq", ".bil", ".bip", ".raw", ".bin")


@contextmanager
def gdal() -> Iterator[None]:
    """GDAL as every reader and writer here wants it: a bounded cache, no warning where a georeference is missing."""
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


class RasterScene:
    """A raster file, opened once and read by windows. Not to be shared between threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with gdal():
            try:
                self._file = rasterio.open(path)
            except RasterioIOError as e:
                raise BadInput(f"{path}: not a raster that can be read: {_first_line(e)}") from e
            if self._file.count == 0 or self._file.width == 0:
                self._file.close()
                raise BadInput(f"{path}: the raster holds no bands")
            self._bands = _bands(str(path), self._file)

    @property
    def where(self) -> str:
        return str(self._path)

    @property
    def shape(self) -> tuple[int, int]:
        return self._file.height, self._file.width

    @property
    def bands(self) -> Bands:
        return self._bands

    @property
    def nodata(self) -> float | None:
        value = self._file.nodata
        return None if value is None else float(value)

    @cached_property
    def crs(self) -> str | None:
        return self._file.crs.to_wkt() if self._file.crs else None

    @cached_property
    def transform(self) -> tuple[float, ...] | None:
        return None if self._file.transform.is_identity else tuple(self._file.transform)[:6]

    @property
    def block(self) -> tuple[int, int]:
        rows, cols = self._file.block_shapes[0]
        return int(rows), int(cols)

    @property
    def pixel_interleaved(self) -> bool:
        """Whether all bands of a pixel are stored together."""
        return self._file.interleaving == Interleaving.pixel

    def read(self, rows: slice, cols: slice) -> tuple[Cube, Seen]:
        window = Window.from_slices((rows.start, rows.stop), (cols.start, cols.stop))
        with gdal():
            try:
                raw = self._file.read(window=window)
            except (RasterioError, RasterioIOError) as e:
                raise CorruptBlock(
                    f"{self._path}: rows {rows.start} to {rows.stop}, columns {cols.start} to {cols.stop} cannot be "
                    f"read: {_first_line(e)}. The file is damaged or incomplete there; copy it again"
                ) from e
        return physical(raw, self.bands, self.nodata)

    def raw(self) -> Shaped[np.ndarray, "bands rows cols"]:
        """All stored numbers as they are: for label rasters, which fit into memory."""
        with gdal():
            try:
                return np.asarray(self._file.read())
            except (RasterioError, RasterioIOError) as e:
                raise BadInput(f"{self._path}: cannot be read to its end: {_first_line(e)}") from e

    def close(self) -> None:
        self._file.close()


def crs_name(crs: str | None) -> str:
    """A short name of a reference system: its code where it has one, else the beginning of its definition."""
    if crs is None:
        return "none"
    with gdal():
        return str(CRS.from_user_input(crs).to_string())[:80]


def _first_line(error: Exception) -> str:
    return str(error.__cause__ or error).splitlines()[0]


def _bands(where: str, file: Any) -> Bands:
    header = {k.lower(): v for k, v in file.tags(ns="ENVI").items()}
    tags = [{k.lower(): v for k, v in file.tags(i + 1).items()} for i in range(file.count)]
    imagery = [file.tags(i + 1, ns="IMAGERY") for i in range(file.count)]
    factor = float(header.get("reflectance_scale_factor", 1.0) or 1.0)
    scale = tuple(float(s) / factor for s in file.scales)
    units = {u for u in file.units if u} | {v for t in tags if (v := t.get("unit"))}
    if len(units) > 1:
        raise BadInput(f"{where}: the bands are in different units ({', '.join(sorted(units))}); a scene has one")
    unit = units.pop() if units else "reflectance" if factor != 1.0 else ""
    good = _field(where, header, tags, "bbl")
    return Bands(
        wavelength_nm=_lengths(where, header, tags, imagery, "wavelength", "CENTRAL_WAVELENGTH_UM"),
        fwhm_nm=_lengths(where, header, tags, imagery, "fwhm", "FWHM_UM"),
        good=tuple(bool(g) for g in good) if good else (True,) * file.count,
        unit=unit,
        scale=scale,
        offset=tuple(float(o) for o in file.offsets),
        names=tuple(d or f"band {i + 1}" for i, d in enumerate(file.descriptions)),
    )


def _field(where: str, header: dict[str, str], tags: list[dict[str, str]], name: str) -> list[float] | None:
    """A number per band: from the ENVI header, else from the bands' own tags; None where it is not there."""
    if name in header:
        values = parse_numbers(f"{where}: header field {name!r}", header[name])
        if len(values) != len(tags):
            raise BadInput(f"{where}: {len(tags)} bands but {len(values)} values in header field {name!r}")
        return values
    found = [t[name] for t in tags if name in t]
    if not found:
        return None
    if len(found) != len(tags):
        raise BadInput(
            f"{where}: only {len(found)} of {len(tags)} bands have a tag {name!r}; give it to all or to none"
        )
    return [parse_numbers(f"{where}: tag {name!r}", v)[0] for v in found]


def _lengths(
    where: str,
    header: dict[str, str],
    tags: list[dict[str, str]],
    imagery: list[dict[str, str]],
    name: str,
    imagery_name: str,
) -> tuple[float, ...] | None:
    values = _field(where, header, tags, name)
    if values is not None:
        unit = header.get("wavelength_units") or tags[0].get("wavelength_units") or tags[0].get("wavelength_unit")
        if name == "wavelength":
            return to_nanometres(f"{where}: {name}", values, unit)
        # a width has no size of its own to be judged by: it is in the unit of the wavelengths
        centres = _lengths(where, header, tags, imagery, "wavelength", "CENTRAL_WAVELENGTH_UM")
        raw = _field(where, header, tags, "wavelength")
        factor = centres[0] / raw[0] if centres and raw else 1.0
        return tuple(round(v * factor, 6) for v in values)
    if imagery and all(imagery_name in t for t in imagery):
        return tuple(round(1000.0 * float(t[imagery_name]), 6) for t in imagery)
    return None


def envi_data(header: Path) -> Path:
    """The data file that belongs to an ENVI header (``scene.hdr`` -> ``scene``, ``scene.img`` ...)."""
    for ending in ENVI_DATA:
        candidate = header.with_suffix(ending)
        if candidate.is_file() and candidate != header:
            return candidate
    raise BadInput(
        f"{header}: no data file beside this header (looked for {header.stem} with {', '.join(ENVI_DATA[1:])})"
    )
