"""Splits of a labelled scene that cannot leak, and the audits that prove it.

Whole units (square blocks, or the polygons of a vector file) are dealt to the parts, and pixels nearer than a buffer
to another part are left out: from the validation part where test is near, from the training part where either is.
With a buffer of at least the patch radius no test patch then holds a training pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int32, Int64
from scipy.ndimage import distance_transform_cdt

from shared_backbones.errors import BadInput, BadRequest

from ..task import PARTS, Audit, Split
from .config import SplitOptions
from .data import Mosaic
from .ground import ground_audits, tiles_at
from .source import SceneData, refuse_leak, spectra

DRAWS = 400  # random ways of dealing units that are tried before a class is declared impossible to split
ENOUGH = 60  # possible ways among which the one nearest to the fractions is taken; fewer on large scenes
LEAST = 5  # pixels of every class that train and test must keep
AUDIT_PIXELS = 20_000  # an audit by nearest neighbours takes a sample of at most so many pixels of each part
Parts = dict[str, Int64[np.ndarray, "_"]]


def make_split(data: SceneData, options: SplitOptions, radius: int) -> Split:
    """Parts as flat pixel indices (row * columns + column) of labelled pixels.

    Raises BadRequest for a leaking split without permission, BadInput for a class with too few blocks or polygons.
    """
    if options.by is None and data.given is not None:
        return _as_given(data, options, data.given)
    by = options.by or ("pixels" if options.allow_leak else "blocks" if data.polygons is None else "polygons")
    if by == "pixels":
        refuse_leak(options.allow_leak)
        return _random_pixels(data, options)
    buffer = radius if options.buffer is None else options.buffer
    if buffer < radius and not options.allow_leak:
        raise BadRequest(
            f"split.buffer={buffer} is less than patch_radius={radius}: patches of test pixels would hold training "
            f"pixels. Use at least {radius}, or permit it with --set split.allow_leak=true"
        )
    if by == "polygons" and data.polygons is None:
        raise BadRequest("split.by=polygons needs labels from a vector file; these are a raster. Use split.by=blocks")
    return _dealt(data, options, by, buffer)


@dataclass(frozen=True)
class Units:
    """Labelled pixels and the unit that each belongs to."""

    at: Int64[np.ndarray, "n"]  # flat indices
    label: Int64[np.ndarray, "n"]  # class positions
    unit: Int64[np.ndarray, "n"]
    offset: tuple[int, int] = (0, 0)


def block_of(at: Int64[np.ndarray, "n"], shape: tuple[int, int], block: int, offset: tuple[int, int]) -> Any:
    """The number of the block that holds each pixel; blocks of a grid that is shifted by ``offset`` pixels."""
    rows, cols = np.divmod(at, shape[1])
    across = shape[1] // block + 2
    return ((rows + offset[0]) // block) * across + (cols + offset[1]) // block


def _labelled(data: SceneData) -> tuple[Any, Any]:
    at = np.flatnonzero(data.index.ravel() >= 0)
    return at, data.index.ravel()[at].astype(np.int64)


def _dealt(data: SceneData, options: SplitOptions, by: str, buffer: int) -> Split:
    rng = np.random.default_rng(options.seed)
    at, label = _labelled(data)
    classes = len(data.class_ids)
    lacking = np.zeros(classes, dtype=int)
    most_units = np.zeros(classes, dtype=int)
    best: tuple[float, Parts, Units] | None = None
    possible, enough = 0, max(3, min(ENOUGH, 3_000_000 // data.index.size))
    for draw in range(DRAWS):
        offset = (0, 0) if draw == 0 else (int(rng.integers(options.block)), int(rng.integers(options.block)))
        unit = data.polygons.ravel()[at] if by == "polygons" else block_of(at, data.index.shape, options.block, offset)  # type: ignore[union-attr]
        units = Units(at, label, unit.astype(np.int64), offset)
        counts = _count(units, classes)
        most_units = np.maximum(most_units, (counts > 0).sum(0))
        parts = _with_buffer(units, _deal(rng, counts, options.fractions), data.index.shape, buffer)
        have = np.stack([np.bincount(label[parts[p]], minlength=classes) for p in PARTS])
        short = (have[[0, 2]] < LEAST).any(0)
        lacking += short
        if short.any() or have[1].sum() < LEAST:
            continue
        # a class in too few units for three parts may be missing from validation, never from train or test
        off = np.abs(have / have.sum(0) - np.array(options.fractions)[:, None]).sum(0).mean()
        loss = 10.0 * (have[1] == 0).sum() + off + (len(at) - have.sum()) / len(at)
        possible += 1
        if best is None or loss < best[0]:
            best = loss, parts, units
        if possible >= enough:
            break
    if best is None:
        raise _too_few(data, by, options, buffer, lacking, most_units)
    _, parts, units = best
    dealt: Parts = {p: np.sort(at[parts[p]]) for p in PARTS}
    if options.per_class is not None:
        dealt |= {p: _thinned(data, dealt[p], options, n) for p, n in zip(PARTS[:2], _few(options), strict=True)}
    return _result(data, by, options, buffer, dealt, units)


def _as_given(data: SceneData, options: SplitOptions, given: Int32[np.ndarray, "rows cols"]) -> Split:
    """The parts that the data name, whole tiles or scenes each."""
    at, label = _labelled(data)
    of = given.ravel()[at]
    parts: Parts = {p: at[of == i] for i, p in enumerate(PARTS)}
    for p, mine in parts.items():
        if not len(mine):
            raise BadInput(f"{data.scene.where}: its split names nothing for {p} that holds a label; name some")
    absent = [i for c, i in enumerate(data.class_ids) if not (label[of == 0] == c).any()]
    if absent:
        raise BadInput(f"{data.scene.where}: its split has no training pixel of class {absent[0]}; name a tile with it")
    if options.per_class is not None:
        parts |= {p: _thinned(data, parts[p], options, n) for p, n in zip(PARTS[:2], _few(options), strict=True)}
    unit = np.zeros(len(at), dtype=np.int64) if data.polygons is None else data.polygons.ravel()[at].astype(np.int64)
    return _result(data, "given", options, 0, parts, Units(at, label, unit))


def _few(options: SplitOptions) -> tuple[int, int]:
    """Training and validation pixels per class, where they are few."""
    assert options.per_class is not None
    return options.per_class, max(1, options.per_class // 2)


def _thinned(data: SceneData, at: Int64[np.ndarray, "n"], options: SplitOptions, most: int) -> Int64[np.ndarray, "m"]:
    """At most so many pixels of each class, drawn anywhere in the part."""
    rng = np.random.default_rng([options.seed, most])
    label = data.index.ravel()[at]
    kept = [rng.permutation(at[label == c])[:most] for c in range(len(data.class_ids))]
    return np.sort(np.concatenate(kept))


def _count(units: Units, classes: int) -> Int64[np.ndarray, "units classes"]:
    """Labelled pixels by unit (in the order of np.unique) and class."""
    _, inverse = np.unique(units.unit, return_inverse=True)
    return np.bincount(inverse * classes + units.label, minlength=(inverse.max() + 1) * classes).reshape(-1, classes)


def _deal(
    rng: np.random.Generator, counts: Int64[np.ndarray, "units classes"], fractions: tuple[float, float, float]
) -> Int64[np.ndarray, "units"]:
    """A part (0, 1, 2) for every unit: the rarest class first, each unit to the part that lacks that class most."""
    part = np.full(len(counts), -1)
    target = np.outer(fractions, counts.sum(0)).astype(np.float64)  # (parts, classes)
    got = np.zeros_like(target)
    for c in np.argsort((counts > 0).sum(0) + 0.1 * rng.random(counts.shape[1])):
        members = np.flatnonzero((counts[:, c] > 0) & (part < 0))
        for u in rng.permutation(members):
            # train and test come before validation where a class has only two units
            need = (target[:, c] - got[:, c]) / np.maximum(target[:, c], 1) + np.array([0.2, 0.0, 0.1]) * (
                got[:, c] == 0
            )
            part[u] = int(need.argmax())
            got[part[u]] += counts[u]
    return part


def _with_buffer(units: Units, part_of: Any, shape: tuple[int, int], buffer: int) -> Parts:
    """Positions (into ``units.at``) of each part after the buffer is cleared."""
    _, inverse = np.unique(units.unit, return_inverse=True)
    part = part_of[inverse]
    test, val, train = part == 2, part == 1, part == 0
    if buffer:
        val = val & (distance_to(units.at[test], shape).ravel()[units.at] > buffer)
        held = units.at[test | val]
        train = train & (distance_to(held, shape).ravel()[units.at] > buffer)
    return {"train": np.flatnonzero(train), "val": np.flatnonzero(val), "test": np.flatnonzero(test)}


def distance_to(at: Int64[np.ndarray, "n"], shape: tuple[int, int]) -> Int64[np.ndarray, "rows cols"]:
    """Chebyshev distance in pixels (a patch is a square) to the nearest of some pixels; very large without any."""
    if not len(at):
        return np.full(shape, np.iinfo(np.int32).max, dtype=np.int64)
    free = np.ones(shape, dtype=bool)
    free.flat[at] = False
    return distance_transform_cdt(free, metric="chessboard").astype(np.int64)


def _too_few(data: SceneData, by: str, options: SplitOptions, buffer: int, lacking: Any, most_units: Any) -> BadInput:
    what = f"blocks of {options.block} px" if by == "blocks" else data.unit_name
    if not lacking.any():
        return BadInput(
            f"no way of dealing {what} leaves pixels for validation behind a buffer of {buffer} px; "
            "use larger blocks or a smaller patch_radius"
        )
    worst = int(lacking.argmax())
    name, number = data.class_names[worst], data.class_ids[worst]
    pixels = int((data.index == worst).sum())
    remedy = (
        f"use smaller blocks (--set split.block={max(2, options.block // 2)}), a smaller patch_radius and buffer"
        if by == "blocks"
        else f"draw more {data.unit_name} of it"
    )
    return BadInput(
        f"class {number} ({name}, {pixels} px) cannot be split: it lies in at most {int(most_units[worst])} {what}, "
        f"and with a buffer of {buffer} px no way of dealing them leaves {LEAST} px of it in both train and test. "
        f"Either {remedy}, label more of it, or leave the class out (add {number} to unlabelled)"
    )


def _random_pixels(data: SceneData, options: SplitOptions) -> Split:
    rng = np.random.default_rng(options.seed)
    at, label = _labelled(data)
    parts: dict[str, list[Any]] = {p: [] for p in PARTS}
    for c, number in enumerate(data.class_ids):
        mine = rng.permutation(at[label == c])
        if options.per_class is None:
            train, val = (round(f * len(mine)) for f in options.fractions[:2])
        else:
            train, val = _few(options)
        if train < 1 or val < 1 or train + val >= len(mine):
            raise BadInput(
                f"class {number} ({data.class_names[c]}) has {len(mine)} labelled px, too few for {train} in train "
                f"and {val} in validation; ask for fewer"
            )
        for part, chosen in zip(PARTS, np.split(mine, [train, train + val]), strict=True):
            parts[part].append(chosen)
    units = Units(at, label, block_of(at, data.index.shape, options.block, (0, 0)))
    joined = {p: np.sort(np.concatenate(chosen)) for p, chosen in parts.items()}
    return _result(data, "pixels", options, 0, joined, units)


def _result(data: SceneData, by: str, options: SplitOptions, buffer: int, parts: Parts, units: Units) -> Split:
    shares = "/".join(f"{100 * f:g}" for f in options.fractions)
    few = "" if options.per_class is None else f", at most {options.per_class} per class for training"
    how = {
        "blocks": f"blocks of {options.block} px, buffer {buffer} px, {shares}{few}",
        "polygons": f"whole {data.unit_name}, buffer {buffer} px, {shares}{few}",
        "given": f"whole {data.unit_name}, dealt out by the data{few}",
        "pixels": "random pixels (leaks), "
        + (shares if options.per_class is None else f"{options.per_class} per class for training"),
    }[by]
    flat = data.index.ravel()
    classes = {
        p: {
            str(i): int(n)
            for i, n in zip(data.class_ids, np.bincount(flat[a], minlength=len(data.class_ids)), strict=True)
        }
        for p, a in parts.items()
    }
    facts: dict[str, Any] = {
        "by": by,
        "block": options.block,
        "offset": list(units.offset),
        "buffer": buffer,
        "classes": classes,
        "left_out_by_buffer" if few == "" else "left_out": len(units.at) - sum(len(a) for a in parts.values()),
        "units": {p: len(np.unique(units.unit[np.isin(units.at, a)])) for p, a in parts.items()},
    }
    absent = [str(i) for i in data.class_ids if classes["val"][str(i)] == 0]
    if absent:
        facts["classes_absent_from_validation"] = absent
    return Split(f"{how}, seed {options.seed}", parts, facts)


def unit_of(data: SceneData, split: Split, at: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    """The spatial unit of each pixel: its polygon, or its block."""
    if split.facts["by"] in ("polygons", "given") and data.polygons is not None:
        return data.polygons.ravel()[at].astype(np.int64)
    rows, cols = split.facts["offset"]
    return block_of(at, data.index.shape, split.facts["block"], (rows, cols)).astype(np.int64)


def overlap(split: Split, shape: tuple[int, int], radius: int) -> tuple[float, int]:
    """Share of test pixels whose patch holds a training pixel, and the least distance (px) between the two parts."""
    near = distance_to(split.parts["train"], shape).ravel()[split.parts["test"]]
    return float((near <= radius).mean()), int(near.min())


def nearest_accuracy(train: Float[np.ndarray, "n f"], truth: Any, test: Float[np.ndarray, "m f"], wanted: Any) -> float:
    """Overall accuracy of one nearest neighbour."""
    from sklearn.neighbors import KNeighborsClassifier

    return float((KNeighborsClassifier(1).fit(train, truth).predict(test) == wanted).mean())


def audit_split(data: SceneData, split: Split, radius: int) -> list[Audit]:
    """Could the score be due to where a pixel lies, or to patches that hold training pixels?"""
    shape, flat = data.index.shape, data.index.ravel()
    share, least = overlap(split, shape, radius)
    rng = np.random.default_rng(0)
    sample = {p: a if len(a) <= AUDIT_PIXELS else np.sort(rng.choice(a, AUDIT_PIXELS, replace=False))
              for p, a in split.parts.items()}  # fmt: skip
    train, test = sample["train"], sample["test"]
    places = [np.stack(np.divmod(a, shape[1]), 1).astype(np.float64) for a in (train, test)]
    by_place = nearest_accuracy(places[0], flat[train], places[1], flat[test])
    mean, std, found = _standardised(data, train, test)
    del mean, std
    by_spectrum = nearest_accuracy(found[0], flat[train], found[1], flat[test])
    return [
        Audit(
            "patch overlap",
            share,
            share == 0.0,
            f"share of test pixels whose patch ({2 * radius + 1} x {2 * radius + 1} px) holds a training pixel",
        ),
        Audit("distance train to test (px)", float(least), least > radius, f"must be above the patch radius, {radius}"),
        Audit(
            "accuracy of coordinates alone",
            by_place,
            by_place < by_spectrum,
            f"one nearest neighbour that sees only row and column; on spectra it reaches {by_spectrum:.3f}. "
            "A score at or below it says that the spectra added nothing",
        ),
        *audit_ground(data, split, radius),
    ]


def audit_ground(data: SceneData, split: Split, radius: int) -> list[Audit]:
    """Of a data set of tiles: do tiles of different parts lie on the same ground, or side by side?"""
    whole = data.scene
    if not isinstance(whole, Mosaic):
        return []
    return ground_audits(whole, {p: tiles_at(whole, split.parts[p]) for p in PARTS}, radius)


def _standardised(data: SceneData, train: Any, test: Any) -> tuple[Any, Any, tuple[Any, Any]]:
    a, _ = spectra(data, train)
    b, _ = spectra(data, test)
    mean, std = a.mean(0), a.std(0)
    std = np.where(std > 0, std, 1.0)
    return mean, std, ((a - mean) / std, (b - mean) / std)


def near(at: Int64[np.ndarray, "n"], shape: tuple[int, int], radius: int) -> Bool[np.ndarray, "rows cols"]:
    """True within ``radius`` of some pixels: all that their patches may see."""
    return distance_to(at, shape) <= radius
