"""Pairs of nodes for link prediction: parts that no edge straddles, negatives, and classical similarity scores.

Shapes: N nodes, E arcs, P pairs, n pairs of a part, K negatives of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Int64
from scipy import sparse

from shared_backbones.errors import BadInput

from ..task import Split
from .data import Graph

HEURISTICS = ("common neighbours", "Adamic-Adar", "resource allocation", "preferential attachment", "feature cosine")
_TRIES = 20  # rounds of drawing anew what is an edge


def keys_of(pairs: Int[np.ndarray, "n 2"], nodes: int) -> Int64[np.ndarray, "n"]:
    """One number per ordered pair."""
    return pairs[:, 0].astype(np.int64) * nodes + pairs[:, 1]


def is_in(keys: Int64[np.ndarray, "n"], known: Int64[np.ndarray, "m"]) -> Bool[np.ndarray, "n"]:
    """Which keys are among ``known``, which is sorted."""
    if not len(known):
        return np.zeros(len(keys), bool)
    at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return known[at] == keys


def pair_table(graph: Graph) -> tuple[Int64[np.ndarray, "P 2"], Int64[np.ndarray, "P"]]:
    """Edges as distinct pairs without self-loops, (i < j) where undirected; and the group of each.

    An edge and its reverse are one group, which a split never parts.
    """
    pairs = graph.edges.T[graph.edges[0] != graph.edges[1]].astype(np.int64)
    if not graph.directed:
        pairs = np.sort(pairs, 1)
    pairs = np.unique(pairs, axis=0)
    return pairs, np.unique(keys_of(np.sort(pairs, 1), graph.nodes), return_inverse=True)[1]


def split_pairs(graph: Graph, fractions: tuple[float, float, float], seed: int, by_time: bool) -> Split:
    """Parts of pairs at random, or in order of time. Raises BadInput where there are too few edges."""
    pairs, group = pair_table(graph)
    count = int(group.max(initial=-1)) + 1
    sizes = [int(fractions[1] * count), int(fractions[2] * count)]
    where = graph.manifest.source
    if not len(pairs):
        raise BadInput(f"{where}: a graph without edges has no links to learn from")
    if min(sizes) < 1 or count - sum(sizes) < 1:
        raise BadInput(f"{where}: {count} edges are too few for parts of {fractions}; give more, or other fractions")
    if by_time:
        if graph.time is None:
            raise BadInput(f"{where}: split.by=time needs a time of every edge, and there is none")
        lookup = np.minimum(*graph.edges), np.maximum(*graph.edges)
        keys = lookup[0].astype(np.int64) * graph.nodes + lookup[1]
        known = np.unique(keys_of(np.sort(pairs, 1), graph.nodes))
        real = graph.edges[0] != graph.edges[1]
        first = np.full(count, np.inf)
        np.minimum.at(first, np.searchsorted(known, keys[real]), graph.time[real])
        order = np.argsort(first, kind="stable")
    else:
        order = np.random.default_rng((seed, 17)).permutation(count)
    ends = count - sum(sizes), count - sizes[1]
    rank = np.empty(count, np.int64)
    rank[order] = np.arange(count)
    place = np.searchsorted(np.array(ends), rank[group], "right")
    parts = {name: pairs[place == i] for i, name in enumerate(("train", "val", "test"))}
    way = "by the time of their first edge" if by_time else f"at random, seed {seed}"
    percent = "/".join(f"{100 * f:g}" for f in fractions)
    words = f"pairs of nodes {way}, {percent}; an edge and its reverse in one part; messages pass training edges only"
    return Split(words, parts, {name: len(p) for name, p in parts.items()})


def arcs_of(graph: Graph, pairs: Int[np.ndarray, "n 2"]) -> Bool[np.ndarray, "E"]:
    """Which arcs are one of the pairs (in either direction where the graph is undirected)."""
    ends = graph.edges.T if graph.directed else np.sort(graph.edges.T, 1)
    return is_in(keys_of(ends, graph.nodes), np.sort(keys_of(pairs, graph.nodes)))


def known_links(graph: Graph, pairs: Int[np.ndarray, "n 2"]) -> Int64[np.ndarray, "m"]:
    """Sorted keys of pairs that no negative may be: themselves, their reverses where undirected, and loops."""
    both = [pairs] if graph.directed else [pairs, pairs[:, ::-1]]
    loops = np.repeat(np.arange(graph.nodes), 2).reshape(-1, 2)
    return np.unique(keys_of(np.concatenate([*both, loops]), graph.nodes))


def negatives(
    sources: Int[np.ndarray, "n"], count: int, nodes: int, known: Int64[np.ndarray, "m"], random: np.random.Generator
) -> tuple[Int64[np.ndarray, "n K"], Bool[np.ndarray, "n K"]]:
    """Targets that are no known link of their source, and which of them were found (a hub may have none left)."""
    found = random.integers(0, nodes, (len(sources), count))
    for _ in range(_TRIES):
        bad = is_in((sources[:, None].astype(np.int64) * nodes + found).reshape(-1), known).reshape(found.shape)
        if not bad.any():
            break
        found[bad] = random.integers(0, nodes, int(bad.sum()))
    keys = (sources[:, None].astype(np.int64) * nodes + found).reshape(-1)
    return found, ~is_in(keys, known).reshape(found.shape)


@dataclass(frozen=True)
class Similarity:
    """Scores of pairs from a graph's structure and features; a pair's own edge never counts for it."""

    adjacency: sparse.csr_array  # of training edges, symmetric
    weights: Float[np.ndarray, "N 2"]  # of a common neighbour: 1 / log degree, 1 / degree
    degree: Float[np.ndarray, "N"]
    unit: Float[np.ndarray, "N F"] | sparse.csr_array  # features of length 1

    @staticmethod
    def of(graph: Graph) -> Similarity:
        """From all arcs of a graph: give it the training arcs only."""
        n = graph.nodes
        ends = np.concatenate([graph.edges, graph.edges[::-1]], 1)
        ends = ends[:, ends[0] != ends[1]]
        a = sparse.csr_array((np.ones(ends.shape[1]), (ends[0], ends[1])), shape=(n, n))
        a.data[:] = 1.0
        degree = np.asarray(a.sum(1)).reshape(-1)
        weights = np.stack([1 / np.log(np.maximum(degree, 2)), 1 / np.maximum(degree, 1)], 1)
        x = np.asarray(graph.features, np.float64)
        unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        return Similarity(a, weights, degree, sparse.csr_array(unit) if (x != 0).mean() < 0.1 else unit)

    def scores(self, pairs: Int[np.ndarray, "n 2"], chunk: int = 20_000) -> Float[np.ndarray, "n 5"]:
        """HEURISTICS of each pair."""
        found = [self._scores(pairs[i : i + chunk]) for i in range(0, len(pairs), chunk)]
        return np.concatenate(found) if found else np.zeros((0, len(HEURISTICS)))

    def _scores(self, pairs: Int[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 5"]:
        i, j = pairs.T
        both = self.adjacency[i].multiply(self.adjacency[j])
        linked = np.asarray(self.adjacency[i, j]).reshape(-1)
        spread = (self.degree[i] - linked) * (self.degree[j] - linked)
        a, b = self.unit[i], self.unit[j]
        cosine = (a * b if isinstance(a, np.ndarray) else a.multiply(b)).sum(1)
        columns = [both.sum(1), *(both @ self.weights).T, spread, cosine]
        return np.stack([np.asarray(c, np.float64).reshape(-1) for c in columns], 1)

    def edge_bank(self, pairs: Int[np.ndarray, "n 2"]) -> Float[np.ndarray, "n"]:
        """1 for a pair that is a training edge in either direction."""
        return np.asarray(self.adjacency[pairs[:, 0], pairs[:, 1]], np.float64).reshape(-1)


def inputs_of(scores: Float[np.ndarray, "*n 5"]) -> Float[np.ndarray, "*n 5"]:
    """Similarity scores as a network reads them: counts on a logarithmic scale."""
    return np.concatenate([np.log1p(scores[..., :4]), scores[..., 4:]], -1)
