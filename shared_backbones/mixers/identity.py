"""No mixing: the ablation that stands beside every score."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from ..layout import Layout
from .base import Mixer


class Identity(Mixer):
    """y = 0: the block keeps its residual path and its channel part only.

    The identity mixer of "MetaFormer Baselines for Vision" (Yu et al. 2022) is y = x in place of the mixer; in a
    residual block that only doubles x, so zero is the same network without a free scale.
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    sets: ClassVar[bool] = True
    cost: ClassVar[str] = "O(1)"

    def __init__(self, dim: int, causal_axes: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.causal = frozenset(causal_axes)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        return x.new_zeros(x.shape)
