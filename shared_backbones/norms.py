"""Normalisations over the channels of each token."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "layer": nn.LayerNorm,  # "Layer Normalization" (Ba et al. 2016)
    "rms": nn.RMSNorm,  # "Root Mean Square Layer Normalization" (Zhang and Sennrich 2019)
    "none": lambda dim: nn.Identity(),
}
