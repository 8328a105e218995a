"""Splits that never divide a patient, and the measurements that show it."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
from jaxtyping import Int64

from shared_backbones.errors import BadInput

from ..task import PARTS, Audit, Split
from .duplicates import linked
from .segment_config import SegmentSplitOptions
from .segment_source import SegmentData

LATER = re.compile(r"[_\-. ][A-Za-z]*\d+$")  # a number at the end of a name, as of a slice or a visit


def make_split(data: SegmentData, options: SegmentSplitOptions) -> Split:
    """Rows (case, start, stop) along the last axis. Raises BadInput where the data cannot be split as asked."""
    by = options.by or data.by or ("given" if any(c.fold for c in data.cases) else "patient")
    make = {"patient": _by_patient, "sites": _by_site, "blocks": _in_blocks, "slabs": _in_slabs, "given": _given}[by]
    protocol, parts = make(data, options)
    for part in PARTS:
        if not len(parts[part]):
            raise BadInput(f"{data.manifest.source}: the {part} part holds nothing ({protocol}); set split.* otherwise")
    facts = {
        p: {"cases": sorted({data.cases[int(r[0])].name for r in rows}), "patients": len(_patients(data, rows))}
        for p, rows in parts.items()
    }
    return Split(protocol, parts, facts)


def _patients(data: SegmentData, rows: Any) -> set[str]:
    return {data.cases[int(row[0])].patient for row in rows} - {""}


def _whole(data: SegmentData, cases: Any) -> Int64[np.ndarray, "n 3"]:
    return np.array([[i, 0, data.shapes[i][-1]] for i in sorted(int(c) for c in cases)], np.int64).reshape(-1, 3)


def _cut(order: list[Any], options: SegmentSplitOptions) -> tuple[list[Any], list[Any], list[Any]]:
    """(train, val, test) of things in order: test is the fold's stretch, val the one after it (around the end)."""
    n = len(order)
    low, high = round(options.fold * n / options.folds), round((options.fold + 1) * n / options.folds)
    test, gap = order[low:high], options.gap
    rest = order[high + gap :] + order[: max(0, low - gap)]
    take = min(max(1, round(options.val * len(rest))), max(0, len(rest) - 1))
    return rest[take + gap :], rest[:take], test


def _by_patient(data: SegmentData, options: SegmentSplitOptions) -> tuple[str, dict[str, Any]]:
    own = [c.patient or f"case {c.name}" for c in data.cases]
    owner = _owners(data.group, own)
    names = sorted(set(owner))
    if len(names) < 3:
        raise BadInput(
            f"{data.manifest.source}: has {len(names)} patients, three parts need three at least. Cut its volumes with "
            "split.by=slabs, or neighbouring slices with split.by=blocks, and say so with the score"
        )
    known = "patients stay whole" if any(c.patient for c in data.cases) else "every case taken for a patient of its own"
    known += ", copies together" if len(names) < len(set(own)) else ""
    return _drawn(data, owner, known, options)


def _owners(group: Any, names: list[str]) -> list[str]:
    """The name of the first case of each case's group."""
    first: dict[int, str] = {}
    for at, name in zip(group, names, strict=True):
        first.setdefault(int(at), name)
    return [first[int(at)] for at in group]


def _by_site(data: SegmentData, options: SegmentSplitOptions) -> tuple[str, dict[str, Any]]:
    sites = [c.site for c in data.cases]
    if "" in sites or len(set(sites)) < 3:
        there = ", ".join(sorted(set(sites) - {""})) or "none"
        raise BadInput(
            f"{data.manifest.source}: split.by=sites needs a site for every case, three at least; got {there}"
        )
    owner = _owners(linked(sites, list(data.group)), sites)
    if len(set(owner)) < 3:
        raise BadInput(
            f"{data.manifest.source}: patients or copies join its {len(set(sites))} sites to {len(set(owner))}; three "
            "are needed: use split.by=patient"
        )
    return _drawn(data, owner, "whole sites, with the patients that they share", options)


def _drawn(data: SegmentData, owner: list[str], known: str, options: SegmentSplitOptions) -> tuple[str, dict[str, Any]]:
    """Folds of owners in drawn order."""
    names = sorted(set(owner))
    folds = min(options.folds, len(names))
    shuffled = [str(n) for n in np.random.default_rng(options.seed).permutation(names)]
    limited = options.model_copy(update={"folds": folds, "fold": options.fold % folds, "gap": 0})
    chosen = dict(zip(PARTS, _cut(shuffled, limited), strict=True))
    parts = {p: _whole(data, [i for i, o in enumerate(owner) if o in set(who)]) for p, who in chosen.items()}
    return (
        f"{known}, fold {options.fold} of {folds}, validation {options.val:g} of the rest, seed {options.seed}",
        parts,
    )


