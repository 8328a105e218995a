"""References of channel attention, high and low frequency heads, and plain convolutions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from shared_backbones.layout import Layout

from .tools import affine, clean, places, real, softmax_attention


def channels(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, x, d = real(x, layout), clean(x, layout), x.shape[2] // mixer.heads
    y = []
    for b in range(x.shape[0]):
        q, k, v = affine(mixer.qkv, x[b]).chunk(3, -1)
        kept, columns = [i for i in range(len(q)) if mask[b][i]], []
        for c in range(x.shape[2]):
            group = range(c // d * d, c // d * d + d)
            scores = torch.stack([(q[kept][:, c] * k[kept][:, other]).sum() for other in group]) / math.sqrt(d)
            weights = scores.softmax(0)
            columns.append(sum(w * v[:, other] for w, other in zip(weights, group, strict=True)))
        y.append(torch.stack(columns, -1))
    return affine(mixer.out, torch.stack(y))


def blocks_of(layout: Layout, window: int) -> list[list[int]]:
    """Tokens of each block of window^rank places, blocks in raster order."""
    found: dict[tuple[int, ...], list[int]] = {}
    for i, place in enumerate(places(layout.axes)):
        found.setdefault(tuple(c // window for c in place), []).append(i)
    return [found[key] for key in sorted(found)]


def block_means(x: Tensor, mask: list[bool], blocks: list[list[int]]) -> tuple[Tensor, list[bool]]:
    """Means over the real tokens of each block of one item, and which blocks have any."""
    inside = [[i for i in block if mask[i]] for block in blocks]
    return torch.stack([x[i].mean(0) if i else x.new_zeros(x.shape[1]) for i in inside]), [bool(i) for i in inside]


def hilo(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, x = real(x, layout), clean(x, layout)
    blocks = blocks_of(layout, mixer.window)
    home = {i: g for g, block in enumerate(blocks) for i in block}
    y = []
    for b in range(x.shape[0]):
        q, k, v = affine(mixer.high_qkv, x[b]).chunk(3, -1)
        heads = q.shape[1] // mixer.head

        def near(i: int, j: int, b: int = b) -> bool:
            return home[i] == home[j] and mask[b][j]

        high = softmax_attention(q, k, v, heads, near, lambda i, j: 0.0)
        means, some = block_means(x[b], mask[b], blocks)
        q = affine(mixer.low_q, x[b])
        k, v = affine(mixer.low_kv, means).chunk(2, -1)
        heads, g = q.shape[1] // mixer.head, len(means)
        grown = [torch.cat([t, t.new_zeros(len(q) - g, t.shape[1])]) for t in (k, v)]  # as many keys as queries
        low = softmax_attention(
            q,
            *grown,
            heads,
            lambda i, j, g=g, some=some: j < g and some[j],
            lambda i, j: 0.0,  # type: ignore[misc]
        )
        y.append(torch.cat([affine(mixer.high_out, high), affine(mixer.low_out, low)], -1))
    return torch.stack(y)


def within_reach(place: tuple[int, ...], other: tuple[int, ...], kernel: int, causal: frozenset[int]) -> int | None:
    """Index of the filter tap that ``other`` meets when the filter stands at ``place``; None out of reach."""
    index = 0
    for axis, (a, c) in enumerate(zip(place, other, strict=True)):
        tap = c - a + (kernel - 1 if axis in causal else (kernel - 1) // 2)
        if not 0 <= tap < kernel:
            return None
        index = index * kernel + tap
    return index


def depthwise(module: Any, x: Tensor, layout: Layout) -> Tensor:
    at, x = places(layout.axes), clean(x, layout)
    taps = module.conv.weight[:, 0].flatten(1)  # (C, taps)
    rows = []
    for i in range(len(at)):
        total = module.conv.bias.expand(x.shape[0], -1)
        for j in range(len(at)):
            tap = within_reach(at[i], at[j], module.kernel, module.causal)
            if tap is not None:
                total = total + taps[:, tap] * x[:, j]
        rows.append(total)
    return torch.stack(rows, 1)


def convolution(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    return depthwise(mixer.conv, x, layout)


def separable(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    return affine(mixer.down, depthwise(mixer.conv, mixer.act(affine(mixer.up, clean(x, layout))), layout))


def max_pooling(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    at, mask = places(layout.axes), real(x, layout)
    rows = []
    for b in range(x.shape[0]):
        for i in range(len(at)):
            seen = [
                j
                for j in range(len(at))
                if mask[b][j] and within_reach(at[i], at[j], mixer.window, mixer.causal) is not None
            ]
            rows.append(x[b, seen].amax(0) if seen and mask[b][i] else torch.zeros_like(x[b, i]))
    return torch.stack(rows).reshape(x.shape)


def pointwise(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    return mixer.act(affine(mixer.linear, clean(x, layout)))


REFERENCES = {
    "channels": channels,
    "hilo": hilo,
    "convolution": convolution,
    "separable": separable,
    "max_pooling": max_pooling,
    "pointwise": pointwise,
}
VARIANTS = {
    "hilo": [{}, {"window": 3, "low": 0.25}],
    "separable": [{"kernel": 4, "ratio": 2.0, "act": "gelu"}],
    "convolution": [{}, {"kernel": 2}],
}
