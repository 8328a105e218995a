"""Attention whose weights fall with the distance on the lattice, whole or along one axis after the other.

Shapes: B items, N tokens, C channels, H heads, K channels of a query, D of a value, R rows of n tokens.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import BadRequest
from ..layout import Layout
from .attention import causal_mask, hidden
from .base import at_least, join_heads, split_heads
from .convolution import DepthwiseConv
from .scored import Scored, Seen, relative_places


class Manhattan(Scored):
    """y = W_o (A V + DW(V)), A = softmax(Q K^T / sqrt(K)) * gamma_h^|p_i - p_j|, distances summed over the axes.

    "RMT: Retentive Networks Meet Vision Transformers" (Fan et al. 2024): gamma_h = 1 - 2^-(start + reach h / H) for the
    heads h = 0 .. H - 1, not learned. The paper's queries and keys are turned as by ``position: rotary``.

    kernel: width of the depthwise filter of the values along every axis. The rest are options of ``attention``.
    """

    sets: ClassVar[bool] = False
    log_decay: Tensor

    def __init__(
        self, dim: int, start: float = 2.0, reach: float = 4.0, kernel: int = 5, rank: int = 1, **rest: Any
    ) -> None:
        super().__init__(dim, rank=rank, **rest)
        if start <= 0 or reach < 0:
            raise BadRequest(f"a decay needs start > 0 and reach >= 0, got start={start} and reach={reach}")
        self.rank = rank
        power = start + reach * torch.arange(self.heads, dtype=torch.float64) / self.heads
        decay = torch.log1p(-(2.0**-power)).to(torch.get_default_dtype())
        self.register_buffer("log_decay", decay, persistent=False)
        self.local = DepthwiseConv(self.heads * self.head, at_least("kernel", kernel, 1), rank, self.causal)

    def weights(self, scores: Float[Tensor, "B H N N"], seen: Seen, layout: Layout) -> Float[Tensor, "B H N N"]:
        apart = relative_places(layout, self.log_decay).abs().sum(-1)
        return hidden(scores, seen).softmax(-1) * (self.log_decay[:, None, None] * apart).exp()

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        q, k, v = self.project(x, layout)
        return self.out(join_heads(self.attend(q, k, v, layout)) + self.local(join_heads(v), layout))


class ManhattanAxes(Manhattan):
    """The same along one axis after the other, from the last to the first: y = W_o (A_1 (... (A_r V)) + DW(V)).

    The decomposed form of RMT for large lattices: A_a mixes the tokens of each row along axis a alone, with the same
    queries and keys for all axes. A position may turn queries and keys, but add nothing to the scores.
    """

    def __init__(self, dim: int, rank: int = 1, **rest: Any) -> None:
        super().__init__(dim, rank=rank, **rest)
        if self.position.biased:
            raise BadRequest("'manhattan_axes' mixes rows, to which positions that add to the scores do not carry over")
        setattr(self, "cost", f"O(N^{1 + 1 / rank:.2f} d + N d^2)")  # noqa: B010 - of lattices of this rank

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Float[Tensor, "B H N D"]:
        for axis in reversed(range(layout.rank)):
            view = layout.over(axis)
            inner = Layout(view.layout.axes, mask=view.layout.mask)
            rows = [split_heads(view.split(join_heads(t)), self.heads) for t in (q, k, v)]
            y = self.along(rows[0], rows[1], rows[2], inner, axis)
            v = split_heads(view.merge(join_heads(y)), self.heads)
        return v

    def along(self, q: Tensor, k: Tensor, v: Tensor, row: Layout, axis: int) -> Float[Tensor, "R H n D"]:
        """A_a V of rows along one axis."""
        scores = (q * q.shape[-1] ** -0.5) @ k.mT
        ahead, seen = causal_mask(row.axes, frozenset({0} if axis in self.causal else ()), q.device), row.key_mask()
        if ahead is not None:
            seen = ahead[None, None] if seen is None else seen & ahead
        return self.weights(scores, seen, row).to(v.dtype) @ v
