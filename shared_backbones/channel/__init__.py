"""What follows the mixer: each token's channels among themselves. ``forward(x, layout) -> x`` on (B, N, C)."""

from __future__ import annotations

from torch import nn

from .mlp import GLU, MLP, NoChannel

CHANNELS: dict[str, type[nn.Module]] = {
    "mlp": MLP,
    "glu": GLU,
    "none": NoChannel,
}

__all__ = ["CHANNELS", "GLU", "MLP", "NoChannel"]
