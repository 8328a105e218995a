"""Activations by name, for every mixer and channel layer that lets one be chosen."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .errors import unknown


class SquaredRelu(nn.Module):
    """relu(x)^2: "Primer: Searching for Efficient Transformers for Language Modeling" (So et al. 2021)."""

    def forward(self, x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        return F.relu(x).square()


class StarRelu(nn.Module):
    """s relu(x)^2 + b with two learned numbers, at the start those that make a normal input normal again.

    "MetaFormer Baselines for Vision" (Yu et al. 2022).
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.tensor(0.8944)), nn.Parameter(torch.tensor(-0.4472))

    def forward(self, x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        return self.scale * F.relu(x).square() + self.bias


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "squared_relu": SquaredRelu,
    "star_relu": StarRelu,
}


def activation(name: str) -> nn.Module:
    """A new activation by name; raises BadRequest for an unknown one."""
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]()
