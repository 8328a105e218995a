"""Attention for some queries, or to some keys, only.

Shapes: B items, N tokens, C channels, H heads, K channels of a query, D of a value, S sampled keys, U active queries.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import BadRequest
from ..layout import Layout
from .attention import Attention, hidden
from .scans import full_precision

_HELD = 1 << 19  # numbers in a piece of the work: 2 MiB, what a core's cache holds
_FULL = 12  # keys for a sample, up to which the scores of all keys are made


class Subsampled(Attention):
    """Attention that reads a random part of the keys while it trains, drawn anew at each step and for each item.

    Unbiased stochastically subsampled attention of "The Information Pathways Hypothesis: Transformers are Dynamic
    Self-Ensembles" (Hussain et al. 2023); evaluated it is plain attention. :meth:`sampled` draws in evaluation too: the
    mean of several such passes is the paper's self-ensemble. A causal query for which no earlier key was drawn reads
    nothing at that step.

    keep: share of the keys. The other options are those of ``attention``, without positions that add to the scores.
    """

    def __init__(self, dim: int, keep: float = 0.5, **rest: Any) -> None:
        super().__init__(dim, **rest)
        if not 0 < keep <= 1:
            raise BadRequest(f"keep must lie in (0, 1], got {keep}")
        if self.position.biased:
            raise BadRequest("'subsampled' leaves out keys: its position may turn them (rotary), not add to scores")
        self.keep = keep

    def sampled(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Float[Tensor, "B H N D"]:
        """What each query reads from a random ``keep`` of the real keys of its item."""
        draw = torch.rand(k.shape[0], k.shape[2], device=k.device)
        if layout.mask is not None:
            draw = draw.masked_fill(~layout.mask, -1.0)  # real keys first
        chosen = draw.topk(math.ceil(self.keep * k.shape[2]), -1).indices  # (B, S)
        seen = self.seen(layout, q.device)
        if seen is not None:
            columns = chosen[:, None, None].expand(-1, 1, q.shape[2], -1)
            seen = seen.expand(len(q), 1, q.shape[2], -1).gather(-1, columns)
        k, v = (t.gather(2, chosen[:, None, :, None].expand(-1, t.shape[1], -1, t.shape[3])) for t in (k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Float[Tensor, "B H N D"]:
        return self.sampled(q, k, v, layout) if self.training else super().attend(q, k, v, layout)


def sampled_scores(
    q: Float[Tensor, "B H N K"], k: Float[Tensor, "B H M K"], keys: Int[Tensor, "#B N S"]
) -> Float[Tensor, "B H S N"]:
    """q_i k_j for the S keys j that each query i samples, in pieces that stay in the cache.

    Where there are few keys, the scores of all of them are made and the sampled ones taken: products of whole matrices
    run at many times the speed of copying a key for every query and sample (6 times at 96 tokens and heads of 8, twice
    at 700, no gain from some 1,500 on). They cost O(N^2), so they end well before that, where the growth still counts
    little: with c = 5 near 370 tokens.
    """
    items, heads, n, width = q.shape
    size, samples = k.shape[2], keys.shape[2]
    full = size <= _FULL * samples
    each = heads * (size if full else samples * width)  # numbers held for a query
    rows = min(n, max(1, _HELD // each))
    step = max(1, _HELD // (each * n))
    out = q.new_empty(items, heads, samples, n)  # queries last: sums over samples are then quick
    for i in range(0, items, step):
        some, of = k[i : i + step], keys.expand(items, -1, -1)[i : i + step]
        item = torch.arange(len(some), device=k.device)[:, None, None]
        for r in range(0, n, rows):
            ask, at = q[i : i + step, :, r : r + rows], of[:, r : r + rows]
            if full:
                got = (some @ ask.mT).gather(2, at.mT[:, None].expand(-1, heads, -1, -1))
            else:
                got = torch.einsum("bhnk,bnshk->bhsn", ask, some[item, :, at])
            out[..., r : r + rows][i : i + step] = got
    return out


class ProbSparse(Attention):
    """Attention for the u = ceil(c ln n) queries that are farthest from indifferent; the others read the mean value.

    M_i = max_j s_ij - mean_j s_ij over ceil(c ln n) sampled keys, s = q k / sqrt(K): "Informer: Beyond Efficient
    Transformer for Long Sequence Time-Series Forecasting" (Zhou et al. 2021), n being the real tokens of an item.
    Each query samples keys at even steps from a start of its own, and not at random, so that a result can be had again.
    Not causal: which queries are active hangs on all of them. An exported graph computes all queries and then chooses,
    with the same result.

    factor: c. The other options are those of ``attention``, without positions that add to the scores.
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset()
    sets: ClassVar[bool] = False
    cost: ClassVar[str] = "O(N log N d + N d^2)"

    def __init__(self, dim: int, factor: float = 5.0, **rest: Any) -> None:
        super().__init__(dim, **rest)
        if factor <= 0:
            raise BadRequest(f"factor must be positive, got {factor}")
        if self.position.biased:
            raise BadRequest("'prob_sparse' compares samples: its position may turn them (rotary), not add to scores")
        self.factor = factor

    def project(self, x: Float[Tensor, "B N C"], layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        with full_precision(x):  # a choice must not hang on rounding
            return super().project(x, layout)

    def few(self, n: Int[Tensor, "*B"]) -> Int[Tensor, "*B"]:
        """How many of n: min(n, ceil(c ln n)), at least 1."""
        few = (self.factor * n.clamp_min(1).double().log()).ceil().long()
        return few.clamp_min(1).minimum(n.clamp_min(1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Float[Tensor, "B H N D"]:
        mask = v.new_ones(1, v.shape[2], dtype=torch.bool) if layout.mask is None else layout.mask
        run = self.all_queries if torch.compiler.is_exporting() else self.active_queries
        with full_precision(q):
            total = (v if layout.mask is None else v * mask[:, None, :, None]).sum(2, keepdim=True)
            mean = total / mask.sum(1).clamp_min(1)[:, None, None, None]
            return run(q, k, v, mask, mean.expand_as(v))

    def active_queries(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Bool[Tensor, "#B N"], mean: Float[Tensor, "B H N D"]
    ) -> Float[Tensor, "B H N D"]:
        """Scores for the sampled keys, then for the active queries alone. One row of ``mask`` for all: it hides none"""
        n, size = mask.sum(1), v.shape[2]
        most = min(size, max(1, math.ceil(self.factor * math.log(size))))  # of any item on this lattice
        slot, few = torch.arange(most, device=v.device), self.few(n)
        with torch.no_grad():
            scores = sampled_scores(q, k, self.samples(mask, slot))
            worth = self.worth(scores.mT, (slot < few[:, None])[:, None, None], few, mask)
            active = worth.topk(most, -1).indices[..., None]  # (B, H, U, 1)
        read = q.gather(2, active.expand(-1, -1, -1, q.shape[3]))
        y = F.scaled_dot_product_attention(read, k, v, attn_mask=None if len(mask) < len(v) else mask[:, None, None])
        y = torch.where((slot < few[:, None])[:, None, :, None], y, mean[:, :, :most])
        return mean.scatter(2, active.expand(-1, -1, -1, v.shape[3]), y)

    def all_queries(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Bool[Tensor, "#B N"], mean: Float[Tensor, "B H N D"]
    ) -> Float[Tensor, "B H N D"]:
        """The same from all scores, without shapes that hang on a logarithm."""
        n = mask.sum(1).clamp_min(1)[:, None, None]
        few, rank = self.few(n), mask.cumsum(1) - 1
        apart = (rank[:, None, :] - rank[:, :, None]) % n
        slot = (apart * few + n - 1) // n  # the only sample that can lie so far behind its start
        sampled = (slot < few) & (slot * n // few == apart) & mask[:, None]
        scores = q @ k.mT
        worth = self.worth(scores, sampled[:, None], few[:, 0, 0], mask)
        place = worth.argsort(-1, descending=True).argsort(-1)
        y = hidden(scores * q.shape[-1] ** -0.5, mask[:, None, None]).softmax(-1) @ v
        return torch.where((place < few)[..., None], y, mean)

    @staticmethod
    def worth(scores: Tensor, sampled: Tensor, few: Int[Tensor, "B"], mask: Bool[Tensor, "B N"]) -> Tensor:
        """M of every query (B, H, N), up to a factor; the least for masked ones."""
        best = scores.masked_fill(~sampled, -torch.inf).amax(-1)
        mean = scores.masked_fill(~sampled, 0.0).sum(-1) / few[:, None, None]
        return (best - mean).masked_fill(~mask[:, None], -torch.inf)

    def samples(self, mask: Bool[Tensor, "B N"], slot: Int[Tensor, "S"]) -> Int[Tensor, "B N S"]:
        """Which keys each query looks at: the real ones at even steps behind its own place among them."""
        n = mask.sum(1).clamp_min(1)[:, None, None]
        rank = (mask.cumsum(1) - 1).clamp_min(0)[..., None]
        wanted = (rank + slot * n // self.few(n)) % n
        order = (~mask).long().argsort(stable=True, dim=1)
        return order.gather(1, wanted.flatten(1)).reshape(wanted.shape)
