"""Which bands of a scene can be used, and their means and deviations over some pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from shared_backbones.errors import BadInput

from .bands import Bands, in_ranges, picked
from .config import ClassifyOptions


@dataclass(frozen=True)
class Used:
    """Positions of the bands that can be used, of those that were chosen and cannot, and statistics of the former."""

    index: list[int]
    dead: list[int]
    mean: list[float]
    std: list[float]
    nm: list[float]


def used_bands(
    where: str,
    bands: Bands,
    options: ClassifyOptions,
    values: Float32[np.ndarray, "n b"],
    seen: Bool[np.ndarray, "n b"],
) -> Used:
    """Bands that the options choose and that vary over these training pixels. Raises BadInput where none does, and
    for a chosen band without data or of one value only, unless ``dead_bands`` is "drop".
    """
    chosen = in_ranges(bands, options.ranges_nm) & picked(bands, options.only)
    if options.drop_bad:
        chosen &= np.array(bands.good)
    mean, std = moments(values, seen)
    alive = chosen & np.isfinite(mean) & (std > 0)
    if not alive.any():
        raise BadInput(
            f"{where}: none of its {len(alive)} bands can be used: {int((~chosen).sum())} are left out "
            "(bad, or out of ranges_nm), the rest hold no data or one value only at the training pixels"
        )
    dead = np.flatnonzero(chosen & ~alive)
    if len(dead) and options.dead_bands == "refuse":
        empty = [int(b) + 1 for b in dead if not np.isfinite(mean[b])]
        flat = [int(b) + 1 for b in dead if np.isfinite(mean[b])]
        said = [f"band {some} {what}" for some, what in ((empty, "without data"), (flat, "of one value")) if some]
        raise BadInput(
            f"{where}: {' and '.join(said)} at all training pixels. Flag them as bad in the file (bbl), "
            "choose others with ranges_nm, or leave them out with --set dead_bands=drop"
        )
    index = [int(b) for b in np.flatnonzero(alive)]
    nm = bands.wavelength_nm
    return Used(
        index,
        [int(b) for b in dead],
        [float(m) for m in mean[index]],
        [float(s) for s in std[index]],
        [float(nm[b]) for b in index] if nm else [],
    )


def moments(values: Float32[np.ndarray, "n b"], seen: Bool[np.ndarray, "n b"]) -> tuple[Any, Any]:
    """Mean and deviation of each band over the pixels where it was measured; NaN where it never was."""
    count = seen.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        x = np.where(seen, values.astype(np.float64), 0.0)
        mean = x.sum(0) / count
        var = (np.where(seen, (values - mean) ** 2, 0.0)).sum(0) / count
    return mean, np.sqrt(var)
