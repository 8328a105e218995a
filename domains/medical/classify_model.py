"""The network of `medical/classify`: canvas, statistics, stem, backbone of any mixers, head.

Shapes: B images, C channels, H rows, W columns, S side of the canvas, N tokens, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from domains.options import model_options
from shared_backbones.assemble import LATTICE_STEMS, STEMS
from shared_backbones.backbone import Tokens, build_backbone
from shared_backbones.errors import BadRequest, unknown
from shared_backbones.heads import POOLS, ClassHead
from shared_backbones.options import as_declared, check_options
from shared_backbones.presets import Preset

from ..task import Fitted
from .canvas import letterbox
from .classify_config import ClassifyOptions
from .isotonic import curved, identity
from .scales import ScaleStem

IMAGE_STEMS: dict[str, type[nn.Module]] = {**{n: STEMS[n] for n in sorted(LATTICE_STEMS)}, "scales": ScaleStem}


class HeadOptions(BaseModel):
    """The ``model:`` options of a preset for `medical/classify`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pool: str = Field("mean", description="how tokens become one vector")
    hidden: int = Field(0, ge=0, description="width of the head's hidden layer")
    norm: bool = Field(False, description="whether the pooled vector is normalised")
    dropout: float = Field(0.0, ge=0, lt=1, description="of the tokens before the head")


def head_options(given: Mapping[str, Any]) -> HeadOptions:
    """Checked options; raises BadRequest naming the option, what is allowed and what was got."""
    options = model_options(HeadOptions, given, "medical/classify")
    if options.pool not in POOLS:
        raise unknown("pool", options.pool, POOLS)
    return options


def balancing(fitted: Fitted) -> Float[Tensor, "L"]:
    """Weights with which every class counts alike, or of labels where they are true, at most 20."""
    true, known = torch.tensor(fitted["true"]).clamp_min(1), torch.tensor(fitted["known"], dtype=torch.float32)
    if fitted["exclusive"]:
        return known / (len(true) * true)
    return ((known - true).clamp_min(1) / true).clamp_max(20)


class ImageFront(nn.Module):
    """Images of any size within 0 .. 1 -> normalised canvases."""

    mean: Tensor
    std: Tensor

    def __init__(self, fitted: Fitted, own: bool) -> None:
        super().__init__()
        self.side, self.channels, self.own = int(fitted["side"]), int(fitted["channels"]), own
        self.register_buffer("mean", torch.tensor(fitted["mean"]).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(fitted["std"]).view(-1, 1, 1))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C S S"]:
        x = letterbox(x, self.side)
        if self.own:  # another exposure of the same image gives the same canvas
            mean = x.mean((1, 2, 3), keepdim=True)
            return (x - mean) / (x.square().mean((1, 2, 3), keepdim=True) - mean.square()).clamp_min(1e-6).sqrt()
        return (x - self.mean) / self.std


def build_stem(preset: Preset, channels: int, dim: int) -> nn.Module:
    """The stem that a preset names. Raises BadRequest for one that does not take images."""
    if preset.stem not in IMAGE_STEMS:
        raise unknown("stem of an image task", preset.stem, IMAGE_STEMS)
    cls = IMAGE_STEMS[preset.stem]
    check_options(f"stem {preset.stem!r}", cls, preset.stem_options)
    return cls(channels, dim, rank=2, **as_declared(cls, dict(preset.stem_options)))


class ImageClassifier(nn.Module):
    """Images -> logits of the labels.

    temperature: one for all classes, or one per label; threshold: probability from which on a label is called, at the
    specificity asked for; curves: of isotonic calibration, where that is asked for. All are set on validation.
    """

    temperature: Tensor
    threshold: Tensor
    curves: Tensor | None
    weight: Tensor | None

    def __init__(self, fitted: Fitted, preset: Preset, options: ClassifyOptions) -> None:
        super().__init__()
        if 2 not in preset.ranks:
            raise BadRequest(f"preset {preset.name!r} is for lattices of rank {list(preset.ranks)}; images have rank 2")
        asked = head_options(
            {k: v for k, v in {**preset.head, **preset.model}.items() if k not in ("act", "classifiers")}
        )
        labels = len(fitted["labels"])
        self.front = ImageFront(fitted, options.intensity == "image")
        self.stem = build_stem(preset, self.front.channels, preset.backbone.stages[0].dim)
        tokens: Tokens = self.stem.tokens  # type: ignore[assignment]
        self.backbone = build_backbone(preset.backbone, tokens)
        self.dropout = asked.dropout
        self.head = ClassHead(self.backbone.dim, labels, pool=asked.pool, hidden=asked.hidden, norm=asked.norm)
        self.register_buffer("temperature", torch.ones(1 if fitted["exclusive"] else labels))
        self.register_buffer("threshold", torch.full((labels,), 0.5))
        self.register_buffer("curves", identity(labels) if options.calibration == "isotonic" else None)
        self.exclusive = bool(fitted["exclusive"])
        self.register_buffer("weight", balancing(fitted) if options.balance else None, persistent=False)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B L"]:
        """Images within 0 .. 1, of any size -> logits."""
        tokens, layout = self.backbone(*self.stem(self.front(x)))
        return self.head(F.dropout(tokens, self.dropout, self.training), layout).float()

    def probabilities(self, logits: Float[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """Calibrated: a softmax where labels exclude each other, else a sigmoid each."""
        p = self.tempered(logits)
        return p if self.curves is None else curved(p, self.curves, self.exclusive)

    def tempered(self, logits: Float[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """By the temperature alone."""
        z = logits.double() / self.temperature.double()
        return z.softmax(1) if self.exclusive else z.sigmoid()
