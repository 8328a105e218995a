"""The network of `audio/separate`: learned filters, masks over what they hear, filters back to samples.

Shapes: B mixtures, T samples, N frames, K samples of a frame, F pairs of filters, C width, S speakers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from domains.options import model_options
from shared_backbones.backbone import Tokens, build_backbone
from shared_backbones.blocks import whole_blocks
from shared_backbones.errors import unknown
from shared_backbones.layout import Layout
from shared_backbones.presets import Preset

from ..task import Fitted

STEMS = ("filters",)
FLOOR = 0.02  # added to what a pair of filters hears of a mixture of power 1, before the logarithm


class SeparatorOptions(BaseModel):
    """The ``model:`` options of a preset for `audio/separate`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window_ms: float = Field(32.0, gt=0, description="length of the filters")
    overlap: Literal[2, 4] = Field(4, description="frames that cover a sample: one every half or quarter of a filter")
    start: Literal["fourier", "random", "fixed"] = Field(
        "fourier", description="what the filters are before training; fixed: fourier, and they stay so (fast transform)"
    )
    mask: Literal["share", "complex"] = Field(
        "share", description="share: masks of the speakers add up to 1; complex: free, and may turn phases"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="of the tokens before the masks")


def separator_options(given: Mapping[str, Any]) -> SeparatorOptions:
    """Checked options; raises BadRequest."""
    return model_options(SeparatorOptions, given, "audio/separate")


