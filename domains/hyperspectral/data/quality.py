"""What is odd about a scene's numbers: a look at some windows, for its manifest."""

from __future__ import annotations

from typing import Any

import numpy as np

from .scene import CorruptBlock, Scene

WINDOWS, SIDE = 4, 48  # so many along each axis, of so many pixels
CLIPPED = 0.001  # of a band's looked-at values at its largest number: the sensor or the product cut it off


def conditions(scene: Scene) -> dict[str, Any]:
    """Shares of measured values that are negative, and of bands that look saturated; a sentence for each.

    A band counts as saturated where at least one in a thousand of its values, and four of them, is its largest one
    while its values are otherwise finely spread. Only a lattice of windows is read, so a scene of any size costs the
    same.
    """
    rows, cols = scene.shape
    looked: list[Any] = []
    for top in _starts(rows):
        for left in _starts(cols):
            try:
                values, seen = scene.read(slice(top, min(rows, top + SIDE)), slice(left, min(cols, left + SIDE)))
            except CorruptBlock:
                continue
            looked.append(np.where(seen, values, np.nan).reshape(len(values), -1))
    if not looked:
        return {}
    x = np.concatenate(looked, 1)
    measured = np.isfinite(x)
    if not measured.any():
        return {}
    negative = float((x < 0).sum() / measured.sum())
    saturated = [i + 1 for i, band in enumerate(x) if _clipped(band[np.isfinite(band)])]
    found: dict[str, Any] = {"negative_share": round(negative, 6), "saturated_bands": saturated}
    said = []
    if negative > 0:
        said.append(f"{100 * negative:.3g} % of the looked-at values are negative")
    if saturated:
        shown = ", ".join(map(str, saturated[:8])) + (" ..." if len(saturated) > 8 else "")
        said.append(f"{len(saturated)} bands look saturated (many values at the largest one): {shown}")
    return found | ({"oddities": said} if said else {})


def _starts(size: int) -> list[int]:
    if size <= WINDOWS * SIDE:
        return list(range(0, size, SIDE))
    return [int(v) for v in np.linspace(0, size - SIDE, WINDOWS)]


def _clipped(band: Any) -> bool:
    if band.size < 64:
        return False
    top = band.max()
    at_top = int((band == top).sum())
    if at_top < max(4, CLIPPED * band.size) or top == band.min():
        return False
    below = band[band < top]
    second = below.max()
    return at_top > 4 * int((below == second).sum()) and len(np.unique(band)) > 32
