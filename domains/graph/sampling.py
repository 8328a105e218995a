"""Sampled neighbourhoods of a large graph, with the output fields that PyG's loaders have.

Layer by layer, up to ``fanouts[hop]`` neighbours of every node found in the hop before are drawn without replacement.
Nodes are numbered anew: the seeds first, then each hop's new nodes in the order in which they were found.
With times, every seed has a neighbourhood of its own, of interactions strictly before its time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int64, Real

from shared_backbones.errors import BadRequest

from .neighbours import Csr, Which, before, draw


@dataclass(frozen=True)
class Sampled:
    """A part of a graph around its seeds. n nodes, m edges, L hops, S seeds."""

    n_id: Int64[np.ndarray, "n"]  # node of the whole graph behind each node here; the first S are the seeds
    edge_index: Int64[np.ndarray, "2 m"]  # (source, target), numbered as in ``n_id``
    e_id: Int64[np.ndarray, "m"]  # edge of the whole graph behind each edge here
    batch_size: int  # S
    num_sampled_nodes: tuple[int, ...]  # L + 1: the seeds, then the new nodes of each hop
    num_sampled_edges: tuple[int, ...]  # L
    batch: Int64[np.ndarray, "n"] | None = None  # with times: the seed whose neighbourhood each node is in


class _Numbering:
    """Numbers for nodes as they are found. ``known`` keeps one number per key of the whole graph between uses."""

    def __init__(self, keys: int) -> None:
        self.known = np.full(keys, -1, np.int64)
        self.found: list[np.ndarray] = []
        self.count = 0

    def add(self, keys: Int64[np.ndarray, "m"]) -> Int64[np.ndarray, "k"]:
        """The keys not seen before, each once, in order; they are numbered on."""
        new = keys[self.known[keys] < 0]
        self.known[new[::-1]] = np.arange(len(new))[::-1]  # the first of equal keys is written last
        new = new[self.known[new] == np.arange(len(new))]
        self.known[new] = np.arange(self.count, self.count + len(new))
        self.count += len(new)
        self.found.append(new)
        return new

    def take(self) -> Int64[np.ndarray, "n"]:
        """All keys in the order of their numbers; the numbering starts afresh."""
        keys = np.concatenate(self.found)
        self.known[keys] = -1
        self.found, self.count = [], 0
        return keys


class Sampler:
    """Draws neighbourhoods from one graph. It keeps a table of one number per node, so use one sampler per thread."""

    def __init__(self, graph: Csr, fanouts: Sequence[int], which: Which = "uniform") -> None:
        if not fanouts:
            raise BadRequest("sample needs at least one fan-out, such as [10, 5]")
        if which == "last" and graph.time is None:
            raise BadRequest("the last neighbours are those of a graph with times; this one has none")
        self.graph, self.fanouts, self.which = graph, tuple(fanouts), which
        self._numbers = _Numbering(graph.nodes)

    def sample(self, seeds: Int[np.ndarray, "S"], random: np.random.Generator) -> Sampled:
        """The neighbourhood of distinct seeds, shared by all of them. Raises BadRequest where one is there twice."""
        seeds, graph, numbers = seeds.astype(np.int64), self.graph, self._numbers
        front = numbers.add(seeds)
        if len(front) != len(seeds):
            numbers.take()
            raise BadRequest(f"{len(seeds) - len(front)} of {len(seeds)} seeds are there twice; name each node once")
        sources, targets, edges, counts = [], [], [], [len(front)]
        for fanout in self.fanouts:
            row, place = draw(graph.start[front + 1] - graph.start[front], fanout, random)
            at = graph.start[front][row] + place
            found = graph.source[at].astype(np.int64)
            targets.append(numbers.known[front[row]])
            front = numbers.add(found)
            sources.append(numbers.known[found])
            edges.append(graph.edge[at])
            counts.append(len(front))
        return Sampled(
            n_id=numbers.take(),
            edge_index=np.stack([np.concatenate(sources), np.concatenate(targets)]),
            e_id=np.concatenate(edges),
            batch_size=len(seeds),
            num_sampled_nodes=tuple(counts),
            num_sampled_edges=tuple(map(len, edges)),
        )

    def sample_before(
        self, seeds: Int[np.ndarray, "S"], time: Real[np.ndarray, "S"], random: np.random.Generator
    ) -> Sampled:
        """A neighbourhood of its own for every seed (which may be there twice), of edges strictly before its time.

        A node at several hops of one seed is there once. Raises BadRequest where the graph has no times.
        """
        graph = self.graph
        if graph.time is None:
            raise BadRequest("sampling before a time needs a graph with times; this one has none")
        nodes, owner = seeds.astype(np.int64), np.arange(len(seeds))
        keys = owner * graph.nodes + nodes  # one key per (seed, node)
        front, first = np.arange(len(keys)), 0
        sources, targets, edges, counts = [], [], [], [len(keys)]
        for fanout in self.fanouts:
            node, own = keys[front] % graph.nodes, keys[front] // graph.nodes
            row, place = draw(before(graph, node, time[own]), fanout, random, self.which)
            at = graph.start[node][row] + place
            found = own[row] * graph.nodes + graph.source[at]
            first = len(keys)
            keys, number = _extended(keys, found)
            sources.append(number)
            targets.append(front[row])
            edges.append(graph.edge[at])
            front = np.arange(first, len(keys))
            counts.append(len(front))
        return Sampled(
            n_id=keys % graph.nodes,
            edge_index=np.stack([np.concatenate(sources), np.concatenate(targets)]),
            e_id=np.concatenate(edges),
            batch_size=len(seeds),
            num_sampled_nodes=tuple(counts),
            num_sampled_edges=tuple(map(len, edges)),
            batch=keys // graph.nodes,
        )


def _extended(
    keys: Int64[np.ndarray, "n"], found: Int64[np.ndarray, "m"]
) -> tuple[Int64[np.ndarray, "k"], Int64[np.ndarray, "m"]]:
    """``keys`` and behind them the new ones of ``found`` in order; and the number of each of ``found``."""
    both = np.concatenate([keys, found])
    _, first, inverse = np.unique(both, return_index=True, return_inverse=True)
    new = np.sort(first[first >= len(keys)])
    number = np.empty(len(both), np.int64)
    number[: len(keys)] = np.arange(len(keys))
    number[new] = np.arange(len(keys), len(keys) + len(new))
    return np.concatenate([keys, both[new]]), number[first[inverse]][len(keys) :]


def shuffled(
    nodes: Int[np.ndarray, "n"], batch_size: int, seed: int, epoch: int = 0
) -> Iterator[tuple[Int[np.ndarray, "S"], np.random.Generator]]:
    """Batches of seeds in an order that (seed, epoch) decides, each with a random state of its own; none is dropped."""
    order = np.random.default_rng((seed, epoch)).permutation(nodes)
    for i, at in enumerate(range(0, len(order), batch_size)):
        yield order[at : at + batch_size], np.random.default_rng((seed, epoch, i + 1))


def induced(graph: Csr, nodes: Int[np.ndarray, "n"]) -> Sampled:
    """The nodes with all edges between them."""
    nodes = nodes.astype(np.int64)
    local = np.full(graph.nodes, -1, np.int64)
    local[nodes] = np.arange(len(nodes))
    row, place = draw(graph.start[nodes + 1] - graph.start[nodes], -1, np.random.default_rng(0))
    at = graph.start[nodes][row] + place
    source = local[graph.source[at]]
    inside = source >= 0
    return Sampled(
        n_id=nodes,
        edge_index=np.stack([source[inside], row[inside]]),
        e_id=graph.edge[at][inside],
        batch_size=len(nodes),
        num_sampled_nodes=(len(nodes),),
        num_sampled_edges=(int(inside.sum()),),
    )
