"""Incoming neighbours of every node as arrays (CSR), and draws from them.

Shapes: N nodes, E edges, n nodes asked for, m entries found. An edge points from its source to its target; the
neighbours of a node are the sources of the edges that point to it, which are what message passing reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int, Int64, Real

from shared_backbones.errors import BadInput, BadRequest

Which = Literal["uniform", "last"]
_FEW = 64  # draws per node up to which Floyd's method beats sorting random keys


@dataclass(frozen=True)
class Csr:
    """The neighbours of node v are ``source[start[v] : start[v + 1]]``, over the edges ``edge[...]`` of the list.

    With ``time`` they stand in order of time, ties in order of the list.
    """

    start: Int64[np.ndarray, "M"]  # M = N + 1
    source: Int[np.ndarray, "E"]
    edge: Int64[np.ndarray, "E"]
    time: Real[np.ndarray, "E"] | None = None

    @property
    def nodes(self) -> int:
        return len(self.start) - 1

    @property
    def degree(self) -> Int64[np.ndarray, "N"]:
        """Edges that point to each node."""
        return np.diff(self.start)


def csr(edges: Int[np.ndarray, "2 E"], nodes: int, time: Real[np.ndarray, "E"] | None = None) -> Csr:
    """The incoming neighbours of ``nodes`` nodes. Raises BadInput where an edge names a node that is not there."""
    source, target = edges
    outside = (edges < 0) | (edges >= nodes)
    if outside.any():
        at = int(np.flatnonzero(outside.any(0))[0])
        raise BadInput(
            f"{int(outside.any(0).sum())} of {edges.shape[1]} edges name an unknown node; the first is edge {at}: "
            f"{int(source[at])} -> {int(target[at])}, and nodes are numbered 0 to {nodes - 1}"
        )
    order = np.argsort(target, kind="stable") if time is None else np.lexsort((time, target))
    start = np.zeros(nodes + 1, np.int64)
    np.cumsum(np.bincount(target, minlength=nodes), out=start[1:])
    return Csr(start, source[order], order.astype(np.int64), None if time is None else time[order])


def before(graph: Csr, nodes: Int[np.ndarray, "n"], time: Real[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    """How many neighbours of each node were met strictly before its time: a binary search in all rows at once."""
    assert graph.time is not None
    low, high = graph.start[nodes].copy(), graph.start[nodes + 1].copy()
    while True:
        open_ = low < high
        if not open_.any():
            return low - graph.start[nodes]
        middle = np.where(open_, (low + high) // 2, 0)
        earlier = open_ & (graph.time[middle] < time)
        low = np.where(earlier, middle + 1, low)
        high = np.where(open_ & ~earlier, middle, high)


def draw(
    available: Int64[np.ndarray, "n"], fanout: int, random: np.random.Generator, which: Which = "uniform"
) -> tuple[Int64[np.ndarray, "m"], Int64[np.ndarray, "m"]]:
    """For each of n rows, ``fanout`` distinct places below its ``available`` (all of them: -1): (row, place) pairs.

    Pairs stand row by row, places in ascending order. "last" takes the highest places. A row with no more than
    ``fanout`` gives all of them. Every subset of a row is equally likely under "uniform".
    """
    if fanout < -1:
        raise BadRequest(f"a fan-out is a number of neighbours, or -1 for all of them, got {fanout}")
    taken = available if fanout < 0 else np.minimum(available, fanout)
    row = np.repeat(np.arange(len(available)), taken)
    place = np.arange(len(row)) - np.repeat(np.cumsum(taken) - taken, taken)  # 0 .. taken - 1 of each row
    many = np.flatnonzero(available > taken)
    if not len(many) or fanout == 0:
        return row, place
    if which == "last":
        return row, place + np.repeat(available - taken, taken)
    chosen = (_floyd if fanout <= _FEW else _by_keys)(available[many], fanout, random)
    inside = np.zeros(len(available), bool)
    inside[many] = True
    place[inside[row]] = np.sort(chosen, 1).reshape(-1)
    return row, place


def _floyd(available: Int64[np.ndarray, "n"], k: int, random: np.random.Generator) -> Int64[np.ndarray, "n k"]:
    """Floyd's method in all rows at once: k distinct numbers below each ``available`` (all > k)."""
    chosen = np.full((len(available), k), -1, np.int64)
    for j in range(k):
        top = available - k + j
        drawn = (random.random(len(available)) * (top + 1)).astype(np.int64)
        again = (chosen[:, :j] == drawn[:, None]).any(1)
        chosen[:, j] = np.where(again, top, drawn)
    return chosen


def _by_keys(available: Int64[np.ndarray, "n"], k: int, random: np.random.Generator) -> Int64[np.ndarray, "n k"]:
    """The k smallest of one random key per place, row by row: for draws too many to compare with one another."""
    return np.stack([np.argpartition(random.random(int(a)), k)[:k] for a in available]).astype(np.int64)
