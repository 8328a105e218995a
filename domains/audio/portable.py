"""The audio models as functions of samples, for export.

Shapes: B clips, T samples.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..task import Fitted, Portable
from .model import AudioClassifier

SECONDS = 2.0  # of the clips that an export is traced with
INPUTS = {
    "wave": "(batch, samples) within -1 .. 1: one channel at the model's rate, anything behind a clip's own end",
    "length": "(batch,) samples of each clip that are its own",
}


class Shares(nn.Module):
    """Samples -> calibrated probabilities of the classes."""

    def __init__(self, model: AudioClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, wave: Float[Tensor, "B T"], length: Int[Tensor, "B"]) -> Float[Tensor, "B K"]:
        return (self.model(wave, length) / self.model.temperature).softmax(1)


class Told(nn.Module):
    """Samples -> numbers in their own units."""

    centre: Tensor
    scale: Tensor

    def __init__(self, model: nn.Module, fitted: Fitted) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("centre", torch.tensor(fitted["centre"], dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(fitted["scale"], dtype=torch.float32))

    def forward(self, wave: Float[Tensor, "B T"], length: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
        return self.model(wave, length) * self.scale + self.centre


def of_waves(module: nn.Module, rate: int, outputs: Mapping[str, str], **about: object) -> Portable:
    """Clips of any length, side by side; mixing down, resampling and cutting long recordings are the caller's."""
    n = round(SECONDS * rate)
    drawn = torch.Generator().manual_seed(0)
    wave, longer = (0.1 * torch.randn(2, size, generator=drawn) for size in (n, n + n // 3 + 1))
    lengths = torch.tensor([n, n - n // 4])
    said = {"rate": rate, "channels": "one: the mean of all, or the one that the run's options name", **about}
    return Portable(
        module.eval(), (wave, lengths), INPUTS, outputs, free={"wave": (1,)}, other=(longer, lengths), about=said
    )
