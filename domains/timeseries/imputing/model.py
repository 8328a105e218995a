"""The filler: a seasonal profile, straight lines over the gaps of what is left, a map across series, and a backbone's
correction.

Shapes: B windows, L steps, V series, C places of the season, Q levels of intervals, K kinds of places in a gap.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from domains.options import model_options
from domains.task import Batch, Fitted
from shared_backbones.backbone import Tokens, build_backbone
from shared_backbones.errors import unknown
from shared_backbones.layout import Layout
from shared_backbones.presets import Preset

LEVELS = (80, 95)
KINDS = ("1", "2 - 3", "4 - 7", "8 - 15", "16 and more", "no value in the window")  # steps to the nearest seen one


class FillOptions(BaseModel):
    """The ``model:`` options of a preset for timeseries/impute."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dropout: float = Field(0.1, ge=0, lt=1, description="of the tokens before the backbone")


def fill_options(given: Mapping[str, Any]) -> FillOptions:
    """Checked options; raises BadRequest."""
    return model_options(FillOptions, given, "timeseries/impute")


def neighbours(seen: Bool[Tensor, "B L V"]) -> tuple[Int[Tensor, "B L V"], Int[Tensor, "B L V"]]:
    """The nearest seen step at or before each step, -1 where there is none; and at or after, L where there is none."""
    n = seen.shape[1]
    at = torch.arange(n, device=seen.device)[:, None].expand(seen.shape)
    before = torch.where(seen, at, -1).cummax(1).values
    after = torch.where(seen, at, n).flip(1).cummin(1).values.flip(1)
    return before, after


def straight(x: Float[Tensor, "B L V"], seen: Bool[Tensor, "B L V"]) -> Float[Tensor, "B L V"]:
    """Linear interpolation between seen values, the nearest one beyond them, 0 in a series with none."""
    n = x.shape[1]
    before, after = neighbours(seen)
    left, right = torch.where(before < 0, after, before), torch.where(after >= n, before, after)
    none = (before < 0) & (after >= n)
    left, right = left.masked_fill(none, 0), right.masked_fill(none, 0)
    at = torch.arange(n, device=x.device)[:, None]
    share = ((at - left).to(x.dtype) / (right - left).clamp_min(1)).clamp(0, 1)
    clean = x.masked_fill(~seen, 0.0)
    a, b = clean.gather(1, left), clean.gather(1, right)
    return (a + (b - a) * share).masked_fill(none, 0.0)


def kind_of(seen: Bool[Tensor, "B L V"]) -> Int[Tensor, "B L V"]:
    """How far the nearest seen value of the series is, as a place in KINDS (of a seen one: 0)."""
    n = seen.shape[1]
    before, after = neighbours(seen)
    at = torch.arange(n, device=seen.device)[:, None]
    far = 2 * n
    steps = torch.minimum(torch.where(before < 0, far, at - before), torch.where(after >= n, far, after - at))
    kind = steps.clamp_min(1).float().log2().floor().long().clamp_max(len(KINDS) - 2)
    return kind.masked_fill(steps >= n, len(KINDS) - 1)


class Filler(nn.Module):
    """Windows with gaps -> every value, z-scored by the training part; seen values come back as they are."""

    mean: Float[Tensor, "V"]
    std: Float[Tensor, "V"]
    profile: Float[Tensor, "C V"]
    across: Float[Tensor, "V V"]
    gate: Float[Tensor, ""]
    width: Float[Tensor, "Q K V"]

    def __init__(self, fitted: Fitted, preset: Preset) -> None:
        super().__init__()
        if preset.stem != "tokens":
            raise unknown("stem of timeseries/impute", preset.stem, ("tokens",))
        self.options = fill_options(preset.model)
        series = len(fitted["names"])
        self.register_buffer("mean", torch.tensor(fitted["mean"], dtype=torch.float64))
        self.register_buffer("std", torch.tensor(fitted["std"], dtype=torch.float64))
        self.register_buffer("profile", torch.zeros(int(fitted["cycle"]), series))
        self.register_buffer("across", torch.eye(series))
        self.register_buffer("gate", torch.ones(()))
        self.register_buffer("width", torch.zeros(len(LEVELS), len(KINDS), series))
        dim = preset.backbone.stages[0].dim
        self.embed = nn.Linear(3 * series, dim)
        self.backbone = build_backbone(preset.backbone, Tokens(rank=1))
        self.out = nn.Linear(self.backbone.dim, series)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def scaled(self, x: Float[Tensor, "B L V"], known: Bool[Tensor, "B L V"]) -> Float[Tensor, "B L V"]:
        """Original units -> z-scored, 0 where not known."""
        return ((x - self.mean) / self.std).float().masked_fill(~known, 0.0)

    def parts(self, batch: Batch) -> tuple[Float[Tensor, "B L V"], Float[Tensor, "B L V"]]:
        """Profile and straight lines, through the map across series; and the backbone's correction."""
        seen = batch["seen"]
        season = self.profile[batch["phase"]]
        z = self.scaled(batch["values"], seen)
        start = (season + straight(z - season, seen)) @ self.across
        rest = (z - season).masked_fill(~seen, 0.0)
        tokens = self.embed(torch.cat([start, rest, seen.float()], -1))
        tokens = F.dropout(tokens, self.options.dropout, self.training)
        found, _ = self.backbone(tokens, Layout((seen.shape[1],)))
        return start, self.out(found).float()

    def forward(self, batch: Batch) -> Float[Tensor, "B L V"]:
        start, correction = self.parts(batch)
        seen = batch["seen"]
        return torch.where(seen, self.scaled(batch["values"], seen), start + self.gate * correction)

    def half_width(self, seen: Bool[Tensor, "B L V"]) -> Float[Tensor, "Q B L V"]:
        """Half the width of the intervals around a filled value, z-scored; by how far the next seen value is."""
        kind = kind_of(seen)
        return torch.stack([w.gather(0, kind.flatten(0, 1)).view_as(kind) for w in self.width])
