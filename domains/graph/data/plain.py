"""Arrays as sources hold them, checked before they are read as numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, Shaped

from shared_backbones.errors import BadInput


def _kind(where: Path | str, name: str, array: Shaped[np.ndarray, "..."]) -> None:
    if array.dtype.kind not in "biuf":
        what = "text" if array.dtype.kind in "US" else "complex numbers" if array.dtype.kind == "c" else array.dtype
        raise BadInput(f"{where}: {name!r} holds {what}, and real numbers are wanted; encode it first")


def rows_of_numbers(where: Path | str, name: str, array: Shaped[np.ndarray, "..."]) -> Float32[np.ndarray, "rows K"]:
    """(rows, K) float32; one number per row becomes one column. Raises BadInput for any other shape, and for text."""
    _kind(where, name, array)
    if array.ndim not in (1, 2):
        raise BadInput(f"{where}: {name!r} must hold one row of numbers each, got shape {array.shape}")
    found: Any = array.reshape(len(array), -1) if array.size else array.reshape(len(array), array.shape[-1])
    return found.astype(np.float32)


def pairs_of(where: Path | str, name: str, array: Shaped[np.ndarray, "..."]) -> Int64[np.ndarray, "2 E"]:
    """(2, E) whole numbers from (2, E) or (E, 2). Raises BadInput for another shape, for text and for fractions."""
    _kind(where, name, array)
    if array.ndim != 2 or 2 not in array.shape:
        raise BadInput(f"{where}: {name!r} must be (E, 2), got {array.shape}")
    pairs: Any = array.T if array.shape[1] == 2 else array
    if pairs.dtype.kind == "f" and not np.array_equal(pairs, np.round(pairs)):
        at = int(np.argwhere(pairs != np.round(pairs))[0][1])
        raise BadInput(f"{where}: edge {at} of {name!r} is {pairs[:, at].tolist()}, and nodes are whole numbers")
    return np.ascontiguousarray(pairs, np.int64)


def classes_of(where: Path | str, labels: Shaped[np.ndarray, "n"]) -> tuple[Any, tuple[str, ...]]:
    """Class positions and names: from text, or from whole numbers (below 0 or NaN: unknown).

    Other real values are a regression target; where nothing is known there is none. Raises BadInput where they are not
    one per case.
    """
    if labels.ndim != 1:
        raise BadInput(f"{where}: one target per node is wanted, got shape {labels.shape}")
    if labels.dtype.kind in "US":
        names, position = np.unique(labels, return_inverse=True)
        return position.astype(np.int64), tuple(map(str, names))
    _kind(where, "target", labels)
    known = ~np.isnan(labels) if labels.dtype.kind == "f" else np.ones(len(labels), bool)
    if labels.dtype.kind == "f" and not np.array_equal(labels[known], np.round(labels[known])):
        return labels.astype(np.float64), ()
    known &= np.where(known, labels, -1) >= 0
    if not known.any():
        return None, ()
    found = np.unique(labels[known])
    position = np.where(known, np.searchsorted(found, np.where(known, labels, found[0])), -1)
    return position.astype(np.int64), tuple(str(int(c)) for c in found)
