"""Attention over all tokens: scores -> modify -> select -> normalise -> combine.

Shapes: B items, N tokens, C channels, H heads, D = C / H.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..errors import BadRequest, unknown
from ..layout import Layout
from ..positions import build_position
from .base import Mixer, at_least, heads_of, join_heads, split_heads


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


def hidden(scores: Float[Tensor, "#B #H N M"], seen: Bool[Tensor, "#B 1 #N M"] | None) -> Tensor:
    """Scores with a finite floor, whose exponential is 0, where nothing may be seen: rows without a key stay finite."""
    return scores if seen is None else scores.masked_fill(~seen, 0.5 * torch.finfo(scores.dtype).min)


def weighted(
    q: Float[Tensor, "B H N K"],
    k: Float[Tensor, "B H M K"],
    v: Float[Tensor, "B H M D"],
    bias: Float[Tensor, "#B #H N M"] | None,
    seen: Bool[Tensor, "#B 1 #N M"] | None,
) -> Float[Tensor, "B H N D"]:
    """softmax(Q K^T / sqrt(K) + bias) V over the keys that are seen.

    Fused, unless a bias learns: no fused kernel on CPU has a gradient for it, and plain products are then faster than
    what torch falls back to.
    """
    if bias is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    bias = hidden(bias.to(q.dtype), seen)
    if not (torch.is_grad_enabled() and bias.requires_grad):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return ((q * q.shape[-1] ** -0.5) @ k.mT + bias).softmax(-1).to(v.dtype) @ v


QK_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda width: nn.Identity(),
    "layer": nn.LayerNorm,
    "rms": nn.RMSNorm,
}


class Attention(Mixer):
    """softmax(Q K^T / sqrt(D) + position) V per head: "Attention Is All You Need" (Vaswani et al. 2017).

    position: a name of ``POSITIONS``, or ``{kind: name, option: value ...}``.
    head_dim: width of a value per head, by default C / heads; key_dim: of a query and a key, by default the same.
    kv_heads: number of heads of keys and values, each read by heads / kv_heads heads of queries ("GQA: Training
    Generalized Multi-Query Transformer Models from Multi-Head Checkpoints", Ainslie et al. 2023).
    qk_norm: layer | rms | none, of every query and key ("Scaling Vision Transformers to 22 Billion Parameters",
    Dehghani et al. 2023). qkv_bias: whether q, k and v have a bias.
    out: whether a last linear map returns to C channels; without it the heads must come to C channels themselves.
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    sets: ClassVar[bool] = True
    cost: ClassVar[str] = "O(N^2 d + N d^2)"

    def __init__(
        self,
        dim: int,
        heads: int | None = None,
        position: str | Mapping[str, Any] = "none",
        head_dim: int | None = None,
        key_dim: int | None = None,
        kv_heads: int | None = None,
        qk_norm: str = "none",
        qkv_bias: bool = True,
        out: bool = True,
        causal_axes: tuple[int, ...] = (),
        rank: int | None = None,
        ordered: bool = True,
        provides: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads_of(dim, heads) if head_dim is None else at_least("heads", 4 if heads is None else heads, 1)
        head = dim // self.heads if head_dim is None else at_least("head_dim", head_dim, 1)
        key, inner = head if key_dim is None else at_least("key_dim", key_dim, 1), head * self.heads
        if not out and inner != dim:
            raise BadRequest(f"without a last map the heads must come to {dim} channels, got {self.heads} of {head}")
        few = self.heads if kv_heads is None else at_least("kv_heads", kv_heads, 1)
        if self.heads % few:
            raise BadRequest(f"kv_heads must divide heads, got kv_heads={few} and heads={self.heads}")
        if qk_norm not in QK_NORMS:
            raise unknown("norm of queries and keys", qk_norm, QK_NORMS)
        self.causal, self.head, self.readers = frozenset(causal_axes), head, self.heads // few
        self.widths = [key * self.heads, key * few, head * few]
        self.norms = nn.ModuleList(QK_NORMS[qk_norm](key) for _ in range(2))
        self.qkv = nn.Linear(dim, sum(self.widths), bias=qkv_bias)
        self.out = nn.Linear(inner, dim) if out else nn.Identity()
        self.position = build_position(
            position, self.heads, key, rank=rank, causal_axes=causal_axes, ordered=ordered, provides=provides
        )
        self.rank = self.position.rank
        if self.position.lattice:
            setattr(self, "sets", False)  # noqa: B010 - of this instance

    def project(self, x: Float[Tensor, "B N C"], layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """q, k (B, H, N, K), which know where they stand, and v (B, H, N, D)."""
        q, k, v = self.qkv(layout.clean(x)).split(self.widths, -1)
        few = self.heads // self.readers
        q, k, v = split_heads(q, self.heads), split_heads(k, few), split_heads(v, few)
        if self.readers > 1:
            k, v = (t.repeat_interleave(self.readers, 1) for t in (k, v))
        return *self.placed(q, k, layout), v

    def placed(self, q: Tensor, k: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Queries and keys, normalised if asked, that know where they stand."""
        return self.position.turn(self.norms[0](q), self.norms[1](k), layout)

    def seen(self, layout: Layout, device: torch.device) -> Bool[Tensor, "#B 1 #N N"] | None:
        """True where query i may see key j; None where every query sees every key."""
        mask, causal = layout.key_mask(), causal_mask(layout.axes, self.causal, device)
        return mask if causal is None else causal[None, None] if mask is None else mask & causal

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Float[Tensor, "B H N D"]:
        """What each query reads from the values."""
        bias = self.position.bias(layout, q)
        if bias is not None:
            return weighted(q, k, v, bias, self.seen(layout, q.device))
        plain = self.causal == {0} and layout.rank == 1 and layout.mask is None  # a plain sequence needs no N x N
        mask = None if plain else self.seen(layout, q.device)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=plain)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        return self.out(join_heads(self.attend(*self.project(x, layout), layout)))

    def state_size(self, n: int) -> int:
        return n * sum(self.widths[1:]) if self.causal else 0


class DecayAttention(Attention):
    """softmax(Q K^T / sqrt(D) - lambda_h |p_i - p_j|) V on real positions p, with a learned lambda_h >= 0 per head.

    The linear bias of "Train Short, Test Long" (Press et al. 2022) measured in the positions' own unit, so that
    irregular steps count by their length; several coordinates add up as in "RMT: Retentive Networks Meet Vision
    Transformers" (Fan et al. 2024). Causal along axis a: no key whose coordinate a is later.

    decay: lambda of the first head at the start, per unit of position; each further head starts at half of it.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"positions"})

    def __init__(
        self, dim: int, heads: int | None = None, decay: float = 1.0, causal_axes: tuple[int, ...] = ()
    ) -> None:
        super().__init__(dim, heads, causal_axes=causal_axes)
        if decay <= 0:
            raise BadRequest(f"decay must be positive, got {decay}")
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

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Float[Tensor, "B H N D"]:
        return weighted(q, k, v, self.bias(layout), None)
