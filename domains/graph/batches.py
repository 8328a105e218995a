"""Graphs as tensors: one whole graph, or many padded to one size with masks.

A batch holds "x" (B, N, F), or "x_at" (2, nnz), "x_value" and "size" where features are mostly zero; "edges" (2, E)
into the flattened B*N nodes; where there are any "edge_attr" (E, K), "encoding" (B, N, P), "mask" (B, N); "nodes" (n,)
the flattened numbers of the nodes whose targets stand in "target" (tasks on graphs have none: a target per item).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from ..task import Batch, Fitted
from .data import Graph


def edge_inputs(graph: Graph) -> Float[np.ndarray, "E K"] | None:
    """Edge features with the logarithm of the weight as a further one; None where there are neither."""
    parts = [] if graph.edge_attr is None else [np.asarray(graph.edge_attr, np.float32)]
    if graph.weight is not None:
        parts.append(np.log1p(graph.weight).astype(np.float32)[:, None])
    return np.concatenate(parts, 1) if parts else None


def target_tensor(graph: Graph, index: Shaped[np.ndarray, "n"]) -> Tensor:
    """Targets of nodes or graphs: class positions (int64) or values (float32)."""
    assert graph.target is not None
    values = graph.target[index]
    return torch.from_numpy(values.astype(np.int64 if graph.classes else np.float32))


class WholeGraph:
    """One graph: every batch holds all of it, and the targets of some nodes of a part."""

    def __init__(
        self, graph: Graph, fitted: Fitted, encoding: Float[np.ndarray, "N P"], index: Int[np.ndarray, "n"]
    ) -> None:
        self.graph, self.index = graph, index
        self._fixed = whole_inputs(graph, fitted, encoding)

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, indices: Sequence[int]) -> Batch:
        at = self.index[np.asarray(indices, dtype=np.int64)]
        return {**self._fixed, "nodes": torch.from_numpy(at), "target": target_tensor(self.graph, at)}


def whole_inputs(graph: Graph, fitted: Fitted, encoding: Float[np.ndarray, "N P"]) -> dict[str, Tensor]:
    """The inputs of one graph, as a batch of one item."""
    found: dict[str, Tensor] = {"edges": torch.from_numpy(graph.edges)}
    if fitted["sparse"]:
        rows, columns = np.nonzero(graph.features)
        found["x_at"] = torch.from_numpy(np.stack([rows, columns]))
        found["x_value"] = torch.from_numpy(np.asarray(graph.features[rows, columns], np.float32))
        found["size"] = torch.tensor(graph.nodes)
    else:
        found["x"] = torch.from_numpy(np.array(graph.features, np.float32))[None]
    attr = edge_inputs(graph)
    if attr is not None:
        found["edge_attr"] = torch.from_numpy(attr)
    if encoding.shape[1]:
        found["encoding"] = torch.from_numpy(encoding)[None]
    return found


class ManyGraphs:
    """Graphs of one part, padded to the largest of a batch."""

    def __init__(
        self, graph: Graph, fitted: Fitted, encoding: Float[np.ndarray, "N P"], index: Int[np.ndarray, "n"]
    ) -> None:
        self.graph, self.index, self.encoding = graph, index, encoding
        order = np.argsort(graph.graph_of()[graph.edges[1]], kind="stable")
        self._edges, self._order = graph.edges[:, order], order
        counts = np.bincount(graph.graph_of()[graph.edges[1]], minlength=graph.graphs)
        self._bounds = np.concatenate([[0], np.cumsum(counts)])
        self._attr = edge_inputs(graph)

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, indices: Sequence[int]) -> Batch:
        at = self.index[np.asarray(indices, dtype=np.int64)]
        return {**self.inputs(at), "target": target_tensor(self.graph, at)}

    def inputs(self, at: Int[np.ndarray, "b"]) -> dict[str, Tensor]:
        """The inputs of some graphs by number."""
        graph, sizes = self.graph, self.graph.sizes[at]
        n = int(sizes.max())
        x = np.zeros((len(at), n, graph.features.shape[1]), np.float32)
        place = np.zeros((len(at), n, self.encoding.shape[1]), np.float32)
        edges, attrs = [], []
        for b, g in enumerate(at):
            nodes = slice(int(graph.offsets[g]), int(graph.offsets[g + 1]))
            x[b, : sizes[b]], place[b, : sizes[b]] = graph.features[nodes], self.encoding[nodes]
            arcs = slice(int(self._bounds[g]), int(self._bounds[g + 1]))
            edges.append(self._edges[:, arcs] - nodes.start + b * n)
            if self._attr is not None:
                attrs.append(self._attr[self._order[arcs]])
        found: dict[str, Any] = {
            "x": torch.from_numpy(x),
            "mask": torch.from_numpy(np.arange(n) < sizes[:, None]),
            "edges": torch.from_numpy(np.concatenate(edges, 1)),
        }
        if attrs:
            found["edge_attr"] = torch.from_numpy(np.concatenate(attrs))
        if self.encoding.shape[1]:
            found["encoding"] = torch.from_numpy(place)
        return found
