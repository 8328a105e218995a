"""Attention: scores -> modify -> select -> normalise -> combine.

Shapes: B items, N tokens, C channels, H heads, D = C / H.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..layout import Layout
from .base import Mixer, heads_of


def causal_mask(axes: tuple[int, ...], causal: frozenset[int], device: torch.device) -> Bool[Tensor, "N N"] | None:
    """True where query i may see key j: no key lies ahead along any causal axis."""
    if not causal:
        return None
    grids = torch.meshgrid(*(torch.arange(n, device=device) for n in axes), indexing="ij")
    allowed = torch.ones((), dtype=torch.bool, device=device)
    for axis in sorted(causal):
        at = grids[axis].flatten()
        allowed = allowed & (at[:, None] >= at[None, :])
    return allowed


class Attention(Mixer):
    """softmax(Q K^T / sqrt(D)) V per head: "Attention Is All You Need" (Vaswani et al. 2017)."""

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    sets: ClassVar[bool] = True
    cost: ClassVar[str] = "O(N^2 d)"

    def __init__(self, dim: int, heads: int = 4, causal_axes: tuple[int, ...] = ()) -> None:
        super().__init__()
        heads_of(dim, heads)
        self.heads, self.causal = heads, frozenset(causal_axes)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=self.heads) for t in self.qkv(layout.clean(x)).chunk(3, -1))
        mask, causal = layout.key_mask(), causal_mask(layout.axes, self.causal, x.device)
        if causal is not None:
            mask = causal if mask is None else mask & causal
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(rearrange(y, "b h n d -> b n (h d)"))

    def state_size(self, n: int) -> int:
        return 2 * n * self.out.in_features if self.causal else 0
