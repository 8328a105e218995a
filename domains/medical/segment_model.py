"""The segmenter: stem, a U-shaped or plain backbone from the grammar, and a way back to every voxel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shared_backbones.assemble import LATTICE_STEMS, STEMS, stride_of
from shared_backbones.backbone import Backbone, BackboneSpec, Tokens, UNet, build_backbone
from shared_backbones.errors import BadRequest, unknown
from shared_backbones.layout import Layout
from shared_backbones.merging import Expand
from shared_backbones.mixers.gating import CONV
from shared_backbones.options import as_declared, check_options
from shared_backbones.presets import Preset

MODEL_OPTIONS = ("refine", "dropout")


def shortened(spec: BackboneSpec, stem: int, depth: int) -> BackboneSpec:
    """The sentence without the stages that would halve the lattice more than ``depth`` times, on both ways."""
    kept, stride = 0, stem
    for stage in spec.stages:
        stride *= stage.stride
        if kept and stride > 2**depth:
            break
        kept += 1
    if kept == len(spec.stages):
        return spec
    gone = len(spec.stages) - kept
    return replace(spec, stages=spec.stages[:kept], decoder=spec.decoder[gone:])


class Segmenter(nn.Module):
    """Normalised voxels -> logits of every voxel, at any extents.

    The stem's tokens go through the backbone; the tokens that come out are laid out in space again, as many per axis as
    the stem merged. ``refine``: channels of a 3-wide convolution that then reads them beside the input; 0: none.
    ``temperature`` divides the logits; it is 1 until it is fitted.
    """

    temperature: Tensor

    def __init__(self, preset: Preset, rank: int, channels: int, classes: int, depth: int) -> None:
        super().__init__()
        if preset.stem not in LATTICE_STEMS:
            raise unknown(f"stem of preset {preset.name!r} for medical/segment", preset.stem, LATTICE_STEMS)
        if rank not in preset.ranks:
            raise BadRequest(
                f"preset {preset.name!r} declares lattices of rank {list(preset.ranks)}, the plan asks for {rank}: "
                f"choose another preset, or --set dimensions={preset.ranks[0]}"
            )
        for option in preset.model:
            if option not in MODEL_OPTIONS:
                raise unknown("option of the model", option, MODEL_OPTIONS)
        stem_stride = stride_of(replace(preset, backbone=BackboneSpec(preset.backbone.stages[:1])))
        stem_stride //= preset.backbone.stages[0].stride
        spec = shortened(preset.backbone, stem_stride, depth)
        self.stem = _stem(preset, channels, rank)
        self.backbone: Backbone | UNet = build_backbone(spec, Tokens(rank=rank))
        climbed = math.prod(stage.stride for stage in spec.stages) // math.prod(s.stride for s in spec.decoder)
        self.rank, self.channels, self.classes = rank, channels, classes
        refine = int(preset.model.get("refine", 0))
        self.dropout = nn.Dropout(float(preset.model.get("dropout", 0.0)))
        self.expand = Expand(self.backbone.dim, refine or classes, stem_stride * climbed, rank)
        self.refine = Refine(refine, channels, classes, rank) if refine else None
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, x: Float[Tensor, "B C *axes"]) -> Float[Tensor, "B K *axes"]:
        tokens, layout = self.stem(x)
        tokens, layout = self.backbone(tokens, layout)
        finest = Layout(tuple(x.shape[2:]))
        y = finest.fold(self.expand(self.dropout(tokens), layout, finest)).movedim(-1, 1)
        return (y if self.refine is None else self.refine(y, x)) / self.temperature


class Refine(nn.Module):
    """W act(conv3[y, x]): features of every voxel beside what was measured there -> logits."""

    def __init__(self, features: int, channels: int, classes: int, rank: int) -> None:
        super().__init__()
        self.conv = CONV[rank](features + channels, features, 3, padding=1)
        self.head = CONV[rank](features, classes, 1)

    def forward(self, y: Float[Tensor, "B F *axes"], x: Float[Tensor, "B C *axes"]) -> Float[Tensor, "B K *axes"]:
        return self.head(torch.relu(self.conv(torch.cat([torch.relu(y), x], 1))))


def _stem(preset: Preset, channels: int, rank: int) -> nn.Module:
    cls = STEMS[preset.stem]
    options: Mapping[str, Any] = dict(preset.stem_options)
    check_options(f"stem {preset.stem!r}", cls, options)
    return cls(channels, preset.backbone.stages[0].dim, rank=rank, **as_declared(cls, options))


def squeezed(x: Float[Tensor, "B C *axes"], across: int | None) -> Float[Tensor, "B C *flat"]:
    """Windows of one voxel across an axis become flat."""
    return x if across is None else x.squeeze(2 + across)


def unsqueezed(y: Float[Tensor, "B K *flat"], across: int | None) -> Float[Tensor, "B K *axes"]:
    """The inverse of :func:`squeezed`."""
    return y if across is None else y.unsqueeze(2 + across)


def permuted(order: Sequence[int], x: Float[Tensor, "B C *axes"]) -> Float[Tensor, "B C *other"]:
    """Spatial axes in another order."""
    return x.permute(0, 1, *(2 + axis for axis in order))
