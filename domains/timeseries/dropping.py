"""Dropout from few random bits: torch's own draws a number per element, which takes much of a small step's time."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shared_backbones.layout import Layout

M = TypeVar("M", bound=nn.Module)
_LEVELS = 1 << 16  # chances of being dropped that 16 bits can tell apart


class QuickDropout(nn.Dropout):
    """Dropout whose draws are 16 bits each, four from one random integer; on a CPU, elsewhere torch's own.

    The chance is p to one part in 65,536, and what is kept is scaled by that very chance, so the mean stays.
    """

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if not self.training or self.p == 0.0 or x.device.type != "cpu":
            return super().forward(x)
        few = min(_LEVELS - 1, round(self.p * _LEVELS))
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        draws = words.view(torch.int16)[: x.numel()].view(x.shape)
        return x * (draws >= few - _LEVELS // 2).to(x.dtype).mul_(_LEVELS / (_LEVELS - few))


def quick(module: M) -> M:
    """The module with every plain dropout below it made quick."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Dropout:
                setattr(parent, name, QuickDropout(child.p))
    return module


def unmasked(layout: Layout) -> Layout:
    """The layout without a mask that hides nothing: attention and blocks then have less to do, with the same result.

    Left alone while a graph is exported: it must serve any mask.
    """
    if layout.mask is None or torch.compiler.is_exporting() or not bool(layout.mask.all()):
        return layout
    return replace(layout, mask=None)
