"""Products in HDF5 and NetCDF: PRISMA L2D, EMIT L2A with its geolocation table, MATLAB v7.3, and plain cubes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from shared_backbones.errors import BadInput, unknown

from ..bands import Bands, plain_bands, to_nanometres
from .layered import Layer, LayeredScene, LookedUpScene, wkt
from .scene import Scene

PRISMA = "HDFEOS/SWATHS/PRS_L2D_HCO/Data Fields"
PRISMA_STEPS = 65535.0  # stored numbers run over the range that the file's attributes name
WAVELENGTH_NAMES = ("wavelength", "wavelengths", "sensor_band_parameters/wavelengths")
FWHM_NAMES = ("fwhm", "sensor_band_parameters/fwhm")
GOOD_NAMES = ("good_wavelengths", "sensor_band_parameters/good_wavelengths", "bbl")


def open_hdf(path: Path, variable: str | None = None) -> Scene:
    """A scene in HDF5 or NetCDF-4; which product it is, is told by what it holds. Raises BadInput."""
    try:
        file = h5py.File(path, "r")
    except OSError as e:
        raise BadInput(f"{path}: not an HDF5 or NetCDF-4 file that can be read: {str(e).splitlines()[0]}") from e
    if variable is None and PRISMA in file:
        return _prisma(path, file)
    if variable is None and "reflectance" in file and "sensor_band_parameters/wavelengths" in file:
        return _emit(path, file)
    return _plain(path, file, variable)


def _numbers(value: Any) -> list[float]:
    return [float(v) for v in np.asarray(value).ravel()]


def _prisma(path: Path, file: h5py.File) -> LayeredScene:
    """VNIR and SWIR cubes (rows, bands, columns) joined by wavelength; bands that overlap stay as they are."""
    where, attributes = str(path), file.attrs
    layers, nm, fwhm, scale, offset, names = [], [], [], [], [], []
    for part, word in (("VNIR", "Vnir"), ("SWIR", "Swir")):
        name = f"{PRISMA}/{part}_Cube"
        try:
            array = file[name]
            centres, widths = (np.array(_numbers(attributes[f"List_{w}_{word}"])) for w in ("Cw", "Fwhm"))
            low, high = (float(attributes[f"L2Scale{word}{w}"]) for w in ("Min", "Max"))
        except KeyError as e:
            raise BadInput(f"{where}: a PRISMA L2D product without {e}") from e
        if array.ndim != 3 or len(centres) != array.shape[1]:
            raise BadInput(f"{where}: {name} has shape {array.shape} and {len(centres)} wavelengths")
        order = [int(i) for i in np.argsort(centres, kind="stable") if centres[i] > 0]  # 0: a band that is not used
        layers.append(Layer(array, (1, 0, 2), tuple(order)))
        nm += centres[order].tolist()
        fwhm += widths[order].tolist()
        scale += [(high - low) / PRISMA_STEPS] * len(order)
        offset += [low] * len(order)
        names += [f"{part} {i + 1}" for i in order]
    bands = Bands(
        to_nanometres(where, nm, "nm"), tuple(fwhm), (True,) * len(nm), "reflectance", tuple(scale), tuple(offset),
        tuple(names),
    )  # fmt: skip
    crs, transform = None, None
    if "Epsg_Code" in attributes:
        crs = wkt(where, int(attributes["Epsg_Code"]))
        rows, cols = layers[0].shape
        try:
            west, north, east, south = (
                float(attributes[f"Product_{c}corner_{d}"]) for c in ("UL", "LR") for d in ("easting", "northing")
            )
        except KeyError as e:
            raise BadInput(f"{where}: a PRISMA product with a reference system, but without {e}") from e
        # corners are centres of the outermost pixels
        across, down = (east - west) / max(1, cols - 1), (north - south) / max(1, rows - 1)
        transform = (across, 0.0, west - across / 2, 0.0, -down, north + down / 2)
    return LayeredScene(where, tuple(layers), bands, crs, transform, 0.0)


def _emit(path: Path, file: h5py.File) -> Scene:
    """Reflectance (downtrack, crosstrack, bands); on the lattice of the geolocation table where there is one."""
    where, array = str(path), file["reflectance"]
    bands = _described(where, file, array.shape[2], "reflectance")
    fill = array.attrs.get("_FillValue")
    nodata = -9999.0 if fill is None else float(np.asarray(fill).ravel()[0])
    swath = LayeredScene(where, (Layer(array, (2, 0, 1)),), bands, None, None, nodata)
    if "location/glt_x" not in file:
        return swath
    table = [np.asarray(file[f"location/{n}"][()], dtype=np.int64) - 1 for n in ("glt_y", "glt_x")]  # counted from 1
    for at, size, name in zip(table, swath.shape, ("glt_y", "glt_x"), strict=True):
        if at.max(initial=-1) >= size:
            raise BadInput(f"{where}: {name} points to {int(at.max()) + 1}, the swath has {size}")
    there = (table[0] >= 0) & (table[1] >= 0)
    row_of, col_of = (np.where(there, t, -1) for t in table)
    transform, crs = None, None
    if "geotransform" in file.attrs:
        x, a, b, y, d, e = _numbers(file.attrs["geotransform"])
        transform = (a, b, x, d, e, y)
    if "spatial_ref" in file.attrs:
        crs = wkt(where, _text(file.attrs["spatial_ref"]))
    return LookedUpScene(swath, row_of, col_of, crs, transform)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _described(where: str, file: h5py.File, count: int, unit: str) -> Bands:
    """Bands from the arrays of the usual names, where they have as many values as there are bands."""

    def find(names: Sequence[str]) -> Any:
        return next((file[n] for n in names if n in file and file[n].shape == (count,)), None)

    centres, widths, good = find(WAVELENGTH_NAMES), find(FWHM_NAMES), find(GOOD_NAMES)
    plain = plain_bands(count)
    nm = fwhm = None
    if centres is not None:
        stated = centres.attrs.get("units")
        values = _numbers(centres[()])
        nm = to_nanometres(f"{where}: {centres.name}", values, None if stated is None else _text(stated))
        if widths is not None:
            fwhm = tuple(round(v * nm[0] / values[0], 6) for v in _numbers(widths[()]))
    flags = plain.good if good is None else tuple(bool(v) for v in _numbers(good[()]))
    return Bands(nm, fwhm, flags, unit, plain.scale, plain.offset, plain.names)


def _plain(path: Path, file: h5py.File, variable: str | None) -> LayeredScene:
    """The only cube of a file, or the one named. Its bands are the axis that wavelengths fit, else the shortest."""
    where, cubes = str(path), dict[str, Any]()

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim == 3 and item.dtype.kind in "iuf" and min(item.shape) > 1:
            cubes[name] = item

    file.visititems(note)
    if variable is not None and variable not in cubes:
        raise BadInput(f"{where}: {unknown('variable', variable, list(cubes))}")
    fits = list(cubes) if variable is None else [variable]
    if len(fits) != 1:
        listed = ", ".join(f"{n} {'x'.join(map(str, cubes[n].shape))}" for n in fits) or "none"
        problem = "several variables could be the cube" if fits else "no numeric variable has 3 axes"
        raise BadInput(f"{where}: {problem} ({listed}); name one with --set variable=NAME")
    array = cubes[fits[0]]
    if path.suffix.lower() == ".mat":
        axes = (0, 2, 1)  # MATLAB writes (rows, columns, bands) backwards
    else:
        lengths = {file[n].shape[0] for n in WAVELENGTH_NAMES if n in file and file[n].ndim == 1}
        fitting = [i for i in (2, 0, 1) if array.shape[i] in lengths] or [int(np.argmin(array.shape))]
        others = [i for i in range(3) if i != fitting[0]]
        axes = (fitting[0], others[0], others[1])
    bands = _described(where, file, int(array.shape[axes[0]]), _text(array.attrs.get("units", "")))
    fill = array.attrs.get("_FillValue")
    nodata = None if fill is None else float(np.asarray(fill).ravel()[0])
    scale, offset = (float(np.asarray(array.attrs.get(n, d)).ravel()[0]) for n, d in _FACTORS)
    count = len(bands)
    bands = Bands(bands.wavelength_nm, bands.fwhm_nm, bands.good, bands.unit, (scale,) * count, (offset,) * count,
                  bands.names)  # fmt: skip
    return LayeredScene(where, (Layer(array, axes),), bands, None, None, nodata)


_FACTORS = (("scale_factor", 1.0), ("add_offset", 0.0))