def fourier_filters(width: int, overlap: int = 4) -> tuple[Float[Tensor, "F2 K"], Float[Tensor, "F2 K"]]:
    """Windowed cosines, then sines; and the filters that lead back, so that the frames add up to the samples again."""
    n = torch.arange(width, dtype=torch.float64)
    window = torch.hann_window(width, periodic=True, dtype=torch.float64).sqrt()
    angle = 2 * torch.pi * torch.arange(width // 2 + 1, dtype=torch.float64)[:, None] * n / width
    waves = torch.cat([angle.cos(), -angle.sin()]) * window
    twice = torch.full((width // 2 + 1, 1), 2.0, dtype=torch.float64)
    twice[[0, -1]] = 1.0
    there = waves * (2 / width) ** 0.5
    back = waves * twice.repeat(2, 1) / width / (overlap / 2) / (2 / width) ** 0.5
    return there.float(), back.float()


class Filters(nn.Module):
    """Learned filters there and back; they start as windowed waves, or at random."""

    def __init__(self, width: int, overlap: int, random: bool) -> None:
        super().__init__()
        there, back = fourier_filters(width, overlap)
        if random:
            there, back = (torch.randn_like(x) * x.std() for x in (there, back))
        self.encoder, self.decoder = nn.Parameter(there), nn.Parameter(back)

    def there(self, frames: Float[Tensor, "*b K"]) -> Float[Tensor, "*b F2"]:
        return frames @ self.encoder.mT

    def back(self, z: Float[Tensor, "*b F2"]) -> Float[Tensor, "*b K"]:
        return z @ self.decoder


class Transform(nn.Module):
    """What :func:`fourier_filters` hear and give back, by the fast transform; nothing is learned."""

    window: Tensor

    def __init__(self, width: int, overlap: int) -> None:
        super().__init__()
        self.width, self.overlap, self.scale = width, overlap, (2 / width) ** 0.5
        self.register_buffer("window", torch.hann_window(width, periodic=True).sqrt(), persistent=False)

    def there(self, frames: Float[Tensor, "*b K"]) -> Float[Tensor, "*b F2"]:
        z = torch.fft.rfft(frames * self.window)
        return torch.cat([z.real, z.imag], -1) * self.scale

    def back(self, z: Float[Tensor, "*b F2"]) -> Float[Tensor, "*b K"]:
        real, imaginary = z.chunk(2, -1)
        frames = torch.fft.irfft(torch.complex(real, imaginary), n=self.width)
        return frames * self.window / (self.overlap / 2 * self.scale)


class Separator(nn.Module):
    """Mixtures -> speakers, each in a channel of its own, in any order.

    The filters stand in pairs that hear one pitch at two phases, as a cosine and a sine do. Their loudness goes to the
    backbone, and a mask scales both of a pair.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, fitted: Fitted, preset: Preset) -> None:
        super().__init__()
        if preset.stem not in STEMS:
            raise unknown("stem of audio/separate", preset.stem, STEMS)
        net = separator_options(preset.model)
        self.rate, self.speakers = int(fitted["rate"]), int(fitted["speakers"])
        self.hop = max(2, round(self.rate * net.window_ms / 1000 / net.overlap))
        self.width = net.overlap * self.hop
        self.pairs, self.mask, self.dropout = self.width // 2 + 1, net.mask, net.dropout
        kept = net.start == "fixed"
        filters = (
            Transform(self.width, net.overlap) if kept else Filters(self.width, net.overlap, net.start == "random")
        )
        self.filters: Filters | Transform = filters
        self.register_buffer("mean", torch.zeros(self.pairs))
        self.register_buffer("std", torch.ones(self.pairs))
        dim = preset.backbone.stages[0].dim
        self.embed = nn.Linear(self.pairs, dim)
        causal = frozenset({0} if preset.causal else ())
        self.backbone = build_backbone(preset.backbone, Tokens(rank=1, causal_axes=causal))
        self.head = nn.Linear(self.backbone.dim, self.speakers * self.pairs * (1 if net.mask == "share" else 2))

    def levelled(
        self, wave: Float[Tensor, "B T"], length: Int[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B 1"]]:
        """Every mixture at power 1 and zero behind its end, and what it was divided by."""
        real = torch.arange(wave.shape[1], device=wave.device) < length[:, None]
        wave = wave.masked_fill(~real, 0.0)
        power = wave.square().sum(1, keepdim=True) / length[:, None].clamp_min(1)
        level = torch.where(power > 1e-12, power.clamp_min(1e-12).sqrt(), 1.0)
        return wave / level, level

    def heard(
        self, wave: Float[Tensor, "B T"], length: Int[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B N F2"], Bool[Tensor, "B N"]]:
        """What the filters hear of levelled mixtures, and which frames touch a sample of their own mixture."""
        before = self.width - self.hop
        count = whole_blocks(wave.shape[1] + before, self.hop)
        wave = F.pad(wave, (before, count * self.hop - wave.shape[1]))
        frames = wave.unfold(1, self.width, self.hop)
        at = torch.arange(frames.shape[1], device=wave.device) * self.hop
        return self.filters.there(frames), at < length[:, None] + before

    def loudness(self, z: Float[Tensor, "B N F2"]) -> Float[Tensor, "B N F"]:
        """The logarithm of what each pair hears."""
        a, b = z.chunk(2, -1)
        return torch.log((a.square() + b.square() + 1e-8).sqrt() + FLOOR)

    def masks(self, y: Float[Tensor, "B N M"], z: Float[Tensor, "B N F2"]) -> Float[Tensor, "B S N F2"]:
        """What the filters hear of each speaker."""
        y = y.unflatten(2, (self.speakers, -1)).transpose(1, 2)
        if self.mask == "share":
            return y.softmax(1).repeat(1, 1, 1, 2) * z[:, None]
        (u, v), (a, b) = (2 * y.tanh()).chunk(2, -1), z[:, None].chunk(2, -1)
        return torch.cat([u * a - v * b, u * b + v * a], -1)

    def joined(self, z: Float[Tensor, "B S N F2"], samples: int) -> Float[Tensor, "B S T"]:
        """Frames back to samples, added where they overlap."""
        frames = self.filters.back(z).flatten(0, 1).mT
        total = (frames.shape[2] - 1) * self.hop + self.width
        x = F.fold(frames, (1, total), (1, self.width), stride=(1, self.hop))
        before = self.width - self.hop
        return x[:, 0, 0, before : before + samples].unflatten(0, z.shape[:2])

    def forward(self, wave: Float[Tensor, "B T"], length: Int[Tensor, "B"]) -> Float[Tensor, "B S T"]:
        """Samples, and how many of each mixture are its own -> speakers, zero behind each mixture's end."""
        samples = wave.shape[1]
        with torch.autocast(wave.device.type, enabled=False):
            wave, level = self.levelled(wave.float(), length)
            z, real = self.heard(wave, length)
            x = (self.loudness(z) - self.mean) / self.std
        layout = Layout((x.shape[1],), mask=real)
        x, layout = self.backbone(self.embed(layout.clean(x)), layout)
        y = self.head(F.dropout(x, self.dropout, self.training))
        with torch.autocast(wave.device.type, enabled=False):
            found = self.joined(self.masks(y.float(), z), samples) * level[:, :, None]
        behind = torch.arange(samples, device=wave.device) >= length[:, None]
        return found.masked_fill(behind[:, None], 0.0)
