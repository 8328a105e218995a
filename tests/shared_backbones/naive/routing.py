"""References of attention routed by stripes, by regions and by content."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shared_backbones.layout import Layout

from .convolution import depthwise
from .dual import block_means, blocks_of
from .tools import affine, behind, clean, places, real, softmax_attention


def near(mixer: Any, qkv: Tensor, layout: Layout) -> Tensor | float:
    """The convolution of the values."""
    return 0.0 if mixer.near is None else depthwise(mixer.near, qkv.chunk(3, -1)[2], layout)


def stripes(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    at, before, mask = places(layout.axes), behind(layout.axes, mixer.causal), real(x, layout)
    qkv, d = affine(mixer.qkv, clean(x, layout)), x.shape[2] // mixer.heads
    y, done = [], 0
    for axis, heads in enumerate(mixer.shares):
        if heads == 0:
            continue
        part = slice(done * d, (done + heads) * d)
        done += heads

        def seen(i: int, j: int, axis: int = axis) -> bool:
            others = (a for a in range(len(layout.axes)) if a != axis)
            return before(i, j) and all(at[i][a] // mixer.width == at[j][a] // mixer.width for a in others)

        rows = []
        for b in range(x.shape[0]):
            q, k, v = (t[:, part] for t in qkv[b].chunk(3, -1))
            rows.append(
                softmax_attention(q, k, v, heads, lambda i, j, b=b, s=seen: mask[b][j] and s(i, j), lambda i, j: 0.0)
            )
        y.append(torch.stack(rows))
    return affine(mixer.out, torch.cat(y, -1) + near(mixer, qkv, layout))


def regions(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, qkv, blocks = real(x, layout), affine(mixer.qkv, clean(x, layout)), blocks_of(layout, mixer.window)
    home, y = {i: g for g, block in enumerate(blocks) for i in block}, []
    for b in range(x.shape[0]):
        q, k, v = qkv[b].chunk(3, -1)
        mean_q, _ = block_means(q, mask[b], blocks)
        mean_k, some = block_means(k, mask[b], blocks)
        chosen = []
        for query in mean_q:
            best = sorted((g for g in range(len(blocks)) if some[g]), key=lambda g: -(query @ mean_k[g]).item())
            chosen.append(best[: mixer.top])

        def seen(i: int, j: int, b: int = b, chosen: list[list[int]] = chosen) -> bool:
            return mask[b][i] and mask[b][j] and home[j] in chosen[home[i]]

        y.append(softmax_attention(q, k, v, mixer.heads, seen, lambda i, j: 0.0))
    return affine(mixer.out, torch.stack(y) + near(mixer, qkv, layout))


REFERENCES = {"stripes": stripes, "regions": regions}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "stripes": [{}, {"width": 2, "kernel": 0, "heads": 2}],
    "regions": [{}, {"window": 2, "top": 2, "kernel": 0, "heads": 2}],
}
