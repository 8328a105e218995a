"""The central value of the domain: one graph, or many side by side, as plain arrays.

Shapes: N nodes, E arcs, F node features, K edge features, G graphs, S given splits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from domains.task import Manifest


@dataclass(frozen=True)
class Given:
    """Parts that come with the data: index arrays of nodes (or of graphs) per named split.

    ``parts[s]`` is one split: {"train": ..., "val": ..., "test": ...}; "val" may be empty, it is then dealt from train.
    """

    name: str  # what the field calls it: "Planetoid public", "ten fixed masks", "10 given folds"
    parts: tuple[Mapping[str, Int[np.ndarray, "n"]], ...]


@dataclass(frozen=True)
class Graph:
    """Nodes, arcs and what is known of them. ``edges[:, e]`` is the arc source -> target: messages travel along it.

    directed: stated by the source or the user, never guessed. False: every edge stands as two arcs, i -> j and j -> i
        (a self-loop as one), with the same attributes; True: arcs are as the source has them.
    offsets: graph g holds the nodes ``offsets[g] : offsets[g + 1]``; one graph is ``[0, N]``. No arc crosses graphs.
    target: per node, or per graph where ``level`` is "graph": class positions (-1 unknown) or values (NaN unknown).
    """

    features: Float[np.ndarray, "N F"]  # float32, perhaps memory-mapped
    edges: Int[np.ndarray, "2 E"]  # int64
    directed: bool
    manifest: Manifest
    offsets: Int[np.ndarray, "G1"] = field(default_factory=lambda: np.zeros(0, np.int64))
    edge_attr: Float[np.ndarray, "E K"] | None = None
    weight: Float[np.ndarray, "E"] | None = None
    time: Float[np.ndarray, "E"] | None = None  # in the source's own unit, seconds where it had time stamps
    ids: Shaped[np.ndarray, "N"] | None = None  # the nodes' names in the source; None: their numbers
    target: Shaped[np.ndarray, "T"] | None = None
    level: str = "node"  # what ``target`` and ``given`` speak of: "node" or "graph"
    classes: tuple[str, ...] = ()  # names of the classes; empty: the target is a real value, or there is none
    columns: tuple[str, ...] = ()  # names of the features
    edge_columns: tuple[str, ...] = ()
    given: Given | None = None

    def __post_init__(self) -> None:
        if not len(self.offsets):
            object.__setattr__(self, "offsets", np.array([0, len(self.features)], np.int64))

    @property
    def nodes(self) -> int:
        return len(self.features)

    @property
    def arcs(self) -> int:
        """Columns of ``edges``: two per edge where the graph is undirected."""
        return int(self.edges.shape[1])

    @property
    def graphs(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> Int[np.ndarray, "G"]:
        """Nodes per graph."""
        return np.diff(self.offsets)

    @property
    def names(self) -> Shaped[np.ndarray, "N"]:
        """What the source calls each node."""
        return np.arange(self.nodes) if self.ids is None else self.ids

    def degree(self) -> Int[np.ndarray, "N"]:
        """Arcs that end at each node, self-loops included."""
        return np.bincount(self.edges[1], minlength=self.nodes)

    def pairs(self) -> Int[np.ndarray, "P"]:
        """Positions in ``edges`` of one arc per edge: all where directed, else those with source <= target."""
        if self.directed:
            return np.arange(self.arcs)
        return np.flatnonzero(self.edges[0] <= self.edges[1])

    def csr(self) -> tuple[Int[np.ndarray, "N1"], Int[np.ndarray, "E"], Int[np.ndarray, "E"]]:
        """Arcs grouped by target: (first, neighbours, arc numbers).

        Node i hears from ``neighbours[first[i] : first[i + 1]]``, over the arcs of the same places of the third.
        Within a node they keep the order of ``edges``.
        """
        order = np.argsort(self.edges[1], kind="stable")
        first = np.zeros(self.nodes + 1, np.int64)
        np.cumsum(self.degree(), out=first[1:])
        return first, self.edges[0][order], order

    def graph_of(self) -> Int[np.ndarray, "N"]:
        """The number of the graph that each node is in."""
        return np.repeat(np.arange(self.graphs), self.sizes)

    def known(self) -> Bool[np.ndarray, "T"]:
        """Where the target is known."""
        if self.target is None:
            return np.zeros(self.nodes if self.level == "node" else self.graphs, dtype=bool)
        return self.target >= 0 if self.classes else np.isfinite(self.target)

    def only_arcs(self, keep: Shaped[np.ndarray, "..."]) -> Graph:
        """The same nodes with some of the arcs, by mask or by position."""
        pick = lambda a: None if a is None else a[keep]  # noqa: E731
        return replace(
            self,
            edges=np.ascontiguousarray(self.edges[:, keep]),
            edge_attr=pick(self.edge_attr),
            weight=pick(self.weight),
            time=pick(self.time),
        )


def both_ways(
    edges: Int[np.ndarray, "2 P"], *others: Shaped[np.ndarray, "P ..."] | None
) -> tuple[Int[np.ndarray, "2 E"], list[Any]]:
    """Edges stored once each as arcs in both directions, what belongs to them repeated; a self-loop stays one arc."""
    back = np.flatnonzero(edges[0] != edges[1])
    both = np.concatenate([edges, edges[::-1, back]], 1)
    return both, [None if a is None else np.concatenate([a, a[back]]) for a in others]