def _in_blocks(data: SegmentData, options: SegmentSplitOptions) -> tuple[str, dict[str, Any]]:
    cut = zip(PARTS, _cut(list(range(len(data.cases))), options), strict=True)
    parts: dict[str, Any] = {p: _whole(data, rows) for p, rows in cut}
    return (
        f"blocks of neighbouring cases, fold {options.fold} of {options.folds}, validation the {len(parts['val'])} "
        f"after it (around the end), gap {options.gap}"
    ), parts


def _in_slabs(data: SegmentData, options: SegmentSplitOptions) -> tuple[str, dict[str, Any]]:
    if data.rank != 3:
        raise BadInput(f"{data.manifest.source}: split.by=slabs cuts volumes, these are flat: use split.by=blocks")
    parts: dict[str, list[list[int]]] = {p: [] for p in PARTS}
    for i, shape in enumerate(data.shapes):
        for part, voxels in zip(PARTS, _cut(list(range(shape[-1])), options), strict=True):
            breaks = np.flatnonzero(np.diff(voxels) != 1) + 1
            parts[part] += [
                [i, int(run[0]), int(run[-1]) + 1] for run in np.split(np.array(voxels), breaks) if len(run)
            ]
    said = f"slabs along the body of every volume, fold {options.fold} of {options.folds}, gap {options.gap} voxels"
    return f"{said}: the parts are of the same patients", {
        p: np.array(r, np.int64).reshape(-1, 3) for p, r in parts.items()
    }


def _given(data: SegmentData, options: SegmentSplitOptions) -> tuple[str, dict[str, Any]]:
    found = [c.fold for c in data.cases]
    if set(found) <= {"train", "val", "test"}:
        return "the table's own parts", {p: _whole(data, [i for i, f in enumerate(found) if f == p]) for p in PARTS}
    names = sorted(set(found))
    if "" in names or len(names) < 3:
        raise BadInput(
            f"{data.manifest.source}: the column fold holds {names}; allowed: train, val, test, or three folds at least"
        )
    at = options.fold % len(names)
    chosen = {"test": names[at], "val": names[(at + 1) % len(names)]}
    parts = {p: _whole(data, [i for i, f in enumerate(found) if f == name]) for p, name in chosen.items()}
    parts["train"] = _whole(data, [i for i, f in enumerate(found) if f not in chosen.values()])
    return f"the table's folds: {chosen['test']} tests, {chosen['val']} validates", parts


def suggested_patients(names: list[str]) -> dict[str, int]:
    """Names without the number at their end that several cases share: patients, maybe."""
    return {
        k: n for k, n in Counter(LATER.sub("", name) for name in names).items() if n > 1 and any(map(str.isdigit, k))
    }


def audit_split(data: SegmentData, split: Split) -> list[Audit]:
    """Would show that the test part is known from training: shared patients, shared images."""
    sides = {p: _patients(data, split.parts[p]) for p in PARTS}
    shared = sides["test"] & (sides["train"] | sides["val"])
    known = all(c.patient for c in data.cases)
    audits = [
        Audit(
            "patients_on_both_sides",
            float(len(shared)),
            not shared if known else None,
            "Patients of the test part that training saw too."
            if known
            else "No patient is given, so nobody can say whether training saw the test patients.",
        ),
        Audit("test_images_in_training", float(_copies(data, split)), not _copies(data, split), "Equal test images."),
        *_alike(data, split),
    ]
    hints = suggested_patients([c.name for c in data.cases])
    if hints and not known:
        name, n = max(hints.items(), key=lambda item: item[1])
        audits.append(
            Audit(
                "names_suggest_patients",
                float(len(hints)),
                False,
                f"File names suggest patients ({n} cases begin with {name!r}): give a patient column or pattern.",
            )
        )
    return audits


def _alike(data: SegmentData, split: Split) -> list[Audit]:
    """Whole test cases that training saw, or all but a copy of them; says nothing where volumes are cut in slabs."""
    sides = {p: {int(row[0]) for row in split.parts[p]} for p in PARTS}
    if sides["test"] & sides["train"]:
        return []
    seen = {int(data.group[i]) for i in sides["train"] | sides["val"]}
    shared = sum(int(data.group[i]) in seen for i in sides["test"])
    meaning = "Test cases with a patient, a copy or an equal perceptual hash on the other side."
    return [Audit("test_groups_in_training", float(shared), not shared, meaning)]


def _copies(data: SegmentData, split: Split) -> int:
    def prints(part: str) -> list[int]:
        return [hash(np.ascontiguousarray(data.piece(row).image).tobytes()) for row in split.parts[part]]

    known = {*prints("train"), *prints("val")}
    return sum(p in known for p in prints("test"))
