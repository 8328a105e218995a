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


def softmax_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    visible: Callable[[int, int], bool],
    bias: Callable[[int, int], Tensor | float],
) -> Tensor:
    """One item: sum_j softmax_j(q_i k_j / sqrt(D) + bias_ij) v_j over the keys that i may see, head by head.

    q, k, v (N, C); ``bias(i, j)`` a number per head, or one for all.
    """
    n, c = q.shape
    d = c // heads
    rows = []
    for i in range(n):
        keys = [j for j in range(n) if visible(i, j)]
        if not keys:
            rows.append(q.new_zeros(c))
            continue
        extra = torch.stack([torch.as_tensor(bias(i, j), dtype=q.dtype).expand(heads) for j in keys])  # (keys, H)
        parts = []
        for h in range(heads):
            s = slice(h * d, (h + 1) * d)
            scores = k[keys][:, s] @ q[i, s] / d**0.5 + extra[:, h]
            weights = torch.exp(scores - scores.max())
            parts.append((weights / weights.sum()) @ v[keys][:, s])
        rows.append(torch.cat(parts))
    return torch.stack(rows)
