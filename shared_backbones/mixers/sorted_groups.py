"""Groups of equal size for tokens that stand anywhere: points, sets, lattices with real coordinates.

Shapes: B items, N tokens, C channels, G groups of P tokens, k coordinates.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..blocks import whole_blocks
from ..errors import BadRequest
from ..layout import Layout
from .attend import attend, unseen
from .base import Mixer, at_least, heads_of, join_heads, split_heads
from .routing import real_of


class Sorted(Mixer):
    """softmax(Q K^T / sqrt(D)) V within groups of ``size`` tokens that follow each other in a sorted row.

    "FlatFormer: Flattened Window Attention for Efficient Point Cloud Transformer" (Liu et al. 2023): tokens are sorted
    by the window that their position lies in, then by their position, and cut into groups of equal size instead of
    equal shape. Layers alternate ``axis`` and ``shift`` so that groups mix. Tokens at one place keep their order.

    window: extent of a window along every coordinate, in the unit of the positions. axis: the coordinate that counts
    first. shift: how far window borders are moved, as a share of a window.
    """

    sets: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"positions"})
    cost: ClassVar[str] = "O(N d^2 + N w d)"

    def __init__(
        self,
        dim: int,
        heads: int | None = None,
        size: int = 32,
        window: float = 8.0,
        axis: int = 0,
        shift: float = 0.0,
    ) -> None:
        super().__init__()
        if window <= 0 or not 0 <= shift < 1:
            raise BadRequest(f"window must be positive and shift lie in 0 .. 1, got window={window} and shift={shift}")
        self.heads, self.size, self.axis = heads_of(dim, heads), at_least("size", size, 1), at_least("axis", axis, 0)
        self.window, self.shift = window, shift
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def order(self, layout: Layout, real: Tensor) -> Int[Tensor, "B N"]:
        """The tokens of each item as they stand in the row, masked ones last."""
        assert layout.positions is not None
        at = layout.clean(layout.positions)
        if self.axis >= at.shape[-1]:
            raise BadRequest(f"axis {self.axis} of 'sorted' needs that coordinate, the positions have {at.shape[-1]}")
        at = at.roll(-self.axis, -1)
        windows = (at / self.window + self.shift).floor()
        keys = [(~real).to(at.dtype), *windows.unbind(-1), *at.unbind(-1)]
        order = torch.arange(at.shape[1], device=at.device).expand(at.shape[:2])
        for key in reversed(keys):  # the last sort counts most
            order = order.gather(1, torch.argsort(key.gather(1, order), dim=1, stable=True))
        return order

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        real, qkv, n = real_of(x, layout), self.qkv(layout.clean(x)), x.shape[1]
        order = self.order(layout, real)
        padding = whole_blocks(n, self.size) * self.size - n
        rows = F.pad(qkv.gather(1, order[..., None].expand_as(qkv)), (0, 0, 0, padding)).unflatten(1, (-1, self.size))
        seen = F.pad(real.gather(1, order), (0, padding)).unflatten(1, (-1, self.size))
        q, k, v = (split_heads(t, self.heads).transpose(1, 2) for t in rows.chunk(3, -1))
        y = join_heads(attend(q, k, v, unseen(seen, q.dtype)[:, None, :, None]).transpose(1, 2)).flatten(1, 2)
        return self.out(y.gather(1, torch.argsort(order, dim=1)[..., None].expand_as(x)))
