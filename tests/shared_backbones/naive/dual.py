"""References of channel attention and of high and low frequency heads."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from shared_backbones.layout import Layout

from .convolution import depthwise as depthwise  # others of this package take it from here
from .tools import affine, clean, places, real, softmax_attention


def channels(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, x, d = real(x, layout), clean(x, layout), x.shape[2] // mixer.heads
    y = []
    for b in range(x.shape[0]):
        q, k, v = affine(mixer.qkv, x[b]).chunk(3, -1)
        kept, columns = [i for i in range(len(q)) if mask[b][i]], []
        for c in range(x.shape[2]):
            group = range(c // d * d, c // d * d + d)
            scores = torch.stack([(q[kept][:, c] * k[kept][:, other]).sum() for other in group])
            if mixer.temperature is None:
                scores = scores / math.sqrt(d)
            else:
                lengths = torch.stack([k[kept][:, other].norm() for other in group]) * q[kept][:, c].norm()
                scores = scores / lengths * mixer.temperature[c // d, 0, 0]
            weights = scores.clamp_min(0) if mixer.sparse else scores.softmax(0)
            if mixer.mix is not None:
                weights = torch.zeros_like(scores)
                for share, most in zip(mixer.mix, mixer.most, strict=True):
                    best = scores.topk(most).indices
                    weights = weights.index_add(0, best, share * scores[best].softmax(0))
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


REFERENCES = {
    "channels": channels,
    "hilo": hilo,
}
VARIANTS = {
    "channels": [{}, {"unit": True, "sparse": True}, {"unit": True, "keep": (0.5, 0.8)}],
    "hilo": [{}, {"window": 3, "low": 0.25}],
}
