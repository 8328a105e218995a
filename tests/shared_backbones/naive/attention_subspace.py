"""References of attention on subspaces, over the attention graph, and with weights that fall with distance."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from shared_backbones.layout import Layout

from .attention import scored
from .attention_heads import WithoutOut
from .convolution import depthwise
from .tools import affine, behind, clean, places, real, softmax


class Tripled(WithoutOut):
    """One projection written three times, for q, k and v."""

    def __init__(self, mixer: Any) -> None:
        super().__init__(mixer)
        bias = mixer.qkv.bias
        self.out = mixer.out
        self.qkv = SimpleNamespace(weight=mixer.qkv.weight.repeat(3, 1), bias=None if bias is None else bias.repeat(3))


def subspace(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    return scored(Tripled(mixer), x, layout)


def isomorphic(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    read = scored(WithoutOut(mixer), x, layout)
    v = affine(mixer.qkv, clean(x, layout)).split(mixer.widths, -1)[2]
    parts = []
    for h, (r, own) in enumerate(zip(read.chunk(mixer.heads, -1), v.chunk(mixer.heads, -1), strict=True)):
        inner = affine(mixer.mlp[0], r + (1 + mixer.own[h]) * own)
        parts.append(affine(mixer.mlp[2], torch.nn.functional.gelu(inner)))
    return affine(mixer.out, torch.cat(parts, -1))


def principal(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, before, items = real(x, layout), behind(layout.axes, mixer.causal), []
    for b, qkv in enumerate(affine(mixer.qkv, clean(x, layout)).unbind()):
        parts = []
        for q, k, v in zip(*(t.chunk(mixer.heads, -1) for t in qkv.split(mixer.widths, -1)), strict=True):
            rows = []
            for i in range(len(q)):
                keys = [j for j in range(len(k)) if mask[b][j] and before(i, j)]
                if not keys:
                    rows.append(torch.zeros_like(q[i]))
                    continue
                a = softmax(k[keys] @ q[i] / q.shape[1] ** 0.5)[:, None]
                mean = (a * v[keys]).sum(0)
                deviation = ((a * v[keys] ** 2).sum(0) - mean**2).clamp_min(1e-6).sqrt()
                extremes = [(a * v[keys]).amax(0), (a * v[keys]).amin(0)]
                rows.append(affine(mixer.merge, torch.cat([mean, deviation, *extremes])))
            parts.append(torch.stack(rows))
        items.append(torch.cat(parts, -1))
    return affine(mixer.out, torch.stack(items))


def manhattan(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    at = places(layout.axes)

    def weigh(scores: Tensor, i: int, keys: list[int], h: int) -> Tensor:
        far = torch.tensor([sum(abs(a - c) for a, c in zip(at[i], at[j], strict=True)) for j in keys])
        return softmax(scores) * torch.exp(mixer.log_decay[h]) ** far

    y = scored(WithoutOut(mixer), x, layout, lambda b: weigh)
    v = affine(mixer.qkv, clean(x, layout)).split(mixer.widths, -1)[2]
    return affine(mixer.out, y + depthwise(mixer.local, v, layout))


def manhattan_axes(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, at = real(x, layout), places(layout.axes)
    qkv = affine(mixer.qkv, clean(x, layout))
    items = []
    for b in range(len(x)):
        q, k, v = qkv[b].split(mixer.widths, -1)
        for axis in reversed(range(layout.rank)):
            rows = []
            for i in range(len(at)):
                row = [
                    j
                    for j in range(len(at))
                    if mask[b][j]
                    and all(at[i][a] == at[j][a] for a in range(layout.rank) if a != axis)
                    and (axis not in mixer.causal or at[j][axis] <= at[i][axis])
                ]
                if not row:
                    rows.append(torch.zeros_like(v[i]))
                    continue
                far = torch.tensor([abs(at[i][axis] - at[j][axis]) for j in row])
                parts = []
                for h, (qh, kh, vh) in enumerate(zip(*(t.chunk(mixer.heads, -1) for t in (q, k, v)), strict=True)):
                    weights = softmax(kh[row] @ qh[i] / qh.shape[1] ** 0.5) * torch.exp(mixer.log_decay[h]) ** far
                    parts.append(weights @ vh[row])
                rows.append(torch.cat(parts))
            v = torch.stack(rows)
        items.append(v)
    y = torch.stack(items) + depthwise(mixer.local, qkv.split(mixer.widths, -1)[2], layout)
    return affine(mixer.out, y)


REFERENCES = {
    "subspace": subspace,
    "isomorphic": isomorphic,
    "principal": principal,
    "manhattan": manhattan,
    "manhattan_axes": manhattan_axes,
}
VARIANTS = {
    "subspace": [{"position": "alibi", "qkv_bias": True}],
    "isomorphic": [{"ratio": 1.5, "heads": 2}],
    "manhattan": [{"kernel": 3, "heads": 2, "position": {"kind": "rotary", "longest": 60.0}}],
    "manhattan_axes": [{"start": 1.0}],
}
