"""What a scene is to the rest of the domain: a lattice of spectra that is read by windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Shaped

from shared_backbones.errors import BadInput

from ..bands import Bands

Cube = Float[np.ndarray, "bands rows cols"]
Seen = Bool[np.ndarray, "bands rows cols"]


class CorruptBlock(BadInput):
    """One window of a scene cannot be read, though the file as a whole can be opened."""


@runtime_checkable  # the test run checks types
class Lattice(Protocol):
    """Where a scene's pixels lie and what its bands are, without its values."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        ...

    @property
    def bands(self) -> Bands: ...

    @property
    def crs(self) -> str | None:
        """The coordinate reference system as WKT; None where the file has none."""
        ...

    @property
    def transform(self) -> tuple[float, ...] | None:
        """(a, b, c, d, e, f): x = a col + b row + c, y = d col + e row + f; None where the file has none."""
        ...

    @property
    def nodata(self) -> float | None: ...


@runtime_checkable
class Scene(Lattice, Protocol):
    """A scene. Windows are slices with plain bounds inside the lattice."""

    @property
    def where(self) -> str:
        """What to call it in messages: a path, or a data set's name."""
        ...

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns that are stored together: windows made of whole blocks read fastest."""
        ...

    def read(self, rows: slice, cols: slice) -> tuple[Cube, Seen]:
        """Physical values (float32) of a window, and True where a value was measured. Zero where it was not.

        Raises CorruptBlock where the stored bytes cannot be decoded.
        """
        ...


@dataclass(frozen=True)
class Through:
    """The base of a scene that reads another one: where it lies and how it is stored stay those of ``inner``."""

    inner: Scene

    @property
    def where(self) -> str:
        return self.inner.where

    @property
    def shape(self) -> tuple[int, int]:
        return self.inner.shape

    @property
    def crs(self) -> str | None:
        return self.inner.crs

    @property
    def transform(self) -> tuple[float, ...] | None:
        return self.inner.transform

    @property
    def nodata(self) -> float | None:
        return self.inner.nodata

    @property
    def block(self) -> tuple[int, int]:
        return self.inner.block


def measured(raw: Shaped[np.ndarray, "bands rows cols"], nodata: float | None) -> Seen:
    """True where a stored number is a measurement.

    Not a measurement: NaN, infinity, and the file's nodata value. A nodata value of 0 counts only where *all* bands
    are 0, because in sensors of small integers a single 0 is a dark but real value.
    """
    seen = np.isfinite(raw) if raw.dtype.kind == "f" else np.ones(raw.shape, dtype=bool)
    if nodata is None or np.isnan(nodata):
        return seen
    missing = raw == raw.dtype.type(nodata) if _fits(nodata, raw.dtype) else np.zeros(raw.shape, dtype=bool)
    if nodata == 0:
        missing = np.broadcast_to(missing.all(0), raw.shape)
    return seen & ~missing


def _fits(value: float, dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "f":
        return True
    info = np.iinfo(dtype)
    return float(value).is_integer() and info.min <= value <= info.max


def physical(raw: Shaped[np.ndarray, "bands rows cols"], bands: Bands, nodata: float | None) -> tuple[Cube, Seen]:
    """Stored numbers -> physical float32 values, and where they were measured."""
    seen = measured(raw, nodata)
    values = raw.astype(np.float32)
    if any(s != 1.0 for s in bands.scale) or any(o != 0.0 for o in bands.offset):
        scale = np.array(bands.scale, dtype=np.float32)[:, None, None]
        values = values * scale + np.array(bands.offset, dtype=np.float32)[:, None, None]
    if not seen.all():
        values[~seen] = 0.0
    return values, seen


@dataclass(frozen=True)
class ArrayScene:
    """A scene in an array (bands, rows, columns), which may be a memory map."""

    where: str
    array: Shaped[np.ndarray, "bands rows cols"]
    bands: Bands
    crs: str | None = None
    transform: tuple[float, ...] | None = None
    nodata: float | None = None
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        return self.array.shape[1], self.array.shape[2]

    @property
    def block(self) -> tuple[int, int]:
        return 1, 1

    def read(self, rows: slice, cols: slice) -> tuple[Cube, Seen]:
        return physical(np.asarray(self.array[:, rows, cols]), self.bands, self.nodata)
