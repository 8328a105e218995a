"""What the past says of a pair: counts and times strictly before an instant, negatives, and EdgeBank.

"Towards Better Evaluation for Dynamic Link Prediction" (Poursafaei et al. 2022): a pair that was seen is predicted, and
negatives are drawn at random or from a source's own past partners, which are harder; the two are reported apart.
E interactions, N nodes, n queries, K candidates of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Int64

from .data.events import Events
from .neighbours import Csr, before, draw

INPUTS = 8  # numbers that :meth:`Past.inputs` gives for a candidate
_TRIES = 20


@dataclass(frozen=True)
class Groups:
    """Interactions of each of G groups in order of time."""

    csr: Csr

    @staticmethod
    def of(group: Int[np.ndarray, "E"], count: int, time: Float[np.ndarray, "E"]) -> Groups:
        order = np.argsort(group, kind="stable")  # interactions are in order of time already
        start = np.zeros(count + 1, np.int64)
        np.cumsum(np.bincount(group, minlength=count), out=start[1:])
        return Groups(Csr(start, order, order, time[order]))

    def look(
        self, group: Int[np.ndarray, "n"], time: Float[np.ndarray, "n"]
    ) -> tuple[Int64[np.ndarray, "n"], Float[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
        """(count, time of the newest, the newest itself) strictly before each time; group -1 and none: 0, -inf, -1."""
        assert self.csr.time is not None
        safe = np.maximum(group, 0)
        count = np.where(group >= 0, before(self.csr, safe, time), 0)
        at = np.maximum(self.csr.start[safe] + count - 1, 0)
        return count, np.where(count > 0, self.csr.time[at], -np.inf), np.where(count > 0, self.csr.edge[at], -1)


class Past:
    """Look-ups in all interactions; each look sees only what is strictly before its own time."""

    def __init__(self, data: Events) -> None:
        self.data = data
        keys = data.source.astype(np.int64) * data.nodes + data.target
        self.keys, group = np.unique(keys, return_inverse=True)
        self.pairs = Groups.of(group, len(self.keys), data.time)
        self.sources = Groups.of(data.source, data.nodes, data.time)
        self.targets = Groups.of(data.target, data.nodes, data.time)

    def pair(self, source: Int[np.ndarray, "n"], target: Int[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
        """The group of a pair, -1 where it never meets."""
        keys = source.astype(np.int64) * self.data.nodes + target
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, at, -1)

    def inputs(
        self,
        source: Int[np.ndarray, "n"],
        candidates: Int[np.ndarray, "n K"],
        time: Float[np.ndarray, "n"],
        scale: float,
    ) -> Float[np.ndarray, "n K 8"]:
        """Of each candidate: seen, count and freshness of the pair, its share of the source's past; count and
        freshness of the target; freshness of the source; whether it was the source's last partner."""
        shape = candidates.shape
        s, t, v = np.repeat(source, shape[1]), np.repeat(time, shape[1]), candidates.reshape(-1)
        pair_count, pair_last, _ = self.pairs.look(self.pair(s, v), t)
        target_count, target_last, _ = self.targets.look(v, t)
        source_count, source_last, newest = self.sources.look(s, t)
        last = (newest >= 0) & (self.data.target[np.maximum(newest, 0)] == v)
        fresh = lambda when: 1 / (1 + (t - when) / scale)  # noqa: E731 - 0 where it never was
        columns = [
            pair_count > 0, np.log1p(pair_count), fresh(pair_last), pair_count / (source_count + 1.0),
            np.log1p(target_count), fresh(target_last), fresh(source_last), last,
        ]  # fmt: skip
        return np.stack([np.asarray(c, np.float64) for c in columns], -1).reshape(*shape, INPUTS)

    def edge_bank(
        self,
        source: Int[np.ndarray, "n"],
        candidates: Int[np.ndarray, "n K"],
        time: Float[np.ndarray, "n"],
        window: float = np.inf,
    ) -> Float[np.ndarray, "n K"]:
        """1 where the pair was seen within ``window`` before the time."""
        s, t = np.repeat(source, candidates.shape[1]), np.repeat(time, candidates.shape[1])
        last = self.pairs.look(self.pair(s, candidates.reshape(-1)), t)[1]
        return (last >= t - window).reshape(candidates.shape) * (last > -np.inf).reshape(candidates.shape) * 1.0


def partners_now(data: Events, at: Int[np.ndarray, "n"], candidates: Int[np.ndarray, "n K"]) -> Bool[np.ndarray, "n K"]:
    """Which candidates the source of interaction ``at`` meets at that very time: they are no negatives."""
    stamp = np.unique(data.time, return_inverse=True)[1].astype(np.int64)
    known = np.unique((stamp * data.nodes + data.source) * data.nodes + data.target)
    keys = (((stamp[at] * data.nodes + data.source[at]) * data.nodes)[:, None] + candidates).reshape(-1)
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return (known[place] == keys).reshape(candidates.shape)


def random_negatives(
    data: Events, at: Int[np.ndarray, "n"], pool: Int[np.ndarray, "m"], count: int, random: np.random.Generator
) -> tuple[Int64[np.ndarray, "n K"], Bool[np.ndarray, "n K"]]:
    """Targets from a pool that the source does not meet at the same time; and which were found."""
    found = random.choice(pool, (len(at), count)).astype(np.int64)
    bad = partners_now(data, at, found)
    for _ in range(_TRIES):
        if not bad.any():
            break
        found[bad] = random.choice(pool, int(bad.sum()))
        bad = partners_now(data, at, found)
    return found, ~bad


def historical_negatives(
    data: Events, at: Int[np.ndarray, "n"], until: int, count: int, random: np.random.Generator
) -> tuple[Int64[np.ndarray, "n K"], Bool[np.ndarray, "n K"]]:
    """Past partners of the source (among the first ``until`` interactions) that it does not meet now."""
    pairs = np.unique(np.stack([data.source[:until], data.target[:until]], 1), axis=0)
    start = np.searchsorted(pairs[:, 0], np.arange(data.nodes + 1))
    sources = data.source[at]
    row, place = draw(np.diff(start)[sources], count + 8, random)  # some more: those met now fall out
    target = pairs[start[sources][row] + place, 1].astype(np.int64)
    keep = ~partners_now(data, at[row], target[:, None])[:, 0]
    order = np.flatnonzero(keep)[random.permutation(int(keep.sum()))]
    order = order[np.argsort(row[order], kind="stable")]
    row, target = row[order], target[order]
    column = np.arange(len(row)) - np.searchsorted(row, row)
    found, there = np.zeros((len(at), count), np.int64), np.zeros((len(at), count), bool)
    few = column < count
    found[row[few], column[few]], there[row[few], column[few]] = target[few], True
    return found, there
