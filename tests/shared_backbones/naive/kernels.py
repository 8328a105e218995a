"""References of linear attention with other kernels: all weights w_ij one by one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from shared_backbones.layout import Layout

from .linear import phi
from .state import unit
from .tools import affine, clean, places, real

Weights = Callable[[Any, int, Tensor, Tensor, list[tuple[int, ...]], list[int]], tuple[Tensor, Tensor]]


def over_pairs(weights: Weights) -> Any:
    """Heads of sum_j top_ij v_j / bottom_i: ``weights(mixer, head, q, k, places, real keys)`` gives both."""

    def run(mixer: Any, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        mask, c, at = real(x, layout), x.shape[2], places(layout.axes)
        qkv, d = affine(mixer.qkv, clean(x, layout)), c // mixer.heads
        v = clean(qkv[..., 2 * c :], layout)
        items = []
        for b in range(len(x)):
            keys = [j for j, flag in enumerate(mask[b]) if flag]
            heads = []
            for h in range(mixer.heads):
                s = slice(h * d, (h + 1) * d)
                top, bottom = weights(mixer, h, qkv[b, :, :c][:, s], qkv[b, keys, c : 2 * c][:, s], at, keys)
                heads.append(top @ v[b, keys][:, s] / bottom[:, None])
            items.append(torch.cat(heads, 1))
        return torch.stack(items), v

    return run


def convolved(v: Tensor, layout: Layout, width: int, tap: Callable[[int, tuple[int, ...]], Tensor]) -> Tensor:
    """sum over offsets of tap(item, offset) * v there."""
    at, first = places(layout.axes), (width - 1) // 2
    number = {place: i for i, place in enumerate(at)}
    rows = []
    for b in range(len(v)):
        for place in at:
            row = torch.zeros_like(v[b, 0])
            for offset in itertools.product(range(width), repeat=layout.rank):
                there = tuple(p + o - first for p, o in zip(place, offset, strict=True))
                if there in number:
                    row = row + tap(b, offset) * v[b, number[there]]
            rows.append(row)
    return torch.stack(rows).reshape(v.shape)


def depthwise(mixer: Any, v: Tensor, layout: Layout) -> Tensor:
    return convolved(v, layout, mixer.kernel, lambda b, o: mixer.conv.weight[(slice(None), 0, *o)]) + mixer.conv.bias


def _relu(mixer: Any, h: int, q: Tensor, k: Tensor, at: Any, keys: list[int]) -> tuple[Tensor, Tensor]:
    w = torch.clamp(q, min=0) @ torch.clamp(k, min=0).T
    return w, w.sum(1) + 1e-6


def relu_linear(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    y, v = over_pairs(_relu)(mixer, x, layout)
    return affine(mixer.out, y + depthwise(mixer, v, layout))


def _turned(x: Tensor, place: tuple[int, ...]) -> Tensor:
    pairs, rank = len(x) // 2, len(place)
    angle = torch.tensor([place[f % rank] * 10000.0 ** (-(f // rank) * rank / pairs) for f in range(pairs)]).double()
    z = torch.complex(x[:pairs], x[pairs : 2 * pairs]) * torch.complex(torch.cos(angle), torch.sin(angle))
    return torch.cat([z.real, z.imag, x[2 * pairs :]])


def _augmented(mixer: Any, h: int, q: Tensor, k: Tensor, at: Any, keys: list[int]) -> tuple[Tensor, Tensor]:
    q, k = phi(q), phi(k)
    score = torch.exp(k @ q[keys].mean(0) / q.shape[1] ** 0.5)
    a = len(keys) * score / score.sum()
    turned_q = torch.stack([_turned(row, place) for row, place in zip(q, at, strict=True)])
    turned_k = torch.stack([_turned(row, at[j]) for row, j in zip(k, keys, strict=True)])
    return turned_q @ (a[:, None] * turned_k).T, (q @ k.T).sum(1) + 1e-6


def rank_augmented(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    y, v = over_pairs(_augmented)(mixer, x, layout)
    return affine(mixer.out, affine(mixer.gate, clean(x, layout)) * (y + depthwise(mixer, v, layout)))


def _injective(mixer: Any, h: int, q: Tensor, k: Tensor, at: Any, keys: list[int]) -> tuple[Tensor, Tensor]:
    scores = q @ k.T / (len(keys) * q.shape[1] ** 0.5)
    return scores - scores.mean(1, keepdim=True) + 1 / len(keys), torch.ones(len(q)).double()


def injective(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    y, v = over_pairs(_injective)(mixer, x, layout)
    mask = real(x, layout)
    means = [x[b, [j for j, flag in enumerate(mask[b]) if flag]].mean(0) for b in range(len(x))]
    (w1, b1), (w2, b2) = ((torch.block_diag(*layer.weight), layer.bias) for layer in (mixer.taps[0], mixer.taps[2]))
    taps = []
    for mean in means:
        z = w1 @ mean + b1
        taps.append((w2 @ (0.5 * z * (1 + torch.erf(z / 2**0.5))) + b2).reshape(-1, *(mixer.kernel,) * layout.rank))
    local = convolved(v, layout, mixer.kernel, lambda b, o: taps[b][(slice(None), *o)])
    return affine(mixer.out, y + local)


def _correlation(mixer: Any, h: int, q: Tensor, k: Tensor, at: Any, keys: list[int]) -> tuple[Tensor, Tensor]:
    q, k = q - q.mean(1, keepdim=True), k - k.mean(1, keepdim=True)
    r = (q @ k.T) / torch.sqrt((q * q).sum(1)[:, None] * (k * k).sum(1))
    w = 1 + r + (r * r / 2 if mixer.order == 2 else 0)
    return w, w.sum(1) + 1e-6


def correlation(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    y, v = over_pairs(_correlation)(mixer, x, layout)
    return affine(mixer.out, v + y)


def _code(mixer: Any, h: int, row: Tensor) -> Tensor:
    near = torch.stack([torch.exp(-((row - p) ** 2).sum() / (2 * len(row))) for p in mixer.points[h]])
    z = (near - near.mean()) @ mixer.mix[h]
    soft = torch.tanh(z)
    return soft + (torch.sign(z) - soft).detach()


def _hashed(mixer: Any, h: int, q: Tensor, k: Tensor, at: Any, keys: list[int]) -> tuple[Tensor, Tensor]:
    codes_q, codes_k = (torch.stack([_code(mixer, h, row) for row in rows]) for rows in (q, k))
    w = 1 + codes_q @ codes_k.T / mixer.bits
    return w, w.sum(1) + 1e-6


def hashed(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    return affine(mixer.out, over_pairs(_hashed)(mixer, x, layout)[0])


def _relative(mixer: Any, h: int, q: Tensor, k: Tensor, at: Any, keys: list[int]) -> tuple[Tensor, Tensor]:
    far = mixer.size - 1
    features = [
        torch.stack([torch.exp(mixer.directions[h].T @ unit(row) - 0.5) for row in rows])
        / math.sqrt(mixer.directions.shape[-1])
        for rows in (q, k)
    ]
    w = features[0] @ features[1].T
    rows = []
    for i in range(len(q)):
        row = []
        for j in keys:
            bias: Any = 0.0
            for axis, (a, b) in enumerate(zip(at[i], at[j], strict=True)):
                bias = bias + mixer.table[axis, h, max(-far, min(far, b - a)) + far]
            seen = all(at[j][axis] <= at[i][axis] for axis in mixer.causal)
            row.append(torch.exp(bias) * (1.0 if seen else 0.0))
        rows.append(torch.stack(row))
    w = w * torch.stack(rows)
    return w, w.sum(1) + 1e-6


def relative(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    return affine(mixer.out, over_pairs(_relative)(mixer, x, layout)[0])


REFERENCES = {
    "relu_linear": relu_linear,
    "rank_augmented": rank_augmented,
    "injective": injective,
    "correlation": correlation,
    "hashed": hashed,
    "relative": relative,
}
VARIANTS = {
    "relu_linear": [{}, {"kernel": 4}],
    "rank_augmented": [{}],
    "injective": [{}],
    "correlation": [{}, {"order": 1}],
    "hashed": [{"bits": 6, "supports": 5}],
    "relative": [{"features": 5, "size": 6}],
}
