"""The way back up: one token of a coarse lattice becomes several of a finer one.

Shapes: B items, N coarse tokens, M fine tokens, C channels before, K after, S of the fine tokens that are joined.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .blocks import from_blocks, to_blocks
from .errors import BadRequest, unknown
from .layout import Layout
from .merging import Expand
from .mixers.base import at_least
from .options import as_declared, check_options

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
NEVER = -1e4  # the score of a key that is not there; finite, so that a window without any key stays finite


def interpolated(x: Float[Tensor, "B N C"], layout: Layout, finer: Layout, stride: int) -> Float[Tensor, "B M C"]:
    """Linear interpolation between the centres of the blocks of stride^rank fine places."""
    lattice = layout.fold(layout.clean(x)).movedim(-1, 1)
    y = F.interpolate(lattice, scale_factor=float(stride), mode=LINEAR[layout.rank], align_corners=False)
    for axis, n in enumerate(finer.axes):
        y = y.index_select(2 + axis, torch.arange(n, device=y.device))
    return y.flatten(2).mT


class InterpolatedExpand(nn.Module):
    """W x between the coarse tokens, interpolated: the plainest way up."""

    def __init__(self, dim_in: int, dim_out: int, stride: int, rank: int) -> None:
        super().__init__()
        self.stride, self.project = stride, nn.Linear(dim_in, dim_out)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout, finer: Layout) -> Float[Tensor, "B M K"]:
        return interpolated(self.project(x), layout, finer, self.stride)


class AttentionExpand(nn.Module):
    """y = up(W x) + f, f = a + MLP(norm(a)), a = attention of the fine tokens over the coarse ones of their window.

    "More than Encoder: Introducing Transformer Decoder to Upsample" (Li et al. 2021): queries are the encoder's tokens
    on the finer lattice, keys and values the coarse ones; windows hold window^rank coarse tokens and the fine ones on
    the same ground; up is linear interpolation, so what attention finds is added to it.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        stride: int,
        rank: int,
        skip: int,
        heads: int = 4,
        window: int = 4,
        ratio: float = 2.0,
    ) -> None:
        super().__init__()
        if dim_out % at_least("heads", heads, 1):
            raise BadRequest(f"heads must divide the {dim_out} channels of the stage, got {heads}")
        self.stride, self.rank, self.heads, self.window = stride, rank, heads, at_least("window", window, 1)
        self.project = nn.Linear(dim_in, dim_out)
        self.norm_fine, self.norm_coarse = nn.LayerNorm(skip), nn.LayerNorm(dim_in)
        self.query, self.key_value = nn.Linear(skip, dim_out), nn.Linear(dim_in, 2 * dim_out)
        self.out = nn.Linear(dim_out, dim_out)
        hidden = max(1, round(ratio * dim_out))
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim_out), nn.Linear(dim_out, hidden), nn.GELU(), nn.Linear(hidden, dim_out)
        )

    def forward(
        self, x: Float[Tensor, "B N C"], layout: Layout, finer: Layout, skip: Float[Tensor, "B M S"]
    ) -> Float[Tensor, "B M K"]:
        """Tokens on ``layout`` and the encoder's on ``finer`` -> tokens on ``finer``."""
        found = self.attended(x, layout, finer, finer.clean(skip))
        return interpolated(self.project(x), layout, finer, self.stride) + found + self.mlp(found)

    def attended(self, x: Tensor, layout: Layout, finer: Layout, skip: Tensor) -> Float[Tensor, "B M K"]:
        coarse_sizes, fine_sizes = (self.window,) * self.rank, (self.window * self.stride,) * self.rank
        real = torch.ones_like(x[..., :1]) if layout.mask is None else layout.mask[..., None].to(x.dtype)
        keys = to_blocks(layout.fold(real), coarse_sizes)[..., 0]  # (B, G, P): 0 in the padding too
        q = to_blocks(finer.fold(self.query(self.norm_fine(skip))), fine_sizes)
        k, v = to_blocks(layout.fold(self.key_value(self.norm_coarse(layout.clean(x)))), coarse_sizes).chunk(2, -1)
        b, g = q.shape[:2]
        q, k, v = (t.flatten(0, 1).unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        bias = ((1 - keys) * NEVER).flatten(0, 1)[:, None, None]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        y = y.transpose(1, 2).flatten(2).unflatten(0, (b, g))
        return self.out(from_blocks(y, finer.axes, fine_sizes).flatten(1, self.rank))


EXPANDS: dict[str, type[nn.Module]] = {
    "patch": Expand,
    "interpolate": InterpolatedExpand,
    "attention": AttentionExpand,
}


def build_expand(name: str, dim_in: int, dim_out: int, stride: int, rank: int, skip: int, **options: Any) -> nn.Module:
    """A way up by name; raises BadRequest for an unknown name or option."""
    if name not in EXPANDS:
        raise unknown("merge of a decoder's stage", name, EXPANDS)
    cls, what = EXPANDS[name], f"expansion {name!r}"
    allowed = ("heads", "window", "ratio") if cls is AttentionExpand else ()
    for option in options:
        if option not in allowed:
            raise unknown(f"option of {what}", option, allowed)
    check_options(what, cls, options)
    given = as_declared(cls, options) | ({"skip": skip} if cls is AttentionExpand else {})
    return cls(dim_in, dim_out, at_least("stride", stride, 1), rank, **given)
