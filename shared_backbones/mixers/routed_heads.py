"""Heads that are not alike: gated, chosen by a router, in a cascade, or one head on a part of the channels.

Shapes: B items, N tokens, C channels, H heads, K channels of a query, D of a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import BadRequest
from ..layout import Layout
from ..norms import normalise
from ..positions import build_position
from .attention import Attention, weighted
from .base import Mixer, at_least, heads_of, join_heads, split_heads
from .convolution import DepthwiseConv, NormedLinear, norm_of
from .scans import full_precision


class GatedHeads(Attention):
    """y = W_o concat_h sigmoid(g_h . x_h + b_h) attention_h(x), x_h the share of the channels that is head h's own.

    Gated attention of "Quantizable Transformers: Removing Outliers by Helping Attention Heads Do Nothing" (Bondarenko
    et al. 2023): a head can be silent at a token.

    start: what a gate lets through on average before training. The other options are those of ``attention``.
    """

    def __init__(self, dim: int, start: float = 0.5, **rest: Any) -> None:
        super().__init__(dim, **rest)
        if not 0 < start < 1:
            raise BadRequest(f"start must lie between 0 and 1, got {start}")
        if dim % self.heads:
            raise BadRequest(
                f"each head gates its own share of the channels: heads must divide {dim}, got {self.heads}"
            )
        self.gate = nn.Parameter(torch.randn(self.heads, dim // self.heads) * (dim // self.heads) ** -0.5)
        self.gate_bias = nn.Parameter(torch.full((self.heads,), start).logit())

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        y = self.attend(*self.project(x, layout), layout)
        own = split_heads(layout.clean(x), self.heads)
        gate = ((own * self.gate[:, None]).sum(-1) + self.gate_bias[:, None]).sigmoid()
        return self.out(join_heads(y * gate[..., None].to(y.dtype)))


class RoutedHeads(Attention):
    """y = W_o concat_h g_h(x) attention_h(x): some heads always speak, of the others each token chooses a few.

    "MoH: Multi-Head Attention as Mixture-of-Head Attention" (Jin et al. 2024): [a_1, a_2] = softmax(W_h x); g_h of a
    shared head is a_1 softmax(W_s x)_h, of a routed one a_2 softmax(W_r x)_h if it is among the largest, else 0. Each
    softmax is multiplied by its number of choices, so that equal scores leave the heads of plain attention as they are.
    All heads are computed; what is silent could be left out by a kernel made for it. :meth:`route` is what
    ``channel.experts.load_balance`` wants.

    shared: heads that always speak, by default half of them. chosen: how many of the others do, by default half of
    those. The rest are options of ``attention``.
    """

    def __init__(self, dim: int, shared: int | None = None, chosen: int | None = None, **rest: Any) -> None:
        super().__init__(dim, **rest)
        shared = self.heads // 2 if shared is None else shared
        routed = self.heads - shared
        chosen = (routed + 1) // 2 if chosen is None else chosen
        self.shared, self.chosen = shared, chosen
        if shared < 0 or routed < 1 or not 1 <= chosen <= routed:
            raise BadRequest(
                f"of {self.heads} heads, shared={shared} leaves {routed} to route, of which 1 to all can be chosen, "
                f"got chosen={chosen}"
            )
        self.router = nn.Linear(dim, routed, bias=False)
        self.always = nn.Linear(dim, shared, bias=False) if shared > 1 else None  # one head has no rival
        self.kinds = nn.Linear(dim, 2, bias=False) if shared else None

    def route(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N E"]:
        """Probabilities of the routed heads for each token."""
        x = layout.clean(x)
        with full_precision(x):  # a choice must not hang on rounding
            return self.router(x).softmax(-1)

    def gates(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N H"]:
        """g of every head for each token."""
        p = self.route(x, layout)
        best = p.topk(self.chosen, -1)
        routed = torch.zeros_like(p).scatter(-1, best.indices, best.values) * p.shape[-1]
        if self.kinds is None:
            return routed
        always, chosen = (2 * self.kinds(x).softmax(-1)).chunk(2, -1)
        if self.always is not None:
            always = always * self.always(x).softmax(-1) * self.shared
        return torch.cat([always, chosen * routed], -1)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        y = self.attend(*self.project(x, layout), layout)
        return self.out(join_heads(y * self.gates(x, layout).mT[..., None].to(y.dtype)))


class Cascaded(Mixer):
    """Head j attends over its own share of the channels plus what head j - 1 found: y = W_o relu(concat_j y_j).

    x'_j = x_j + y_(j-1), y_j = softmax(DW(Q_j) K_j^T / sqrt(K)) V_j of x'_j. "EfficientViT: Memory Efficient Vision
    Transformer with Cascaded Group Attention" (Liu et al. 2023), whose heads have a symmetric table of positions:
    ``position: {kind: table, size: 7, symmetric: true}``.

    key_dim: width of queries and keys. kernels: of the depthwise filters of the queries, one for all heads or one each.
    norm: after every linear map and filter.
    """

    cost: ClassVar[str] = "O(N^2 d + N d^2 + N k^r d)"

    def __init__(
        self,
        dim: int,
        heads: int | None = None,
        key_dim: int = 16,
        kernels: tuple[int, ...] = (5,),
        norm: str = "batch",
        position: str | Mapping[str, Any] = "none",
        rank: int = 1,
    ) -> None:
        super().__init__()
        self.heads, self.rank, self.key_dim = heads_of(dim, heads), rank, at_least("key_dim", key_dim, 1)
        kernels = tuple(kernels) * self.heads if len(kernels) == 1 else tuple(kernels)
        if len(kernels) != self.heads:
            raise BadRequest(f"kernels are one for all heads or one for each of {self.heads}, got {kernels}")
        share = dim // self.heads
        self.qkv = nn.ModuleList(NormedLinear(share, 2 * key_dim + share, norm) for _ in kernels)
        self.filters = nn.ModuleList(DepthwiseConv(key_dim, k, rank, frozenset(), norm=norm) for k in kernels)
        self.out = NormedLinear(dim, dim, norm)
        self.position = build_position(position, self.heads, key_dim, rank=rank)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        bias, found = self.position.bias(layout, x), []
        y = torch.zeros_like(x[..., : x.shape[-1] // self.heads])
        for j, part in enumerate(layout.clean(x).chunk(self.heads, -1)):
            q, k, v = self.qkv[j](part + y, layout).tensor_split([self.key_dim, 2 * self.key_dim], -1)
            q, k, v = self.filters[j](q, layout)[:, None], k[:, None], v[:, None]
            q, k = self.position.turn(q, k, layout)
            y = weighted(q, k, v, None if bias is None else bias[:, j : j + 1], layout.key_mask())[:, 0]
            y = layout.clean(y)
            found.append(y)
        return self.out(F.relu(torch.cat(found, -1)), layout)


class SingleHead(Mixer):
    """y = W_o relu(concat(attention(norm(x_1)), x_2)): one head on the first channels, the others pass by.

    "SHViT: Single-Head Vision Transformer with Memory Efficient Macro Design" (Yun and Ro 2024).

    width: channels of x_1, by default C / 4.67. key_dim: width of the query and the key. norm: of x_1; map_norm: after
    each linear map.
    """

    sets: ClassVar[bool] = True
    cost: ClassVar[str] = "O(N^2 d + N d^2)"

    def __init__(
        self, dim: int, width: int | None = None, key_dim: int = 16, norm: str = "group", map_norm: str = "batch"
    ) -> None:
        super().__init__()
        self.width = max(1, round(dim / 4.67)) if width is None else at_least("width", width, 1)
        if self.width > dim:
            raise BadRequest(f"width must be at most {dim}, got {width}")
        self.key_dim = at_least("key_dim", key_dim, 1)
        self.norm = norm_of(norm, self.width)
        self.qkv = NormedLinear(self.width, 2 * key_dim + self.width, map_norm)
        self.out = NormedLinear(dim, dim, map_norm)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        mixed, passed = x.tensor_split([self.width], -1)
        mixed = layout.clean(normalise(self.norm, mixed, layout))
        q, k, v = self.qkv(mixed, layout)[:, None].tensor_split([self.key_dim, 2 * self.key_dim], -1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=layout.key_mask())[:, 0]
        return self.out(F.relu(torch.cat([y, passed], -1)), layout)
