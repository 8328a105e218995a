"""What the references share: lattice places, masks, affine maps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from shared_backbones.layout import Layout


def places(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Coordinates of every token, in raster order."""
    return list(itertools.product(*(range(n) for n in axes)))


def real(x: Tensor, layout: Layout) -> list[list[bool]]:
    """Per item and token: is it real?"""
    return [[True] * x.shape[1]] * x.shape[0] if layout.mask is None else layout.mask.tolist()


def affine(layer: Any, x: Tensor) -> Tensor:
    """x W^T + b."""
    y = x @ layer.weight.T
    return y if layer.bias is None else y + layer.bias


def behind(axes: Sequence[int], causal: frozenset[int]) -> Callable[[int, int], bool]:
    """Whether query i may see key j: j lies ahead along no causal axis."""
    at = places(axes)
    return lambda i, j: all(at[j][a] <= at[i][a] for a in causal)


def clean(x: Tensor, layout: Layout) -> Tensor:
    """Zeros at masked tokens."""
    return x if layout.mask is None else torch.where(layout.mask[..., None], x, torch.zeros((), dtype=x.dtype))


def softmax(scores: Tensor, *_: object) -> Tensor:
    """Weights of one query's keys."""
    weights = torch.exp(scores - scores.max())
    return weights / weights.sum()


def softmax_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    visible: Callable[[int, int], bool],
    bias: Callable[[int, int], Tensor | float],
    weigh: Callable[[Tensor, int, list[int], int], Tensor] = softmax,
) -> Tensor:
    """One item: sum_j softmax_j(q_i k_j / sqrt(D) + bias_ij) v_j over the keys that i may see, head by head.

    q (N, K), k (M, K), v (M, C); ``bias(i, j)`` a number per head, or one for all; ``weigh(scores, i, keys, head)`` in
    place of the softmax.
    """
    d, e = q.shape[1] // heads, v.shape[1] // heads
    rows = []
    for i in range(len(q)):
        keys = [j for j in range(len(k)) if visible(i, j)]
        if not keys:
            rows.append(v.new_zeros(v.shape[1]))
            continue
        extra = torch.stack([torch.as_tensor(bias(i, j), dtype=q.dtype).expand(heads) for j in keys])  # (keys, H)
        parts = []
        for h in range(heads):
            s = slice(h * d, (h + 1) * d)
            scores = k[keys][:, s] @ q[i, s] / d**0.5 + extra[:, h]
            parts.append(weigh(scores, i, keys, h) @ v[keys, h * e : (h + 1) * e])
        rows.append(torch.cat(parts))
    return torch.stack(rows)
