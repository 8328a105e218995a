"""The classifier of spectra on a lattice, run fully convolutionally over windows of any size.

Shapes: B windows, b bands, J wavelengths (tokens), M moments, d width, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from shared_backbones.backbone import Backbone, BackboneSpec, LayerSpec, StageSpec, Tokens
from shared_backbones.errors import BadRequest, unknown
from shared_backbones.layout import Layout
from shared_backbones.presets import Preset
from shared_backbones.stems import SpectrumStem

from .reach import measured_reach

Model = TypeVar("Model", bound="SceneFeatures")
STEMS = ("pixels", "spectrum", "volume")
MODEL_OPTIONS = {"spatial", "skip", "dropout"}
PIXELS_AT_ONCE = 4096  # spectra that a spectral backbone takes in one piece when no gradient is kept


class Moments(nn.Module):
    """Standardised spectra read at fixed wavelengths: (n, b) -> (n, J, M) with a weight for every band that is there.

    The linear map is the spectrum stem's; a band that is missing at a pixel only lowers the weights there.
    """

    mean: Tensor
    std: Tensor
    nm: Tensor
    to_moments: Tensor

    def __init__(self, stem: SpectrumStem, nm: Sequence[float], mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("nm", torch.tensor(nm, dtype=torch.float32))
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))
        response, real = stem.response(self.nm, torch.ones(len(nm), dtype=torch.bool))
        if not bool(real.any()):
            raise BadRequest(
                f"no band lies near the wavelengths of the stem ({stem.centres.min():g} to {stem.centres.max():g} nm)"
            )
        self.register_buffer("to_moments", response, persistent=False)

    def forward(self, x: Float[Tensor, "n b"], seen: Bool[Tensor, "n b"]) -> tuple[Tensor, Tensor]:
        """Moments (n, J, M), and True for the tokens (n, J) that any band speaks for."""
        j, m, b = self.to_moments.shape
        share = self.to_moments[:, 0]  # the weights of the bands: their cosine of order 0 is 1
        z, whole = (x - self.mean) / self.std, bool(seen.all())
        if not whole:
            z = z.masked_fill(~seen, 0.0)
        moments = (z @ self.to_moments.reshape(j * m, b).T).reshape(-1, j, m)
        if whole:
            return moments, (share.sum(-1) > 0.5).expand(len(x), j)
        total = seen.to(x.dtype) @ share.T
        return moments / total.clamp_min(1e-6)[..., None], total > 1e-6


def _real_only(moments: Float[Tensor, "n J M"], real: Bool[Tensor, "n J"]) -> Float[Tensor, "n M2"]:
    """Moments of all tokens side by side, 0 at tokens that no band speaks for."""
    return (moments if bool(real.all()) else moments.masked_fill(~real[..., None], 0.0)).flatten(1)


class PixelStem(nn.Module):
    """A pixel's moments become one token: what a backbone on the (rows, columns) lattice reads."""

    def __init__(self, tokens: int, moments: int, dim: int) -> None:
        super().__init__()
        self.embed = nn.Linear(tokens * moments, dim)

    def forward(self, moments: Float[Tensor, "n J M"], real: Bool[Tensor, "n J"]) -> Float[Tensor, "n d"]:
        return self.embed(_real_only(moments, real))


class SpectralBackbone(nn.Module):
    """A pixel's moments become tokens along the spectrum, mixed by a backbone and averaged."""

    def __init__(self, stem: SpectrumStem, backbone: Backbone) -> None:
        super().__init__()
        self.stem, self.backbone = stem, backbone

    def forward(self, moments: Float[Tensor, "n J M"], real: Bool[Tensor, "n J"]) -> Float[Tensor, "n d"]:
        at_once = len(moments) if torch.is_grad_enabled() else PIXELS_AT_ONCE
        pieces = [self._piece(m, r) for m, r in zip(moments.split(at_once), real.split(at_once), strict=True)]
        return torch.cat(pieces) if pieces else moments.new_zeros(0, self.backbone.dim)

    def _piece(self, moments: Tensor, real: Tensor) -> Tensor:
        n, j, _ = moments.shape
        place = self.stem.centres[None, :, None].expand(n, -1, 1)
        mask = None if bool(real.all()) else real
        x = self.stem.embed(moments) + self.stem.place
        y, layout = self.backbone(x, Layout((j,), mask=mask, positions=place))
        y = layout.clean(y)
        return y.sum(1) / layout.counts(y)[:, 0]


