"""Gating and pooling: y = context(x) * value(x), where the context looks at a neighbourhood.

Shapes: B items, N tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..layout import Layout
from .base import Mixer, at_least

AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
CONV: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def reach(
    x: Float[Tensor, "B C *axes"], width: int | Sequence[int], causal: frozenset[int], fill: float = 0.0
) -> Float[Tensor, "B C *padded"]:
    """Zeros (or ``fill``) around a channel-first lattice, so that a window of ``width`` places fits at every token.

    The window is centred (an even one reaches one further ahead); along a causal axis it ends at the token itself.
    """
    pads: list[int] = []
    for axis in reversed(range(x.ndim - 2)):
        wide = width if isinstance(width, int) else width[axis]
        pads += [wide - 1, 0] if axis in causal else [(wide - 1) // 2, wide // 2]
    return F.pad(x, pads, value=fill)


class Pooling(Mixer):
    """y_i = mean of x over the real tokens within window^rank around i, minus x_i.

    "MetaFormer Is Actually What You Need for Vision" (Yu et al. 2022).
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    cost: ClassVar[str] = "O(N d)"

    def __init__(self, dim: int, window: int = 3, causal_axes: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.window, self.causal = at_least("window", window, 1), frozenset(causal_axes)

    def mean(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B C *axes"]:
        """The average over each window, whose places outside the lattice count as zeros."""
        lattice = reach(layout.fold(x).movedim(-1, 1), self.window, self.causal)
        return AVERAGE[layout.rank](lattice, self.window, stride=1)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        real = x.new_ones(1, x.shape[1], 1) if layout.mask is None else layout.mask[..., None].to(x.dtype)
        share = self.mean(real, layout).clamp_min(0.5 / self.window**layout.rank)  # of real tokens; 0 only at masked
        return layout.unfold((self.mean(x, layout) / share).movedim(1, -1)) - x


class Depthwise(Mixer):
    """y = W3 (DWConv(W1 x) * W2 x).

    "Conv2Former: A Simple Transformer-Style ConvNet for Visual Recognition" (Hou et al. 2022).

    kernel: width of the depthwise convolution along every axis.
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    cost: ClassVar[str] = "O(N d^2 + N k^r d)"

    def __init__(self, dim: int, kernel: int = 7, causal_axes: tuple[int, ...] = (), rank: int = 1) -> None:
        super().__init__()
        self.kernel, self.causal, self.rank = at_least("kernel", kernel, 1), frozenset(causal_axes), rank
        self.both = nn.Linear(dim, 2 * dim)
        self.conv = CONV[rank](dim, dim, kernel, groups=dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        context, value = self.both(layout.clean(x)).chunk(2, -1)
        context = layout.fold(layout.clean(context)).movedim(-1, 1)  # clean again: the bias of W1 is not padding
        context = self.conv(reach(context, self.kernel, self.causal)).movedim(1, -1)
        return self.out(layout.unfold(context) * value)

    def state_size(self, n: int) -> int:
        return (self.kernel - 1) * self.out.in_features if self.causal and self.rank == 1 else 0
