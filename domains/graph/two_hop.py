"""Nodes as short sequences: a node, and nodes drawn within two hops that carry what lies two hops around them.

"Graph Transformers for Large Graphs" (Dwivedi et al. 2023, LargeGT): the drawn tokens hold x, A x and A A x, with A the
mean over neighbours, so attention over them reaches four hops while nothing looks farther than two. The draw is a
function of the seed and the node alone, so no batch changes it.
N nodes, S seeds, T tokens of each (itself first), F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int64
from scipy import sparse

from ..task import Batch, Fitted
from .batches import target_tensor
from .data import Graph
from .model import GraphNet
from .neighbours import Csr, csr
from .store import pieces, rows_of

HOPS = 3  # token kinds: the node itself, one hop, two hops
NODES_AT_ONCE = 2048


def uniform(seed: int, nodes: Int[np.ndarray, "S"], draws: int) -> Float[np.ndarray, "S draws"]:
    """Numbers in 0 .. 1 that depend on seed, node and place only: the mixing function of SplitMix64 (Steele 2014)."""
    with np.errstate(over="ignore"):
        z: Any = nodes.astype(np.uint64)[:, None] * np.uint64(draws) + np.arange(draws, dtype=np.uint64)
        z = (z + np.uint64(seed) * np.uint64(0xD1342543DE82EF95) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    unit: np.ndarray = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return unit


def drawn(
    graph: Csr, seeds: Int[np.ndarray, "S"], count: int, seed: int
) -> tuple[Int64[np.ndarray, "S T"], Bool[np.ndarray, "S T"], Int64[np.ndarray, "T"]]:
    """Tokens of each seed: (nodes, which are there, hop of each place); half one hop off, half two, replaced."""
    near = (count + 1) // 2
    chance = uniform(seed, seeds, count + (count - near))
    start, degree = graph.start[:-1], graph.degree
    known = degree[seeds] > 0

    def step(nodes: Any, share: Any) -> Any:
        at = start[nodes] + np.floor(share * degree[nodes]).astype(np.int64)
        return np.where(degree[nodes] > 0, graph.source[np.minimum(at, max(0, len(graph.source) - 1))], nodes)

    if not len(graph.source):
        tokens = np.repeat(seeds[:, None], count + 1, 1)
        return tokens.astype(np.int64), np.eye(1, count + 1, dtype=bool).repeat(len(seeds), 0), np.zeros(count + 1, int)
    first = step(np.repeat(seeds[:, None], count, 1), chance[:, :count])
    second = step(first[:, near:], chance[:, count:])
    there = np.repeat(known[:, None], count, 1)
    there[:, near:] &= degree[first[:, near:]] > 0
    tokens = np.concatenate([seeds[:, None], first[:, :near], second], 1).astype(np.int64)
    hop = np.repeat([0, 1, 2], [1, near, count - near])
    return tokens, np.concatenate([np.ones((len(seeds), 1), bool), there], 1), hop


def carried(graph: Graph, lists: Csr) -> Float32[np.ndarray, "N FFF"]:
    """x, A x and A A x of every node side by side; A x is the mean over incoming neighbours, in pieces of nodes."""
    n, f = graph.features.shape
    out = np.empty((n, HOPS * f), np.float32)
    for piece in pieces(np.arange(n)):
        out[piece, :f] = rows_of(graph.features, piece)
    share = np.repeat(1.0 / np.maximum(1, lists.degree), lists.degree).astype(np.float32)
    mean = sparse.csr_array((share, lists.source, lists.start), shape=(n, n))
    for hop in (1, 2):
        before = np.ascontiguousarray(out[:, (hop - 1) * f : hop * f])
        for piece in pieces(np.arange(n)):
            out[piece, hop * f : (hop + 1) * f] = mean[piece[0] : piece[-1] + 1] @ before
    return out


def widened(fitted: Fitted) -> Fitted:
    """The schema of tokens: each feature three times, and the hop in place of encodings."""
    found: dict[str, Any] = {**fitted, "sparse": False, "edge_mean": [], "edge_std": []}
    for name in ("columns", "mean", "std"):
        found[name] = list(fitted[name]) * HOPS
    return {**found, "encodings": {**fitted["encodings"], "laplacian": 0}, "encoding_width": HOPS}


class TwoHopNodes:
    """Nodes of a part as items of T tokens. Training draws follow torch's random state, the others seed 0."""

    def __init__(self, graph: Graph, index: Int[np.ndarray, "n"], count: int, train: bool) -> None:
        self.graph, self.index, self.count, self.train = graph, index, count, train

    @cached_property
    def lists(self) -> Csr:
        return csr(self.graph.edges, self.graph.nodes)

    @cached_property
    def carried(self) -> Float32[np.ndarray, "N FFF"]:
        return carried(self.graph, self.lists)

    def __len__(self) -> int:
        return len(self.index)

    def inputs(self, seeds: Int[np.ndarray, "S"], seed: int) -> Mapping[str, torch.Tensor]:
        """Tokens of some nodes as a network reads them; "nodes" is the first token of each item."""
        tokens, there, hop = drawn(self.lists, seeds, self.count, seed)
        kind = np.broadcast_to(np.eye(HOPS, dtype=np.float32)[hop], (*tokens.shape, HOPS))
        return {
            "x": torch.from_numpy(self.carried[tokens]),
            "encoding": torch.from_numpy(kind.copy()),
            "mask": torch.from_numpy(there),
            "edges": torch.zeros(2, 0, dtype=torch.long),
            "nodes": torch.arange(len(seeds)) * tokens.shape[1],
        }

    def batch(self, indices: Sequence[int]) -> Batch:
        seeds = self.index[np.asarray(indices, np.int64)]
        seed = int(torch.randint(1, 2**31, ())) if self.train else 0
        return {**self.inputs(seeds, seed), "target": target_tensor(self.graph, seeds)}

    def members(self, i: int) -> Int[np.ndarray, "T"]:
        """The node of each token of item ``i`` at seed 0."""
        return drawn(self.lists, self.index[i : i + 1], self.count, 0)[0][0]

    @torch.no_grad()
    def outputs(self, model: GraphNet, nodes: Int[np.ndarray, "n"]) -> Float32[np.ndarray, "n K"]:
        """Outputs of some nodes from the draw of seed 0, in bounded memory."""
        model.eval()
        device, found = model.temperature.device, []
        for at in range(0, len(nodes), NODES_AT_ONCE):
            batch = self.inputs(nodes[at : at + NODES_AT_ONCE], 0)
            found.append(model({k: v.to(device) for k, v in batch.items()}).cpu().numpy())
        return np.concatenate(found)
