"""References of attention to a coarser copy of the lattice."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from shared_backbones.layout import Layout

from .convolution import normed
from .dual import block_means, blocks_of
from .tools import affine, clean, places, real, softmax_attention


def thinned(module: Any, x: Tensor, layout: Layout) -> Tensor:
    """norm of a convolution at every stride-th place."""
    s, k, at = module.stride, module.kernel, {place: i for i, place in enumerate(places(layout.axes))}
    ahead, weight = max(0, (k - s + 1) // 2), module.conv.weight
    rows = []
    for block in itertools.product(*(range(-(-n // s)) for n in layout.axes)):
        total = torch.zeros(x.shape[0], weight.shape[0], dtype=x.dtype)
        for tap in itertools.product(range(k), repeat=layout.rank):
            i = at.get(tuple(b * s - ahead + t for b, t in zip(block, tap, strict=True)))
            if i is not None:
                w = weight[(slice(None), slice(None), *tap)]
                total = total + (x[:, i] * w[:, 0] if module.conv.groups > 1 else x[:, i] @ w.T)
        if module.conv.bias is not None:
            total = total + module.conv.bias
        rows.append(normed(module.norm, total))
    return torch.stack(rows, 1)


def read(q: Tensor, k: Tensor, v: Tensor, heads: int, some: list[list[bool]]) -> Tensor:
    return torch.stack(
        [
            softmax_attention(q[b], k[b], v[b], heads, lambda i, j, b=b: some[b][j], lambda i, j: 0.0)  # type: ignore[misc]
            for b in range(len(q))
        ]
    )


def real_blocks(x: Tensor, layout: Layout, size: int) -> list[list[bool]]:
    blocks = blocks_of(layout, size)
    return [[any(mask[i] for i in block) for block in blocks] for mask in real(x, layout)]


def reduced(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    x, step = clean(x, layout), mixer.reduce.stride
    some = real_blocks(x, layout, step)
    if hasattr(mixer.reduce, "conv"):
        z = thinned(mixer.reduce, x, layout)
    else:
        blocks = blocks_of(layout, step)
        means = [block_means(x[b], mask, blocks)[0] for b, mask in enumerate(real(x, layout))]
        z = normed(mixer.reduce.norm, torch.stack(means))
    k, v = affine(mixer.kv, z).split(mixer.widths, -1)
    return affine(mixer.out, read(affine(mixer.q, x), k, v, mixer.heads, some))


def conv_projected(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    x = clean(x, layout)
    q, k, v = (affine(m, thinned(f, x, layout)) for f, m in zip(mixer.filters, mixer.maps, strict=True))
    return affine(mixer.out, read(q, k, v, mixer.heads, real_blocks(x, layout, mixer.filters[1].stride)))


REFERENCES = {"reduced": reduced, "conv_projected": conv_projected}
VARIANTS = {
    "reduced": [
        {},
        {"how": "mean", "norm": "none", "factor": 3, "head_dim": 5, "heads": 2},
        {"how": "depthwise", "kernel": 3, "key_dim": 1, "qkv_bias": False},
    ],
}
