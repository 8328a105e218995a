"""Cutting a graph into parts of neighbouring nodes, and batches made of some parts with all edges between them.

Two ways without a compiled partitioner: breadth-first balls, and label propagation under a size limit.
N nodes, E edges, P parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from jaxtyping import Int, Int64

from shared_backbones.errors import BadRequest

from .neighbours import Csr, draw
from .sampling import Sampled, induced

Method = Literal["bfs", "labels"]


def both_ways(edges: Int[np.ndarray, "2 E"]) -> Int[np.ndarray, "2 F"]:
    """Every edge and its reverse."""
    return np.concatenate([edges, edges[::-1]], 1)


def breadth_first(graph: Csr, size: int, seed: int = 0) -> Int64[np.ndarray, "N"]:
    """The part of each node: balls of ``size`` nodes grown one after another from nodes not yet taken."""
    order = np.random.default_rng(seed).permutation(graph.nodes)
    part = np.full(graph.nodes, -1, np.int64)
    now, room, cursor = 0, size, 0
    front = np.zeros(0, np.int64)
    none = np.random.default_rng(0)  # nothing is drawn: all neighbours are taken
    while True:
        if not len(front):
            while cursor < len(order) and part[order[cursor]] >= 0:
                cursor += 1
            if cursor == len(order):
                return part
            front = order[cursor : cursor + 1].astype(np.int64)
        front = front[:room]
        part[front] = now
        room -= len(front)
        if not room:
            now, room, front = now + 1, size, np.zeros(0, np.int64)
            continue
        row, place = draw(graph.start[front + 1] - graph.start[front], -1, none)
        near = graph.source[graph.start[front][row] + place].astype(np.int64)
        near = near[part[near] < 0]
        front = near[np.sort(np.unique(near, return_index=True)[1])]


def by_labels(graph: Csr, size: int, seed: int = 0, rounds: int = 10) -> Int64[np.ndarray, "N"]:
    """The part of each node: from breadth-first balls, nodes move to the part that most neighbours are in.

    A part takes movers only while it holds fewer than 1.1 ``size`` nodes; the movers with the largest gain go first.
    """
    part = breadth_first(graph, size, seed)
    parts, limit = int(part.max(initial=0)) + 1, max(size, int(1.1 * size))
    target = np.repeat(np.arange(graph.nodes), graph.degree)
    for _ in range(rounds):
        pairs, votes = np.unique(target * parts + part[graph.source], return_counts=True)
        node, where = pairs // parts, pairs % parts
        best = np.lexsort((where, -votes, node))
        best = best[np.r_[True, np.diff(node[best]) > 0]] if len(best) else best
        own = np.zeros(graph.nodes, np.int64)
        own[node[where == part[node]]] = votes[where == part[node]]
        gain = votes[best] - own[node[best]]
        best, gain = best[gain > 0], gain[gain > 0]
        if not len(best):
            break
        movers, goal = node[best], where[best]
        order = np.lexsort((movers, -gain, goal))
        movers, goal = movers[order], goal[order]
        rank = np.arange(len(goal)) - np.searchsorted(goal, goal)  # place in the queue for its part
        free = limit - np.bincount(part, minlength=parts)
        keep = rank < free[goal]
        if not keep.any():
            break
        part[movers[keep]] = goal[keep]
    return np.unique(part, return_inverse=True)[1]


def partition(graph: Csr, size: int, method: Method = "labels", seed: int = 0) -> Int64[np.ndarray, "N"]:
    """The part of each node, counted from 0. Raises BadRequest for a size below 1."""
    if size < 1:
        raise BadRequest(f"a part holds at least one node, got a size of {size}")
    return (breadth_first if method == "bfs" else by_labels)(graph, size, seed)


def cut_share(graph: Csr, part: Int64[np.ndarray, "N"]) -> float:
    """Share of the edges that join two parts: what partitioned training does not see."""
    if not len(graph.source):
        return 0.0
    return float((np.repeat(part, graph.degree) != part[graph.source]).mean())


def part_batches(
    graph: Csr, part: Int64[np.ndarray, "N"], parts_per_batch: int, seed: int, epoch: int = 0
) -> Iterator[Sampled]:
    """Batches of some parts each, joined at random anew in every epoch, with all edges inside a batch."""
    count = int(part.max(initial=-1)) + 1
    order = np.random.default_rng((seed, epoch)).permutation(count)
    by_part = np.argsort(part, kind="stable")
    start = np.searchsorted(part[by_part], np.arange(count + 1))
    for at in range(0, count, parts_per_batch):
        chosen = order[at : at + parts_per_batch]
        yield induced(graph, np.concatenate([by_part[start[p] : start[p + 1]] for p in chosen]))
