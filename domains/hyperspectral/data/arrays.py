"""Scenes in plain arrays: MATLAB .mat (up to v7) and NumPy .npy, with what a side-car JSON says about them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from jaxtyping import Shaped

from shared_backbones.errors import BadInput, unknown

from ..bands import Bands, plain_bands, to_nanometres
from .scene import ArrayScene

_PER_BAND_KEYS = {"wavelength", "fwhm", "bbl", "names", "scale", "offset"}
_SIDECAR_KEYS = _PER_BAND_KEYS | {"wavelength_units", "unit", "nodata", "crs", "transform", "axes"}
_AXES = {"rows,cols,bands": (2, 0, 1), "bands,rows,cols": (0, 1, 2)}


def sidecar(path: Path) -> dict[str, Any]:
    """What ``<name>.json`` beside a scene says about it; empty where there is none. Raises BadInput for other keys."""
    beside = path.with_suffix(".json")
    if not beside.is_file() or beside == path:
        return {}
    try:
        raw = json.loads(beside.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise BadInput(f"{beside}: not JSON: {e}") from e
    if not isinstance(raw, dict):
        raise BadInput(f"{beside}: expected an object with keys such as 'wavelength', got {type(raw).__name__}")
    for key in raw:
        if key not in _SIDECAR_KEYS:
            raise BadInput(f"{beside}: {unknown('key', key, _SIDECAR_KEYS)}")
    return raw


def described(where: str, bands: Bands, extra: Mapping[str, Any]) -> Bands:
    """Bands completed by a side-car: the file's own statements come first."""
    count = len(bands)
    for key in ("wavelength", "fwhm", "bbl", "names"):
        if key in extra and len(extra[key]) != count:
            raise BadInput(f"{where}: {count} bands but {len(extra[key])} values of {key!r} in its side-car file")
    wavelength, fwhm = bands.wavelength_nm, bands.fwhm_nm
    if wavelength is None and "wavelength" in extra:
        wavelength = to_nanometres(f"{where}: side-car wavelength", extra["wavelength"], extra.get("wavelength_units"))
        if "fwhm" in extra:
            factor = wavelength[0] / float(extra["wavelength"][0])
            fwhm = tuple(round(float(v) * factor, 6) for v in extra["fwhm"])
    return Bands(
        wavelength,
        fwhm,
        tuple(bool(g) for g in extra["bbl"]) if "bbl" in extra and all(bands.good) else bands.good,
        bands.unit or str(extra.get("unit", "")),
        _per_band(extra, "scale", bands.scale, 1.0),
        _per_band(extra, "offset", bands.offset, 0.0),
        tuple(str(n) for n in extra["names"]) if "names" in extra else bands.names,
    )


def _per_band(extra: Mapping[str, Any], key: str, own: tuple[float, ...], neutral: float) -> tuple[float, ...]:
    if key not in extra or any(v != neutral for v in own):
        return own
    value = extra[key]
    return tuple(float(v) for v in value) if isinstance(value, list) else (float(value),) * len(own)


def _scene(path: Path, array: Shaped[np.ndarray, "..."], extra: Mapping[str, Any]) -> ArrayScene:
    if array.ndim != 3 or array.dtype.kind not in "iuf":
        raise BadInput(
            f"{path}: a scene is a numeric array of 3 axes (rows, columns, bands), got {array.dtype} {array.shape}"
        )
    axes = extra.get("axes", "rows,cols,bands")
    if axes not in _AXES:
        raise BadInput(f"{path}: {unknown('axes', str(axes), _AXES)}")
    cube = array.transpose(_AXES[axes])
    transform = extra.get("transform")
    if transform is not None and len(transform) != 6:
        raise BadInput(f"{path}: side-car transform takes 6 numbers (a, b, c, d, e, f), got {len(transform)}")
    return ArrayScene(
        str(path),
        cube,
        plain_bands(len(cube)),
        crs=extra.get("crs"),
        transform=None if transform is None else tuple(float(v) for v in transform),
        nodata=extra.get("nodata"),
    )


def open_npy(path: Path) -> ArrayScene:
    """A .npy file as a memory map (rows, columns, bands, unless its side-car says otherwise). Never unpickles."""
    return _scene(path, load_npy(path), sidecar(path))


def load_npy(path: Path) -> Shaped[np.ndarray, "..."]:
    """The array of a .npy file, memory-mapped. Raises BadInput where it is damaged or would need unpickling."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as e:
        raise BadInput(f"{path}: not a plain .npy array: {e}") from e


def open_mat(path: Path, variable: str | None = None) -> ArrayScene:
    """The cube of a .mat file: the variable named, or the only numeric one of 3 axes."""
    return _scene(path, load_mat(path, 3, variable), sidecar(path))


@dataclass(frozen=True)
class _Variable:
    name: str
    shape: tuple[int, ...]
    kind: str


_NUMERIC = {f"{sign}int{n}" for sign in ("", "u") for n in (8, 16, 32, 64)} | {"single", "double", "logical"}


def _variables(path: Path) -> list[_Variable]:
    with path.open("rb") as f:
        head = f.read(128)
    if head.startswith(b"MATLAB 7.3"):
        raise BadInput(f"{path}: a MATLAB v7.3 file (HDF5) is not read; save it again with save(..., '-v7')")
    try:
        return [_Variable(*row) for row in scipy.io.whosmat(path)]
    except Exception as e:  # scipy raises many kinds for damaged files
        raise BadInput(f"{path}: not a MATLAB file that can be read: {e}") from e


def load_mat(path: Path, ndim: int, variable: str | None = None) -> Shaped[np.ndarray, "..."]:
    """A numeric variable of ``ndim`` axes of a .mat file: the one named, or the only one there is.

    Raises BadInput where none or several would do, naming them.
    """
    found = _variables(path)
    fits = [v for v in found if v.kind in _NUMERIC and len(v.shape) == ndim and min(v.shape) > 1]
    if variable is not None:
        if variable not in {v.name for v in found}:
            raise BadInput(f"{path}: {unknown('variable', variable, [v.name for v in found])}")
        fits = [v for v in found if v.name == variable]
    if len(fits) != 1:
        listed = ", ".join(f"{v.name} {'x'.join(map(str, v.shape))}" for v in (fits or found)) or "none"
        problem = "several variables could be it" if fits else f"no numeric variable has {ndim} axes"
        raise BadInput(f"{path}: {problem} ({listed}); name one with --set variable=NAME (or label_variable=NAME)")
    try:
        return np.asarray(scipy.io.loadmat(path, variable_names=[fits[0].name])[fits[0].name])
    except Exception as e:  # as above
        raise BadInput(f"{path}: variable {fits[0].name!r} cannot be read: {e}") from e
