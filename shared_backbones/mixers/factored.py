"""Full attention in two factors: own block token by token, every other block through one summary.

Shapes: B items, N tokens, C channels, H heads, D = C / H, G blocks of P places.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..blocks import from_blocks, to_blocks, whole_blocks
from ..layout import Layout
from .attend import unseen
from .attention import causal_mask
from .base import Mixer, at_least, heads_of, join_heads, split_heads
from .routing import real_of


class Factored(Mixer):
    """p(j | i) = exp(q_i k_j) / Z within the own block, exp(q_i k_r) / Z p(j | r) in another block r, one Z for both.

    "Combiner: Full Attention Transformer with Sparse Computation Cost" (Ren et al. 2021), the fixed form: q_r and k_r
    are maxima over the block, p(. | r) = softmax_j(q_r k_j), products over sqrt(D) throughout. Every token reaches
    every other; with blocks of about sqrt(N) tokens for O(N^1.5 d). Causal along axis 0: of other blocks only those
    that lie before the own one.

    window: places per axis of a block.
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset({0})
    cost: ClassVar[str] = "O(N^2 d + N d^2)"

    def __init__(
        self,
        dim: int,
        heads: int | None = None,
        window: int = 7,
        causal_axes: tuple[int, ...] = (),
        rank: int = 1,
    ) -> None:
        super().__init__()
        self.heads, self.window, self.rank = heads_of(dim, heads), at_least("window", window, 1), rank
        self.causal = frozenset(causal_axes)
        p = self.window**rank
        setattr(self, "cost", f"O(1 N^2 d + {2 * p} N d^2 + {p**2 + p} N d)")  # noqa: B010 - of this window
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def far(self, layout: Layout, some: Bool[Tensor, "B G"]) -> Bool[Tensor, "B G G"]:
        """Which block reads the summary of which other one."""
        g = some.shape[1]
        sees = ~torch.eye(g, dtype=torch.bool, device=some.device)
        if self.causal:
            row = torch.arange(g, device=some.device) // max(1, math.prod(self.blocks(layout)[1:]))
            sees = row[None, :] < row[:, None]
        return sees & some[:, None]

    def blocks(self, layout: Layout) -> list[int]:
        """Blocks along every axis."""
        return [whole_blocks(n, self.window) for n in layout.axes]

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        sizes = (self.window,) * layout.rank
        parts = to_blocks(layout.fold(self.qkv(layout.clean(x))), sizes).chunk(3, -1)
        q, k, v = (split_heads(t, self.heads).transpose(1, 2) for t in parts)  # (B, H, G, P, D)
        q = q * q.shape[-1] ** -0.5
        real = to_blocks(layout.fold(real_of(x, layout)[..., None]), sizes)[..., 0]
        some, inside = real.any(2), unseen(real, q.dtype)[:, None, :, None]
        top_q, top_k = ((t + inside.mT).amax(3).masked_fill(~some[:, None, :, None], 0.0) for t in (q, k))
        summary = ((top_q[:, :, :, None] @ k.mT + inside).softmax(-1).to(v.dtype) @ v)[:, :, :, 0]  # (B, H, G, D)
        near = q @ k.mT + inside
        causal = causal_mask(sizes, self.causal, x.device)
        near = near if causal is None else near + unseen(causal, near.dtype)
        far = q @ top_k[:, :, None].mT + unseen(self.far(layout, some), q.dtype)[:, None, :, None]
        own, others = torch.cat([near, far], -1).softmax(-1).to(v.dtype).split([near.shape[-1], far.shape[-1]], -1)
        y = own @ v + others @ summary[:, :, None]
        return self.out(layout.unfold(from_blocks(join_heads(y.transpose(1, 2)), layout.axes, sizes)))
