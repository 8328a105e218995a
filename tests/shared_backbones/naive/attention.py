"""References of attention over all tokens."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_backbones.layout import Layout

from .tools import affine, behind, clean, places, real, softmax, softmax_attention


def _per_item(mixer: Any, x: Tensor, layout: Layout, visible: Any, bias: Any) -> Tensor:
    qkv, out, c = affine(mixer.qkv, clean(x, layout)), [], x.shape[2]
    for b in range(x.shape[0]):
        q, k, v = qkv[b, :, :c], qkv[b, :, c : 2 * c], qkv[b, :, 2 * c :]
        out.append(softmax_attention(q, k, v, mixer.heads, visible(b), bias(b)))
    return affine(mixer.out, torch.stack(out))


def extent(layout: Layout, mask: list[bool], axis: int) -> int:
    """Places of one item up to its last real token along an axis."""
    return max([place[axis] + 1 for i, place in enumerate(places(layout.axes)) if mask[i]], default=1)


def coordinates_of(layout: Layout, b: int) -> list[tuple[float, ...]]:
    if layout.positions is None:
        return [tuple(map(float, place)) for place in places(layout.axes)]
    return [tuple(at) for at in layout.positions[b].tolist()]


def rotated(position: Any, x: Tensor, at: list[tuple[float, ...]], heads: int) -> Tensor:
    """Each coordinate turns its own pairs of channels (p, p + half) of a head by 2 pi at / period."""
    rows, d = [], x.shape[1] // heads
    for i in range(len(x)):
        cols = list(x[i].unbind())
        pairs = d // (2 * len(at[i]))
        half = pairs * len(at[i])
        for h in range(heads):
            for a, coordinate in enumerate(at[i]):
                for p in range(pairs):
                    period = position.shortest * (position.longest / position.shortest) ** (p / pairs)
                    angle = 2 * math.pi * coordinate / period
                    even = h * d + a * pairs + p
                    u, w = x[i, even], x[i, even + half]
                    cols[even] = u * math.cos(angle) - w * math.sin(angle)
                    cols[even + half] = u * math.sin(angle) + w * math.cos(angle)
        rows.append(torch.stack(cols))
    return torch.stack(rows)


def read_table(position: Any, here: tuple[int, ...], there: tuple[int, ...], sizes: list[int]) -> Tensor:
    """The table at a relative place, linearly between its entries; a number per head."""
    corners: list[tuple[tuple[int, ...], float]] = [((), 1.0)]
    for axis, (a, c, n) in enumerate(zip(here, there, sizes, strict=True)):
        at = float(a - c) if axis in position.causal else (a - c) * (position.size - 1) / max(1, n - 1)
        at = abs(at) if position.symmetric else at + position.size - 1
        at = min(max(at, 0), position.table.shape[1] - 1)
        low = math.floor(at)
        pairs = [(low, 1 - (at - low)), (low + 1, at - low)]
        corners = [((*index, p), w * share) for index, w in corners for p, share in pairs if share > 0]
    return sum(w * position.table[(slice(None), *index)] for index, w in corners)


def position_bias(mixer: Any, layout: Layout, mask: list[list[bool]], b: int) -> Any:
    """bias(i, j) of one item, by the kind of the position."""
    position, at = mixer.position, places(layout.axes)
    kind = type(position).__name__
    if kind == "Alibi":
        where = coordinates_of(layout, b)

        def alibi(i: int, j: int) -> Tensor:
            far = sum(abs(p - c) for p, c in zip(where[i], where[j], strict=True)) / position.unit
            slopes = [2 ** (-8 * (h + 1) / mixer.heads) for h in range(mixer.heads)]
            return -far * torch.tensor(slopes, dtype=torch.float64)

        return alibi
    if kind == "Table":
        sizes = [extent(layout, mask[b], axis) for axis in range(layout.rank)]
        return lambda i, j: read_table(position, at[i], at[j], sizes)
    return lambda i, j: 0.0


def by_head(norm: Any, x: Tensor, heads: int) -> Tensor:
    """A layer norm of each head's share of the channels."""
    parts = []
    for part in x.chunk(heads, -1):
        centred = part - part.mean(-1, keepdim=True)
        parts.append(centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + norm.eps) * norm.weight + norm.bias)
    return torch.cat(parts, -1)


def scored(mixer: Any, x: Tensor, layout: Layout, weigh: Any = lambda b: softmax, visible: Any = None) -> Tensor:
    """Attention with its position; ``weigh(b)`` gives the weights of item b, ``visible(b)`` the keys."""
    mask, before, out = real(x, layout), behind(layout.axes, mixer.causal), []
    for b, qkv in enumerate(affine(mixer.qkv, clean(x, layout)).unbind()):
        q, k, v = qkv.split(mixer.widths, -1)
        if mixer.readers > 1:  # head h reads keys and values h // readers
            few = mixer.heads // mixer.readers
            k, v = (torch.cat([t.chunk(few, -1)[h // mixer.readers] for h in range(mixer.heads)], -1) for t in (k, v))
        if not isinstance(mixer.norms[0], torch.nn.Identity):
            q, k = (by_head(norm, t, mixer.heads) for norm, t in zip(mixer.norms, (q, k), strict=True))
        if type(mixer.position).__name__ == "Rotary":
            q, k = (rotated(mixer.position, t, coordinates_of(layout, b), mixer.heads) for t in (q, k))
        sees = visible(b) if visible else lambda i, j, b=b: mask[b][j] and before(i, j)
        bias = position_bias(mixer, layout, mask, b)
        out.append(softmax_attention(q, k, v, mixer.heads, sees, bias, weigh(b)))
    y = torch.stack(out)
    return y if isinstance(mixer.out, torch.nn.Identity) else affine(mixer.out, y)


def attention(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    return scored(mixer, x, layout)


def decay(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, at, rate = real(x, layout), layout.positions, F.softplus(mixer.rate)
    assert at is not None

    def visible(b: int) -> Any:
        return lambda i, j: mask[b][j] and mask[b][i] and all(at[b, j, a] <= at[b, i, a] for a in mixer.causal)

    return _per_item(mixer, x, layout, visible, lambda b: lambda i, j: -rate * (at[b, i] - at[b, j]).abs().sum())


REFERENCES = {"attention": attention, "decay": decay}
VARIANTS = {
    "attention": [
        {},
        {"position": {"kind": "rotary", "longest": 60.0}, "heads": 2},
        {"position": "alibi", "kv_heads": 2, "qk_norm": "layer"},
        {"position": {"kind": "table", "size": 4}, "heads": 2, "head_dim": 5, "key_dim": 3, "qkv_bias": False},
        {"position": {"kind": "table", "size": 3, "symmetric": True}, "out": False},
    ],
    "decay": [{}, {"decay": 0.1}],
}
