"""The network of `medical/signal`: base line taken away, own scale, stem, backbone; over time beats, classes, rhythms.

Shapes: B windows, T samples, N tokens, C width, K classes of beats, R rhythms, M beats.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from domains.options import model_options
from shared_backbones.backbone import Tokens, build_backbone
from shared_backbones.errors import BadRequest, unknown
from shared_backbones.options import as_declared, check_options
from shared_backbones.presets import Preset
from shared_backbones.stems import ImageStem

from ..task import Fitted
from .signal_config import SignalOptions

STEMS = ("image",)


class SignalHeadOptions(BaseModel):
    """The ``model:`` options of a preset for `medical/signal`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dropout: float = Field(0.0, ge=0, lt=1, description="of the tokens before the head")


def head_options(given: Mapping[str, Any]) -> SignalHeadOptions:
    """Checked options; raises BadRequest."""
    return model_options(SignalHeadOptions, given, "medical/signal")


class SignalFront(nn.Module):
    """Samples (NaN: gaps) -> two channels: the wave without drift at its own scale, and where it is known.

    Drift is the moving mean over 1 / low_hz seconds of the known samples.
    """

    def __init__(self, rate: float, low_hz: float) -> None:
        super().__init__()
        self.width = 2 * max(1, round(rate / low_hz / 2)) + 1

    def forward(self, x: Float[Tensor, "B T"]) -> tuple[Float[Tensor, "B 2 T"], Bool[Tensor, "B T"]]:
        known = x.isfinite()
        seen = known.to(x.dtype)[:, None]
        filled = x.nan_to_num(0.0, 0.0, 0.0)[:, None]
        half = self.width // 2
        sums = [F.avg_pool1d(F.pad(v, (half, half)), self.width, 1) for v in (filled, seen)]
        x = (filled - sums[0] / sums[1].clamp_min(1e-6)) * seen
        scale = (x.square().sum(2, keepdim=True) / seen.sum(2, keepdim=True).clamp_min(1)).sqrt()
        return torch.cat([x / scale.clamp_min(1e-6), 1 - seen], 1), known


class BeatNet(nn.Module):
    """Samples -> logits over time: of a beat, of its class, and of the rhythm.

    threshold: probability from which on a maximum is a beat, set on validation.
    """

    threshold: Tensor

    def __init__(self, fitted: Fitted, preset: Preset, options: SignalOptions) -> None:
        super().__init__()
        if preset.stem not in STEMS:
            raise unknown("stem of a signal task", preset.stem, STEMS)
        if 1 not in preset.ranks:
            raise BadRequest(
                f"preset {preset.name!r} is for lattices of rank {list(preset.ranks)}; signals have rank 1"
            )
        given = dict(preset.stem_options)
        check_options("stem 'image'", ImageStem, given)
        self.rate, self.kinds = float(fitted["rate"]), len(fitted["kinds"])
        self.rhythms = len(fitted.get("rhythms", ()))  # runs of before have none
        self.front = SignalFront(self.rate, options.low_hz)
        self.stem = ImageStem(2, preset.backbone.stages[0].dim, rank=1, **as_declared(ImageStem, given))
        self.backbone = build_backbone(preset.backbone, Tokens(rank=1))
        self.dropout = head_options(preset.model).dropout
        self.head = nn.Linear(self.backbone.dim, 1 + self.kinds + self.rhythms)
        self.register_buffer("threshold", torch.tensor(0.5))

    def forward(self, x: Float[Tensor, "B T"]) -> Float[Tensor, "B N K1R"]:
        """Windows of samples, NaN in gaps -> logits; token j stands for samples j T / N to (j + 1) T / N."""
        shown, _ = self.front(x)
        tokens = self.backbone(*self.stem(shown))[0]
        return self.head(F.dropout(tokens, self.dropout, self.training)).float()


def beat_targets(
    time: Float[Tensor, "B M"], n: int, seconds: float, width: float
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N M"]]:
    """(how much each token is a beat, its distance in s from every beat): a Gaussian of ``width`` s around each."""
    at = (torch.arange(n, device=time.device, dtype=time.dtype) + 0.5) * (seconds / n)
    away = (at[None, :, None] - time[:, None, :]).nan_to_num(1e6)
    return torch.exp(-0.5 * (away / width) ** 2).amax(2), away.abs()
