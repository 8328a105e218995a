"""Bands: where each channel of a scene stands in the spectrum, and how its numbers become physical values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool

from shared_backbones.errors import BadInput, unknown

MICROMETRE_LIMIT = 100.0  # no optical sensor has a band below 100 nm or above 100 um: a smaller number is in um
_UNITS = {
    "nm": 1.0,
    "nanometer": 1.0,
    "nanometers": 1.0,
    "nanometre": 1.0,
    "nanometres": 1.0,
    "um": 1000.0,
    "µm": 1000.0,
    "μm": 1000.0,
    "micron": 1000.0,
    "microns": 1000.0,
    "micrometer": 1000.0,
    "micrometers": 1000.0,
    "micrometre": 1000.0,
    "micrometres": 1000.0,
}


@dataclass(frozen=True)
class Bands:
    """One entry per band. ``wavelength_nm`` and ``fwhm_nm`` are None where the file does not say.

    A stored number becomes a physical one by ``stored * scale + offset``, in ``unit`` ("" where not stated).
    ``good`` is False for the bands that the file flags as bad.
    """

    wavelength_nm: tuple[float, ...] | None
    fwhm_nm: tuple[float, ...] | None
    good: tuple[bool, ...]
    unit: str
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("wavelength_nm", "fwhm_nm", "scale", "offset", "names"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.good):
                raise BadInput(f"bands: {len(self.good)} bands but {len(values)} values of {name}")
        if self.wavelength_nm is not None and not all(np.isfinite(w) and w > 0 for w in self.wavelength_nm):
            raise BadInput("bands: every wavelength must be a positive number")

    def __len__(self) -> int:
        return len(self.good)

    def select(self, index: Sequence[int]) -> Bands:
        """The bands at these positions, in this order."""
        pick = lambda values: None if values is None else tuple(values[i] for i in index)  # noqa: E731
        return Bands(
            pick(self.wavelength_nm),
            pick(self.fwhm_nm),
            tuple(self.good[i] for i in index),
            self.unit,
            tuple(self.scale[i] for i in index),
            tuple(self.offset[i] for i in index),
            tuple(self.names[i] for i in index),
        )

    def placed(self, wavelength_nm: Sequence[float]) -> Bands:
        """The same bands at other wavelengths (nm)."""
        return replace(self, wavelength_nm=tuple(float(w) for w in wavelength_nm))

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> Bands:
        """The inverse of :meth:`to_json`, after a trip through JSON."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list | tuple) else v for k, v in raw.items()}
        return Bands(**values)


def plain_bands(count: int, wavelength_nm: Sequence[float] | None = None, unit: str = "") -> Bands:
    """Good bands with nothing known about them but, perhaps, their wavelengths (nm)."""
    return Bands(
        None if wavelength_nm is None else tuple(float(w) for w in wavelength_nm),
        None,
        (True,) * count,
        unit,
        (1.0,) * count,
        (0.0,) * count,
        tuple(f"band {i + 1}" for i in range(count)),
    )


def to_nanometres(where: str, values: Sequence[float], unit: str | None) -> tuple[float, ...]:
    """Wavelengths in nm, from values in a named unit, or judged by their size where the unit is not stated.

    Raises BadInput for an unknown unit, and where the unit and the size of the numbers contradict each other.
    """
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all() or (array <= 0).any():
        raise BadInput(f"{where}: wavelengths must be positive numbers, got {_short(values)}")
    looks_like_um = bool((array < MICROMETRE_LIMIT).all())
    word = (unit or "").strip().lower()
    if word in ("", "unknown", "index"):
        factor = 1000.0 if looks_like_um else 1.0
    elif word not in _UNITS:
        raise BadInput(f"{where}: wavelength unit {unit!r} is not known (allowed: Nanometers, Micrometers)")
    else:
        factor = _UNITS[word]
        if looks_like_um != (factor > 1):
            likely, other = ("Micrometers", "nanometres") if looks_like_um else ("Nanometers", "micrometres")
            raise BadInput(
                f"{where}: wavelengths {_short(values)} cannot be {other}, as the unit {unit!r} says; "
                f"write the unit as {likely}, or mend the numbers"
            )
    return tuple(float(v) for v in np.round(array * factor, 6))


