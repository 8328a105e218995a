"""Objects -> tokens: steps of a regular series, spans of them, convolutions over them, or single observations.

Shapes: B objects, T steps, V channels, N observations, S static features, C width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from shared_backbones.backbone import Tokens
from shared_backbones.errors import BadRequest, unknown
from shared_backbones.layout import Layout
from shared_backbones.merging import build_merge
from shared_backbones.positions import LearnedPositions
from shared_backbones.stems import PatchStem

from ...task import Batch

REGULAR = ("tokens", "image", "patches")
PERIODS = 8  # sines and cosines of time, each


class Bilinear(nn.Module):
    """Each window by its own statistics, two ways: a z-score over time of every channel and one over channels of every
    step, each with learned scales and shifts, in a learned mixture. At most ``length`` steps.

    "Bilinear Input Normalization for Neural Networks in Financial Forecasting" (Tran et al. 2021).
    """

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        self.by_channel = nn.Parameter(torch.stack([torch.ones(channels), torch.zeros(channels)]))
        self.by_step = nn.Parameter(torch.stack([torch.ones(length), torch.zeros(length)]))
        self.shares = nn.Parameter(torch.zeros(2))

    def forward(self, x: Float[Tensor, "B T V"], seen: Bool[Tensor, "B T V"]) -> Float[Tensor, "B T V"]:
        over_time, over_channels = _z_scored(x, seen, 1), _z_scored(x, seen, 2)
        scale, shift = self.by_step[:, : x.shape[1], None]
        own, across = over_time * self.by_channel[0] + self.by_channel[1], over_channels * scale + shift
        share = self.shares.softmax(0)
        return share[0] * own + share[1] * across


def _z_scored(x: Float[Tensor, "B T V"], seen: Bool[Tensor, "B T V"], axis: int) -> Float[Tensor, "B T V"]:
    """Less the mean, over the deviation, of what was seen along an axis; 0 where nothing was."""
    count = seen.sum(axis, keepdim=True).clamp_min(1)
    away = (x - x.masked_fill(~seen, 0.0).sum(axis, keepdim=True) / count).masked_fill(~seen, 0.0)
    return away / ((away**2).sum(axis, keepdim=True) / count + 1e-8).sqrt()


class StepStem(nn.Module):
    """Regular series: values, which of them were seen, and the static features as constant channels.

    kind "tokens": one token per step; "patches": spans of steps; "image": convolutions over time, then learned places.
    """

    def __init__(self, kind: str, channels: int, static: int, dim: int, options: Mapping[str, Any]) -> None:
        super().__init__()
        width = 2 * channels + static
        options = {k: v for k, v in options.items() if k != "features"}  # counted here
        self.tokens = Tokens(rank=1)
        self.convs, self.positions = nn.ModuleList(), None
        if kind == "patches":
            self.patches: PatchStem | None = PatchStem(width, dim, **options)
            self.tokens = PatchStem.tokens
            return
        self.patches = None
        rows = options.get("layers", ()) if kind == "image" else ({"kernel": 1, "stride": 1},)
        wide = [{"norm": "none", "stride": 1, **row} for row in rows]
        for i, row in enumerate(wide):
            out = dim if i == len(wide) - 1 else row.get("dim", dim)
            row.pop("dim", None)
            self.convs.append(build_merge(row.pop("merge", "conv"), width, out, rank=1, **row))
            width = out
        if options.get("learned"):
            self.positions = LearnedPositions(dim, int(options["learned"]), 1)

    def forward(
        self, x: Float[Tensor, "B T V"], seen: Bool[Tensor, "B T V"], static: Float[Tensor, "B S"]
    ) -> tuple[Float[Tensor, "B M C"], Layout]:
        """Standardised values -> tokens; a step is real where any channel was seen."""
        constant = static[:, None].expand(-1, x.shape[1], -1)
        joined = torch.cat([x.masked_fill(~seen, 0.0), seen.to(x.dtype), constant], 2)
        real = seen.any(2)
        if self.patches is not None:
            return self.patches(joined, real)
        layout = Layout((x.shape[1],), mask=real)
        tokens = layout.clean(joined)
        for conv in self.convs:
            tokens, layout = conv(tokens, layout)
        return (tokens if self.positions is None else self.positions(tokens, layout)), layout


class ObservationStem(nn.Module):
    """Light curves as they were observed: a token per observation, its time stamp as its position.

    It is told the value less the object's own mean in that band, that mean, the error, the band, the time since the
    first and since the last observation, sines of time at fixed periods and at the object's own, and the static
    features.
    """

    tokens: ClassVar[Tokens] = Tokens(rank=1, provides=frozenset({"positions"}))
    band_mean: Tensor
    band_std: Tensor
    within: Tensor
    periods: Tensor

    def __init__(self, fitted: Mapping[str, Any], static: int, dim: int) -> None:
        super().__init__()
        self.bands, self.unit = len(fitted["channels"]), float(fitted["time_unit"])
        self.register_buffer("band_mean", torch.tensor(fitted["mean"], dtype=torch.float64))
        self.register_buffer("band_std", torch.tensor(fitted["std"], dtype=torch.float64))
        self.register_buffer("within", torch.tensor(fitted["within"], dtype=torch.float64))
        self.longest = max(float(fitted["span"]), 4 * self.unit)
        ends = math.log10(2 * self.unit), math.log10(2 * self.longest)
        self.register_buffer("periods", torch.logspace(*ends, PERIODS, dtype=torch.float64))
        self.embed = nn.Linear(5 + self.bands + 2 * PERIODS + 4 + static, dim)

    def forward(self, batch: Batch, static: Float[Tensor, "B S"]) -> tuple[Float[Tensor, "B N C"], Layout]:
        """A batch of light curves -> tokens."""
        seen, band, time = batch["seen"], batch["band"], batch["time"]
        hot = nn.functional.one_hot(band, self.bands).double() * seen[..., None]
        scaled = ((batch["value"] - self.band_mean[band]) / self.band_std[band]).masked_fill(~seen, 0.0)
        level = (hot * scaled[..., None]).sum(1) / hot.sum(1).clamp_min(1)  # (B, bands)
        own = level.gather(1, band)
        swing = (scaled - own) * self.band_std[band] / self.within[band]
        error = (batch["error"] / self.within[band]).float()
        noise = torch.where(error.isfinite(), error.clamp(1e-4, 1e4).log(), 0.0)
        gap = torch.diff(time, dim=1, prepend=time[:, :1]).clamp_min(0)
        turn = 2 * math.pi * (time[..., None] / self.periods)
        period = batch["features"][:, 0].double().exp()
        phase = 2 * math.pi * torch.where(period.isfinite()[:, None], time / period.nan_to_num(1.0)[:, None], 0.0)
        parts = [
            torch.stack([swing, own, torch.log1p(gap / self.unit), time / self.longest], 2),
            noise[..., None], hot, turn.sin(), turn.cos(),
            torch.stack([phase.sin(), phase.cos(), (2 * phase).sin(), (2 * phase).cos()], 2),
            static[:, None].expand(-1, time.shape[1], -1),
        ]  # fmt: skip
        layout = Layout((time.shape[1],), mask=seen, positions=(time / self.unit).float()[..., None])
        joined = torch.cat([p.float() for p in parts], 2).clamp(-50, 50)
        return layout.clean(self.embed(layout.clean(joined))), layout


def build_stem(
    kind: str, fitted: Mapping[str, Any], static: int, dim: int, options: Mapping[str, Any]
) -> StepStem | ObservationStem:
    """The stem of a preset for these objects. Raises BadRequest where it cannot read them."""
    if kind not in REGULAR:
        raise unknown("stem of timeseries/classify", kind, REGULAR)
    if fitted["regular"]:
        return StepStem(kind, len(fitted["channels"]), static, dim, options)
    if kind != "tokens":
        raise BadRequest(
            f"this preset's stem {kind!r} reads regular series, and these are light curves at any times: set grid=time "
            "or grid=phase, or take a preset whose stem is 'tokens'"
        )
    return ObservationStem(fitted, static, dim)
