"""Routing by content: which tokens meet is decided by what they hold.

Shapes: B items, N tokens, C channels, H heads, D = C / H, G regions of P places, T chosen regions; S clusters of W
tokens.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..blocks import from_blocks, to_blocks, whole_blocks
from ..errors import BadRequest
from ..layout import Layout
from .attend import attend, unseen
from .base import Mixer, at_least, heads_of, join_heads, split_heads
from .convolution import DepthwiseConv


def real_of(x: Tensor, layout: Layout) -> Tensor:
    """The mask, all True where there is none."""
    return x.new_ones(x.shape[:2], dtype=torch.bool) if layout.mask is None else layout.mask


class Regions(Mixer):
    """softmax(Q_g K_T^T / sqrt(D)) V_T + DWConv(V): the tokens of region g attend to the tokens of the ``top`` regions
    whose mean key is nearest to the mean query of g.

    "BiFormer: Vision Transformer with Bi-Level Routing Attention" (Zhu et al. 2023). Regions have ``window`` places
    per axis, where the paper cuts every image into 7 x 7 of them: at 224 x 224 its stages have windows 8, 4, 2 and 1.

    kernel: of the convolution of the values; 0 leaves it out.
    """

    cost: ClassVar[str] = "O(N d^2 + N w^r d)"

    def __init__(
        self,
        dim: int,
        heads: int | None = None,
        window: int = 4,
        top: int = 4,
        kernel: int = 5,
        qkv_bias: bool = True,
        rank: int = 1,
    ) -> None:
        super().__init__()
        self.heads, self.rank = heads_of(dim, heads), rank
        self.window, self.top = at_least("window", window, 1), at_least("top", top, 1)
        places = self.window**rank
        setattr(self, "cost", f"O({4 * places**2} N d^2 + {2 * top * places**3} N d + 1 N^2 d)")  # noqa: B010
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.near = DepthwiseConv(dim, at_least("kernel", kernel, 0), rank, frozenset()) if kernel else None
        self.out = nn.Linear(dim, dim)

    def route(self, q: Tensor, k: Tensor, real: Tensor, top: int) -> Int[Tensor, "B G T"]:
        """The regions that each region reads, chosen by means over real tokens; a choice has no gradient."""
        with torch.no_grad(), torch.autocast(q.device.type, enabled=False):  # it must not hang on rounding either
            count = real.sum(2, keepdim=True)
            mean_q, mean_k = ((t.float() if t.dtype.itemsize < 4 else t) * real[..., None] for t in (q, k))
            mean_q, mean_k = (t.sum(2) / count.clamp_min(1) for t in (mean_q, mean_k))
            affinity = mean_q @ mean_k.mT + unseen(count.mT > 0, mean_q.dtype)
            return affinity.topk(top, dim=-1, sorted=False).indices

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        sizes, qkv = (self.window,) * layout.rank, self.qkv(layout.clean(x))
        q, k, v = (to_blocks(layout.fold(t), sizes) for t in qkv.chunk(3, -1))  # (B, G, P, C)
        real = to_blocks(layout.fold(real_of(x, layout)[..., None]), sizes)[..., 0]
        count = q.shape[1]
        routes = self.route(q, k, real, min(self.top, count))
        at = (routes + count * torch.arange(x.shape[0], device=x.device)[:, None, None]).flatten()

        def gathered(t: Tensor) -> Tensor:
            """(B, G, P, ...) -> (B, G, T P, ...): all tokens of the chosen regions."""
            return t.flatten(0, 1).index_select(0, at).unflatten(0, routes.shape).flatten(2, 3)

        keys, values = (split_heads(gathered(t), self.heads).transpose(1, 2) for t in (k, v))
        y = attend(
            split_heads(q, self.heads).transpose(1, 2), keys, values, unseen(gathered(real), q.dtype)[:, None, :, None]
        )
        y = layout.unfold(from_blocks(join_heads(y.transpose(1, 2)), layout.axes, sizes))
        return self.out(y if self.near is None else y + self.near(qkv.chunk(3, -1)[2], layout))


class Routing(Mixer):
    """softmax(Q_c K_c^T / sqrt(D)) V_c within each cluster c; a token's output is the mean over the clusters it is in.

    "Efficient Content-Based Sparse Attention with Routing Transformers" (Roy et al. 2021). Queries and keys are
    normalised, and each head has ``clusters`` centroids mu: a cluster holds the n / clusters queries nearest to it and
    as many keys, n being the real tokens of the item. While training, the centroids follow the mean of what is nearest
    to them with a share of ``decay`` of the old. The paper gives half of the heads to a local window: write
    ``split: [routing, window]``. Never causal: which tokens a cluster holds depends on all of them.
    """

    sets: ClassVar[bool] = True
    cost: ClassVar[str] = "O(N^2 d + N d^2)"
    centroids: Tensor

    def __init__(self, dim: int, heads: int | None = None, clusters: int = 8, decay: float = 0.999) -> None:
        super().__init__()
        self.heads, self.clusters = heads_of(dim, heads), at_least("clusters", clusters, 1)
        if not 0 <= decay <= 1:
            raise BadRequest(f"decay must lie in 0 .. 1, got {decay}")
        self.decay, s = decay, self.clusters
        setattr(self, "cost", f"O(1 N^2 d + {2 * s} N d^2 + {s**2} N d)")  # noqa: B010 - of so many clusters
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        start = torch.randn(self.heads, self.clusters, dim // self.heads)
        self.register_buffer("centroids", F.normalize(start, dim=-1) * start.shape[-1] ** 0.5)

    def members(self, t: Tensor, real: Tensor) -> tuple[Int[Tensor, "B H S W"], Tensor]:
        """The tokens of each cluster, nearest first, and which of these places count."""
        with torch.no_grad(), torch.autocast(t.device.type, enabled=False):
            affinity = self.centroids.to(t.dtype) @ t.mT + unseen(real[:, None, None], t.dtype)
            index = affinity.topk(whole_blocks(t.shape[2], self.clusters), dim=-1).indices
        share = (real.sum(1) + self.clusters - 1) // self.clusters
        return index, torch.arange(index.shape[-1], device=t.device) < share[:, None, None, None]

    @torch.no_grad()
    def follow(self, t: Tensor, real: Tensor) -> None:
        """Moves each centroid towards the mean of the tokens (B, H, N, D) that are nearest to it."""
        t = t.to(self.centroids.dtype)
        nearest = (self.centroids @ t.mT).argmax(2)[:, :, None] == torch.arange(self.clusters, device=t.device)[:, None]
        weight = (nearest & real[:, None, None]).to(t.dtype)  # (B, H, S, N)
        count = weight.sum((0, 3))[..., None]
        mean = (weight @ t).sum(0) / count.clamp_min(1)
        self.centroids.lerp_(torch.where(count > 0, mean, self.centroids), 1 - self.decay)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        with torch.autocast(x.device.type, enabled=False):  # who is a member must not hang on rounding
            qkv = self.qkv(layout.clean(x).to(self.qkv.weight.dtype))
        q, k, v = (split_heads(t, self.heads) for t in qkv.chunk(3, -1))
        q, k = (F.layer_norm(t, t.shape[-1:]) for t in (q, k))
        real = real_of(x, layout)
        (asking, asked), (read, kept) = self.members(q, real), self.members(k, real)

        def gathered(t: Tensor, index: Tensor) -> Tensor:
            return t.gather(2, index.flatten(2)[..., None].expand(-1, -1, -1, t.shape[-1])).unflatten(
                2, index.shape[2:]
            )

        y = attend(gathered(q, asking), gathered(k, read), gathered(v, read), unseen(kept, q.dtype)[..., None, :])
        home, weight = asking.flatten(2)[..., None], asked.expand_as(asking).flatten(2)[..., None].to(y.dtype)
        total = y.new_zeros(v.shape).scatter_add(2, home.expand(-1, -1, -1, v.shape[-1]), y.flatten(2, 3) * weight)
        count = y.new_zeros(*v.shape[:-1], 1).scatter_add(2, home, weight)
        if self.training:
            self.follow(torch.cat([q, k], 2), torch.cat([real, real], 1))
        return self.out(join_heads(total / count.clamp_min(1)))
