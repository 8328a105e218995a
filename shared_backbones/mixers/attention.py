"""Attention over all tokens: scores -> modify -> select -> normalise -> combine.

Shapes: B items, N tokens, C channels, H heads, D = C / H.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..errors import BadRequest
from ..layout import Layout
from .base import Mixer, heads_of, join_heads, split_heads


def causal_mask(axes: Sequence[int], causal: frozenset[int], device: torch.device) -> Bool[Tensor, "N N"] | None:
    """True where query i may see key j: no key lies ahead along any causal axis. None where no axis is causal."""
    if not causal:
        return None
    grids = torch.meshgrid(*(torch.arange(n, device=device) for n in axes), indexing="ij")
    allowed = torch.ones((), dtype=torch.bool, device=device)
    for axis in sorted(causal):
        at = grids[axis].flatten()
        allowed = allowed & (at[:, None] >= at[None, :])
    return allowed


class Attention(Mixer):
    """softmax(Q K^T / sqrt(D)) V per head: "Attention Is All You Need" (Vaswani et al. 2017)."""

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    sets: ClassVar[bool] = True
    cost: ClassVar[str] = "O(N^2 d + N d^2)"

    def __init__(self, dim: int, heads: int | None = None, causal_axes: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.heads, self.causal = heads_of(dim, heads), frozenset(causal_axes)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        q, k, v = (split_heads(t, self.heads) for t in self.qkv(layout.clean(x)).chunk(3, -1))
        mask, plain = layout.key_mask(), self.causal == {0} and layout.rank == 1 and layout.mask is None
        causal = None if plain else causal_mask(layout.axes, self.causal, x.device)  # a plain sequence needs no N x N
        if causal is not None:
            mask = causal if mask is None else mask & causal
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=plain)
        return self.out(join_heads(y))

    def state_size(self, n: int) -> int:
        return 2 * n * self.out.in_features if self.causal else 0


class DecayAttention(Mixer):
    """softmax(Q K^T / sqrt(D) - lambda_h |p_i - p_j|) V on real positions p, with a learned lambda_h >= 0 per head.

    The linear bias of "Train Short, Test Long" (Press et al. 2022) measured in the positions' own unit, so that
    irregular steps count by their length; several coordinates add up as in "RMT: Retentive Networks Meet Vision
    Transformers" (Fan et al. 2024). Causal along axis a: no key whose coordinate a is later.

    decay: lambda of the first head at the start, per unit of position; each further head starts at half of it.
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    sets: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"positions"})
    cost: ClassVar[str] = "O(N^2 d + N d^2)"

    def __init__(
        self, dim: int, heads: int | None = None, decay: float = 1.0, causal_axes: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        if decay <= 0:
            raise BadRequest(f"decay must be positive, got {decay}")
        self.heads, self.causal = heads_of(dim, heads), frozenset(causal_axes)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        start = decay * 0.5 ** torch.arange(self.heads, dtype=torch.float64)
        self.rate = nn.Parameter(torch.log(torch.expm1(start)).to(torch.get_default_dtype()))  # inverse softplus

    def bias(self, layout: Layout) -> Float[Tensor, "B H N N"]:
        """What is added to the scores: -lambda_h |p_i - p_j|, and -inf where key j may not be seen."""
        at = layout.clean(layout.positions)  # type: ignore[arg-type]
        if self.causal and max(self.causal) >= at.shape[-1]:
            raise BadRequest(f"causal_axes {sorted(self.causal)} need that many coordinates, got {at.shape[-1]}")
        apart = at[:, :, None] - at[:, None, :]  # (B, N, N, k), positive where the key lies behind
        bias = -F.softplus(self.rate)[:, None, None] * apart.abs().sum(-1)[:, None].to(self.rate.dtype)
        for axis in sorted(self.causal):
            bias = bias.masked_fill((apart[..., axis] < 0)[:, None], -torch.inf)
        mask = layout.key_mask()
        if mask is not None:
            own = torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)  # no row without any key
            bias = bias.masked_fill(~(mask | own), -torch.inf)
        return bias

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        q, k, v = (split_heads(t, self.heads) for t in self.qkv(layout.clean(x)).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias(layout).to(q.dtype))
        return self.out(join_heads(y))

    def state_size(self, n: int) -> int:
        return 2 * n * self.out.in_features if self.causal else 0
