"""Blocks of neighbouring interactions as items: queries of what comes next, each with what was known before it.

Q queries, K candidates of each: the true partner first, then random, then historical negatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from ..task import Batch, Fitted, Part
from .data.events import Events
from .edgebank import Past, historical_negatives, random_negatives
from .patches import PatchOptions, joined, past_block


@dataclass(frozen=True)
class Queries:
    """Candidates of some interactions."""

    at: Int[np.ndarray, "Q"]  # interactions
    candidates: Int[np.ndarray, "Q K"]
    there: Bool[np.ndarray, "Q K1"]  # which of the K - 1 negatives count


@dataclass(frozen=True)
class Stream:
    """Interactions with everything that is looked up in them, shared by the parts of one run."""

    data: Events
    fitted: Fitted
    train_end: int  # interactions of the training part

    @cached_property
    def past(self) -> Past:
        return Past(self.data)

    @cached_property
    def pool(self) -> Int[np.ndarray, "m"]:
        """Targets of the training part: what random negatives are drawn from."""
        return np.unique(self.data.target[: self.train_end])

    @cached_property
    def features(self) -> Float[np.ndarray, "E K"]:
        """Scaled by the training part."""
        mean, std = np.array(self.fitted["feature_mean"]), np.array(self.fitted["feature_std"])
        return (self.data.features - mean) / std

    @property
    def options(self) -> PatchOptions:
        f = self.fitted
        return PatchOptions(int(f["history"]), int(f["patches"]), float(f["scale"]))

    def queries(self, at: Int[np.ndarray, "Q"], count: int, historical: int, random: np.random.Generator) -> Queries:
        """The interactions with negatives of both kinds; the historical ones are past partners in training."""
        first, found = random_negatives(self.data, at, self.pool, count, random)
        parts, there = [self.data.target[at][:, None], first], [found]
        if historical:
            second, some = historical_negatives(self.data, at, self.train_end, historical, random)
            parts.append(second)
            there.append(some)
        return Queries(at, np.concatenate(parts, 1).astype(np.int64), np.concatenate(there, 1))

    def history(self, asked: Queries) -> Float[np.ndarray, "Q K 8"]:
        """What the past says of every candidate, strictly before its interaction."""
        data = self.data
        return self.past.inputs(data.source[asked.at], asked.candidates, data.time[asked.at], self.options.scale)

    def batch(self, asked: Sequence[Queries]) -> Batch:
        """Blocks of queries as :class:`~domains.graph.temporal_model.FutureNet` reads them."""
        data, blocks, nodes = self.data, [], []
        for q in asked:
            blocks.append(past_block(data, float(data.time[q.at[0]]), self.options, self.features))
            nodes.append(np.concatenate([data.source[q.at][:, None], q.candidates], 1))
        found = dict(joined(blocks, nodes))
        found["history"] = torch.from_numpy(np.concatenate([self.history(q) for q in asked]).astype(np.float32))
        found["there"] = torch.from_numpy(np.concatenate([q.there for q in asked]))
        found["label"] = torch.from_numpy(np.concatenate([data.label[q.at] for q in asked]))
        return found


class BlockItems:
    """Blocks of one part. Training negatives are drawn by torch's random state, the others are fixed by the seed."""

    def __init__(
        self, stream: Stream, index: Int[np.ndarray, "n"], part: Part, block: int, negatives: int, seed: int, own: bool
    ) -> None:
        self.stream, self.part, self.negatives, self.seed, self.own = stream, part, negatives, seed, own
        self.blocks = [index[i : i + block] for i in range(0, len(index), block)]

    def __len__(self) -> int:
        return len(self.blocks)

    def asked(self, i: int) -> Queries:
        """The queries of one block: partners, or (``own``) the source itself."""
        at = self.blocks[i]
        if self.own:
            return Queries(at, self.stream.data.source[at][:, None].astype(np.int64), np.zeros((len(at), 0), bool))
        if self.part == "train":
            random = np.random.default_rng(int(torch.randint(2**31, ())))
            half = self.negatives // 2
            return self.stream.queries(at, self.negatives - half, half, random)
        random = np.random.default_rng((self.seed, int(at[0])))
        return self.stream.queries(at, self.negatives, self.negatives, random)

    def batch(self, indices: Sequence[int]) -> Batch:
        return self.stream.batch([self.asked(int(i)) for i in indices])
