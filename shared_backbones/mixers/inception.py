"""Channels by frequency: convolution and maxima for the high ones, attention on a coarse lattice for the low ones.

Shapes: B items, N tokens, C channels, H heads, M blocks.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..blocks import pooled, spread
from ..errors import BadRequest
from ..layout import Layout
from .base import Mixer, at_least, heads_of, join_heads, split_heads
from .convolution import DepthwiseConv, maximum


class Inception(Mixer):
    """y = W5 (z + DWConv(z)), z = [gelu(DWConv(W1 x_1)), gelu(W2 max(x_2)), up(attention(mean blocks of x_3))].

    "Inception Transformer" (Si et al. 2022): x_3 holds the channels of ``low`` heads, x_1 and x_2 half of the rest each
    and come out twice as wide; the maximum is over 3 places per axis. With as many channels before and after, ``split``
    of ``convolution``, ``max_pooling`` and ``coarse`` says the same without the widening.

    low: heads that attend, None for half of them. factor: width of the blocks that are averaged.
    """

    cost: ClassVar[str] = "O(N^2 d + N d^2)"

    def __init__(
        self, dim: int, heads: int | None = None, low: int | None = None, factor: int = 2, rank: int = 1
    ) -> None:
        super().__init__()
        count = heads_of(dim, heads)
        self.low = max(1, count // 2) if low is None else low
        if not 0 < self.low < count:
            raise BadRequest(f"low must leave heads of both kinds, got low={self.low} of {count} heads")
        self.rank, self.factor, lows = rank, at_least("factor", factor, 1), self.low * (dim // count)
        near = (dim - lows) // 2
        self.widths = [near, dim - lows - near, lows]
        wide = 2 * (dim - lows) + lows
        self.near = nn.Linear(near, 2 * near, bias=False)
        self.conv, self.fuse = (DepthwiseConv(n, 3, rank, frozenset()) for n in (2 * near, wide))
        self.far = nn.Linear(self.widths[1], 2 * self.widths[1])
        self.qkv, self.out = nn.Linear(lows, 3 * lows), nn.Linear(wide, dim)
        points = factor**rank
        terms = {"N^2 d": 4 * self.low / count / points**2, "N d^2": 12.0}
        whole = points**2 * count
        setattr(self, "cost", f"O({' + '.join(f'{round(w * whole)} {t}' for t, w in terms.items())})")  # noqa: B010

    def coarse(self, x: Float[Tensor, "B N K"], layout: Layout) -> Float[Tensor, "B N K"]:
        """Attention between the means of blocks, every token with the result of its block."""
        means, blocks = pooled(x, layout, (self.factor,) * layout.rank)
        q, k, v = (split_heads(t, self.low) for t in self.qkv(means).chunk(3, -1))
        y = join_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=blocks.key_mask()))
        return layout.unfold(spread(blocks.fold(y), layout.axes, self.factor))

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        near, far, low = layout.clean(x).split(self.widths, -1)
        near = F.gelu(self.conv(self.near(near), layout))
        far = F.gelu(self.far(maximum(far, layout, 3, frozenset())))
        z = torch.cat([near, far, self.coarse(low, layout)], -1)
        return self.out(z + self.fuse(z, layout))
