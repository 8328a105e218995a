"""Any mixer inside windows.

Shapes: B items, N tokens, C channels, G windows of P = window^rank places, k coordinates.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from jaxtyping import Float, Shaped
from torch import Tensor

from ..blocks import from_blocks, to_blocks
from ..errors import BadRequest
from ..layout import Layout
from .base import at_least
from .combine import Combined, Sentence


class Within(Combined):
    """The inner mixer on each window of window^rank tokens, as on a lattice of its own.

    With ``cascaded`` inside, the first stage of "EfficientViT: Memory Efficient Vision Transformer with Cascaded Group
    Attention" (Liu et al. 2023). For softmax attention with Swin's positions ``window`` does the same in fewer steps.

    shift: where the windows begin; windows at the edges may be partial.
    """

    sets: ClassVar[bool] = False
    cost: ClassVar[str] = "O(N d^2 + N w^r d)"

    def __init__(
        self,
        dim: int,
        window: int = 7,
        shift: int = 0,
        inner: Sentence = "attention",
        causal_axes: tuple[int, ...] = (),
        rank: int | None = None,
        provides: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        self.window, self.shift, self.causal = at_least("window", window, 1), shift, frozenset(causal_axes)
        if not 0 <= shift < window:
            raise BadRequest(f"shift must lie in 0 .. window - 1, got shift={shift} and window={window}")
        known = None if provides is None else set(provides) - {"edges"}
        asked: dict[str, Any] = {"rank": rank, "ordered": True, "causal_axes": causal_axes, "provides": known}
        self.inner = self.part(inner, dim, **asked)
        if "edges" in self.inner.needs:
            raise BadRequest("a part of 'within' sees one window at a time, and edges do not carry over to windows")
        self.derive([self.inner], sets=False, cost=type(self).cost)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        sizes, front = (self.window,) * layout.rank, (-self.shift % self.window,) * layout.rank

        def windows(values: Shaped[Tensor, "B N k"]) -> Shaped[Tensor, "R P k"]:
            return to_blocks(layout.fold(values), sizes, front).flatten(0, 1)

        real = x.new_ones(*x.shape[:2], 1).bool() if layout.mask is None else layout.mask[..., None]
        tokens = windows(layout.clean(x))
        inner = Layout(
            sizes,
            mask=windows(real)[..., 0],
            positions=None if layout.positions is None else windows(layout.clean(layout.positions)),
            source=None if layout.source is None else layout.source.repeat_interleave(len(tokens) // len(x)),
        )
        y = self.inner(tokens, inner).unflatten(0, (x.shape[0], -1))
        return layout.unfold(from_blocks(y, layout.axes, sizes, front))
