"""The network of the audio tasks: front end, statistics, stem, backbone of any mixers. It carries its preprocessing.

Shapes: B clips, T samples, N frames, F features, M tokens, C width, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from domains.options import model_options
from shared_backbones.backbone import Tokens, build_backbone
from shared_backbones.blocks import whole_blocks
from shared_backbones.errors import BadRequest, unknown
from shared_backbones.heads import POOLS, ClassHead
from shared_backbones.layout import Layout
from shared_backbones.merging import build_merge
from shared_backbones.presets import Preset
from shared_backbones.slicing import narrowed, sliced

from ..task import Fitted
from .augment import coloured, spec_augment, warped
from .closed import ClosedForm
from .codes import CodesStem
from .config import AudioOptions
from .elastic import Narrow, checked
from .frontend import FrontEnd

STEMS = ("frames", "codes")


class NetOptions(BaseModel):
    """The ``model:`` options of a preset for the audio tasks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: tuple[dict[str, Any], ...] = Field((), description="convolutions over time and frequency, see ImageStem")
    layers: tuple[dict[str, Any], ...] = Field((), description="convolutions over time, after those")
    pool: str = Field("mean", description="how tokens become one vector")
    spans: int = Field(0, ge=0, description="pool so many overlapping spans of the clip side by side; 0: by ``pool``")
    hidden: int = Field(0, ge=0, description="width of the head's hidden layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="of the tokens before the head")
    skip: Literal["none", "logistic"] = Field(
        "none", description="audio/classify: what the scores are added to; logistic: a line on MFCC statistics"
    )
    width: float = Field(1.0, gt=0, le=1, description="share of the channels and heads that the sentence names")
    widths: tuple[float, ...] = Field((), description="at width 1: shares that are trained beside it, within it")


def net_options(given: Mapping[str, Any]) -> NetOptions:
    """Checked options; raises BadRequest naming the option, what is allowed and what was got."""
    options = model_options(NetOptions, given, "an audio task")
    if options.pool not in POOLS:
        raise unknown("pool", options.pool, POOLS)
    if not all(0 < w < 1 for w in options.widths) or len(set(options.widths)) < len(options.widths):
        raise BadRequest(f"model.widths must be different shares between 0 and 1, got {list(options.widths)}")
    return options


def strides_of(preset: Preset) -> list[int]:
    """By how much each step of a preset thins out time; a decoder climbs back up the last stages."""
    rows = [*preset.model.get("image", ()), *preset.model.get("layers", ())]
    spec = preset.backbone
    stages = spec.stages[: len(spec.stages) - len(spec.decoder)]
    return [s for s in [*(int(r.get("stride", 1)) for r in rows), *(stage.stride for stage in stages)] if s > 1]


def _merges(rows: Sequence[Mapping[str, Any]], width: int, dim: int, rank: int) -> nn.ModuleList:
    """Convolutions in turn; the last one's width is ``dim`` where it says none."""
    found = nn.ModuleList()
    for given in rows:
        row = {"stride": 1, "norm": "none", **given}
        out = row.pop("dim", dim)
        found.append(build_merge(row.pop("merge", "conv"), width, out, rank=rank, **row))
        width = out
    return found


class FrameStem(nn.Module):
    """Frames -> tokens: convolutions over the spectrogram as an image, its bands joined, convolutions over time.

    Masked frames never reach real tokens, and a token is real when any of its frames is.
    """

    def __init__(
        self, features: int, dim: int, image: Sequence[Mapping[str, Any]], layers: Sequence[Mapping[str, Any]]
    ) -> None:
        super().__init__()
        self.image = _merges(image, 1, dim, rank=2)
        bands, width = features, 1
        for row in image:
            bands, width = whole_blocks(bands, row.get("stride", 1)), row.get("dim", dim)
        self.embed = nn.Linear(bands * width, dim)
        self.layers = _merges(layers, dim, dim, rank=1)

    def forward(self, x: Float[Tensor, "B N F"], mask: Bool[Tensor, "B N"]) -> tuple[Float[Tensor, "B M C"], Layout]:
        n, f = x.shape[1:]
        if len(self.image):
            layout = Layout((n, f), mask=mask.repeat_interleave(f, 1))
            pixels = x.flatten(1)[..., None]
            for conv in self.image:
                pixels, layout = conv(pixels, layout)
            (n, f), seen = layout.axes, layout.mask
            assert seen is not None
            mask, x = seen.unflatten(1, (n, f))[..., 0], layout.clean(pixels).unflatten(1, (n, f)).flatten(2)
        layout = Layout((n,), mask=mask)
        tokens = self.embed(layout.clean(x))
        for conv in self.layers:
            tokens, layout = conv(tokens, layout)
        return tokens, layout


class AudioNet(nn.Module):
    """Waveform -> mixed tokens; a task adds its head.

    narrow: networks of other widths that run with slices of this one's parameters, and have no say in its state.
    """

    narrow: tuple[Narrow, ...] = ()
    classes_first: tuple[str, ...] = ()  # tensors whose first axis is no channels
    mean: Tensor
    std: Tensor
    temperature: Tensor

    def __init__(self, fitted: Fitted, preset: Preset, options: AudioOptions) -> None:
        super().__init__()
        if preset.stem not in STEMS:
            raise unknown("stem of an audio task", preset.stem, STEMS)
        net = net_options(preset.model)
        self.front_end = FrontEnd(int(fitted["rate"]), options.front_end)
        self.augment, self.dropout = options.augment, net.dropout
        front = options.front_end
        scale = {"db": 1.0, "ln": math.log(10) / 10}[front.log]  # of one decibel in the unit of the frames
        self.tract = 0.0 if front.kind == "mfcc" else options.augment.tract
        self.colours = options.augment.colour_db * scale if front.kind == "log_mel" else 0.0
        self.register_buffer("mean", torch.tensor(fitted["mean"]))
        self.register_buffer("std", torch.tensor(fitted["std"]))
        spec, self.width = narrowed(preset.backbone, net.width), net.width
        dim = spec.stages[0].dim
        features = self.front_end.features
        self.stem: nn.Module = (
            CodesStem(features, dim) if preset.stem == "codes" else FrameStem(features, dim, net.image, net.layers)
        )
        causal = frozenset({0} if preset.causal else ())
        self.backbone = build_backbone(spec, Tokens(rank=1, causal_axes=causal))
        self.register_buffer("temperature", torch.ones(()))

    def make_narrow(self, fitted: Fitted, preset: Preset, options: Any) -> None:
        """The networks that ``model.widths`` asks for beside one of width 1. Raises BadRequest."""
        widths = net_options(preset.model).widths if self.width == 1 else ()
        nets = []
        for width in widths:
            net = type(self)(fitted, replace(preset, model={**preset.model, "width": width, "widths": ()}), options)
            nets.append(checked(self, Narrow(net), width))
        self.narrow = tuple(nets)  # a tuple, so that they are no part of this module's state

    def adopt(self, wide: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of another run as this network can take them: cut to its width where it has less than all."""
        return sliced(wide, self, self.classes_first) if self.width < 1 else dict(wide)

    def train(self, mode: bool = True) -> AudioNet:
        for net in self.narrow:
            net.train(mode)
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> AudioNet:
        for net in self.narrow:  # to another device, in another precision
            net._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def frames(
        self, wave: Float[Tensor, "B T"], length: Int[Tensor, "B"], heard: Bool[Tensor, "B T"] | None = None
    ) -> tuple[Float[Tensor, "B N F"], Bool[Tensor, "B N"]]:
        """Normalised frames; while training at a tempo drawn for the batch, and with spans left out.

        ``heard``: the samples that levels are taken from, see :class:`FrontEnd`.
        """
        hop, change = None, self.augment.tempo
        if self.training and change:
            hop = max(1, round(self.front_end.hop * (1 + change * float(2 * torch.rand(()) - 1))))
        with torch.autocast(wave.device.type, enabled=False):  # powers of quiet sounds are below what bf16 tells apart
            x, mask = self.front_end(wave.float(), length, hop, heard)
            if self.training and self.tract:
                x = warped(
                    x, self.front_end.centres, torch.exp(self.tract * (2 * torch.rand(len(x), device=x.device) - 1))
                )
            if self.training and self.colours:
                x = coloured(x, self.colours)
            x = (x - self.mean) / self.std
        x = x.masked_fill(~mask[..., None], 0.0)
        return (spec_augment(x, mask, self.augment) if self.training else x), mask

    def mixed(self, x: Float[Tensor, "B N F"], mask: Bool[Tensor, "B N"]) -> tuple[Float[Tensor, "B M C"], Layout]:
        """Frames -> mixed tokens and which are real."""
        tokens, layout = self.backbone(*self.stem(x, mask))
        return F.dropout(tokens, self.dropout, self.training), layout

    def tokens(self, wave: Float[Tensor, "B T"], length: Int[Tensor, "B"]) -> tuple[Float[Tensor, "B M C"], Layout]:
        """Mixed tokens and which are real."""
        return self.mixed(*self.frames(wave, length))


def spans_of(x: Float[Tensor, "B M C"], layout: Layout, spans: int) -> Float[Tensor, "B S C"]:
    """Weighted means of the real tokens around ``spans`` places, evenly from a clip's start to its end.

    Weights fall linearly to a tenth of the peak where the next places stand, so that every span hears something of
    every clip, however short.
    """
    real = x.new_ones(x.shape[:2]) if layout.mask is None else layout.mask.to(x.dtype)
    at = (real.cumsum(1) - 0.5) / real.sum(1, keepdim=True).clamp_min(1)
    centres = (torch.arange(spans, device=x.device, dtype=x.dtype) + 0.5) / spans
    weight = (1 - spans * (at[:, None] - centres[:, None]).abs()).clamp_min(0.1 / spans) * real[:, None]
    return (weight / weight.sum(2, keepdim=True).clamp_min(1e-9)) @ layout.clean(x)


class AudioClassifier(AudioNet):
    """Waveform -> logits of the classes: the backbone's, or a closed form's and a share of the backbone's."""

    classes_first = ("head.scores.weight", "head.scores.bias")

    def __init__(self, fitted: Fitted, preset: Preset, options: AudioOptions) -> None:
        super().__init__(fitted, preset, options)
        net = net_options(preset.model)
        self.spans, width = net.spans, self.backbone.dim * max(1, net.spans)
        pool = "mean" if net.spans else net.pool  # of the one vector that the spans make
        self.head = ClassHead(width, len(fitted["classes"]), pool=pool, hidden=net.hidden)
        if net.skip != "none" and (net.widths or net.width < 1):
            raise BadRequest("model.skip stands beside one network of width 1; leave it out, or model.widths and width")
        self.closed = ClosedForm(int(fitted["rate"]), len(fitted["classes"])) if net.skip == "logistic" else None
        self.make_narrow(fitted, preset, options)

    def outputs(self, x: Float[Tensor, "B N F"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B K"]:
        """Frames -> logits of the backbone."""
        tokens, layout = self.mixed(x, mask)
        if self.spans:
            tokens, layout = spans_of(tokens, layout, self.spans).flatten(1)[:, None], Layout((1,))
        return self.head(tokens, layout).float()

    def forward(self, wave: Float[Tensor, "B T"], length: Int[Tensor, "B"]) -> Float[Tensor, "B K"]:
        """Samples, zero behind each clip's own ``length`` -> logits."""
        logits = self.outputs(*self.frames(wave, length))
        return logits if self.closed is None else self.closed(wave, length) + self.closed.gate * logits

    def every(
        self, wave: Float[Tensor, "B T"], length: Int[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B K"], list[Float[Tensor, "B K"]]]:
        """Logits of the backbone, and of the narrower ones within it, of the same frames."""
        x, mask = self.frames(wave, length)
        return self.outputs(x, mask), [net.within(self, x, mask) for net in self.narrow]
