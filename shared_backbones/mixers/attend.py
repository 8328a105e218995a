"""Softmax attention inside groups of places: what windows, stripes, grids and neighbourhoods have in common.

A group is a product over the axes of the lattice, so each axis states its share in a :class:`Plan` and nothing needs
to know the rank.

Shapes: B items, N tokens, C channels, H heads, D channels of a head, G groups, P queries and K keys in a group, n
places of one axis with g groups of p queries and k keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from ..blocks import whole_blocks
from ..errors import BadRequest
from ..layout import Layout, extents
from .base import split_heads

AT_ONCE = 2**22  # scores in one buffer, which glibc then still reuses


@dataclass(frozen=True)
class Plan:
    """The groups along one axis of n places. Places may repeat or, where ``seen`` is False, mean nothing.

    queries, keys: the places of each group. seen: which query may see which key ; None: all.
    group, slot: where the query of each place stands.
    """

    queries: Int[Tensor, "g p"]
    keys: Int[Tensor, "g k"]
    seen: Bool[Tensor, "g p k"] | None
    group: Int[Tensor, "n"]
    slot: Int[Tensor, "n"]

    def visible(self) -> Bool[Tensor, "g p k"]:
        """``seen``, all True where there is none."""
        if self.seen is not None:
            return self.seen
        shape = (*self.queries.shape, self.keys.shape[1])
        return torch.ones(shape, dtype=torch.bool, device=self.queries.device)


def product(tables: Sequence[Tensor], sizes: Sequence[int] | None = None) -> Tensor:
    """Tables of one index per axis as one table of flat indices: m tables (a_i, b_i, ...) -> (prod a, prod b, ...).

    ``sizes`` are the extents that the indices count in; None joins truth values by "and".
    """
    found = tables[0]
    for i, table in enumerate(tables[1:], 1):
        shape = [n for pair in zip(found.shape, table.shape, strict=True) for n in pair]
        left = found.reshape([n for m in found.shape for n in (m, 1)])
        right = table.reshape([n for m in table.shape for n in (1, m)])
        joined = left & right if sizes is None else left * sizes[i] + right
        found = joined.reshape([shape[j] * shape[j + 1] for j in range(0, len(shape), 2)])
    return found


def unseen(seen: Bool[Tensor, "*S"], dtype: torch.dtype) -> Float[Tensor, "*S"]:
    """0 where a key may be seen, and else a finite floor, whose exponential is 0: groups without any real key stay
    finite."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, 0.5 * torch.finfo(dtype).min)


def plain(q: Tensor, k: Tensor, v: Tensor, biases: Sequence[Tensor]) -> Tensor:
    """:func:`attend` as two products around a softmax."""
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    for bias in biases:
        scores = scores + bias
    return scores.softmax(-1).to(v.dtype) @ v


def in_parts(tensors: Sequence[Tensor], size: int, axis: int, run: Callable[[list[Tensor]], Tensor]) -> Tensor:
    """``run`` on parts of ``size`` along an axis, joined again; tensors of extent 1 there go along whole."""
    count = whole_blocks(tensors[0].shape[axis], size)
    if count == 1:
        return run(list(tensors))
    split = [t.split(size, axis) if t.shape[axis] > 1 else [t] * count for t in tensors]
    return torch.cat([run(list(part)) for part in zip(*split, strict=True)], axis)


