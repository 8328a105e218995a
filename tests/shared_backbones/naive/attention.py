"""References of attention over all tokens and within windows."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_backbones.layout import Layout

from .tools import affine, behind, clean, places, real, softmax_attention


def _per_item(mixer: Any, x: Tensor, layout: Layout, visible: Any, bias: Any) -> Tensor:
    qkv, out, c = affine(mixer.qkv, clean(x, layout)), [], x.shape[2]
    for b in range(x.shape[0]):
        q, k, v = qkv[b, :, :c], qkv[b, :, c : 2 * c], qkv[b, :, 2 * c :]
        out.append(softmax_attention(q, k, v, mixer.heads, visible(b), bias(b)))
    return affine(mixer.out, torch.stack(out))


def attention(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, before = real(x, layout), behind(layout.axes, mixer.causal)
    return _per_item(mixer, x, layout, lambda b: lambda i, j: mask[b][j] and before(i, j), lambda b: lambda i, j: 0.0)


def decay(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, at, rate = real(x, layout), layout.positions, F.softplus(mixer.rate)
    assert at is not None

    def visible(b: int) -> Any:
        return lambda i, j: mask[b][j] and mask[b][i] and all(at[b, j, a] <= at[b, i, a] for a in mixer.causal)

    return _per_item(mixer, x, layout, visible, lambda b: lambda i, j: -rate * (at[b, i] - at[b, j]).abs().sum())


def window(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, at, w = real(x, layout), places(layout.axes), mixer.window
    before = behind(layout.axes, mixer.causal)
    home = [tuple((c - mixer.shift) // w for c in place) for place in at]

    def visible(b: int) -> Any:
        return lambda i, j: mask[b][j] and home[i] == home[j] and before(i, j)

    def bias(i: int, j: int) -> Tensor:
        entry = 0
        for a, c in zip(at[i], at[j], strict=True):
            entry = entry * (2 * w - 1) + (a - c + w - 1)
        return mixer.table[entry]

    return _per_item(mixer, x, layout, visible, lambda b: bias)


REFERENCES = {"attention": attention, "decay": decay, "window": window}
VARIANTS = {
    "attention": [{}, {"heads": 2}],
    "decay": [{}, {"decay": 0.1}],
    "window": [{}, {"window": 4, "shift": 1, "heads": 2}, {"window": 3, "shift": 2}],
}
