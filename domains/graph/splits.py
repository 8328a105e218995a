"""Splits of nodes or graphs as named, hashed protocols, and the audits that would show a leak."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int

from shared_backbones.errors import BadInput

from ..task import PARTS, Audit, Split
from .config import SplitOptions
from .data import Graph


def make_split(graph: Graph, options: SplitOptions) -> Split:
    """Parts of the labelled elements by a named protocol. Raises BadInput where the graph cannot be split so."""
    known = np.flatnonzero(graph.known())
    where = graph.manifest.source
    if not len(known):
        raise BadInput(f"{where}: no {graph.level} has a known target; name its column with --set target=COLUMN")
    protocol = options.protocol
    if protocol == "auto":
        protocol = "given" if graph.given else "folds" if graph.level == "graph" else "fractions"
    if protocol == "given":
        name, parts = _given(graph, options)
    elif protocol == "per_class":
        name, parts = _per_class(graph, known, options)
    elif protocol == "folds":
        name, parts = _folds(graph, known, options)
    else:
        name, parts = _fractions(graph, known, options)
    parts = {p: np.sort(np.intersect1d(parts[p], known)).astype(np.int64) for p in PARTS}
    for part, index in parts.items():
        if not len(index):
            raise BadInput(f"{where}: the {part} part of {name!r} holds no labelled {graph.level}")
    facts: dict[str, Any] = {p: len(i) for p, i in parts.items()}
    if graph.classes:
        assert graph.target is not None
        counts = {p: np.bincount(graph.target[i], minlength=len(graph.classes)) for p, i in parts.items()}
        lacking = [c for c, n in zip(graph.classes, counts["train"], strict=True) if n == 0]
        needed = [c for c, n in zip(graph.classes, counts["test"], strict=True) if n and c in lacking]
        if len(graph.classes) == 1:
            raise BadInput(f"{where}: all targets are {graph.classes[0]!r}; classification needs two classes or more")
        if len(lacking) >= len(graph.classes) - 1 or (needed and protocol != "given"):
            raise BadInput(
                f"{where}: class {', '.join(map(repr, lacking[:5]))} has no training {graph.level} under {name!r}; "
                "label some, leave the class out, or choose another split"
            )
        facts["classes_without_training"] = lacking
        facts["class_counts"] = {p: [int(v) for v in c] for p, c in counts.items()}
    return Split(name, parts, facts)


def _strata(graph: Graph) -> Any:
    assert graph.target is not None
    return graph.target if graph.classes else np.zeros(len(graph.target), np.int64)


def _given(graph: Graph, options: SplitOptions) -> tuple[str, dict[str, Any]]:
    if graph.given is None:
        raise BadInput(
            f"{graph.manifest.source}: the source gives no parts; choose --set split.protocol=fractions or per_class"
        )
    count = len(graph.given.parts)
    if options.index >= count:
        raise BadInput(f"split.index must lie in 0 .. {count - 1} ({graph.given.name}), got {options.index}")
    parts = dict(graph.given.parts[options.index])
    which = f"{graph.given.name}, split {options.index} of {count}" if count > 1 else graph.given.name
    if not len(parts.get("val", ())):
        val, train = _dealt(graph, parts["train"], (options.inner, 1 - options.inner), (options.seed, options.index))
        parts |= {"train": train, "val": val}
        which += (
            f"; nested: {options.inner:.0%} of each training fold validates (stratified, seed {options.seed}), the "
            "epoch with the least validation loss is kept, the test fold has no say"
        )
    return which, parts


def _dealt(
    graph: Graph, index: Int[np.ndarray, "n"], shares: tuple[float, ...], seed: tuple[int, ...]
) -> list[Int[np.ndarray, "m"]]:
    """Elements dealt out by share, class by class, in a random order; no part stays empty where there are enough."""
    rng, strata = np.random.default_rng(seed), _strata(graph)[index]
    found: list[list[Any]] = [[] for _ in shares]
    for c in np.unique(strata):
        mine = rng.permutation(index[strata == c])
        bounds = np.round(np.cumsum(shares)[:-1] * len(mine)).astype(int)
        for place, piece in enumerate(np.split(mine, bounds)):
            found[place].append(piece)
    parts = [np.concatenate(pieces) for pieces in found]
    for place, part in enumerate(parts):
        if not len(part) and len(index) >= len(shares):
            rich = max(range(len(parts)), key=lambda p: len(parts[p]))
            parts[place], parts[rich] = parts[rich][-1:], parts[rich][:-1]
    return [np.sort(part) for part in parts]


def _fractions(graph: Graph, known: Any, options: SplitOptions) -> tuple[str, dict[str, Any]]:
    parts = _dealt(graph, known, options.fractions, (options.seed, options.index))
    shares = "/".join(f"{100 * f:g}" for f in options.fractions)
    return f"random {shares} by class, seed {options.seed}, draw {options.index}", dict(zip(PARTS, parts, strict=True))


def _per_class(graph: Graph, known: Any, options: SplitOptions) -> tuple[str, dict[str, Any]]:
    if not graph.classes:
        raise BadInput("split.protocol=per_class needs classes; use fractions for a real-valued target")
    assert graph.target is not None
    rng = np.random.default_rng((options.seed, options.index))
    chosen = []
    for c, name in enumerate(graph.classes):
        mine = known[graph.target[known] == c]
        if len(mine) < options.per_class:
            raise BadInput(
                f"{graph.manifest.source}: class {name!r} has {len(mine)} labelled nodes, and split.per_class asks for "
                f"{options.per_class} to train on"
            )
        chosen.append(rng.permutation(mine)[: options.per_class])
    train = np.concatenate(chosen)
    rest = rng.permutation(np.setdiff1d(known, train))
    if len(rest) < options.val + 1:
        raise BadInput(f"{len(rest)} nodes are left to validate and test on, and split.val asks for {options.val}")
    parts = {"train": train, "val": rest[: options.val], "test": rest[options.val : options.val + options.test]}
    name = f"random {options.per_class} per class, {options.val} val, {len(parts['test'])} test"
    return f"{name}, seed {options.seed}, draw {options.index}", parts


def _folds(graph: Graph, known: Any, options: SplitOptions) -> tuple[str, dict[str, Any]]:
    if options.index >= options.folds:
        raise BadInput(f"split.index must lie in 0 .. {options.folds - 1} (split.folds), got {options.index}")
    folds = _dealt(graph, known, (1 / options.folds,) * options.folds, (options.seed,))
    rest = np.concatenate([f for i, f in enumerate(folds) if i != options.index])
    val, train = _dealt(graph, rest, (options.inner, 1 - options.inner), (options.seed, options.index))
    name = (
        f"fold {options.index} of {options.folds}, stratified, seed {options.seed}; nested: {options.inner:.0%} of the "
        "training folds validates, the test fold has no say"
    )
    return name, {"train": train, "val": val, "test": folds[options.index]}


def twins(graph: Graph, split: Split) -> int:
    """Test elements whose features and neighbours (or whole graph) equal those of a training element."""
    keys = _keys(graph)
    seen = {keys[i] for i in split.parts["train"]}
    return sum(keys[i] in seen for i in split.parts["test"])


def _keys(graph: Graph) -> list[bytes]:
    first, near, _ = graph.csr()
    if graph.level == "node":
        return [
            graph.features[i].tobytes() + np.sort(near[first[i] : first[i + 1]]).tobytes() for i in range(graph.nodes)
        ]
    found = []
    for g in range(graph.graphs):
        a, b = graph.offsets[g], graph.offsets[g + 1]
        arcs = np.stack([near[first[a] : first[b]] - a, np.repeat(np.arange(b - a), np.diff(first[a : b + 1]))])
        found.append(graph.features[a:b].tobytes() + arcs[:, np.lexsort(arcs)].tobytes())
    return found


def audit_split(graph: Graph, split: Split) -> list[Audit]:
    """Duplicates across parts, and how near the test elements stand to training ones."""
    copies = twins(graph, split) if graph.nodes <= 200_000 else -1
    share = copies / len(split.parts["test"])
    found = [
        Audit(
            "test_elements_that_repeat_a_training_one",
            copies if copies >= 0 else "not counted above 200000 nodes",
            None if copies < 0 else share < 0.1,
            f"Test {graph.level}s with the features and neighbours of a training one: their answer may be known "
            "beforehand. Passed below 10 %.",
        )
    ]
    if graph.level == "node" and graph.graphs == 1:
        part = np.zeros(graph.nodes, bool)
        part[split.parts["train"]] = True
        test = np.zeros(graph.nodes, bool)
        test[split.parts["test"]] = True
        touched = np.zeros(graph.nodes, bool)
        touched[graph.edges[1][part[graph.edges[0]]]] = True
        found.append(
            Audit(
                "test_nodes_next_to_a_training_node",
                round(float((touched & test).sum() / test.sum()), 4),
                None,
                "Transductive: test nodes and their edges are there while training, their targets are not.",
            )
        )
    return found
