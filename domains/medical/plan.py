"""From what the training cases are like to how they are learned: fingerprint -> plan, every choice with its reason."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float32, Shaped

from shared_backbones.errors import BadRequest

from .data.pairs import Grid
from .geometry import shape_at
from .segment_config import SegmentOptions

log = logging.getLogger("cambium.train")
SAMPLED = 20_000  # voxels of a case from which intensities are told
FLAT_RATIO = 3.0  # slices thicker than so many pixels are learned one by one
FEW_SLICES = 12  # and so are volumes with fewer of them
HOUNSFIELD = -500.0  # values below it are air in Hounsfield units: a scale that means the same in every case
COARSEST = 4  # a patch is never halved below so many tokens
LARGEST = {2: 256 * 256, 3: 48**3}  # voxels of a patch
STEP = {2: 4, 3: 2}  # patches of that size in one item
MULTIPLE = 8


@dataclass(frozen=True)
class Fingerprint:
    """Of the training part alone. Shapes and spacings are medians along the canonical axes."""

    cases: int
    shape: tuple[float, ...]
    spacing: tuple[float, ...]
    channels: int
    low: tuple[float, ...]  # 0.5 and 99.5 percent of the intensities, by channel
    high: tuple[float, ...]
    mean: tuple[float, ...]  # within them
    std: tuple[float, ...]
    least: float
    share: tuple[float, ...]  # of the labelled voxels, by structure


@dataclass(frozen=True)
class Plan:
    """How cases are learned and predicted.

    patch, spacing: along the canonical axes; a 2-D plan for volumes has 1 voxel across ``across``. depth: how often the
    lattice may be halved. batch: patches of one training item.
    """

    dimensions: int
    across: int | None
    spacing: tuple[float, ...]
    patch: tuple[int, ...]
    normalise: Literal["fixed", "image"]
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    batch: int
    depth: int
    reasons: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, plan: dict[str, Any]) -> Plan:
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plan.items()}
        return cls(**values)

    def lines(self) -> list[str]:
        """Each choice and its reason, to be printed."""
        plan = self.to_json()
        return [f"{name}: {_shown(plan[name])} ({why})" for name, why in self.reasons.items()]


def _shown(value: Any) -> str:
    return " x ".join(f"{v:g}" for v in value) if isinstance(value, (tuple, list)) else str(value)


def fingerprint(pieces: Sequence[Grid], structures: int) -> Fingerprint:
    """Sizes, spacings, intensities and shares of the structures."""
    rng = np.random.default_rng(0)
    values, counts = [], np.zeros(structures)
    for grid in pieces:
        assert grid.labels is not None
        counts += np.bincount(grid.labels[grid.labels >= 0], minlength=structures)
        values.append(_sample(grid, rng))
    x = np.concatenate(values, 1)
    low, high = np.percentile(x, [0.5, 99.5], axis=1)
    inside = np.clip(x, low[:, None], high[:, None])
    std = inside.std(1)
    low_, high_, mean, deviation = (
        tuple(float(v) for v in row) for row in (low, high, inside.mean(1), np.where(std > 0, std, 1.0))
    )
    shape = tuple(float(v) for v in np.median([g.shape for g in pieces], 0))
    spacing = tuple(round(float(v), 6) for v in np.median([g.spacing for g in pieces], 0))
    share = tuple(float(v) for v in counts / max(counts.sum(), 1))
    return Fingerprint(len(pieces), shape, spacing, len(x), low_, high_, mean, deviation, float(x.min()), share)


def _sample(grid: Grid, rng: np.random.Generator) -> Float32[np.ndarray, "C n"]:
    """Intensities of up to ``SAMPLED`` voxels, of structures where there are any."""
    assert grid.labels is not None
    at = np.flatnonzero(grid.labels > 0)
    at = at if len(at) else np.arange(grid.labels.size)
    chosen = rng.choice(at, min(SAMPLED, len(at)), replace=False)
    return grid.image.reshape(len(grid.image), -1)[:, np.sort(chosen)].astype(np.float32)


def make_plan(found: Fingerprint, options: SegmentOptions) -> Plan:
    """What the options leave open is chosen from the fingerprint. Raises BadRequest where an option cannot be met."""
    rank, why = len(found.shape), dict[str, str]()
    dimensions, across = _dimensions(found, options, why)
    spacing = _spacing(found, options, why)
    patch = _patch(found, options, dimensions, across, spacing, why)
    sides = [p for axis, p in enumerate(patch) if axis != across]
    depth = max(0, int(math.log2(min(sides) / COARSEST))) if min(sides) >= COARSEST else 0
    why["depth"] = f"halved so often the patch's shortest side of {min(sides)} still has {COARSEST} tokens"
    batch = max(1, STEP[dimensions] * LARGEST[dimensions] // math.prod(patch))
    why["batch"] = f"patches that hold about {STEP[dimensions] * LARGEST[dimensions]} voxels together"
    normalise: Literal["fixed", "image"] = "fixed" if rank == 3 and found.least < HOUNSFIELD else "image"
    why["normalise"] = (
        f"values from {found.least:g} are Hounsfield units, alike in all cases: clipped to {found.low[0]:g} .. "
        f"{found.high[0]:g}, where 99 % of the structures lie"
        if normalise == "fixed"
        else "intensities have no scale that all cases share: each image has its own mean and deviation"
    )
    for name in ("depth", "batch", "normalise"):
        if getattr(options, name) is not None:
            why[name] = "as asked"
    return Plan(
        dimensions,
        across,
        spacing,
        patch,
        options.normalise or normalise,
        found.low,
        found.high,
        found.mean,
        found.std,
        options.batch or batch,
        options.depth if options.depth is not None else depth,
        why,
    )


def _dimensions(found: Fingerprint, options: SegmentOptions, why: dict[str, str]) -> tuple[int, int | None]:
    """Of the network, and the axis across which it takes volumes slice by slice."""
    if len(found.shape) == 2:
        if options.dimensions == 3:
            raise BadRequest("dimensions=3 needs volumes; these are flat images")
        why["dimensions"] = "the images are flat"
        return 2, None
    thickest = int(np.argmax(found.spacing)) if max(found.spacing) > 1.001 * min(found.spacing) else 2
    ratio, slices = max(found.spacing) / min(found.spacing), found.shape[thickest]
    flat = ratio > FLAT_RATIO or slices < FEW_SLICES
    why["dimensions"] = (
        f"slices are {ratio:.1f} times as thick as pixels, and there are {slices:g}: "
        + (f"one by one above {FLAT_RATIO:g} or below {FEW_SLICES}" if flat else "volumes as a whole")
        if options.dimensions is None
        else "as asked"
    )
    dimensions = options.dimensions or (2 if flat else 3)
    return dimensions, thickest if dimensions == 2 else None


def _spacing(found: Fingerprint, options: SegmentOptions, why: dict[str, str]) -> tuple[float, ...]:
    rank = len(found.shape)
    if options.spacing is None:
        why["spacing"] = "the median of the training cases" if rank == 3 else "flat images keep their pixels"
        return found.spacing
    if len(options.spacing) != rank or min(options.spacing) <= 0:
        raise BadRequest(f"spacing takes {rank} positive numbers here, got {options.spacing}")
    why["spacing"] = "as asked"
    return options.spacing


def _patch(
    found: Fingerprint,
    options: SegmentOptions,
    dimensions: int,
    across: int | None,
    spacing: tuple[float, ...],
    why: dict[str, str],
) -> tuple[int, ...]:
    rank = len(found.shape)
    shape = shape_at([round(n) for n in found.shape], found.spacing, spacing)
    if options.patch is not None:
        given = options.patch
        if len(given) != dimensions or min(given) < 1:
            raise BadRequest(f"patch takes {dimensions} positive numbers here, got {given}")
        why["patch"] = "as asked"
    else:
        inner = [n for axis, n in enumerate(shape) if axis != across]
        given = _shrunk(inner, LARGEST[dimensions])
        why["patch"] = f"the median shape {_shown(shape)} within {LARGEST[dimensions]} voxels, in steps of {MULTIPLE}"
    if len(given) == rank:
        return tuple(given)
    assert across is not None
    return (*given[:across], 1, *given[across:])


def _shrunk(shape: Sequence[int], most: int) -> tuple[int, ...]:
    """Multiples of ``MULTIPLE`` near the shape: the longest side gives way first."""
    sides = [max(MULTIPLE, MULTIPLE * math.ceil(n / MULTIPLE)) for n in shape]
    while math.prod(sides) > most:
        longest = max(range(len(sides)), key=lambda axis: sides[axis])
        sides[longest] -= MULTIPLE
    return tuple(sides)


def announce(plan: Plan) -> None:
    """Say every choice and its reason."""
    for line in plan.lines():
        log.info("plan: %s", line)


def normalised(image: Shaped[np.ndarray, "C *axes"], plan: Plan) -> Float32[np.ndarray, "C *axes"]:
    """Of a whole image: what the network reads."""
    scale, shift = factors(image, plan)
    x = image.astype(np.float32)
    column = (-1, *[1] * (image.ndim - 1))
    if plan.normalise == "fixed":
        x = np.clip(x, *(np.array(limit, np.float32).reshape(column) for limit in (plan.low, plan.high)))
    x *= scale.reshape(column)
    x += shift.reshape(column)
    return x


def factors(
    image: Shaped[np.ndarray, "C *axes"], plan: Plan
) -> tuple[Float32[np.ndarray, "C"], Float32[np.ndarray, "C"]]:
    """x * scale + shift normalises a part of the image as the whole. An image of one value becomes zeros."""
    if plan.normalise == "fixed":
        mean, std = np.array(plan.mean), np.array(plan.std)
    else:
        mean, std = moments(image)
    return (1 / std).astype(np.float32), (-mean / std).astype(np.float32)


def moments(image: Shaped[np.ndarray, "C *axes"]) -> tuple[Float[np.ndarray, "C"], Float[np.ndarray, "C"]]:
    """Mean and deviation of every channel, in pieces: no copy of a volume is made."""
    count, total, square = image[0].size, np.zeros(len(image)), np.zeros(len(image))
    for rows in (slice(i, i + 16) for i in range(0, image.shape[1], 16)):
        part = image[:, rows].reshape(len(image), -1).astype(np.float64)
        total += part.sum(1)
        square += (part**2).sum(1)
    mean = total / count
    std = np.sqrt(np.maximum(square / count - mean**2, 0))
    return mean, np.where(std > 1e-6 * np.maximum(1, abs(mean)), std, 1.0)
