"""Plain convolutions, pooling and pointwise maps: what attention is measured against, and the small words of sentences.

Shapes: B items, N tokens, C channels, H hidden channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import unknown
from ..layout import Layout
from .base import Mixer, at_least
from .gating import CONV, reach

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """An activation by name; raises BadRequest for an unknown one."""
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


class DepthwiseConv(nn.Module):
    """One filter of kernel^rank places per channel over the real tokens of a lattice; zeros stand outside."""

    def __init__(self, dim: int, kernel: int, rank: int, causal: frozenset[int]) -> None:
        super().__init__()
        self.kernel, self.causal = at_least("kernel", kernel, 1), causal
        self.conv = CONV[rank](dim, dim, kernel, groups=dim)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        lattice = layout.fold(layout.clean(x)).movedim(-1, 1)
        return layout.unfold(self.conv(reach(lattice, self.kernel, self.causal)).movedim(1, -1))


class Convolution(Mixer):
    """y = DWConv(x), one filter per channel and no mixing of channels.

    As a layer of its own before attention it tells tokens where they stand: "Conditional Positional Encodings for
    Vision Transformers" (Chu et al. 2023).
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    cost: ClassVar[str] = "O(N k^r d)"

    def __init__(self, dim: int, kernel: int = 3, causal_axes: tuple[int, ...] = (), rank: int = 1) -> None:
        super().__init__()
        self.causal, self.rank = frozenset(causal_axes), rank
        self.conv = DepthwiseConv(dim, kernel, rank, self.causal)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        return self.conv(x, layout)


class Separable(Mixer):
    """y = W2 DWConv(act(W1 x)) with ratio * C hidden channels.

    ratio 1 without activation is the local relation aggregator of "UniFormer" (Li et al. 2022), a learned affinity
    a_(i-j) in place of a computed one; ratio 2 is the mixer of ConvFormer in "MetaFormer Baselines for Vision" (Yu et
    al. 2022).
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    cost: ClassVar[str] = "O(N d^2 + N k^r d)"

    def __init__(
        self,
        dim: int,
        kernel: int = 5,
        ratio: float = 1.0,
        act: str = "none",
        causal_axes: tuple[int, ...] = (),
        rank: int = 1,
    ) -> None:
        super().__init__()
        self.causal, self.rank = frozenset(causal_axes), rank
        hidden, self.act = max(1, round(ratio * dim)), activation(act)
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.conv = DepthwiseConv(hidden, kernel, rank, self.causal)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        return self.down(self.conv(self.act(self.up(layout.clean(x))), layout))


class MaxPooling(Mixer):
    """y_i = max of x over the real tokens within window^rank around i, channel by channel."""

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    cost: ClassVar[str] = "O(N w d)"

    def __init__(self, dim: int, window: int = 3, causal_axes: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.window, self.causal = at_least("window", window, 1), frozenset(causal_axes)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        floor = torch.finfo(x.dtype).min
        lattice = x if layout.mask is None else x.masked_fill(~layout.mask[..., None], floor)
        lattice = reach(layout.fold(lattice).movedim(-1, 1), self.window, self.causal, floor)
        for axis in range(2, lattice.ndim):  # the maximum over a cube is the maximum along each axis in turn
            lattice = lattice.unfold(axis, self.window, 1).amax(-1)
        return layout.clean(layout.unfold(lattice.movedim(1, -1)))


class Pointwise(Mixer):
    """y = act(W x): no mixing of tokens, for use between the parts of a sentence."""

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    sets: ClassVar[bool] = True
    cost: ClassVar[str] = "O(N d^2)"

    def __init__(self, dim: int, act: str = "none", causal_axes: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.causal, self.act = frozenset(causal_axes), activation(act)
        self.linear = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        return self.act(self.linear(layout.clean(x)))
