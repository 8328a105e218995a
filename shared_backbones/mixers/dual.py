"""Two views of the tokens beside positions at one scale: the channels as tokens, and two scales at once.

Shapes: B items, N tokens, C channels, H heads, D = C / H, G windows of P places, M blocks.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ..blocks import from_blocks, pooled, to_blocks
from ..errors import BadRequest
from ..layout import Layout
from .base import Mixer, at_least, heads_of


class ChannelAttention(Mixer):
    """y = (softmax(Q^T K / sqrt(D)) V^T)^T per group of D channels: each channel is a token that holds all positions.

    "DaViT: Dual Attention Vision Transformers" (Ding et al. 2022). Every token reaches every other through D x D maps.

    unit: rows of Q^T and K^T have length 1 over the tokens and a learned temperature per group stands for 1 / sqrt(D),
    as in "XCiT: Cross-Covariance Image Transformers" (El-Nouby et al. 2021). sparse: relu in place of softmax, which
    keeps similar channels alone: "DLGSANet" (Li et al. 2023). keep: of the D scores of a channel only the largest such
    shares count, a softmax of each, mixed by learned weights: "Learning A Sparse Transformer Network for Effective
    Image Deraining" (Chen et al. 2023) has (1/2, 2/3, 3/4, 4/5).
    """

    sets: ClassVar[bool] = True
    cost: ClassVar[str] = "O(N d^2)"

    def __init__(
        self,
        dim: int,
        heads: int | None = None,
        unit: bool = False,
        sparse: bool = False,
        keep: tuple[float, ...] = (),
    ) -> None:
        super().__init__()
        self.heads, self.sparse = heads_of(dim, heads), sparse
        if keep and (sparse or not all(0 < share <= 1 for share in keep)):
            raise BadRequest(f"keep must be shares above 0 and up to 1, without sparse; got {tuple(keep)}, {sparse}")
        width = dim // self.heads
        self.most = tuple(max(1, int(share * width)) for share in keep)
        self.mix = nn.Parameter(torch.full((len(keep),), 1 / len(keep))) if keep else None
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.temperature = nn.Parameter(torch.ones(self.heads, 1, 1)) if unit else None

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        if self.mix is None:
            return self.attended(x, layout)
        with torch.autocast(x.device.type, enabled=False):  # which scores are the largest is not to hang on rounding
            return self.attended(x, layout)

    def attended(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        qkv = layout.clean(self.qkv(layout.clean(x)))  # clean again: the bias is no token
        q, k, v = (rearrange(t, "b n (h d) -> b h d n", h=self.heads) for t in qkv.chunk(3, -1))
        if self.temperature is None:
            scores = q @ k.mT * q.shape[2] ** -0.5
        else:
            scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * self.temperature
        weights = F.relu(scores) if self.sparse else self.softmax(scores)
        return self.out(rearrange(weights @ v, "b h d n -> b n (h d)"))

    def softmax(self, scores: Float[Tensor, "B H D D"]) -> Float[Tensor, "B H D D"]:
        """Over all channels, or the mixture of those over the largest few."""
        if self.mix is None:
            return scores.softmax(-1)
        order = scores.argsort(-1, descending=True).argsort(-1)  # 0: the largest of its row
        kept = [scores.masked_fill(order >= most, -torch.inf).softmax(-1) for most in self.most]
        return torch.einsum("m,mbhij->bhij", self.mix, torch.stack(kept))


class HiLo(Mixer):
    """Some heads attend within windows of w^rank tokens, the others from every token to the means of those windows.

    "Fast Vision Transformers with HiLo Attention" (Pan et al. 2022): high frequencies locally, low ones globally. Each
    kind of head reads all channels and writes its own share of them.

    low: share of the heads that attend to window means, at least one head and not all.
    """

    cost: ClassVar[str] = "O(N^2 d + N d^2 + N w^r d)"

    def __init__(self, dim: int, heads: int | None = None, window: int = 2, low: float = 0.5) -> None:
        super().__init__()
        count = heads_of(dim, heads)
        self.window, self.head = at_least("window", window, 1), dim // count
        lows = round(low * count)
        if not 0 < lows < count:
            raise BadRequest(f"low must leave heads of both kinds, got low={low} of {count} heads")
        highs = count - lows
        near = window * (3 * highs * count + highs**2 + lows * count + lows**2) + 2 * lows * count
        setattr(self, "cost", f"O({2 * lows * count} N^2 d + {near} N d^2)")  # noqa: B010 - of this split of the heads
        wide, narrow = lows * self.head, (count - lows) * self.head
        self.high_qkv, self.high_out = nn.Linear(dim, 3 * narrow), nn.Linear(narrow, narrow)
        self.low_q, self.low_kv, self.low_out = nn.Linear(dim, wide), nn.Linear(dim, 2 * wide), nn.Linear(wide, wide)

    def local(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N K"]:
        """Attention within each window."""
        sizes = (self.window,) * layout.rank
        windows = to_blocks(layout.fold(self.high_qkv(x)), sizes)
        q, k, v = (rearrange(t, "b g p (h d) -> (b g) h p d", d=self.head) for t in windows.chunk(3, -1))
        real = x.new_ones(x.shape[:2]).bool() if layout.mask is None else layout.mask
        seen = to_blocks(layout.fold(real[..., None]), sizes).flatten(0, 1)[:, None, None, :, 0]
        y = rearrange(
            F.scaled_dot_product_attention(q, k, v, attn_mask=seen), "(b g) h p d -> b g p (h d)", b=x.shape[0]
        )
        return self.high_out(layout.unfold(from_blocks(y, layout.axes, sizes)))

    def global_(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N K"]:
        """Attention from every token to the mean of each window."""
        means, windows = pooled(x, layout, (self.window,) * layout.rank)
        parts = (self.low_q(x), *self.low_kv(means).chunk(2, -1))
        q, k, v = (rearrange(t, "b n (h d) -> b h n d", d=self.head) for t in parts)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=windows.key_mask())
        return self.low_out(rearrange(y, "b h n d -> b n (h d)"))

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        return torch.cat([self.local(x, layout), self.global_(x, layout)], -1)
