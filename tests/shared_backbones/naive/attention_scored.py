"""References of attention with other weights than a softmax."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from shared_backbones.layout import Layout

from .attention import extent, read_table, scored
from .tools import places, real, softmax


def sigmoid(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    def weigh(scores: Tensor, i: int, keys: list[int], h: int) -> Tensor:
        return 1 / (1 + torch.exp(-(scores - math.log(len(keys)))))

    return scored(mixer, x, layout, lambda b: weigh)


def clipped(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    def weigh(scores: Tensor, i: int, keys: list[int], h: int) -> Tensor:
        gamma = -mixer.alpha / len(keys)
        stretched = (mixer.zeta - gamma) * softmax(scores) + gamma
        return torch.minimum(torch.maximum(stretched, torch.zeros(())), torch.ones(()))

    return scored(mixer, x, layout, lambda b: weigh)


def top_k(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    def weigh(scores: Tensor, i: int, keys: list[int], h: int) -> Tensor:
        best = sorted(range(len(keys)), key=scores.tolist().__getitem__)[-mixer.keep :]
        weights = torch.zeros_like(scores)
        weights[best] = softmax(scores[best])
        return weights

    return scored(mixer, x, layout, lambda b: weigh)


def multiplied(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, at = real(x, layout), places(layout.axes)

    def weigh(b: int) -> Any:
        sizes = [extent(layout, mask[b], axis) for axis in range(layout.rank)]

        def one(scores: Tensor, i: int, keys: list[int], h: int) -> Tensor:
            return softmax(scores) * torch.stack([read_table(mixer.factor, at[i], at[j], sizes)[h] for j in keys])

        return one

    return scored(mixer, x, layout, weigh)


def positional(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    at = places(layout.axes)

    def weigh(scores: Tensor, i: int, keys: list[int], h: int) -> Tensor:
        apart = [[c - a for a, c in zip(at[i], at[j], strict=True)] for j in keys]
        look = torch.tensor([[sum(d * d for d in row), *row] for row in apart], dtype=x.dtype) @ mixer.look[h]
        gate = 1 / (1 + torch.exp(-mixer.gate[h]))
        return (1 - gate) * softmax(scores) + gate * softmax(look)

    return scored(mixer, x, layout, lambda b: weigh)


REFERENCES = {
    "sigmoid": sigmoid,
    "clipped": clipped,
    "top_k": top_k,
    "multiplied": multiplied,
    "positional": positional,
}
VARIANTS = {
    "clipped": [{"alpha": 0.5, "zeta": 1.2}],
    "top_k": [{"keep": 3}],
    "multiplied": [{"size": 4, "heads": 2}],
    "positional": [{"heads": 2, "head_dim": 5, "strength": 0.3, "qkv_bias": False}],
}
