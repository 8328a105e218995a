"""Scenes in Zarr stores: an array of three axes whose attributes say what a side-car file would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared_backbones.errors import BadInput, unknown

from ..bands import plain_bands
from .arrays import _AXES, _SIDECAR_KEYS, described
from .layered import Layer, LayeredScene, wkt

_ORDERS = {"rows,cols,bands": (2, 0, 1), "bands,rows,cols": (0, 1, 2)}


def open_zarr(path: Path, variable: str | None = None) -> LayeredScene:
    """A scene in a folder that ends in .zarr: one array, or a group of which ``variable`` names one.

    Attributes are those of a side-car: wavelength, wavelength_units, fwhm, bbl, names, scale, offset, unit, nodata,
    crs, transform, axes ("rows,cols,bands" where it is not stated). Raises BadInput.
    """
    import zarr

    try:
        store: Any = zarr.open(str(path), mode="r")
    except Exception as e:  # zarr raises many kinds for what is not a store
        raise BadInput(f"{path}: not a Zarr store that can be read: {str(e).splitlines()[0]}") from e
    array = store
    if isinstance(store, zarr.Group):
        cubes = {name: item for name, item in store.arrays() if item.ndim == 3}
        if variable is not None and variable not in cubes:
            raise BadInput(f"{path}: {unknown('variable', variable, list(cubes))}")
        if variable is None and len(cubes) != 1:
            raise BadInput(f"{path}: holds {sorted(cubes) or 'no'} cubes; name one with --set variable=NAME")
        array = cubes[variable or next(iter(cubes))]
    if array.ndim != 3 or array.dtype.kind not in "iuf":
        raise BadInput(f"{path}: a scene is a numeric array of 3 axes, got {array.dtype} {array.shape}")
    extra = {k: v for k, v in dict(array.attrs).items() if k in _SIDECAR_KEYS}
    order = extra.get("axes", "rows,cols,bands")
    if order not in _AXES:
        raise BadInput(f"{path}: {unknown('axes', str(order), _AXES)}")
    layer = Layer(array, _ORDERS[order])
    bands = described(str(path), plain_bands(layer.count), extra)
    where, nodata = str(path), extra.get("nodata")
    crs = None if extra.get("crs") is None else wkt(where, extra["crs"])
    transform = None if extra.get("transform") is None else tuple(float(v) for v in extra["transform"])
    if transform is not None and len(transform) != 6:
        raise BadInput(f"{where}: a transform has 6 numbers (a, b, c, d, e, f), got {len(transform)}")
    return LayeredScene(where, (layer,), bands, crs, transform, None if nodata is None else float(nodata))
