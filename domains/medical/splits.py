"""Splits that never divide a patient or a set of copies, and the measurements that show it."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from sklearn.model_selection import StratifiedGroupKFold

from shared_backbones.errors import BadInput

from ..task import PARTS, Audit, Split
from .cases import Cases
from .classify_config import GroupSplitOptions
from .data.entries import suspected_patients

GIVEN = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}
TRIES = 20  # draws, of which the one with the best balance of labels is taken


def make_split(data: Cases, options: GroupSplitOptions) -> Split:
    """Parts of cases. Raises BadInput where the data cannot be split as asked."""
    protocol = options.protocol
    if protocol == "auto":
        protocol = "given" if any(data.parts) else "groups"
    make = {"groups": _drawn, "folds": _folds, "given": _given, "sites": _by_site}[protocol]
    text, parts = make(data, options)
    for name in PARTS:
        if not len(parts[name]):
            raise BadInput(f"{data.manifest.source}: the {name} part holds no case ({text}); set split.* otherwise")
    known = any(data.patients)
    text += "; patients stay whole" if known else "; patients are not known, sets of copies stay whole"
    return Split(text, parts, {part: _facts(data, rows) for part, rows in parts.items()})


def _facts(data: Cases, rows: Any) -> dict[str, Any]:
    target = data.target[rows]
    both = [bool((target[:, i] == 1).any() and (target[:, i] == 0).any()) for i in range(len(data.labels))]
    return {
        "cases": len(rows),
        "groups": len(np.unique(data.group[rows])),
        "patients": len({data.patients[i] for i in rows} - {""}) or "not known",
        "true": {name: int((target[:, i] == 1).sum()) for i, name in enumerate(data.labels)},
        "labels_without_both_outcomes": [n for n, b in zip(data.labels, both, strict=True) if not b],
    }


def strata(data: Cases) -> Int64[np.ndarray, "n"]:
    """What is balanced over the parts: the class, or the rarest label that is true."""
    if data.exclusive:
        return data.classes
    true = data.target == 1
    rarity = np.argsort(true.sum(0), kind="stable")
    found = np.zeros(len(data), np.int64)
    for label in rarity[::-1]:
        found[true[:, label]] = label + 1
    return found


def grouped_draw(
    rows: Int64[np.ndarray, "n"], group: Any, stratum: Any, share: float, random: np.random.Generator
) -> tuple[Int64[np.ndarray, "a"], Int64[np.ndarray, "b"]]:
    """(rest, about ``share`` of the rows), whole groups; of several draws the one whose strata are nearest to that."""
    groups, inverse = np.unique(group[rows], return_inverse=True)
    sizes = np.bincount(inverse)
    kinds, kind = np.unique(stratum[rows], return_inverse=True)
    want = np.bincount(kind, minlength=len(kinds)) * share
    best: tuple[float, Any] = (np.inf, None)
    for _ in range(TRIES):
        order = random.permutation(len(groups))
        ends = np.cumsum(sizes[order])
        take = order[: max(1, int(np.searchsorted(ends, share * len(rows), side="right")))]
        taken = np.isin(inverse, take)
        got = np.bincount(kind[taken], minlength=len(kinds))
        cost = float((((got - want) / np.maximum(want, 1)) ** 2).sum() + len(kinds) * ((got == 0) & (want > 0.5)).sum())
        if cost < best[0] and 0 < taken.sum() < len(rows):
            best = (cost, taken)
    if best[1] is None:
        return rows, rows[:0]
    return rows[~best[1]], rows[best[1]]


def _drawn(data: Cases, options: GroupSplitOptions) -> tuple[str, dict[str, Any]]:
    random, stratum = np.random.default_rng(options.seed), strata(data)
    rest, test = grouped_draw(np.arange(len(data)), data.group, stratum, options.fractions[2], random)
    train, val = grouped_draw(rest, data.group, stratum, options.fractions[1] / (1 - options.fractions[2]), random)
    share = "/".join(f"{100 * f:g}" for f in options.fractions)
    return f"whole groups, balanced by label, {share}, seed {options.seed}", {"train": train, "val": val, "test": test}


def _folds(data: Cases, options: GroupSplitOptions) -> tuple[str, dict[str, Any]]:
    stratum, groups = strata(data), len(np.unique(data.group))
    if groups <= options.folds:
        raise BadInput(
            f"{data.manifest.source}: {groups} groups cannot be {options.folds} folds; set split.folds lower"
        )
    rarest = min(np.bincount(stratum)[np.unique(stratum)])
    if rarest < options.folds:
        stratum = np.zeros_like(stratum)
    cut = StratifiedGroupKFold(options.folds, shuffle=True, random_state=options.seed)
    rest, test = list(cut.split(np.zeros(len(data)), stratum, data.group))[options.fold]
    random = np.random.default_rng([options.seed, options.fold])
    share = options.fractions[1] / (options.fractions[0] + options.fractions[1])
    train, val = grouped_draw(rest.astype(np.int64), data.group, strata(data), share, random)
    said = f"fold {options.fold} of {options.folds} tests, whole groups, balanced by label, seed {options.seed}"
    return f"{said}; validation: {100 * share:.0f} % of the others", {
        "train": train,
        "val": val,
        "test": test.astype(np.int64),
    }


def _given(data: Cases, options: GroupSplitOptions) -> tuple[str, dict[str, Any]]:
    found: dict[str, list[int]] = {p: [] for p in PARTS}
    for i, part in enumerate(data.parts):
        if part.lower() not in GIVEN:
            raise BadInput(f"{data.manifest.source}: {data.names[i]} has split {part!r}; allowed: {', '.join(GIVEN)}")
        found[GIVEN[part.lower()]].append(i)
    parts = {p: np.array(rows, np.int64) for p, rows in found.items()}
    said = "the source's own parts"
    if not len(parts["val"]):
        random = np.random.default_rng(options.seed)
        parts["train"], parts["val"] = grouped_draw(parts["train"], data.group, strata(data), 0.15, random)
        said += f"; validation: 15 % of training, whole groups, seed {options.seed}"
    divided = {data.patients[i] for i in (*parts["train"], *parts["val"])} & {data.patients[i] for i in parts["test"]}
    if divided - {""} and not options.allow_leak:
        raise BadInput(
            f"{data.manifest.source}: its own parts divide {len(divided - {''})} patients between training and test. "
            "Set split.protocol=groups, or split.allow_leak=true to go on nevertheless"
        )
    return said, parts


def _by_site(data: Cases, options: GroupSplitOptions) -> tuple[str, dict[str, Any]]:
    there = sorted({s for s in data.sites if s})
    missing = [s for s in options.test if s not in there]
    if missing or not options.test:
        raise BadInput(
            f"{data.manifest.source}: split.test must name the sites that test, got {list(options.test)}; there are "
            f"{', '.join(there) or 'none: give a column site'}"
        )
    ours = np.isin(np.array(data.sites), options.test)
    linked = ours | np.isin(data.group, data.group[ours])  # a patient seen at two sites tests whole
    rest, test = np.flatnonzero(~linked), np.flatnonzero(linked)
    random = np.random.default_rng(options.seed)
    share = options.fractions[1] / (options.fractions[0] + options.fractions[1])
    train, val = grouped_draw(rest, data.group, strata(data), share, random)
    return f"site {', '.join(options.test)} tests; seed {options.seed}", {"train": train, "val": val, "test": test}


def audit_split(data: Cases, split: Split) -> list[Audit]:
    """Would show that the test part is known from training: shared patients, copies, near copies."""
    known = np.concatenate([split.parts["train"], split.parts["val"]])
    test = split.parts["test"]
    patients = {data.patients[i] for i in test} & {data.patients[i] for i in known} - {""}
    copies = len({data.keys[i] for i in test} & {data.keys[i] for i in known})
    groups = len(np.intersect1d(data.group[test], data.group[known]))
    absent = split.facts["test"]["labels_without_both_outcomes"] if "test" in split.facts else []
    found = [
        Audit(
            "patients_on_both_sides", float(len(patients)), (not patients) if any(data.patients) else None,
            "Patients of the test part who stand in training too." if any(data.patients)
            else "The source names no patient, so nobody can say whether training saw the test patients.",
        ),
        Audit("copies_on_both_sides", float(copies), not copies, "Test images whose pixels stand in training too."),
        Audit(
            "groups_on_both_sides", float(groups), not groups,
            "Sets of one patient's images, copies and images of like perceptual hash that stand on both sides.",
        ),
        Audit(
            "labels_not_scored", ", ".join(absent) or "none", None,
            "Labels that the test part does not hold with both outcomes: left out of the means over labels.",
        ),
        Audit(
            "largest_group", largest_share(data.group), None,
            "Share of all cases in the largest group; where large, perceptual hashes may join too much (alike).",
        ),
    ]  # fmt: skip
    seen = {} if any(data.patients) else suspected_patients(data.names)
    if seen:
        n = max(seen.values())
        found.append(
            Audit(
                "patients_suspected", float(len(seen)), False,
                f"File names look like patients with several images each (up to {n}), and no "
                "patient is given: one may stand on both sides. Give a manifest with a column patient, or "
                "--set patient_pattern='(?P<patient>...)'.",
            )
        )  # fmt: skip
    return found


def largest_share(group: Any) -> float:
    """Share of the cases that the largest group holds."""
    counts: Float[np.ndarray, "g"] = np.bincount(group).astype(np.float64)
    return round(float(counts.max() / counts.sum()), 4)
