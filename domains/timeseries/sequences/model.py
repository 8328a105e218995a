"""Sequences of events -> scores: words of one shared space, numbers, times, any backbone, a pooled head.

"Using Sequences of Life-events to Predict Human Lives" (Savcisens et al. 2024) and "FlowTransformer" (Manocchio et al.
2024): an event is the sum of its words' vectors, of a map of its numbers and of its times.
Shapes: B examples, N events.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from domains.options import model_options
from domains.task import Batch, Fitted
from shared_backbones.backbone import Tokens, build_backbone
from shared_backbones.errors import unknown
from shared_backbones.heads import ClassHead
from shared_backbones.layout import Layout
from shared_backbones.presets import Preset

PERIODS = (7.0, 30.4, 365.25)  # days; of a column of plain numbers, its own units


class NetOptions(BaseModel):
    """The ``model:`` options of a preset for timeseries/events."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    masked: float = Field(0.15, ge=0, lt=1, description="share of events whose words are hidden in training")
    masked_weight: float = Field(0.3, ge=0, description="of that guess in the loss")
    dropout: float = Field(0.1, ge=0, lt=1)


def net_options(given: Mapping[str, Any]) -> NetOptions:
    """Checked options; raises BadRequest."""
    return model_options(NetOptions, given, "timeseries/events")


class EventStem(nn.Module):
    """Events -> tokens with their times as positions. Word 0 of each category is "unknown", word 1 is "hidden"."""

    tokens = Tokens(rank=1, provides=frozenset({"positions"}))
    mean: Tensor
    std: Tensor

    def __init__(self, fitted: Fitted, dim: int) -> None:
        super().__init__()
        sizes = [2 + len(v) for v in fitted["vocabulary"]]
        self.first = [sum(sizes[:i]) for i in range(len(sizes))]
        self.words = nn.Embedding(max(1, sum(sizes)), dim)
        nn.init.normal_(self.words.weight, std=0.5)  # of the size of what numbers and times add
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(fitted[name], dtype=torch.float64))
        self.unit = float(fitted["gap"])
        self.embed = nn.Linear(2 * len(fitted["mean"]) + 2 + 2 * len(PERIODS), dim)

    def forward(self, batch: Batch, hidden: Bool[Tensor, "B N"] | None = None) -> tuple[Float[Tensor, "B N C"], Layout]:
        """``hidden``: events whose words are kept back."""
        words, time, seen = batch["words"], batch["time"], batch["seen"]
        if hidden is not None:
            words = torch.where(hidden[..., None], 1, words)
        z = (batch["numbers"] - self.mean) / self.std
        missing = z.isnan()
        gap = torch.diff(time, dim=1, prepend=time[:, :1]).clamp_min(0)
        turn = 2 * math.pi * time[..., None] / torch.tensor(PERIODS, device=time.device, dtype=time.dtype)
        since = (time - time[:, :1]).clamp_min(0)
        spans = torch.log1p(torch.stack([gap, since], 2) / self.unit)
        parts = [z.nan_to_num(0.0).clamp(-20, 20), missing, spans, turn.sin(), turn.cos()]
        tokens = self.embed(torch.cat([p.float() for p in parts], 2).masked_fill(~seen[..., None], 0.0))
        if self.first:
            shift = torch.tensor(self.first, device=words.device)
            tokens = tokens + self.words(words + shift).sum(2)
        places = ((time - time[:, :1]) / self.unit).float()[..., None]
        layout = Layout((time.shape[1],), mask=seen, positions=places.masked_fill(~seen[..., None], 0.0))
        return layout.clean(tokens), layout


class EventNet(nn.Module):
    """A batch of :class:`~.items.EventItems` -> scores of the classes."""

    temperature: Tensor

    def __init__(self, fitted: Fitted, preset: Preset) -> None:
        super().__init__()
        if preset.stem != "tokens":
            raise unknown("stem of timeseries/events", preset.stem, ["tokens"])
        self.options = net_options(preset.model)
        self.stem = EventStem(fitted, preset.backbone.stages[0].dim)
        causal = frozenset({0} if preset.causal else ())
        self.backbone = build_backbone(preset.backbone, replace(EventStem.tokens, causal_axes=causal))
        self.head = ClassHead(self.backbone.dim, len(fitted["classes"]), **preset.head)
        first = len(fitted["vocabulary"][0]) + 2 if fitted["vocabulary"] else 0
        self.guess = nn.Linear(self.backbone.dim, first) if first else None
        self.register_buffer("temperature", torch.ones(()))

    def mixed(self, batch: Batch, hidden: Bool[Tensor, "B N"] | None = None) -> tuple[Float[Tensor, "B N C"], Layout]:
        """Tokens after the backbone."""
        x, layout = self.stem(batch, hidden)
        x, layout = self.backbone(F.dropout(x, self.options.dropout, self.training), layout)
        return F.dropout(x, self.options.dropout, self.training), layout

    def forward(self, batch: Batch) -> Float[Tensor, "B K"]:
        """Scores; divided by ``temperature`` they are log-odds."""
        return self.head(*self.mixed(batch)).float()

    def hidden_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Cross-entropy of the first category's words at events where all words were kept back; 0 where none is."""
        seen = batch["seen"]
        hidden = seen & (torch.rand(seen.shape, device=seen.device) < self.options.masked)
        if self.guess is None or not bool(hidden.any()):
            return seen.new_zeros((), dtype=torch.float32)
        x, _ = self.mixed(batch, hidden)
        return F.cross_entropy(self.guess(x)[hidden].float(), batch["words"][..., 0][hidden])
