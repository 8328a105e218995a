"""From a source as the user names it to checked images with masks: a path, a public name, or ``simulated``."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64, Shaped

from shared_backbones.errors import BadInput, unknown

from ..task import Manifest, to_json_digest
from .data.pairs import Case, Grid, digest_of, find_cases, header_of, read_case
from .duplicates import linked, perceptual_hash, telling
from .segment_config import SegmentOptions
from .segment_datasets import MASK_SETS
from .segment_simulate import simulated

SIMULATED = "simulated"
CACHE_BYTES = 1_000_000_000
IGNORED = -1  # what stands in labels inside where nothing is learned or scored


@dataclass(frozen=True)
class Structures:
    """What label values mean: the background first, then the structures by value."""

    values: tuple[int, ...]
    names: tuple[str, ...]
    ignore: int | None = None

    def inside(self, labels: Shaped[np.ndarray, "*axes"], where: str) -> Int32[np.ndarray, "*axes"]:
        """Stored values -> positions in ``values``, IGNORED where they say so. Raises BadInput for any other value."""
        order = np.argsort(self.values)
        known = np.array(self.values)[order]
        at = np.searchsorted(known, labels).clip(0, len(known) - 1)
        right = known[at] == labels
        if self.ignore is not None:
            right |= labels == self.ignore
        if not right.all():
            stray = labels[~right]
            place = tuple(int(i) for i in np.argwhere(~right)[0])
            raise BadInput(
                f"{where}: label {stray[0]} at {place} is not declared ({stray.size} such voxels, "
                f"{len(np.unique(stray))} values); allowed: {', '.join(map(str, known))}. Declare it in classes, or as "
                "ignore"
            )
        found = order[at].astype(np.int32)
        return found if self.ignore is None else np.where(labels == self.ignore, IGNORED, found).astype(np.int32)


@dataclass(frozen=True)
class SegmentData:
    """Cases with their masks, opened when asked for. ``changed`` replaces some (a poisoned test part)."""

    cases: tuple[Case, ...]
    shapes: tuple[tuple[int, ...], ...]  # canonical, per case
    channels: int
    structures: Structures
    boundary: int | None  # position of the structure that parts cells
    by: str | None  # how the source wants to be split
    manifest: Manifest
    load: Callable[[int], Grid]
    group: Int64[np.ndarray, "n"]  # cases of one patient, copies, and all but copies: never divided
    changed: Mapping[int, Grid] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        return len(self.shapes[0])

    def grid(self, case: int) -> Grid:
        """A case whose labels are positions in ``structures``."""
        return self.changed[case] if case in self.changed else self.load(case)

    def piece(self, row: Int64[np.ndarray, "3"]) -> Grid:
        """The part of a case from ``start`` to ``stop`` along its last axis: a row (case, start, stop) of a split."""
        case, start, stop = (int(v) for v in row)
        grid = self.grid(case)
        if (start, stop) == (0, grid.shape[-1]):
            return grid
        labels = None if grid.labels is None else grid.labels[..., start:stop]
        return replace(grid, image=grid.image[..., start:stop], labels=labels, volume=None, turn=None)

    def second(self, row: Int64[np.ndarray, "3"]) -> Int32[np.ndarray, "*axes"]:
        """What another annotator drew of a piece, as positions in ``structures``. Raises BadInput."""
        index, start, stop = (int(v) for v in row)
        case = self.cases[index]
        labels = read_case(replace(case, mask=case.second), self.channels).labels
        if labels is None:
            raise BadInput(f"{case.image}: has no second annotation")
        return self.structures.inside(labels, str(case.second))[..., start:stop].clip(0)  # ignored: background

    def poisoned(self, rows: Int64[np.ndarray, "n 3"]) -> SegmentData:
        """Absurd voxels and other labels in some pieces."""
        changed = dict(self.changed)
        for row in rows:
            case, start, stop = (int(v) for v in row)
            grid = changed.get(case) or self.grid(case)
            image, labels = grid.image.astype(np.float32), grid.labels
            assert labels is not None  # every case to learn from has a mask
            image[..., start:stop] = np.random.default_rng(case).normal(1e6, 1e5, image[..., start:stop].shape)
            labels = labels.copy()
            labels[..., start:stop] = (labels[..., start:stop] + 1) % len(self.structures.values)
            changed[case] = replace(grid, image=image, labels=labels)
        return replace(self, changed=changed)


def open_cases(source: str, options: SegmentOptions) -> SegmentData:
    """Checked cases: every mask is read once. Raises BadInput."""
    if source == SIMULATED:
        grids = simulated(options.simulated)
        cases = [Case(f"case {i}", Path(f"simulated/{i}"), patient=f"p{i // 2}") for i in range(len(grids))]
        manifest = Manifest(source, to_json_digest(options.simulated), "simulated, free of rights")
        return _checked(cases, options, {}, manifest, grids.__getitem__)
    defaults: Mapping[str, Any] = {}
    licence = "not stated"
    if source in MASK_SETS:
        known = MASK_SETS[source]
        cases, defaults, licence = known.cases(known.folder()), known.options, known.data.licence
    else:
        near = difflib.get_close_matches(source, [*MASK_SETS, SIMULATED], n=2, cutoff=0.6)
        if near and not Path(source).exists():
            raise BadInput(f"{source}: no such file; did you mean the data set {' or '.join(map(repr, near))}?")
        cases = find_cases(Path(source))
    cases = _with_patients(cases, options.patient_pattern)
    sums = [[c.name, digest_of(c.image), digest_of(c.mask) if c.mask else "", c.patient, c.fold] for c in cases]
    sums += [[c.name, digest_of(c.second)] for c in cases if c.second is not None]
    channels = _channels(cases)
    return _checked(
        cases,
        options,
        defaults,
        Manifest(source, to_json_digest(sums), licence),
        lambda i: read_case(cases[i], channels),
        channels,
    )


def _with_patients(cases: list[Case], pattern: str | None) -> list[Case]:
    if pattern is None:
        return cases
    found = []
    for case in cases:
        match = re.search(pattern, case.name)
        if match is None:
            raise BadInput(f"{case.image}: patient_pattern {pattern!r} does not match the name {case.name!r}")
        found.append(replace(case, patient=match.group(1)))
    return found


def _channels(cases: Sequence[Case]) -> int:
    """Three where every image has colours, else one."""
    found = [header_of(case.image) for case in cases]
    ranks = {len(shape) for shape, _ in found}
    if len(ranks) > 1:
        at = next(i for i, (shape, _) in enumerate(found) if len(shape) != len(found[0][0]))
        raise BadInput(f"{cases[at].image}: has {len(found[at][0])} axes, {cases[0].image} {len(found[0][0])}")
    return min(channels for _, channels in found)


def _checked(
    cases: Sequence[Case],
    options: SegmentOptions,
    defaults: Mapping[str, Any],
    manifest: Manifest,
    read: Callable[[int], Grid],
    channels: int = 1,
) -> SegmentData:
    seen: dict[int, int] = {}
    shapes, sizes, pixels, looks = [], [], [], []
    for i in range(len(cases)):
        grid = read(i)
        assert grid.labels is not None
        pixels.append(hashlib.sha256(np.ascontiguousarray(grid.image).tobytes()).hexdigest())
        looks.append(look_of(grid))
        shapes.append(grid.shape)
        sizes.append(grid.image.nbytes + grid.labels.nbytes)
        for value, count in zip(*np.unique(grid.labels, return_counts=True), strict=True):
            seen[int(value)] = seen.get(int(value), 0) + int(count)
    structures = _structures(seen, options, defaults, manifest.source)
    boundary = _boundary(options.boundary or defaults.get("boundary"), structures)

    def load(i: int) -> Grid:
        grid = read(i)
        assert grid.labels is not None
        where = str(cases[i].mask or cases[i].name)
        return replace(grid, labels=structures.inside(grid.labels, where))

    for i in range(len(cases)) if options.classes else ():
        load(i)  # a value that is not declared is refused here, with its file and place
    held = lru_cache(maxsize=max(1, CACHE_BYTES // max(sizes)))(load)
    voxels = {n: seen.get(v, 0) for v, n in zip(structures.values, structures.names, strict=True)}
    together = linked([c.patient for c in cases], pixels, looks)
    facts = {
        "cases": len(cases),
        "exact_copies": len(cases) - len(set(pixels)),
        "equal_hash_cases": sum(n for n in Counter(x for x in looks if x is not None).values() if n > 1),
        "groups": int(together.max()) + 1,
        **({"sites": len({c.site for c in cases if c.site})} if any(c.site for c in cases) else {}),
        "patients": len({c.patient for c in cases if c.patient}),
        "shapes": sorted({"x".join(map(str, s)) for s in shapes}),
        "channels": channels,
        "voxels_per_structure": voxels,
        "ignored_voxels": seen.get(structures.ignore, 0) if structures.ignore is not None else 0,
    }
    manifest = replace(manifest, facts=facts)
    by = defaults.get("by")
    return SegmentData(tuple(cases), tuple(shapes), channels, structures, boundary, by, manifest, held, together)


def look_of(grid: Grid) -> tuple[int, ...] | None:
    """Perceptual hash of a flat image, or of the three middle planes of a volume; None where they say nothing."""
    low, high = float(grid.image.min()), float(grid.image.max())
    if len(grid.shape) == 2:
        planes = [grid.image]
    else:
        planes = [grid.image.take(n // 2, 1 + axis) for axis, n in enumerate(grid.shape)]
    found = []
    for plane in planes:
        pixels = (np.moveaxis(plane, 0, -1).astype(np.float32) - low) / max(high - low, 1e-6)
        found.append(perceptual_hash(np.ascontiguousarray(pixels)))
    return tuple(found) if all(map(telling, found)) else None


def _structures(
    seen: Mapping[int, int], options: SegmentOptions, defaults: Mapping[str, Any], where: str
) -> Structures:
    declared = options.classes or defaults.get("classes", {})
    ignore = options.ignore
    values = sorted(set(declared) or set(seen) - {ignore})
    if len(values) < 2:
        raise BadInput(f"{where}: all masks hold the one value {values[0] if values else ignore}: nothing to learn")
    background = options.background if options.background is not None else defaults.get("background", values[0])
    if background not in values:
        raise BadInput(f"{where}: background {background} is no label value; there are {', '.join(map(str, values))}")
    order = (background, *(v for v in values if v != background))
    names = tuple(declared.get(v, "background" if v == background else f"label {v}") for v in order)
    return Structures(order, names, ignore)


def _boundary(name: str | None, structures: Structures) -> int | None:
    if name is None:
        return None
    if name not in structures.names:
        raise unknown("structure of option boundary", name, structures.names)
    return structures.names.index(name)
