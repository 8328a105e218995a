"""A mixer on merged tokens: similar tokens go in as one and come out alike.

Shapes: B items, N tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from ..layout import Layout
from ..reduce import merge, percent
from .combine import Combined, Sentence


class Merged(Combined):
    """merge -> the inner mixer -> every token gets back what its merged one received.

    The bipartite merging of "Token Merging: Your ViT But Faster" (Bolya et al. 2023) within one layer, as in "Token
    Merging for Fast Stable Diffusion" (Bolya and Hoffman 2023), where every token needs an output.

    share: tokens merged away, at most half. The inner mixer sees a sequence of rank 1, or a set.
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset()
    sets: ClassVar[bool] = False

    def __init__(
        self,
        dim: int,
        share: float = 0.5,
        inner: Sentence = "attention",
        rank: int | None = None,
        provides: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        percent(share, 0.5)
        self.share = share
        known = None if provides is None else set(provides) - {"edges"}
        flat = rank == 1
        self.inner = self.part(inner, dim, rank=1, ordered=flat, causal_axes=(), provides=known)
        self.derive([self.inner], sets=False, causal_axes=frozenset(), ranks=type(self).ranks, rank=None)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        fewer = merge(layout.clean(x), layout, self.share)
        return fewer.restore(self.inner(fewer.x, fewer.layout))
