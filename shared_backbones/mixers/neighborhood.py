"""Neighbourhoods of a graph: messages along edges.

Shapes: B items, N tokens, C channels, E edges over the flattened B*N tokens. An edge that touches a masked token is
dropped, so graphs of unequal size in one batch each give their own result.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..errors import BadRequest
from ..layout import Layout
from .base import Mixer, at_least

Ends = tuple[Int[Tensor, "E"], Int[Tensor, "E"], Bool[Tensor, "E"]]


def ends(layout: Layout) -> Ends:
    """(source, target, keep) of every edge; ``keep`` is False where either end is masked."""
    assert layout.edges is not None
    source, target = layout.edges[0], layout.edges[1]
    if layout.mask is None:
        return source, target, torch.ones_like(source, dtype=torch.bool)
    real = layout.mask.flatten()
    return source, target, real[source] & real[target]


def gathered(x: Float[Tensor, "M C"], edges: Ends, weight: Float[Tensor, "E"]) -> Float[Tensor, "M C"]:
    """sum over edges j -> i of w_ij x_j. ``weight`` must be zero where an edge is dropped; no gradient reaches it."""
    source, target, _ = edges
    if torch.compiler.is_exporting() or x.dtype not in (torch.float32, torch.float64):
        return torch.zeros_like(x).index_add(0, target, x[source] * weight[:, None].to(x.dtype))
    size = (x.shape[0], x.shape[0])
    matrix = torch.sparse_coo_tensor(torch.stack([target, source]), weight.to(x.dtype), size, check_invariants=False)
    return torch.sparse.mm(matrix, x)  # twice as fast as gathering and adding


def degrees(edges: Ends, count: int, like: Tensor) -> Float[Tensor, "M"]:
    """Kept edges that end at each token."""
    _, target, keep = edges
    return like.new_zeros(count).index_add(0, target, keep.to(like.dtype))


def symmetric(
    edges: Ends, x: Float[Tensor, "M C"], loops: bool = True
) -> tuple[Float[Tensor, "E"], Float[Tensor, "M 1"]]:
    """Weights of D^-1/2 (A + I) D^-1/2, of the edges and of each token's own loop; D counts edges in, and the loop.

    Without ``loops`` those of D^-1/2 A D^-1/2, and zeros.
    """
    count = degrees(edges, x.shape[0], x)
    inverse = (count + 1 if loops else count.clamp_min(1)).rsqrt()
    source, target, keep = edges
    own = inverse * inverse if loops else torch.zeros_like(inverse)
    return inverse[source] * inverse[target] * keep.to(x.dtype), own[:, None]


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


class Sum(Mixer):
    """y_i = W_2 relu(norm(W_1 ((1 + eps) x_i + sum over edges j -> i of relu(x_j + W_3 e_ij)))).

    "How Powerful are Graph Neural Networks?" (Xu et al. 2019), with the edge term of "Strategies for Pre-training Graph
    Neural Networks" (Hu et al. 2020) and without its ReLU where there are no edge features. A sum tells multisets
    apart that a mean confuses. The norm is a layer norm, so that graphs in one batch stay apart.
    """

    sets: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"edges"})
    cost: ClassVar[str] = "O(N d^2 + E d)"

    def __init__(self, dim: int, edge_features: int = 0) -> None:
        super().__init__()
        self.edge_features = at_least("edge_features", edge_features, 0)
        self.eps = nn.Parameter(torch.zeros(()))
        self.up, self.norm, self.down = nn.Linear(dim, dim), nn.LayerNorm(dim), nn.Linear(dim, dim)
        self.edge = nn.Linear(edge_features, dim) if edge_features else None

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        flat, edges = x.flatten(0, 1), ends(layout)
        source, target, keep = edges
        if self.edge is None:
            total = gathered(flat, edges, keep.to(x.dtype))
        else:
            if layout.edge_attr is None:
                raise BadRequest(f"Sum with edge_features={self.edge_features} needs Layout.edge_attr, got None")
            sent = F.relu(flat[source] + self.edge(layout.edge_attr.masked_fill(~keep[:, None], 0.0)))
            sent = sent.masked_fill(~keep[:, None], 0.0)
            total = sent.new_zeros(flat.shape).index_add(0, target, sent)
        return self.down(F.relu(self.norm(self.up((1 + self.eps) * x + total.reshape(x.shape)))))


class Convolution(Mixer):
    """y = D^-1/2 (A + I) D^-1/2 X W: "Semi-Supervised Classification with Graph Convolutional Networks" (Kipf and
    Welling 2017), without its ReLU. D counts the edges that end at a token, and itself.

    activation: "relu" before the product, as a pre-activated layer wants it. dropout: of the input, while training.
    """

    sets: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"edges"})
    cost: ClassVar[str] = "O(N d^2 + E d)"

    def __init__(self, dim: int, activation: Literal["none", "relu"] = "none", dropout: float = 0.0) -> None:
        super().__init__()
        self.project, self.activation, self.dropout = nn.Linear(dim, dim), activation, dropout

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        x = F.dropout(F.relu(x) if self.activation == "relu" else x, self.dropout, self.training)
        edges, flat = ends(layout), self.project(x).flatten(0, 1)
        weight, own = symmetric(edges, flat)
        return (gathered(flat, edges, weight) + own * flat).reshape(x.shape)


class Propagate(Mixer):
    """y = sum_k g_k P^k X - X with P = D^-1/2 (A + I) D^-1/2: with the block's residual path a layer is the sum.

    g_k = alpha (1 - alpha)^k, the last (1 - alpha)^K: "Predict then Propagate" (Klicpera et al. 2019). With ``learn``
    the g are parameters, of either sign: "Adaptive Universal Generalized PageRank" (Chien et al. 2021).

    hops: K. loops: whether P has the I; without it what neighbours say is kept apart from what a token says itself,
    which graphs of unlike neighbours need. dropout: of the input, while training.
    """

    sets: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"edges"})
    cost: ClassVar[str] = "O(N d + E d)"

    def __init__(
        self,
        dim: int,
        hops: int = 10,
        alpha: float = 0.1,
        learn: bool = False,
        loops: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 < alpha < 1:
            raise BadRequest(f"alpha of 'propagate' lies between 0 and 1, got {alpha}")
        share = alpha * (1 - alpha) ** torch.arange(at_least("hops", hops, 1) + 1.0)
        share[-1] = (1 - alpha) ** hops
        if learn:
            self.share = nn.Parameter(share)
        else:
            self.register_buffer("share", share)
        self.dropout, self.loops = dropout, loops

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        edges, flat = ends(layout), F.dropout(x, self.dropout, self.training).flatten(0, 1)
        weight, own = symmetric(edges, flat, self.loops)
        share = self.share.unbind()
        total = share[0] * flat
        for g in share[1:]:
            flat = gathered(flat, edges, weight) + own * flat
            total = total + g * flat
        return total.reshape(x.shape).to(x.dtype) - x


class InitialResidual(Mixer):
    """H_0 = X; H_l = relu(M ((1 - b_l) I + b_l W_l)), M = (1 - alpha) P H_(l-1) + alpha X; y = H_L - X.

    "Simple and Deep Graph Convolutional Networks" (Chen et al. 2020), b_l = log(identity / l + 1), all layers in one
    mixer because each reads X. With the block's residual path the layer gives H_L.

    layers: L. dropout: before every layer, while training.
    """

    sets: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"edges"})
    cost: ClassVar[str] = "O(N d^2 + E d)"

    def __init__(
        self, dim: int, layers: int = 8, alpha: float = 0.1, identity: float = 0.5, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.alpha, self.dropout = alpha, dropout
        self.shares = [float(torch.tensor(identity / (i + 1) + 1).log()) for i in range(at_least("layers", layers, 1))]
        self.weights = nn.ParameterList(
            nn.Parameter(torch.empty(dim, dim).uniform_(-(dim**-0.5), dim**-0.5)) for _ in self.shares
        )

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        edges, first = ends(layout), x.flatten(0, 1)
        weight, own = symmetric(edges, first)
        h = first
        for share, w in zip(self.shares, self.weights, strict=True):
            h = F.dropout(h, self.dropout, self.training)
            m = (1 - self.alpha) * (gathered(h, edges, weight) + own * h) + self.alpha * first
            h = F.relu((1 - share) * m + share * (m @ w.to(m.dtype)))
        return h.reshape(x.shape) - x


class Hops(Mixer):
    """y = W [x, P x, P^2 x, ... P^K x] with P = D^-1 A, the mean over neighbours without oneself.

    The separation of ego, neighbours and their neighbours of "Beyond Homophily in Graph Neural Networks" (Zhu et al.
    2020): each hop has weights of its own, so that unlike neighbours inform rather than blur.

    hops: K. activation, dropout: of the input, as in ``graph_convolution``.
    """

    sets: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"edges"})
    cost: ClassVar[str] = "O(N d^2 + E d)"

    def __init__(
        self, dim: int, hops: int = 2, activation: Literal["none", "relu"] = "none", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.hops, self.activation, self.dropout = at_least("hops", hops, 1), activation, dropout
        self.project = nn.Linear((hops + 1) * dim, dim)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        x = F.dropout(F.relu(x) if self.activation == "relu" else x, self.dropout, self.training)
        edges, flat = ends(layout), x.flatten(0, 1)
        weight = (edges[2].to(x.dtype) / degrees(edges, flat.shape[0], flat).clamp_min(1)[edges[1]]).to(x.dtype)
        found = [flat]
        for _ in range(self.hops):
            found.append(gathered(found[-1], edges, weight))
        return self.project(torch.cat(found, -1)).reshape(x.shape)