class VolumeBackbone(nn.Module):
    """A window's moments become tokens of a volume, (wavelengths, rows, columns), mixed jointly and averaged per pixel.

    The 3-D tokens of "SpectralGPT: Spectral Foundation Model" (Hong et al. 2024), here one for every pixel and
    wavelength, so that each pixel has an answer that does not depend on where the window begins.
    """

    def __init__(self, stem: SpectrumStem, backbone: Backbone) -> None:
        super().__init__()
        self.stem, self.backbone = stem, backbone

    def mix(self, x: Float[Tensor, "B J N d"], real: Bool[Tensor, "B J N"], axes: tuple[int, int]) -> Tensor:
        """Tokens of a volume -> the mean over each pixel's real ones, (B, N, d)."""
        mask = None if bool(real.all()) else real.flatten(1)
        y, layout = self.backbone(x.flatten(1, 2), Layout((x.shape[1], *axes), mask=mask))
        y = layout.clean(y).unflatten(1, (x.shape[1], x.shape[2]))
        return y.sum(1) / real.sum(1).clamp_min(1)[..., None].to(y.dtype)

    def forward(
        self, moments: Float[Tensor, "n J M"], real: Bool[Tensor, "n J"], valid: Bool[Tensor, "B rows cols"]
    ) -> Float[Tensor, "n d"]:
        """Features of the valid pixels, in row-major order."""
        b, rows, cols = valid.shape
        flat, (j, _) = valid.flatten(), moments.shape[1:]
        tokens = self.stem.embed(moments) + self.stem.place
        x = tokens.new_zeros(len(flat), j, tokens.shape[-1])
        x[flat] = tokens
        there = real.new_zeros(len(flat), j)
        there[flat] = real
        x, there = (t.unflatten(0, (b, rows * cols)).transpose(1, 2) for t in (x, there))
        return self.mix(x, there, (rows, cols)).flatten(0, 1)[flat]


def _rows(options: Sequence[Mapping[str, Any]]) -> tuple[LayerSpec, ...]:
    layers: list[LayerSpec] = []
    for row in options:
        rest = dict(row)
        if "mixer" not in rest:
            raise BadRequest(f"model.spatial: every layer names its mixer, got {dict(row)}")
        times, mixer = int(rest.pop("times", 1)), rest.pop("mixer")
        channel, channel_options = rest.pop("channel", "mlp"), rest.pop("channel_options", None) or {}
        layers += [LayerSpec(mixer, rest, channel, channel_options)] * times
    return tuple(layers)


class LinearSkip(nn.Module):
    """A linear classifier of spectra averaged over a square around each pixel: the bar that depth has to clear.

    Averaging the scores is averaging the spectra, and far cheaper. Weights and ``radius`` have a closed form; see
    :mod:`.linear`.
    """

    radius: Tensor

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(classes, features))
        self.bias = nn.Parameter(torch.zeros(classes))
        self.register_buffer("radius", torch.zeros((), dtype=torch.long))

    def weigh(self, x: Float[Tensor, "n M"]) -> Float[Tensor, "n K"]:
        return x @ self.weight.T

    def average(
        self, scores: Float[Tensor, "B K rows cols"], valid: Bool[Tensor, "B rows cols"]
    ) -> Float[Tensor, "B K rows cols"]:
        """Mean over the measured pixels of the square, plus the bias; ``scores`` is 0 elsewhere."""
        mean = box_mean(scores, valid, int(self.radius))
        return (mean + self.bias[:, None, None]) * valid[:, None]


def box_mean(
    x: Float[Tensor, "B C rows cols"], valid: Bool[Tensor, "B rows cols"], radius: int
) -> Float[Tensor, "B C rows cols"]:
    """Mean over the valid pixels of the square of ``radius`` around each pixel; ``x`` must be 0 at the others."""
    if radius == 0:
        return x
    side = 2 * radius + 1
    share = F.avg_pool2d(valid[:, None].to(x.dtype), side, stride=1, padding=radius)
    return F.avg_pool2d(x, side, stride=1, padding=radius) / share.clamp_min(0.5 / side**2)


