"""The contract of what follows the mixer: a channel layer is held to the same facts and laws as a mixer."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..mixers.base import Mixer


class Channel(Mixer):
    """Mixes the channels of each token: ``forward(x, layout) -> x`` on (B, N, C).

    Most look at one token at a time and therefore serve any lattice and any set, causal or not. Those that look at
    neighbours or at all tokens say so in their facts.
    """

    sets: ClassVar[bool] = True
    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    cost: ClassVar[str] = "O(N d^2)"


def hidden_of(dim: int, ratio: float) -> int:
    """Hidden width of a layer of ``dim`` channels, at least 1."""
    return max(1, round(ratio * dim))


def precise(x: Float[Tensor, "*tokens C"], weight: Tensor, bias: Tensor | None = None) -> Float[Tensor, "*tokens K"]:
    """W x + b in at least float32, also under autocast: a choice must not hang on rounding."""
    wide = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.to(wide), weight.to(wide), None if bias is None else bias.to(wide))


class Router(nn.Module):
    """Scores of the choices for each token."""

    def __init__(self, dim: int, choices: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(choices, dim) * dim**-0.5)

    def forward(self, x: Float[Tensor, "*tokens C"]) -> Float[Tensor, "*tokens K"]:
        return precise(x, self.weight)
