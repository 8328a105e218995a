"""Splits that keep a speaker or a source on one side, and the measurements that show it."""

from __future__ import annotations

from typing import Any

import numpy as np

from shared_backbones.errors import BadInput

from ..task import PARTS, Audit, Split
from .clips import Clips
from .config import AudioSplitOptions

FEW = 6  # groups; with fewer, validation takes clips of the training groups
OWN = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}


def make_split(data: Clips, options: AudioSplitOptions) -> Split:
    """Parts of clips. Raises BadInput where the data cannot be split as asked."""
    protocol = options.protocol
    if protocol == "auto":
        grouped = all(data.groups) and len(set(data.groups)) > 1
        protocol = "groups" if grouped or options.test else "given" if any(data.parts) else "clips"
    make = {"groups": _by_group, "given": _given, "clips": _by_clip}[protocol]
    text, parts = make(data, options)
    for name in PARTS:
        if not len(parts[name]):
            raise BadInput(f"{data.manifest.source}: the {name} part holds no clip ({text}); set split.* otherwise")
    facts = {p: {"clips": len(r), "groups": sorted({data.groups[i] or "(none)" for i in r})} for p, r in parts.items()}
    return Split(text, parts, facts)


def _cut(rows: Any, share: float, random: np.random.Generator, labels: Any) -> tuple[Any, Any]:
    """(rest, share of the rows), drawn within every class so that each stands in both where it can."""
    out = []
    for label in np.unique(labels[rows]):
        mine = random.permutation(rows[labels[rows] == label])
        out.append(mine[: max(int(len(mine) > 1), round(share * len(mine)))])
    chosen = np.sort(np.concatenate(out)).astype(np.int64)
    return np.setdiff1d(rows, chosen), chosen


def _by_group(data: Clips, options: AudioSplitOptions) -> tuple[str, dict[str, Any]]:
    groups = np.array(data.groups)
    names = sorted(set(data.groups))
    for name in (*options.test, *options.val):
        if name not in names:
            raise BadInput(f"{data.manifest.source}: no group {name!r} to leave out; there are {', '.join(names)}")
    if set(options.test) & set(options.val):
        raise BadInput(f"split.test and split.val both name {', '.join(set(options.test) & set(options.val))}")
    if "" in names:
        raise BadInput(f"{data.manifest.source}: clip {data.names[data.groups.index('')]} has no speaker or source")
    if len(names) < 2:
        raise BadInput(f"{data.manifest.source}: all clips are of group {names[0]!r}; set split.protocol=clips")
    random = np.random.default_rng(options.seed)
    order = [str(n) for n in random.permutation([n for n in names if n not in (*options.test, *options.val)])]
    test, val = list(options.test), list(options.val)
    if not test:
        take = min(max(1, round(options.fractions[2] * len(names))), len(order) - 1)
        test, order = order[:take], order[take:]
    whole = bool(val) or len(names) >= FEW
    if whole and not val:
        take = min(max(1, round(options.fractions[1] * len(names))), len(order) - 1)
        val, order = order[:take], order[take:]
    at = {name: np.flatnonzero(np.isin(groups, who)) for name, who in (("train", order), ("val", val), ("test", test))}
    said = f"validation: {', '.join(sorted(val))}"
    held = [int(i) for i in at["train"] if OWN.get(data.parts[i]) == "val"]
    if not whole and 0 < len(held) < len(at["train"]):
        at["train"], at["val"] = np.setdiff1d(at["train"], held), np.array(held, np.int64)
        said = f"validation: what the source's own validation part holds of the {len(order)} training groups"
    elif not whole:
        share = options.fractions[1] / (options.fractions[0] + options.fractions[1]) / 2
        at["train"], at["val"] = _cut(at["train"], share, random, data.labels)
        said = f"validation: {100 * share:.0f} % of the clips of the {len(order)} training groups"
    return f"groups stay whole, test: {', '.join(sorted(test))}; {said}; seed {options.seed}", at


def _given(data: Clips, options: AudioSplitOptions) -> tuple[str, dict[str, Any]]:
    found: dict[str, list[int]] = {p: [] for p in PARTS}
    for i, part in enumerate(data.parts):
        if part not in OWN:
            raise BadInput(
                f"{data.manifest.source}: clip {data.names[i]} has split {part!r}; allowed: {', '.join(OWN)}"
            )
        found[OWN[part]].append(i)
    parts = {p: np.array(rows, np.int64) for p, rows in found.items()}
    said = "the source's own parts"
    if not len(parts["val"]):
        random = np.random.default_rng(options.seed)
        parts["train"], parts["val"] = _cut(parts["train"], 0.1, random, data.labels)
        said += f"; validation: 10 % of the training clips, seed {options.seed}"
    shared = {data.groups[i] for i in parts["train"]} & {data.groups[i] for i in parts["test"]} - {""}
    return said + (f"; NOT disjoint: {len(shared)} groups stand on both sides" if shared else ""), parts


def _by_clip(data: Clips, options: AudioSplitOptions) -> tuple[str, dict[str, Any]]:
    random = np.random.default_rng(options.seed)
    rest, test = _cut(np.arange(len(data)), options.fractions[2], random, data.labels)
    train, val = _cut(rest, options.fractions[1] / (1 - options.fractions[2]), random, data.labels)
    said = f"clips drawn within each class, seed {options.seed}; speakers and sources are not known to be disjoint"
    return said, {"train": train, "val": val, "test": test}


def audit_split(data: Clips, split: Split) -> list[Audit]:
    """Would show that the test part is known from training: shared groups, shared sounds."""
    sides = {p: list(split.parts[p]) for p in PARTS}
    groups = {p: {data.groups[i] for i in rows} - {""} for p, rows in sides.items()}
    shared = groups["test"] & (groups["train"] | groups["val"])
    hashes = {p: {data.hashes[i] for i in rows} for p, rows in sides.items()}
    twice = len(hashes["test"] & (hashes["train"] | hashes["val"]))
    known = bool(groups["test"])
    return [
        Audit(
            "groups_on_both_sides", float(len(shared)), (not shared) if known else None,
            "Speakers or sources of the test part that training heard too." if known
            else "The clips name no speaker or source, so nobody can say whether training heard the test speakers.",
        ),
        Audit("test_clips_in_training", float(twice), not twice, "Test clips whose samples stand in training too."),
    ]  # fmt: skip
