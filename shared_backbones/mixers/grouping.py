"""Grouping: tokens -> groups -> dense attention inside each group -> back.

Shapes: B items, N tokens, C channels, H heads, D = C / H, G groups, P places in a group.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..blocks import from_blocks, to_blocks
from ..errors import BadRequest
from ..layout import Layout
from .attention import causal_mask
from .base import Mixer, at_least, heads_of, join_heads, split_heads


def relative_index(window: int, rank: int) -> Int[Tensor, "P P"]:
    """Where the offset of query i from key j stands in a table of (2 window - 1)^rank entries."""
    places = torch.cartesian_prod(*[torch.arange(window)] * rank).reshape(-1, rank)
    offsets = places[:, None] - places[None, :] + window - 1  # (P, P, rank), from 0
    return (offsets * (2 * window - 1) ** torch.arange(rank - 1, -1, -1)).sum(-1)


class Window(Mixer):
    """softmax(Q K^T / sqrt(D) + bias of the relative place) V within windows of window^rank tokens.

    "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (Liu et al. 2021). A shifted grid of
    windows has its borders at ``shift`` instead of 0 and partial windows at the edges, where Swin wraps around and
    masks: the same pairs meet, and a border stays where it is whatever is padded behind. Alternate ``shift: 0`` with
    ``shift: window // 2``.
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    index: Tensor
    cost: ClassVar[str] = "O(N d^2 + N w^r d)"

    def __init__(
        self,
        dim: int,
        heads: int | None = None,
        window: int = 7,
        shift: int = 0,
        causal_axes: tuple[int, ...] = (),
        rank: int = 1,
    ) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads_of(dim, heads), at_least("window", window, 1), shift
        if not 0 <= shift < window:
            raise BadRequest(f"shift must lie in 0 .. window - 1, got shift={shift} and window={window}")
        self.causal, self.rank = frozenset(causal_axes), rank
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.table = nn.Parameter(torch.randn((2 * window - 1) ** rank, self.heads) * 0.02)
        self.register_buffer("index", relative_index(window, rank), persistent=False)

    def bias(self, real: Bool[Tensor, "R P"]) -> Float[Tensor, "R H P P"]:
        """What is added to the scores. A key that may not be seen gets a finite floor, whose exponential is 0:
        groups without any real token then stay finite."""
        floor = 0.5 * torch.finfo(self.table.dtype).min
        bias = rearrange(self.table[self.index], "i j h -> h i j")
        causal = causal_mask((self.window,) * (self.rank or 1), self.causal, real.device)
        if causal is not None:
            bias = bias.masked_fill(~causal, floor)
        return torch.where(real[:, None, None, :], bias, floor)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        sizes = (self.window,) * layout.rank
        front = (-self.shift % self.window,) * layout.rank
        groups = to_blocks(layout.fold(self.qkv(layout.clean(x))), sizes, front)
        mask = x.new_ones(x.shape[:2], dtype=torch.bool) if layout.mask is None else layout.mask
        real = to_blocks(mask.reshape(-1, *layout.axes, 1), sizes, front)
        q, k, v = (split_heads(t, self.heads) for t in groups.flatten(0, 1).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias(real.flatten(0, 1)[..., 0]).to(q.dtype))
        y = join_heads(y).unflatten(0, groups.shape[:2])
        return self.out(layout.unfold(from_blocks(y, layout.axes, sizes, front)))
