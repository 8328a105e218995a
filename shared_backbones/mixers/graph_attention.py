"""Attention on a graph: along its edges with a stream of edge states, and to the most similar tokens beyond them.

Shapes: B items, N tokens, C channels, H heads, D = C / H, E edges over the flattened B*N tokens, M = B N.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..errors import BadRequest
from ..layout import Layout
from .base import Mixer, at_least, heads_of
from .neighborhood import Ends, degrees, ends, gathered


def softmax_in(scores: Float[Tensor, "E H"], edges: Ends, count: int) -> Float[Tensor, "E H"]:
    """Softmax over the edges that end at the same token; dropped edges weigh nothing."""
    _, target, keep = edges
    low = torch.finfo(scores.dtype).min
    scores = scores.masked_fill(~keep[:, None], low)
    index = target[:, None].expand_as(scores)
    top = scores.new_full((count, scores.shape[1]), low).scatter_reduce(0, index, scores.detach(), "amax")
    weight = (scores - top[target]).exp() * keep[:, None]
    total = weight.new_zeros(count, scores.shape[1]).index_add(0, target, weight)
    return weight / total.clamp_min(torch.finfo(scores.dtype).tiny)[target]


class _EdgeLayer(nn.Module):
    """One layer of :class:`EdgeStream`."""

    def __init__(self, dim: int, heads: int, last: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.edge_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.e = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.out, self.edge_out = nn.Linear(dim, dim), None if last else nn.Linear(dim, dim)  # nobody reads the last

    def forward(
        self, h: Float[Tensor, "M C"], e: Float[Tensor, "E C"], edges: Ends
    ) -> tuple[Float[Tensor, "M C"], Float[Tensor, "E C"]]:
        source, target, keep = edges
        q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in self.qkv(self.norm(h)).chunk(3, -1))
        product = (
            q[target] * k[source] * q.shape[-1] ** -0.5 * self.e(self.edge_norm(e)).unflatten(-1, (self.heads, -1))
        )
        weight = softmax_in(product.sum(-1), edges, h.shape[0])  # (E, H)
        sent = (weight[..., None] * v[source]).flatten(1)
        total = h.new_zeros(h.shape).to(sent.dtype).index_add(0, target, sent)
        if self.edge_out is not None:
            e = e + self.edge_out(product.flatten(1)).masked_fill(~keep[:, None], 0.0)
        return h + self.out(total), e


class EdgeStream(Mixer):
    """Attention over neighbours whose scores are shaped by edge states, which are updated from those scores in turn.

    w_ij = softmax_(j in N(i)) sum_d (q_i k_j / sqrt(D)) * (E e_ij);  h_i += O sum_j w_ij v_j;  e_ij += O_e (q k * E e).
    "A Generalization of Transformer Networks to Graphs" (Dwivedi and Bresson 2021), with layer norms ahead in place of
    its batch norms, so that graphs in one batch stay apart. y = H_L - X. Between its layers the tokens' channels are
    mixed by the projections alone; the block's channel layer follows the last.

    layers: L. edge_features: width of ``Layout.edge_attr``; 0: edges start from one learned state.
    """

    sets: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"edges"})
    cost: ClassVar[str] = "O(N d^2 + E d^2)"

    def __init__(self, dim: int, heads: int | None = None, layers: int = 2, edge_features: int = 0) -> None:
        super().__init__()
        self.edge_features = at_least("edge_features", edge_features, 0)
        self.start = nn.Linear(edge_features, dim) if edge_features else nn.Parameter(torch.randn(dim))
        many = at_least("layers", layers, 1)
        self.layers = nn.ModuleList(_EdgeLayer(dim, heads_of(dim, heads), i + 1 == many) for i in range(many))

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        edges, h = ends(layout), x.flatten(0, 1)
        if isinstance(self.start, nn.Linear):
            if layout.edge_attr is None:
                raise BadRequest(f"EdgeStream with edge_features={self.edge_features} needs Layout.edge_attr, got None")
            e = self.start(layout.edge_attr.masked_fill(~edges[2][:, None], 0.0))
        else:
            e = self.start.to(x.dtype).expand(edges[0].shape[0], -1)
        for layer in self.layers:
            h, e = layer(h, e, edges)
        return h.reshape(x.shape) - x


def ranked(score: Float[Tensor, "B N"], layout: Layout) -> Int[Tensor, "B N"]:
    """The order of the tokens by rising score, masked ones last."""
    score = score.float()
    if layout.mask is not None:
        score = score.masked_fill(~layout.mask, torch.inf)
    return score.argsort(stable=True, dim=-1)


def put_back(x: Float[Tensor, "B N C"], order: Int[Tensor, "B N"]) -> Float[Tensor, "B N C"]:
    """Tokens from an order back to their places."""
    return torch.empty_like(x).scatter(1, order[..., None].expand_as(x), x)


class TopAttention(Mixer):
    """y_i = W [x_i, mean over neighbours, attention to the m tokens nearest to i in score], s_i = cos(U x_i, a).

    "TANGNN: a Concise, Scalable and Effective Graph Neural Network with Top-m Attention Mechanism" (2024): a learned
    vector a orders all tokens, and each reads m related ones wherever they stand in the graph, at a cost linear in N
    but for the sort. The m are chosen among the m before and the m after it in that order; their logits are
    q k / sqrt(C) less a learned multiple of the gap in score.
    """

    sets: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"edges"})
    cost: ClassVar[str] = "O(N d^2 + E d)"

    def __init__(self, dim: int, m: int = 8) -> None:
        super().__init__()
        self.m = at_least("m", m, 1)
        self.relate, self.vector = nn.Linear(dim, dim, bias=False), nn.Parameter(torch.randn(dim))
        self.distance = nn.Parameter(torch.ones(()))
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(3 * dim, dim)

    def windows(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N W D"]:
        """Each token's m before, itself and m after, zeros beyond the ends."""
        return F.pad(x, (0, 0, self.m, self.m)).unfold(1, 2 * self.m + 1, 1).mT

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        score = F.cosine_similarity(self.relate(x), self.vector.to(x.dtype), dim=-1)
        order = ranked(score, layout)
        take = order[..., None]
        q, k, v = (t.gather(1, take.expand_as(t)) for t in self.qkv(x).chunk(3, -1))
        real = torch.ones_like(order, dtype=torch.bool) if layout.mask is None else layout.mask.gather(1, order)
        s = score.gather(1, order)
        there = self.windows(real[..., None].to(s.dtype))[..., 0] > 0  # (B, N, W)
        there = there & (torch.arange(2 * self.m + 1, device=x.device) != self.m)
        gap = (self.windows(s[..., None])[..., 0] - s[..., None]).abs().masked_fill(~there, torch.inf)
        far, chosen = gap.topk(self.m, -1, largest=False)
        near = chosen[..., None].expand(*chosen.shape, x.shape[-1])
        keys, values = (self.windows(t).gather(2, near) for t in (k, v))
        logits = (keys * q[:, :, None]).sum(-1) * q.shape[-1] ** -0.5
        lost = far.isinf()
        logits = logits - self.distance * far.masked_fill(lost, 0.0)  # through which the score learns
        weight = logits.masked_fill(lost, 0.5 * torch.finfo(logits.dtype).min).softmax(-1).masked_fill(lost, 0.0)
        related = put_back((weight[..., None] * values).sum(2), order)
        edges, flat = ends(layout), x.flatten(0, 1)
        share = edges[2].to(x.dtype) / degrees(edges, flat.shape[0], flat).clamp_min(1)[edges[1]]
        around = gathered(flat, edges, share).reshape(x.shape)
        return self.out(torch.cat([x, around, related.to(x.dtype)], -1))