def _short(values: Sequence[float]) -> str:
    shown = ", ".join(f"{v:g}" for v in list(values)[:3])
    return f"{shown}{', ...' if len(values) > 3 else ''}"


def parse_numbers(where: str, text: str) -> list[float]:
    """Numbers of a header field such as ``{0.4, 0.5}``. Raises BadInput where one is not a number."""
    parts = [p for p in re.split(r"[,\s]+", text.strip().strip("{}").strip()) if p]
    try:
        return [float(p) for p in parts]
    except ValueError as e:
        raise BadInput(f"{where}: expected numbers separated by commas, got {text[:60]!r}") from e


def in_ranges(bands: Bands, ranges_nm: Sequence[tuple[float, float]] | None) -> Bool[np.ndarray, "bands"]:
    """True for the bands whose wavelength lies in one of the ranges (nm, both ends included); all where None."""
    if ranges_nm is None:
        return np.ones(len(bands), dtype=bool)
    if bands.wavelength_nm is None:
        raise BadInput("bands cannot be chosen by wavelength: the scene states no wavelengths")
    at = np.array(bands.wavelength_nm)
    inside = np.zeros(len(bands), dtype=bool)
    for low, high in ranges_nm:
        inside |= (at >= low) & (at <= high)
    if not inside.any():
        raise BadInput(f"no band lies in {list(ranges_nm)} nm; the scene has {at.min():g} to {at.max():g} nm")
    return inside


def picked(bands: Bands, wanted: Sequence[str | float] | None) -> Bool[np.ndarray, "bands"]:
    """True for the bands that are named, or that lie nearest to a wavelength (nm); all where None.

    Raises BadInput for an unknown name, and for a wavelength farther from any band than the bands are apart.
    """
    if wanted is None:
        return np.ones(len(bands), dtype=bool)
    chosen = np.zeros(len(bands), dtype=bool)
    for one in wanted:
        if isinstance(one, str) and one in bands.names:
            chosen[bands.names.index(one)] = True
            continue
        try:
            nm = float(str(one).removesuffix("nm"))
        except ValueError:
            raise BadInput(f"bands: {unknown('band', str(one), bands.names)}") from None
        if bands.wavelength_nm is None:
            raise BadInput(f"band {one}: the scene states no wavelengths, so its bands can only be chosen by name")
        at = np.array(bands.wavelength_nm)
        nearest = int(np.abs(at - nm).argmin())
        apart = float(np.median(np.diff(np.sort(at)))) if len(at) > 1 else np.inf
        if abs(at[nearest] - nm) > apart:
            raise BadInput(f"band {one}: no band lies near {nm:g} nm; the nearest is at {at[nearest]:g} nm")
        chosen[nearest] = True
    return chosen


def difference(trained: Bands, got: Bands, tolerance_nm: float = 2.0) -> str | None:
    """What makes ``got`` another set of bands than ``trained``, in words; None where they are the same.

    Wavelengths may differ by ``tolerance_nm``, or by a fifth of the spacing of the bands where that is less.
    """
    if len(trained) != len(got):
        return f"it has {len(got)} bands, the model was trained on {len(trained)}"
    if trained.wavelength_nm is not None:
        if got.wavelength_nm is None:
            return "it states no wavelengths, and the model was trained on bands of known wavelength"
        a, b = np.array(trained.wavelength_nm), np.array(got.wavelength_nm)
        spacing = np.diff(np.sort(a)).min() if len(a) > 1 else np.inf
        off = np.abs(a - b)
        if off.max() > max(min(tolerance_nm, 0.2 * spacing), 0.05):
            worst = int(off.argmax())
            return f"its band {worst + 1} is at {b[worst]:g} nm, in training it was at {a[worst]:g} nm"
    if trained.unit and got.unit and trained.unit != got.unit:
        return f"its values are in {got.unit!r}, in training they were in {trained.unit!r}"
    return None
