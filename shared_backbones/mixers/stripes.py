"""Cross-shaped stripes: some heads attend along one axis, some along another.

Shapes: B items, N tokens, C channels.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..layout import Layout
from .attend import grouped
from .base import Mixer, at_least, heads_of
from .convolution import DepthwiseConv
from .grouping import blocks_plan


class Stripes(Mixer):
    """softmax(Q K^T / sqrt(D)) V + DWConv(V), an equal share of the heads (or nearly) for each axis a of the lattice:
    their stripes span axis a and are ``width`` tokens wide along the others.

    "CSWin Transformer: A General Vision Transformer Backbone with Cross-Shaped Windows" (Dong et al. 2022). The
    convolution, its locally enhanced positional encoding, runs over the lattice and not stripe by stripe.

    kernel: of that convolution; 0 leaves it out.
    """

    ranks: ClassVar[frozenset[int]] = frozenset({2, 3})
    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    cost: ClassVar[str] = "O(N d^2 + N^1.5 d)"

    def __init__(
        self,
        dim: int,
        heads: int | None = None,
        width: int = 1,
        kernel: int = 3,
        qkv_bias: bool = True,
        causal_axes: tuple[int, ...] = (),
        rank: int = 2,
    ) -> None:
        super().__init__()
        self.heads = heads_of(dim, heads)
        self.shares = [(self.heads + axis) // rank for axis in range(rank)]  # equal ones where they come out
        self.width, self.causal, self.rank = at_least("width", width, 1), frozenset(causal_axes), rank
        setattr(self, "cost", f"O(2 N d^2 + {self.width ** (rank - 1)} N^1.5 d)")  # noqa: B010 - of this width
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.near = DepthwiseConv(dim, at_least("kernel", kernel, 0), rank, self.causal) if kernel else None
        self.out = nn.Linear(dim, dim)

    def along(self, axis: int, qkv: Float[Tensor, "B N C3"], layout: Layout) -> Float[Tensor, "B N C"]:
        """Attention within the stripes that span one axis, of the heads that belong to it."""
        plans = [
            blocks_plan(n, n if a == axis else self.width, 0, 0, a in self.causal, qkv.device)
            for a, n in enumerate(layout.axes)
        ]
        return grouped(qkv, layout, plans, self.shares[axis], None)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        qkv = self.qkv(layout.clean(x))
        shares = qkv.unflatten(-1, (3, self.heads, -1)).split(self.shares, -2)
        y = [self.along(axis, t.flatten(2), layout) for axis, t in enumerate(shares) if self.shares[axis]]
        near = 0.0 if self.near is None else self.near(qkv.chunk(3, -1)[2], layout)
        return self.out(torch.cat(y, -1) + near)