class SceneFeatures(nn.Module):
    """Windows of a scene -> features of every pixel, by a preset.

    standardise -> moments at fixed wavelengths -> token(s) of each pixel -> local mixing on (rows, columns).
    """

    def __init__(
        self, nm: Sequence[float], mean: Sequence[float], std: Sequence[float], preset: Preset, patch_radius: int
    ) -> None:
        super().__init__()
        if preset.stem not in STEMS:
            raise unknown(f"stem of preset {preset.name!r} for scenes", preset.stem, STEMS)
        for option in preset.model:
            if option not in MODEL_OPTIONS:
                raise unknown("option of the model", option, MODEL_OPTIONS)
        spec = preset.backbone
        stem = SpectrumStem(spec.stages[0].dim, **preset.stem_options)
        self.tokens = (len(stem.centres), stem.basis)
        self._stem_options = {"dim": 1, **preset.stem_options}
        self.moments = Moments(stem, nm, mean, std)
        spatial = _rows(preset.model.get("spatial", ()))
        if spatial and preset.stem != "spectrum":
            raise BadRequest("model.spatial is for presets with the stem 'spectrum'; here the stages are spatial")
        if preset.stem == "pixels":
            self.spectral: nn.Module = PixelStem(*self.tokens, spec.stages[0].dim)
            self.spatial: Backbone | None = _on_lattice(spec)
        elif preset.stem == "volume":
            self.spectral = VolumeBackbone(stem, _on_lattice(spec, rank=3))
            self.spatial = None
        else:
            backbone = Backbone(spec, SpectrumStem.tokens)
            self.spectral = SpectralBackbone(stem, backbone)
            shape = StageSpec(backbone.dim, spatial, spec.stages[-1].placement, spec.stages[-1].norm)
            self.spatial = _on_lattice(BackboneSpec((shape,), spec.layer_scale)) if spatial else None
        self.width = spec.stages[-1].dim
        self.spatial_reach = 0 if self.spatial is None else _reach(self.spatial, patch_radius)
        if isinstance(self.spectral, VolumeBackbone):
            self.spatial_reach = _volume_reach(self.spectral, self.tokens[0], patch_radius)

    def features(
        self, moments: Float[Tensor, "n J M"], real: Bool[Tensor, "n J"], valid: Bool[Tensor, "B rows cols"]
    ) -> Float[Tensor, "n d"]:
        """Features of the valid pixels (n of them, in row-major order), mixed with their neighbours'."""
        if isinstance(self.spectral, VolumeBackbone):
            return self.spectral(moments, real, valid)
        features, flat = self.spectral(moments, real), valid.flatten()
        if self.spatial is None:
            return features
        b, rows, cols = valid.shape
        lattice = features.new_zeros(len(flat), features.shape[1])
        lattice[flat] = features
        mask = None if bool(flat.all()) else flat.reshape(b, -1)
        mixed, _ = self.spatial(lattice.reshape(b, rows * cols, -1), Layout((rows, cols), mask=mask))
        return mixed.flatten(0, 1)[flat]

    def on_bands(self: Model, nm: Sequence[float]) -> Model:
        """The same model for scenes on other wavelengths (nm): statistics interpolated, the stem's map made anew."""
        other = copy.deepcopy(self)
        other._place_on(nm)
        return other

    def _place_on(self, nm: Sequence[float]) -> None:
        """Other wavelengths (nm): statistics interpolated, the stem's map made anew."""
        own = self.moments
        at = own.nm.cpu().double().numpy()
        order = np.argsort(at)

        def at_nm(values: Tensor) -> list[float]:
            found = np.interp(nm, at[order], values.cpu().double().numpy()[order])
            return [float(v) for v in found]

        stem = SpectrumStem(**self._stem_options)
        self.moments = Moments(stem, nm, at_nm(own.mean), at_nm(own.std)).to(own.nm.device)


