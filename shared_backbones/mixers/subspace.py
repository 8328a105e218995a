"""Attention whose queries, keys and values are one, and the attention matrix read as a weighted graph.

Shapes: B items, N tokens, C channels, H heads, D channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import BadRequest
from ..layout import Layout
from .attention import Attention, hidden
from .base import split_heads
from .scored import Scored, Seen


class Subspace(Attention):
    """y = W_o concat_h softmax(Z_h Z_h^T / sqrt(D)) Z_h, Z_h = U_h^T X: one projection per head onto its subspace.

    MSSA of "White-Box Transformers via Sparse Rate Reduction" (Yu et al. 2023): a step that compresses tokens onto a
    mixture of H subspaces. W_o is free, as the paper trains it, and not (U_1 .. U_H). Its other half is the channel
    layer ``ista``. The options are those of ``attention``, without ``key_dim`` and ``kv_heads``.
    """

    def __init__(self, dim: int, qkv_bias: bool = False, **rest: Any) -> None:
        super().__init__(dim, qkv_bias=qkv_bias, **rest)
        if self.widths[0] != self.widths[2]:
            raise BadRequest("queries, keys and values of 'subspace' are one: neither key_dim nor kv_heads can differ")
        self.qkv = nn.Linear(dim, self.widths[2], bias=qkv_bias)

    def project(self, x: Float[Tensor, "B N C"], layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        z = split_heads(self.qkv(layout.clean(x)), self.heads)
        return *self.placed(z, z, layout), z


class Isomorphic(Attention):
    """y = W_o concat_h MLP((1 + e_h) v_i + sum_j A_ij v_j), A = softmax of the scores: a weighted graph per head.

    Attention as a graph isomorphism network: "Graph-Aware Isomorphic Attention for Adaptive Dynamics in Transformers"
    (Buehler 2025). The MLP has one hidden layer and is shared by the heads.

    ratio: its hidden width over the width of a head. The other options are those of ``attention``.
    """

    def __init__(self, dim: int, ratio: float = 2.0, **rest: Any) -> None:
        super().__init__(dim, **rest)
        head = self.head
        hidden_width = max(1, round(ratio * head))
        self.own = nn.Parameter(torch.zeros(self.heads))
        self.mlp = nn.Sequential(nn.Linear(head, hidden_width), nn.GELU(), nn.Linear(hidden_width, head))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Float[Tensor, "B H N D"]:
        y = super().attend(q, k, v, layout)
        return self.mlp(y + (1 + self.own[:, None, None]) * v)


class Principal(Scored):
    """y = W_o concat_h W [mean, deviation, max, min] of the values v_j under the weights A_ij of head h.

    mean = sum_j A_ij v_j, deviation = sqrt(sum_j A_ij v_j^2 - mean^2), max and min of A_ij v_j over the keys that are
    seen: principal neighbourhood aggregation over the attention graph, "Graph-Aware Isomorphic Attention for Adaptive
    Dynamics in Transformers" (Buehler 2025). Its scalers by degree are left out: every row of A sums to 1. The two
    extremes take memory for N x N x D numbers while training.
    """

    def __init__(self, dim: int, **rest: Any) -> None:
        super().__init__(dim, **rest)
        self.merge = nn.Linear(4 * self.head, self.head)

    def weights(self, scores: Float[Tensor, "B H N N"], seen: Seen, layout: Layout) -> Float[Tensor, "B H N N"]:
        return hidden(scores, seen).softmax(-1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Float[Tensor, "B H N D"]:
        a, seen = self.adjacency(q, k, layout).to(v.dtype), self.seen(layout, q.device)
        mean = a @ v
        deviation = (a @ v.square() - mean.square()).clamp_min(1e-6).sqrt()
        each = a[..., None] * v[:, :, None]
        low, high = (each if seen is None else hidden_at(each, seen, sign) for sign in (1, -1))
        parts = [mean, deviation, high.amax(-2), low.amin(-2)]
        return self.merge(torch.cat(parts, -1))


def hidden_at(x: Float[Tensor, "B H N N D"], seen: Tensor, sign: int) -> Float[Tensor, "B H N N D"]:
    """``x`` far out to one side where nothing is seen, so that an extreme never falls there; 0 where all is hidden."""
    far = x.new_full((), sign * 0.5 * torch.finfo(x.dtype).max)
    return torch.where(seen[..., None], x, far * seen.any(-1, keepdim=True)[..., None])
