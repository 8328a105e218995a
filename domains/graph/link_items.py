"""Links of one part as batches: the graph that messages pass on, pairs to score, and their negatives.

N nodes, E arcs, n links, K candidates of each: the true link first, then its negatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from ..task import Batch, Fitted, Split
from .batches import whole_inputs
from .config import EncodingOptions
from .data import Graph
from .encodings import encodings
from .pairs import Similarity, arcs_of, inputs_of, known_links, negatives


@dataclass(frozen=True)
class Candidates:
    """Scored pairs: ``pairs[:, 0]`` are true links, the rest negatives, of which those ``there`` count."""

    pairs: Int[np.ndarray, "n K 2"]
    there: Bool[np.ndarray, "n K1"]  # K1 = K - 1 negatives


def candidates(
    links: Int[np.ndarray, "n 2"], known: Int[np.ndarray, "m"], count: int, nodes: int, random: np.random.Generator
) -> Candidates:
    """Each link with ``count`` negatives of the same source."""
    others, there = negatives(links[:, 0], count, nodes, known, random)
    targets = np.concatenate([links[:, 1:], others], 1)
    return Candidates(np.stack([np.broadcast_to(links[:, :1], targets.shape), targets], -1), there)


def allowed(graph: Graph, split: Split, part: str) -> Int[np.ndarray, "m"]:
    """Links that no negative of a part may be. Training and validation never ask what the test part holds."""
    parts = {"train": ("train",), "val": ("train", "val"), "test": ("train", "val", "test")}[part]
    return known_links(graph, np.concatenate([split.parts[p] for p in parts]))


def message_graph(graph: Graph, split: Split) -> Graph:
    """The graph with its training arcs alone."""
    return graph.only_arcs(arcs_of(graph, split.parts["train"]))


class LinkItems:
    """Links of a part. Training negatives are drawn anew by torch's random state, the others are fixed by the seed.

    While training, the links of a batch are taken out of the graph that their messages pass on.
    """

    def __init__(
        self,
        graph: Graph,
        split: Split,
        fitted: Fitted,
        part: str,
        *,
        count: int,
        seed: int,
        options: EncodingOptions,
    ) -> None:
        self.train = message_graph(graph, split)
        self.links, self.part, self.count, self.seed = split.parts[part], part, count, seed
        self.known = allowed(graph, split, part)
        self.similarity = Similarity.of(self.train)
        self._fixed = whole_inputs(self.train, fitted, encodings(self.train, options))
        self._cached: Candidates | None = None

    def __len__(self) -> int:
        return len(self.links)

    @property
    def fixed(self) -> Candidates:
        """All links with negatives that only the seed decides."""
        if self._cached is None:
            random = np.random.default_rng((self.seed, ("train", "val", "test").index(self.part)))
            self._cached = candidates(self.links, self.known, self.count, self.train.nodes, random)
        return self._cached

    def graph_inputs(self) -> Batch:
        """The training graph as the network reads it."""
        return self._fixed

    def scores(self, pairs: Int[np.ndarray, "n K 2"]) -> Float[np.ndarray, "n K H"]:
        """Similarity scores as the network reads them."""
        found = inputs_of(self.similarity.scores(pairs.reshape(-1, 2)))
        return found.reshape(*pairs.shape[:2], -1).astype(np.float32)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The graph, "pairs" (n, K, 2), their "scores" (n, K, H), and "there" (n, K - 1)."""
        at = np.asarray(indices, np.int64)
        inputs = dict(self._fixed)
        if self.part == "train":
            random = np.random.default_rng(int(torch.randint(2**31, ())))
            chosen = candidates(self.links[at], self.known, self.count, self.train.nodes, random)
            keep = torch.from_numpy(~arcs_of(self.train, self.links[at]))
            inputs["edges"] = inputs["edges"][:, keep]
            if "edge_attr" in inputs:
                inputs["edge_attr"] = inputs["edge_attr"][keep]
        else:
            chosen = Candidates(self.fixed.pairs[at], self.fixed.there[at])
        inputs["pairs"] = torch.from_numpy(np.ascontiguousarray(chosen.pairs))
        inputs["scores"] = torch.from_numpy(self.scores(chosen.pairs))
        inputs["there"] = torch.from_numpy(chosen.there)
        return inputs
