"""The network of `hyperspectral/pretrain`: the encoder of `hyperspectral/classify`, and a small decoder.

What is hidden counts as not measured: a band's weight falls to zero where it is hidden, and a pixel without any band
is masked in the lattice, which no mixer reads. So nothing of it reaches the encoder.

Shapes: B windows, b bands, w width of the decoder, n pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from shared_backbones.backbone import Backbone, BackboneSpec, LayerSpec, StageSpec, Tokens
from shared_backbones.layout import Layout
from shared_backbones.presets import Preset

from ...task import Fitted
from ..model import SceneFeatures
from .config import PretrainOptions


@dataclass(frozen=True)
class Restored:
    """What the decoder makes of windows and what they are, in deviations of each band; where that was hidden."""

    made: Float[Tensor, "B b rows cols"]
    truth: Float[Tensor, "B b rows cols"]
    hidden: Bool[Tensor, "B b rows cols"]


def halved(
    x: Float[Tensor, "B b rows cols"], seen: Bool[Tensor, "B b rows cols"]
) -> tuple[Float[Tensor, "B b r c"], Bool[Tensor, "B b r c"]]:
    """Means over the measured values of 2 x 2 pixels, and where there are any."""
    share = F.avg_pool2d(seen.to(x.dtype), 2)
    return F.avg_pool2d(x.masked_fill(~seen, 0.0), 2) / share.clamp_min(0.25), share > 0


class Finer(nn.Module):
    """Twice the resolution by a transposed convolution and a residual block of two convolutions, then bands.

    As in "Rethinking Transformers Pre-training for Multi-Spectral Satellite Imagery" (Noman et al. 2024).
    """

    def __init__(self, width: int, bands: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.to_bands = nn.Conv2d(width, bands, 1)

    def forward(self, y: Float[Tensor, "B w r c"]) -> Float[Tensor, "B b rows cols"]:
        y = self.up(y)
        return self.to_bands(y + self.second(F.gelu(self.first(y))))


class MaskedScenes(SceneFeatures):
    """Windows of a scene and what is hidden of them -> the whole windows.

    probe: a linear map from features to classes, where there are labels; set after training, nothing learns from it.
    """

    probe: Tensor
    order: Tensor

    def __init__(self, fitted: Fitted, preset: Preset, options: PretrainOptions) -> None:
        super().__init__(fitted["nm"], fitted["mean"], fitted["std"], preset, options.patch_radius)
        bands, width = len(fitted["nm"]), options.decoder_dim
        self.join = nn.Linear(self.width, width)
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)
        layer = LayerSpec("depthwise", {"kernel": 7}, "mlp", {"ratio": 2.0})
        spec = BackboneSpec((StageSpec(width, (layer,) * options.decoder_depth),))
        self.decoder = Backbone(spec, Tokens(rank=2))
        self.to_bands = nn.Linear(width, bands)
        self.finer = Finer(width, bands) if options.scales == 2 else None
        self.register_buffer("order", torch.tensor(fitted["nm"]).argsort(), persistent=False)
        self.register_buffer("probe", torch.zeros(len(fitted["class_ids"]), self.width + 1))

    def standardised(self, cube: Tensor, seen: Tensor) -> Float[Tensor, "B b rows cols"]:
        """In deviations of each band; 0 where nothing was measured."""
        mean, std = self.moments.mean[:, None, None], self.moments.std[:, None, None]
        return ((cube - mean) / std).masked_fill(~seen, 0.0)

    def encoded(
        self, cube: Float[Tensor, "B b rows cols"], seen: Bool[Tensor, "B b rows cols"]
    ) -> Float[Tensor, "n d"]:
        """Features of the pixels that have a measured band, in row-major order."""
        flat = seen.any(1).flatten()
        x, there = cube.movedim(1, -1).flatten(0, 2)[flat], seen.movedim(1, -1).flatten(0, 2)[flat]
        moments, real = self.moments(x, there)
        return self.features(moments, real, seen.any(1))

    def decoded(
        self, features: Float[Tensor, "n d"], valid: Bool[Tensor, "B r c"], there: Bool[Tensor, "B r c"]
    ) -> Float[Tensor, "B w r c"]:
        """Features of the valid pixels -> a lattice; the mask token stands at the others that are ``there``."""
        b, rows, cols = valid.shape
        joined = self.join(features)
        lattice = self.mask_token.to(joined.dtype).repeat(valid.numel(), 1)
        lattice[valid.flatten()] = joined
        mask = None if bool(there.all()) else there.flatten(1)
        y, _ = self.decoder(lattice.view(b, rows * cols, -1), Layout((rows, cols), mask=mask))
        return y.mT.unflatten(2, (rows, cols))

    def bands(self, y: Float[Tensor, "B w r c"]) -> Float[Tensor, "B b r c"]:
        return self.to_bands(y.movedim(1, -1)).movedim(-1, 1)

    def forward(
        self,
        cube: Float[Tensor, "B b rows cols"],
        seen: Bool[Tensor, "B b rows cols"],
        hidden: Bool[Tensor, "B b rows cols"],
    ) -> tuple[Restored, Restored | None]:
        """The windows restored, and at half their resolution where that is what the encoder saw."""
        truth, visible = self.standardised(cube, seen), seen & ~hidden
        if self.finer is None:
            valid, there = visible.any(1), seen.any(1)
            y = self.decoded(self.encoded(cube, visible), valid, there)
            return Restored(self.bands(y), truth, hidden), None
        small, shown = halved(cube, visible)
        coarse, there = halved(truth, seen)
        y = self.decoded(self.encoded(small, shown), shown.any(1), there.any(1))
        return Restored(self.finer(y), truth, hidden), Restored(self.bands(y), coarse, there & ~shown)

    def error(self, found: Restored, sequence: float) -> Float[Tensor, ""]:
        """Sum of squared errors at hidden values, plus those of the steps from band to band that touch one.

        The second target is the spectrum as a sequence, as in "SpectralGPT" (Hong et al. 2024).
        """
        off = ((found.made - found.truth) * found.hidden)[:, self.order]
        total = off.square().sum()
        if not sequence:
            return total
        return total + sequence * off.diff(dim=1).square().sum()
