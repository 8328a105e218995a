"""Splits of objects: the source's own parts, or stratified folds; validation is always carved from training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int64

from domains.task import PARTS, Audit, Split
from shared_backbones.errors import BadInput, BadRequest

from .collection import Objects
from .config import ObjectSplitOptions


def stratified(
    rows: Int64[np.ndarray, "n"], labels: Int64[np.ndarray, "N"], folds: int, random: np.random.Generator
) -> Int64[np.ndarray, "n"]:
    """A fold for each of ``rows``: every class is dealt out evenly, and the folds stay of one size."""
    fold = np.zeros(len(rows), np.int64)
    dealt = 0
    for label in np.unique(labels[rows]):
        mine = random.permutation(np.flatnonzero(labels[rows] == label))
        fold[mine] = (dealt + np.arange(len(mine))) % folds
        dealt += len(mine)
    return fold


def carve(
    rows: Int64[np.ndarray, "n"], labels: Int64[np.ndarray, "N"], share: float, random: np.random.Generator
) -> tuple[Int64[np.ndarray, "t"], Int64[np.ndarray, "v"]]:
    """(training, validation): a share of every class, at least one object of it where it has more than one."""
    val = []
    for label in np.unique(labels[rows]):
        mine = random.permutation(rows[labels[rows] == label])
        val.append(mine[: min(len(mine) - 1, max(1, round(share * len(mine))))])
    chosen = np.sort(np.concatenate(val))
    return np.setdiff1d(rows, chosen), chosen


def make_split(data: Objects, options: ObjectSplitOptions) -> Split:
    """Parts of objects. Raises BadInput where the source cannot be split as asked."""
    protocol = options.protocol
    given = np.array(data.parts)
    if protocol == "auto":
        protocol = "given" if {"train", "test"} <= set(data.parts) else "folds"
    random = np.random.default_rng(options.seed)
    if protocol == "given":
        stray = sorted(set(data.parts) - set(PARTS))
        if stray or not {"train", "test"} <= set(data.parts):
            raise BadInput(
                f"{data.manifest.source}: a given split needs a part (train, val, test) for every object, got "
                f"{', '.join(map(repr, sorted(set(data.parts))))}; set split.protocol=folds"
            )
        test, rest = np.flatnonzero(given == "test"), np.flatnonzero(given == "train")
        said, val = "the source's own train and test parts", np.flatnonzero(given == "val")
    else:
        if options.fold >= options.folds:
            raise BadRequest(f"split.fold={options.fold}: folds are numbered 0 to {options.folds - 1}")
        everything = np.arange(len(data))
        fold = stratified(everything, data.labels, options.folds, random)
        test, rest = everything[fold == options.fold], everything[fold != options.fold]
        said, val = f"fold {options.fold} of {options.folds}, stratified by class", np.zeros(0, np.int64)
    if not len(val):
        random = np.random.default_rng([options.seed, 1])
        rest, val = carve(rest, data.labels, options.val, random)
        said += f"; validation: {100 * options.val:g} % of the training objects of each class"
    parts: dict[str, Any] = {"train": rest, "val": val, "test": test}
    for name in PARTS:
        if not len(parts[name]):
            raise BadInput(
                f"{data.manifest.source}: part {name!r} holds no object ({said}); give more, or split otherwise"
            )
    return Split(f"{said}, seed {options.seed}", parts, _facts(data, parts))


def _facts(data: Objects, parts: Mapping[str, Any]) -> dict[str, Any]:
    def counts(rows: Any) -> dict[str, int]:
        return dict(
            zip(data.classes, np.bincount(data.labels[rows], minlength=len(data.classes)).tolist(), strict=True)
        )

    return {part: counts(rows) for part, rows in parts.items()}


def audit_split(data: Objects, split: Split) -> list[Audit]:
    """Would show that test objects are known from training: the same name, the same numbers."""
    names = {p: {data.names[i] for i in split.parts[p]} for p in PARTS}
    known = names["test"] & (names["train"] | names["val"])
    content = {p: {data.series[i].tobytes() for i in split.parts[p]} for p in PARTS}
    twice = len(content["test"] & (content["train"] | content["val"]))
    return [
        Audit("objects_in_two_parts", float(len(known)), not known, "Objects whose name stands in training and test."),
        Audit("test_copies_in_training", float(twice), not twice, "Test objects whose numbers stand in training too."),
    ]
