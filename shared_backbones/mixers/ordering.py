"""Graphs as sequences: an order that the content gives, so that mixers of sequences serve sets and graphs.

Shapes: B items, N tokens, C channels, E edges over the flattened B*N tokens, M = B N, K + 1 tokens of a neighbourhood.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..layout import Layout
from .base import at_least
from .combine import Combined, Sentence
from .graph_attention import put_back
from .neighborhood import Ends, degrees, ends, gathered

MOST_ROUNDS = 31  # halvings of a path over 2^31 tokens


def best_neighbour(h: Float[Tensor, "M C"], cluster: Int[Tensor, "M"], edges: Ends) -> Int[Tensor, "M"]:
    """Per cluster (by the number of its root) the neighbouring cluster most like it, itself where there is none.

    Likeness is the cosine of the clusters' mean tokens. Entries of tokens that are no root mean nothing.
    """
    source, target, keep = edges
    count = h.shape[0]
    size = h.new_zeros(count).index_add(0, cluster, torch.ones_like(h[:, 0])).clamp_min(1)
    mean = F.normalize(torch.zeros_like(h).index_add(0, cluster, h) / size[:, None], dim=-1)
    a, b = cluster[target], cluster[source]
    like = (mean[a] * mean[b]).sum(-1).masked_fill(~keep | (a == b), -torch.inf)
    top = like.new_full((count,), -torch.inf).scatter_reduce(0, a, like, "amax")
    hit = (like == top[a]) & like.isfinite()
    found = torch.arange(count, device=h.device)
    pick = found.new_full((count,), -1).scatter_reduce(0, a, torch.where(hit, b, torch.full_like(b, -1)), "amax")
    return torch.where(pick < 0, found, pick)


def merged(cluster: Int[Tensor, "M"], partner: Int[Tensor, "M"], rank: Int[Tensor, "M"]) -> Int[Tensor, "M"]:
    """Clusters joined with their partners, as Boruvka's; of two that chose each other the lower rank is root."""
    here = torch.arange(partner.shape[0], device=partner.device)
    mutual = partner[partner] == here
    parent = torch.where(mutual & (rank < rank[partner]), here, partner)
    # Each time the remaining paths are halved. An export leaves the number of tokens open; rounds past the last that is
    # needed change nothing, so it takes as many as any number does.
    rounds = MOST_ROUNDS if torch.compiler.is_exporting() else max(1, (partner.shape[0] - 1).bit_length())
    for _ in range(rounds):
        parent = parent[parent]
    return parent[cluster]


class Ordered(Combined):
    """Tokens in an order of their content, mixed as a sequence by the inner mixer, and put back: equivariant.

    by "score": a learned projection. "degree": by the number of edges that end at a token, then by the score: the
    second pass of "Graph Mamba: Towards Learning on Graphs with State Space Models" (Behrouz and Hashemi 2024).
    "hierarchy": by affinity clusters, ``levels`` rounds of merging each cluster with the neighbour most like it, read
    depth first, so that like neighbours stand together at every scale: the tokeniser of "Best of Both Worlds:
    Advantages of Hybrid Graph Sequence Models" (Behrouz et al. 2024).
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset()
    ranks: ClassVar[frozenset[int]] = frozenset({1})
    needs: ClassVar[frozenset[str]] = frozenset({"edges"})
    exports_mask: ClassVar[bool] = False

    def __init__(
        self,
        dim: int,
        inner: Sentence = "attention",
        by: Literal["score", "degree", "hierarchy"] = "degree",
        levels: int = 3,
        provides: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        self.by, self.levels = by, at_least("levels", levels, 1)
        self.score = nn.Linear(dim, 1, bias=False)
        self.inner = self.part(inner, dim, rank=1, ordered=True, causal_axes=(), provides=())
        facts: dict[str, Any] = {"ranks": self.ranks, "causal_axes": frozenset(), "needs": frozenset({"edges"})}
        self.derive([self.inner], sets=True, exports_mask=False, **facts)

    def keys(self, x: Float[Tensor, "B N C"], layout: Layout) -> list[Float[Tensor, "B N"]]:
        """What tokens are sorted by, the finest first."""
        score = self.score(x)[..., 0].detach().double()
        if self.by == "score":
            return [score]
        edges = ends(layout)
        if self.by == "degree":
            return [score, degrees(edges, score.numel(), score).reshape(score.shape)]
        return [
            level.reshape(score.shape) for level in self.hierarchy(x.detach().flatten(0, 1), score.flatten(), edges)
        ]

    def hierarchy(self, h: Float[Tensor, "M C"], score: Float[Tensor, "M"], edges: Ends) -> list[Float[Tensor, "M"]]:
        """The score of each token's cluster at every level, the tokens themselves first."""
        cluster = torch.arange(h.shape[0], device=h.device)
        rank = torch.empty_like(cluster).scatter(0, score.argsort(), cluster)
        found = [score]
        for _ in range(self.levels):
            cluster = merged(cluster, best_neighbour(h.double(), cluster, edges), rank)
            low = torch.full_like(score, torch.inf).scatter_reduce(0, cluster, score, "amin")
            found.append(low[cluster])
        return found

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        order: Tensor | None = None
        for key in self.keys(x, layout):
            key = key if layout.mask is None else key.masked_fill(~layout.mask, torch.inf)
            step = (key if order is None else key.gather(1, order)).argsort(stable=True, dim=-1)
            order = step if order is None else order.gather(1, step)
        assert order is not None
        weight = 1 + torch.tanh(self.score(x))  # the order itself has no gradient; the score learns through its token
        sorted_x = (x * weight).gather(1, order[..., None].expand_as(x))
        mask = None if layout.mask is None else layout.mask.gather(1, order)
        return put_back(self.inner(sorted_x, Layout((x.shape[1],), mask=mask)), order)


class NeighborTokens(Combined):
    """Each token's neighbourhoods as a short sequence, far to near, read by the inner mixer; its last place is y_i.

    Token m of node i is (P^m X)_i, P = D^-1 A: the mean over where a random walk of m steps from i ends, m = K .. 0. It
    is the expectation of the sampled walks of "Graph Mamba" (Behrouz and Hashemi 2024), so nothing is drawn at random.
    With K = 0 it is a mixer of single tokens. The inner mixer is causal: what stands last is nearest, and remembered
    best.
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset({"edges"})

    def __init__(self, dim: int, hops: int = 3, inner: Sentence = "scan") -> None:
        super().__init__()
        self.hops = at_least("hops", hops, 0)
        self.place = nn.Parameter(torch.randn(hops + 1, dim) * 0.02)
        self.inner = self.part(inner, dim, rank=1, ordered=True, causal_axes=(0,), provides=())
        self.derive(
            [self.inner], sets=True, causal_axes=frozenset(), needs=frozenset({"edges"}), ranks=frozenset({1, 2, 3}),
            rank=None, cost="O(N d^2 + E d)",
        )  # fmt: skip

    def tokens(self, x: Float[Tensor, "M C"], layout: Layout) -> Float[Tensor, "M K1 C"]:
        """The K + 1 tokens of every node, the farthest first."""
        edges = ends(layout)
        share = edges[2].to(x.dtype) / degrees(edges, x.shape[0], x).clamp_min(1)[edges[1]]
        found = [x]
        for _ in range(self.hops):
            found.append(gathered(found[-1], edges, share))
        return torch.stack(found[::-1], 1)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        tokens = self.tokens(x.flatten(0, 1), layout) + self.place.to(x.dtype)
        return self.inner(tokens, Layout((self.hops + 1,)))[:, -1].reshape(x.shape)
