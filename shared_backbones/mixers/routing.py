"""Routing by content: which tokens meet is decided by what they hold.

Shapes: B items, N tokens, C channels, H heads, D = C / H, G regions of P places, T chosen regions; S clusters of W
tokens.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..blocks import from_blocks, to_blocks
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
