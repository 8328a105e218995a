"""Attention with other weights than a plain softmax: scores -> modify -> select -> normalise -> combine.

Each class says in :meth:`Scored.weights` how scores become weights; projections, positions, masks and causality are
those of ``attention``, whose options they take besides their own.

Shapes: B items, N tokens, C channels, H heads, K channels of a query, D of a value.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..errors import BadRequest
from ..layout import Layout
from ..positions import Table
from .attention import Attention, hidden
from .base import at_least
from .scans import full_precision

Seen = Bool[Tensor, "#B 1 #N N"] | None


def keys_seen(scores: Float[Tensor, "B H N N"], seen: Seen) -> Float[Tensor, "#B 1 #N 1"]:
    """How many keys each query sees, at least 1."""
    if seen is None:
        return scores.new_full((1, 1, 1, 1), scores.shape[-1])
    return seen.sum(-1, keepdim=True).clamp_min(1).to(scores.dtype)


class Scored(Attention):
    """y = W_o weights(Q K^T / sqrt(K) + position) V, head by head."""

    def weights(self, scores: Float[Tensor, "B H N N"], seen: Seen, layout: Layout) -> Float[Tensor, "B H N N"]:
        """What query i reads from key j: 0 where it may not see it."""
        raise NotImplementedError

    def adjacency(self, q: Tensor, k: Tensor, layout: Layout) -> Float[Tensor, "B H N N"]:
        """The weights of all pairs of tokens."""
        scores, bias = (q * q.shape[-1] ** -0.5) @ k.mT, self.position.bias(layout, q)
        scores = scores if bias is None else scores + bias.to(scores.dtype)
        return self.weights(scores, self.seen(layout, q.device), layout)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Float[Tensor, "B H N D"]:
        return self.adjacency(q, k, layout).to(v.dtype) @ v


class Sigmoid(Scored):
    """sigmoid(s - log n) in place of softmax(s), n the number of keys that a query sees: weights of their own each.

    "Theory, Analysis, and Best Practices for Sigmoid Self-Attention" (Ramapuram et al. 2024).
    """

    def weights(self, scores: Float[Tensor, "B H N N"], seen: Seen, layout: Layout) -> Float[Tensor, "B H N N"]:
        return (hidden(scores, seen) - keys_seen(scores, seen).log()).sigmoid()


class Clipped(Scored):
    """clip((zeta - gamma) softmax(s) + gamma, 0, 1) with gamma = -alpha / n, n the number of keys that a query sees.

    Clipped softmax of "Quantizable Transformers: Removing Outliers by Helping Attention Heads Do Nothing" (Bondarenko
    et al. 2023): weights reach exactly 0 (and 1, for zeta > 1) at finite scores.
    """

    def __init__(self, dim: int, alpha: float = 1.0, zeta: float = 1.0, **rest: Any) -> None:
        super().__init__(dim, **rest)
        if alpha < 0 or zeta < 1:
            raise BadRequest(f"clipped softmax stretches: alpha >= 0 and zeta >= 1, got alpha={alpha} and zeta={zeta}")
        self.alpha, self.zeta = alpha, zeta

    def weights(self, scores: Float[Tensor, "B H N N"], seen: Seen, layout: Layout) -> Float[Tensor, "B H N N"]:
        gamma = -self.alpha / keys_seen(scores, seen)
        clipped = ((self.zeta - gamma) * hidden(scores, seen).softmax(-1) + gamma).clamp(0, 1)
        return clipped if seen is None else clipped.masked_fill(~seen, 0.0)


class TopK(Scored):
    """softmax over the ``keep`` highest scores of each query; the other keys get no weight.

    "Explicit Sparse Transformer" (Zhao et al. 2019), "Memory-efficient Transformers via Top-k Attention" (Gupta et al.
    2021). Keys with the same score as the last one kept are kept too.
    """

    cost: ClassVar[str] = "O(N^2 d + N^2 log N + N d^2)"

    def __init__(self, dim: int, keep: int = 16, **rest: Any) -> None:
        super().__init__(dim, **rest)
        self.keep = at_least("keep", keep, 1)

    def project(self, x: Float[Tensor, "B N C"], layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        with full_precision(x):  # a choice must not hang on rounding
            return super().project(x, layout)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Float[Tensor, "B H N D"]:
        with full_precision(q):
            return super().attend(q, k, v, layout)

    def weights(self, scores: Float[Tensor, "B H N N"], seen: Seen, layout: Layout) -> Float[Tensor, "B H N N"]:
        scores = hidden(scores, seen)
        enough = F.pad(scores.detach(), (0, self.keep), value=-torch.inf)  # also where there are fewer keys
        least = enough.topk(self.keep, -1).values[..., -1:]
        return scores.masked_fill(scores < least, 0.5 * torch.finfo(scores.dtype).min).softmax(-1)


class Multiplied(Scored):
    """softmax(s) * C with a learned C per head and relative place, 1 at the start: rows need not sum to 1.

    URPE attention of "Your Transformer May Not be as Powerful as You Expect" (Luo et al. 2022): a bias inside the
    softmax alone cannot tell where a token stands when all tokens are alike.

    size: places per axis that C is stored for; other extents read it as ``position: table`` does.
    """

    sets: ClassVar[bool] = False

    def __init__(self, dim: int, size: int = 8, rank: int = 1, **rest: Any) -> None:
        super().__init__(dim, rank=rank, **rest)
        self.rank, causal = rank, tuple(sorted(self.causal))
        self.factor = Table(self.heads, 1, size=at_least("size", size, 1), causal_axes=causal, rank=rank)
        nn.init.ones_(self.factor.table)

    def weights(self, scores: Float[Tensor, "B H N N"], seen: Seen, layout: Layout) -> Float[Tensor, "B H N N"]:
        return hidden(scores, seen).softmax(-1) * self.factor.bias(layout, scores).to(scores.dtype)


def relative_places(layout: Layout, like: Tensor) -> Float[Tensor, "N N rank"]:
    """Where key j stands as seen from query i, in places along each axis."""
    grid = torch.meshgrid(*(torch.arange(n, device=like.device) for n in layout.axes), indexing="ij")
    at = torch.stack([g.flatten() for g in grid], -1)
    return (at[None, :] - at[:, None]).to(like.dtype)


class Positional(Scored):
    """(1 - g_h) softmax(s) + g_h softmax(u_h . (|d|^2, d)), d = p_j - p_i, g_h = sigmoid of a learned number per head.

    Gated positional attention of "ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases"
    (d'Ascoli et al. 2021): at the start head h looks at its own place of a filter of ceil(H^(1/r))^r places, u_h =
    -strength (1, -2 D_h), values are the tokens themselves, and g_h = sigmoid(1).

    strength: how narrowly each head looks at its place. The other options are those of ``attention``.
    """

    sets: ClassVar[bool] = False

    def __init__(self, dim: int, strength: float = 1.0, rank: int = 1, **rest: Any) -> None:
        super().__init__(dim, rank=rank, **rest)
        self.rank = rank
        self.gate = nn.Parameter(torch.ones(self.heads))
        side = math.ceil(round(self.heads ** (1 / rank), 6))
        head = torch.arange(self.heads)[:, None] // side ** torch.arange(rank - 1, -1, -1) % side
        centre = head - ((side - 1) / 2 if side % 2 == 0 else side // 2)
        self.look = nn.Parameter(-strength * torch.cat([torch.ones(self.heads, 1), -2 * centre], 1))
        if self.widths[2] == dim:
            with torch.no_grad():
                self.qkv.weight[-dim:] = torch.eye(dim)

    def weights(self, scores: Float[Tensor, "B H N N"], seen: Seen, layout: Layout) -> Float[Tensor, "B H N N"]:
        apart = relative_places(layout, self.look)
        apart = torch.cat([apart.square().sum(-1, keepdim=True), apart], -1)
        with full_precision(scores):  # squares of distances are large
            places = (apart @ self.look.mT).movedim(-1, 0)[None]  # (1, H, N, N)
        gate = self.gate.sigmoid()[:, None, None]
        return (1 - gate) * hidden(scores, seen).softmax(-1) + gate * hidden(places, seen).softmax(-1)
