"""Simulated graphs: a network of papers that cite their own field, and molecules with or without a ring.

Citations: every paper has a field; it cites papers of its own field more often, well-cited ones more often still, and
uses the words of its field among common ones. Molecules: random trees of atoms; half of them are closed to a ring, so
that counts of atoms and bonds say little and the structure says all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from shared_backbones.errors import BadRequest, unknown

from .data import Graph, Rules, assemble

CITATIONS: Mapping[str, float] = {
    "seed": 0, "nodes": 600, "classes": 4, "words": 120, "own_field": 0.8, "citations": 3, "noise": 0.85,
}  # fmt: skip
MOLECULES: Mapping[str, float] = {"seed": 0, "graphs": 120, "atoms": 16, "kinds": 3}


def chosen(defaults: Mapping[str, float], given: Mapping[str, float]) -> dict[str, Any]:
    """The simulator's settings; raises BadRequest for an unknown name or a value out of range."""
    for name, value in given.items():
        if name not in defaults:
            raise unknown("setting of the simulator", name, defaults)
        if value < 0:
            raise BadRequest(f"simulated.{name} must not be negative, got {value}")
    return {**defaults, **given}


def citations(settings: Mapping[str, float]) -> Graph:
    """A citation network with classes per node."""
    s = chosen(CITATIONS, settings)
    rng = np.random.default_rng(int(s["seed"]))
    n, classes, words = int(s["nodes"]), int(s["classes"]), int(s["words"])
    field = rng.integers(0, classes, n)
    fame = rng.pareto(2.5, n) + 1
    pairs = []
    for i in range(1, n):
        weight = fame[:i] * np.where(field[:i] == field[i], s["own_field"], (1 - s["own_field"]) / max(1, classes - 1))
        count = min(i, 1 + rng.poisson(s["citations"] - 1))
        pairs += [(i, j) for j in rng.choice(i, count, replace=False, p=weight / weight.sum())]
    home = rng.integers(0, classes, words)
    rate = 0.08 * np.where(home[None] == field[:, None], 1.0, s["noise"] * 0.75)
    features = (rng.random((n, words)) < rate).astype(np.float32)
    return assemble(
        "simulated",
        features,
        np.array(pairs, np.int64).T,
        Rules(),
        target=field,
        classes=tuple(f"field {c}" for c in range(classes)),
        facts={"simulated": s},
    )


def molecules(settings: Mapping[str, float]) -> Graph:
    """A set of molecules with a class each: a tree, or a tree closed to a ring of five or more."""
    s = chosen(MOLECULES, settings)
    rng = np.random.default_rng(int(s["seed"]))
    pairs, features, sizes, target = [], [], [], []
    first = 0
    for _ in range(int(s["graphs"])):
        n = int(rng.integers(max(8, int(s["atoms"]) - 4), int(s["atoms"]) + 5))
        ring = int(rng.integers(0, 2))
        kind = rng.integers(0, int(s["kinds"]), n)
        tree = [(i, int(rng.integers(max(0, i - 3), i))) for i in range(1, n)]
        if ring:
            start = int(rng.integers(0, n - 6))
            tree = [(i, j) for i, j in tree if not start < i < start + 6]
            tree += [(start + k, start + (k + 1) % 6) for k in range(6)][: 6 if n > 6 else 0]
        else:
            tree.append((n - 1, int(rng.integers(0, n - 1))))  # as many bonds as with a ring, mostly in small rings
        pairs += [(first + i, first + j) for i, j in tree]
        features.append(np.eye(int(s["kinds"]), dtype=np.float32)[kind])
        sizes.append(n)
        target.append(ring)
        first += n
    return assemble(
        "simulated",
        np.concatenate(features),
        np.array(pairs, np.int64).T,
        Rules(),
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
        target=np.array(target),
        classes=("no ring of six", "ring of six"),
        level="graph",
        facts={"simulated": s},
    )
