"""Recursive gating: features of growing width, each gated by the next.

Shapes: B items, N tokens, C channels, widths c_0 < c_1 < ... < C.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from ..layout import Layout
from .base import at_least
from .combine import Combined, Sentence


class RecursiveGated(Combined):
    """p_0, q = split(W1 x); p_(k+1) = s m(q)_k * (U_k p_k), U_0 = 1; y = W2 p_n: interactions of n-th order.

    "HorNet: Efficient High-Order Spatial Interactions with Recursive Gated Convolutions" (Rao et al. 2022). q_k has
    C / 2^(n-1-k) channels, rounded down, and p_0 as many as q_0; m mixes the tokens of all q at once.

    order: n. kernel: width of the depthwise convolution that m is. context: another m, such as the paper's global
    filter ``{mixer: serial, inner: [norm, {mixer: split, inner: [convolution, {mixer: fourier, size: 14}]}, norm]}``.
    scale: s, so that products of many factors stay small.
    """

    sets: ClassVar[bool] = False

    def __init__(
        self,
        dim: int,
        order: int = 3,
        kernel: int = 7,
        context: Sentence | None = None,
        scale: float = 1 / 3,
        causal_axes: tuple[int, ...] = (),
        rank: int | None = None,
        provides: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        at_least("order", order, 1)
        self.causal, self.scale = frozenset(causal_axes), scale
        self.widths = [max(1, dim // 2 ** (order - 1 - k)) for k in range(order)]
        self.into = nn.Linear(dim, self.widths[0] + sum(self.widths))
        asked = {"rank": rank, "ordered": True, "causal_axes": causal_axes, "provides": provides}
        sentence = {"mixer": "convolution", "kernel": kernel} if context is None else context
        self.context = self.part(sentence, sum(self.widths), **asked)  # type: ignore[arg-type]
        pairs = zip(self.widths, self.widths[1:], strict=False)
        self.widen = nn.ModuleList(nn.Linear(narrow, wide) for narrow, wide in pairs)
        self.out = nn.Linear(dim, dim)
        terms = self.context.cost.removeprefix("O(").removesuffix(")")
        self.derive([self.context], sets=False, cost=f"O(N d^2 + {terms})")

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        p, q = self.into(layout.clean(x)).split([self.widths[0], sum(self.widths)], -1)
        gates = (self.context(q, layout) * self.scale).split(self.widths, -1)
        for k, gate in enumerate(gates):
            p = gate * (p if k == 0 else self.widen[k - 1](p))
        return self.out(p)

    def state_size(self, n: int) -> int:
        return self.context.state_size(n)