def attend(
    q: Float[Tensor, "B H G P D"], k: Float[Tensor, "B H G K D"], v: Float[Tensor, "B H G K D"], *biases: Tensor | None
) -> Float[Tensor, "B H G P D"]:
    """softmax(Q K^T / sqrt(D) + biases) V; each bias has five sizes that spread to (B, H, G, P, K), None adds nothing.

    Fused where the biases are the same for all items and heads and do not learn. Otherwise in plain products, over so
    many groups at a time that the scores stay in the cache: no fused kernel on CPU has a gradient for a bias, and what
    torch falls back to is slower.
    """
    given = [b for b in biases if b is not None]
    if not any(b.requires_grad or b.shape[0] > 1 or b.shape[1] > 1 for b in given):
        mask = sum(given[1:], given[0])[0].to(q.dtype) if given else None
        if mask is not None:
            mask = mask.expand(-1, -1, q.shape[3], k.shape[3])
        y = F.scaled_dot_product_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), attn_mask=mask)
        return y.unflatten(0, q.shape[:2])
    if torch.compiler.is_compiling() or q.device.type != "cpu":
        return plain(q, k, v, given)
    room = max(1, AT_ONCE // (q.shape[0] * q.shape[3] * k.shape[3]))  # groups of one head
    heads, groups = max(1, room // q.shape[2]), min(room, q.shape[2])
    return in_parts(
        [q, k, v, *given],
        heads,
        1,
        lambda part: in_parts(part, groups, 2, lambda few: plain(few[0], few[1], few[2], few[3:])),
    )


def pick(x: Shaped[Tensor, "B H N D"], index: Int[Tensor, "G P"]) -> Shaped[Tensor, "B H G P D"]:
    """Tokens by their index, one row of the index per group."""
    return x.index_select(2, index.flatten()).unflatten(2, index.shape)


def grouped(
    qkv: Float[Tensor, "B N C3"], layout: Layout, plans: Sequence[Plan], heads: int, bias: Tensor | None
) -> Float[Tensor, "B N C"]:
    """Attention inside the groups of the plans, one per axis; ``bias`` has sizes that spread to (B, H, G, P, K)."""
    keys = queries = product([p.queries for p in plans], layout.axes)
    if any(p.keys is not p.queries for p in plans):
        keys = product([p.keys for p in plans], layout.axes)
    shares = (split_heads(t, heads).contiguous() for t in qkv.chunk(3, -1))
    q, k, v = (pick(t, index) for t, index in zip(shares, (queries, keys, keys), strict=True))
    seen, real, exact = None, None, qkv.dtype if bias is None else bias.dtype
    if any(p.seen is not None for p in plans):
        seen = unseen(product([p.visible() for p in plans]), exact)[None, None]
    if layout.mask is not None:
        real = unseen(pick(layout.mask[:, None, :, None], keys).mT, exact)
    y = attend(q, k, v, bias, seen, real).flatten(2, 3)
    slots = [p.queries.shape[1] for p in plans]
    home = product([p.group for p in plans], [p.queries.shape[0] for p in plans]) * math.prod(slots)
    return y.index_select(2, home + product([p.slot for p in plans], slots)).transpose(1, 2).flatten(2)


def per_axis(name: str, value: int | tuple[int, ...], rank: int, least: int) -> tuple[int, ...]:
    """An option as one whole number per axis; raises BadRequest for another count or a number below ``least``."""
    values = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(values) != rank or min(values) < least:
        several = f", or {rank} of them, one per axis" if rank > 1 else ""
        raise BadRequest(f"{name} must be at least {least}{several}, got {value}")
    return values


def by_extent(
    run: Callable[[Tensor, Layout], Tensor], x: Float[Tensor, "B N C"], layout: Layout
) -> Float[Tensor, "B N K"]:
    """``run(tokens, layout)`` for items of one true size at a time, each cut out of the lattice and put back.

    For mixers in which it matters where the lattice ends. Positions, edges and source do not go along, the mask only
    where it has gaps inside.
    """
    if layout.mask is None:
        return run(x, Layout(layout.axes))
    kinds, kind = torch.unique(extents(layout, layout.mask), dim=0, return_inverse=True)
    lattice, real, parts = layout.fold(x), layout.mask.reshape(-1, *layout.axes), []
    for number, true in enumerate(kinds.tolist()):
        box = (kind == number, *(slice(0, n) for n in true))
        mask = real[box].flatten(1)
        inner = Layout(tuple(true), mask=None if bool(mask.all()) else mask)
        y = run(lattice[box].flatten(1, -2), inner)
        pads = [0, 0]
        for n, full in zip(reversed(true), reversed(layout.axes), strict=True):
            pads += [0, full - n]
        parts.append(layout.unfold(F.pad(inner.fold(y), pads)))
    order = torch.argsort(kind, stable=True)
    return torch.cat(parts).index_select(0, torch.argsort(order))