class SceneClassifier(SceneFeatures):
    """Windows of a scene -> logits of every pixel: features, then a linear map.

    A second, linear path from the moments to the logits keeps the model from falling below a linear classifier.
    ``temperature`` divides the logits; it is 1 until it is fitted.
    """

    temperature: Tensor
    class_weight: Tensor

    def __init__(
        self,
        nm: Sequence[float],
        mean: Sequence[float],
        std: Sequence[float],
        class_weight: Sequence[float],
        preset: Preset,
        patch_radius: int,
    ) -> None:
        super().__init__(nm, mean, std, preset, patch_radius)
        classes = len(class_weight)
        self.dropout = nn.Dropout(float(preset.model.get("dropout", 0.0)))
        self.head = nn.Linear(self.width, classes)
        features = self.tokens[0] * self.tokens[1]
        self.skip = LinearSkip(features, classes) if preset.model.get("skip", True) else None
        if self.skip is not None:
            nn.init.zeros_(self.head.weight)  # at first the linear path speaks alone
            nn.init.zeros_(self.head.bias)
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("class_weight", torch.tensor(class_weight, dtype=torch.float32))

    @property
    def reach(self) -> int:
        """How far (pixels) the answer for a pixel depends on others."""
        return max(self.spatial_reach, 0 if self.skip is None else int(self.skip.radius))

    def linear_features(self, cube: Tensor, seen: Tensor) -> Float[Tensor, "B M rows cols"]:
        """What the linear path reads of every pixel, before any averaging; 0 where nothing was measured."""
        b, _, rows, cols = cube.shape
        moments, real = self.moments(cube.movedim(1, -1).flatten(0, 2), seen.movedim(1, -1).flatten(0, 2))
        return _real_only(moments, real).reshape(b, rows, cols, -1).movedim(-1, 1)

    def forward(
        self, cube: Float[Tensor, "B b rows cols"], seen: Bool[Tensor, "B b rows cols"]
    ) -> Float[Tensor, "B K rows cols"]:
        """Calibrated logits. What stands where ``seen`` is False has no effect; a pixel without any band gives 0s."""
        b, _, rows, cols = cube.shape
        valid = seen.any(1)
        flat = valid.flatten()  # (B rows cols)
        x = cube.movedim(1, -1).flatten(0, 2)[flat]
        moments, real = self.moments(x, seen.movedim(1, -1).flatten(0, 2)[flat])
        features = self.features(moments, real, valid)
        out = features.new_zeros(len(flat), len(self.class_weight))
        out[flat] = self.head(self.dropout(features))
        logits = out.reshape(b, rows, cols, -1).movedim(-1, 1)
        if self.skip is not None:
            linear = features.new_zeros(len(flat), len(self.class_weight))
            linear[flat] = self.skip.weigh(_real_only(moments, real))
            logits = logits + self.skip.average(linear.reshape(b, rows, cols, -1).movedim(-1, 1), valid)
        return logits / self.temperature


def _on_lattice(spec: BackboneSpec, rank: int = 2) -> Backbone:
    if any(stage.stride > 1 for stage in spec.stages):
        raise BadRequest("a scene classifier answers for every pixel: stages of stride 1 only")
    return Backbone(spec, Tokens(rank=rank))


def _reach(spatial: Backbone, limit: int) -> int:
    probe = copy.deepcopy(spatial).double().eval()

    def mix(x: Float[Tensor, "1 C rows cols"]) -> Float[Tensor, "1 K rows cols"]:
        axes = (x.shape[2], x.shape[3])
        y, _ = probe(x.flatten(2).mT, Layout(axes))
        return y.mT.unflatten(2, axes)

    return measured_reach(mix, spatial.dim_in, limit)


def _volume_reach(volume: VolumeBackbone, count: int, limit: int) -> int:
    probe = copy.deepcopy(volume).double().eval()
    width = volume.stem.embed.out_features

    def mix(x: Float[Tensor, "1 C rows cols"]) -> Float[Tensor, "1 K rows cols"]:
        axes = (x.shape[2], x.shape[3])
        tokens = x.reshape(1, count, width, -1).transpose(2, 3)
        y = probe.mix(tokens, torch.ones(tokens.shape[:3], dtype=torch.bool), axes)
        return y.mT.unflatten(2, axes)

    return measured_reach(mix, count * width, limit)
