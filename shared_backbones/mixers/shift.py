"""Tokens moved along an axis: reach without a single weight."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..errors import BadRequest
from ..layout import Layout
from .base import Mixer, at_least


class Shift(Mixer):
    """y_p = x_(p - steps) along one axis, zeros from outside.

    A word for sentences: "Mixing and Shifting: Exploiting Global and Local Dependencies in Vision MLPs" (Zheng et al.
    2022) gives each group of channels a convolution and a shift of its own, ``split: [serial: [convolution, shift]]``.
    Only shifts from behind are causal along their axis.
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    cost: ClassVar[str] = "O(N d)"

    def __init__(self, dim: int, steps: int = 1, axis: int = 0, causal_axes: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.steps, self.axis, self.causal = steps, at_least("axis", axis, 0), frozenset(causal_axes)
        if axis > 2:
            raise BadRequest(f"axis must lie in 0 .. 2, got {axis}")
        if axis in self.causal and steps < 0:
            raise BadRequest(f"a shift of {steps} along axis {axis} shows the future, and that axis is causal")
        setattr(self, "ranks", frozenset(r for r in self.ranks if r > axis))  # noqa: B010 - of this axis

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        pads = [0, 0] * (layout.rank - self.axis) + [max(self.steps, 0), max(-self.steps, 0)]
        moved = F.pad(layout.fold(layout.clean(x)), pads)
        return layout.unfold(moved.narrow(1 + self.axis, max(-self.steps, 0), layout.axes[self.axis]))
