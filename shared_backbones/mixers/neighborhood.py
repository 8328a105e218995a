"""Neighbourhoods: of a graph (and, later, of a lattice).

Shapes: B items, N tokens, C channels, E edges over the flattened B*N tokens.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import BadRequest
from ..layout import Layout
from .base import Mixer, at_least


class Message(Mixer):
    """y_i = W_1 x_i + mean over edges j -> i of g_ij * W_2 x_j, with g_ij = sigmoid(W_3 e_ij), or 1 without features.

    The mean aggregation of "Inductive Representation Learning on Large Graphs" (Hamilton et al. 2017) with the edge
    gate of "Residual Gated Graph ConvNets" (Bresson and Laurent 2017). An edge that touches a masked token is dropped.

    edge_features: width of ``Layout.edge_attr`` that the gate reads; 0 reads none.
    """

    sets: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"edges"})
    cost: ClassVar[str] = "O(N d^2 + E d)"

    def __init__(self, dim: int, edge_features: int = 0) -> None:
        super().__init__()
        self.edge_features = at_least("edge_features", edge_features, 0)
        self.own, self.other = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.gate = nn.Linear(edge_features, dim) if edge_features else None

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        assert layout.edges is not None
        x = layout.clean(x)
        source, target = layout.edges
        keep = torch.ones_like(source, dtype=torch.bool)
        if layout.mask is not None:
            real = layout.mask.flatten()
            keep = real[source] & real[target]
        sent = self.other(x).flatten(0, 1)[source]
        if self.gate is not None:
            if layout.edge_attr is None:
                raise BadRequest(f"Message with edge_features={self.edge_features} needs Layout.edge_attr, got None")
            sent = sent * self.gate(layout.edge_attr.masked_fill(~keep[:, None], 0.0)).sigmoid()
        sent = sent.masked_fill(~keep[:, None], 0.0)
        total = sent.new_zeros(x.shape[0] * x.shape[1], x.shape[2]).index_add(0, target, sent)
        degree = sent.new_zeros(total.shape[0]).index_add(0, target, keep.to(sent.dtype)).clamp_min(1)
        return self.own(x) + (total / degree[:, None]).reshape(x.shape)
