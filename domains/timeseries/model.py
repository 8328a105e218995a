"""The forecaster: scaling, season, window mean and skip around a backbone; what goes in and comes out of it.

forecast = season ahead + window mean + skip(look-back) + backbone(look-back), all z-scored.
Shapes: B windows, L look-back, H horizon, V series, C season places, K context series, F features known ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from domains.options import model_options
from domains.task import Batch, Fitted
from shared_backbones.errors import unknown
from shared_backbones.presets import Preset

from .components import freeze
from .config import QUANTILES
from .intervals import LEAST_SPREAD, Intervals
from .oneshot import CALENDAR
from .residuals import RESIDUALS
from .windows import to_device

_EPSILON = 1e-5
PIECE = 512  # series at once on a CPU: activations of more fall out of its caches, at 1.4 to 1.9 times the seconds
LOSSES: dict[str, Callable[..., Tensor]] = {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.huber_loss}


class HeadOptions(BaseModel):
    """The ``model:`` options of a forecasting preset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    skip: Literal["none", "last", "ridge"] = "ridge"  # what the backbone's output is added to
    window: Literal["mean", "standard"] = (
        "standard"  # the backbone sees windows less their mean, or also over their std
    )
    cycle: bool = True  # a seasonal profile is taken out of the look-back and put back ahead
    calendar: bool = False  # the backbone's head sees hour, weekday, day of month and of year of the steps ahead
    dropout: float = Field(0.1, ge=0, lt=1)  # on the tokens before and after the backbone
    freeze: bool = False  # the backbone keeps the values that train.start gave it; its norms and all else are trained
    tune_skip: bool = False  # train the skip map and the profile further, from their closed-form values


def head_options(given: Mapping[str, Any]) -> HeadOptions:
    """Checked options; raises BadRequest naming the option, what is allowed and what was got."""
    return model_options(HeadOptions, given, "timeseries/forecast")


class Forecaster(nn.Module):
    """Look-backs in original units -> z-scored forecasts (B, H, V); :meth:`quantiles` adds the calibrated intervals.

    Buffers hold the scaling of the training part, so the saved model carries its preprocessing.
    """

    mean: Float[Tensor, "V"]
    std: Float[Tensor, "V"]
    past_mean: Float[Tensor, "P"]
    past_std: Float[Tensor, "P"]
    future_mean: Float[Tensor, "F"]
    future_std: Float[Tensor, "F"]
    static_mean: Float[Tensor, "S"]
    static_std: Float[Tensor, "S"]
    static: Float[Tensor, "V S"]
    offsets: Float[Tensor, "Q H V"]
    gate: Float[Tensor, ""]
    power: Float[Tensor, ""]
    rate: Float[Tensor, ""]

    def __init__(self, fitted: Fitted, preset: Preset) -> None:
        super().__init__()
        self.options = options = head_options(preset.model)
        self.lookback, self.horizon = int(fitted["lookback"]), int(fitted["horizon"])
        series, cycle = len(fitted["names"]), int(fitted["cycle"])
        vector = lambda key: torch.tensor(fitted[key], dtype=torch.float64)  # noqa: E731
        self.register_buffer("mean", vector("mean"))
        self.register_buffer("std", vector("std"))
        for role in ("past", "future", "static"):
            self.register_buffer(f"{role}_mean", vector(f"{role}_mean"))
            self.register_buffer(f"{role}_std", vector(f"{role}_std"))
        self.register_buffer("static", vector("static").reshape(series, -1))
        self.register_buffer("offsets", torch.zeros(len(QUANTILES), self.horizon, series))
        self.register_buffer("gate", torch.ones(()))  # see domains.timeseries.gating
        self.register_buffer("power", torch.zeros(()))  # see domains.timeseries.intervals
        self.register_buffer("rate", torch.zeros(()))  # see domains.timeseries.tracking
        self.cycle = nn.Parameter(torch.zeros(cycle, series), requires_grad=options.tune_skip)
        self.skip = nn.Linear(self.lookback, self.horizon, bias=False)
        nn.init.zeros_(self.skip.weight)  # the window mean, until a closed form takes its place
        self.skip.weight.requires_grad_(options.tune_skip)
        if preset.stem not in RESIDUALS:
            raise unknown("stem for timeseries/forecast", preset.stem, RESIDUALS)
        ahead = 2 * len(fitted["future_mean"]) + (CALENDAR if options.calendar else 0)
        more: dict[str, dict[str, Any]] = {
            "tokens": {"lattice": fitted.get("lattice")},
            "image": {"series": series, "each": fitted["reading"]["layout"] == "long"},
        }
        self.residual = RESIDUALS[preset.stem](
            preset, self.lookback, self.horizon,
            context=len(fitted["past_mean"]) + len(fitted["future_mean"]), ahead=ahead,
            static=self.static.shape[1], dropout=options.dropout, from_zero=options.skip != "none",
            **more.get(preset.stem, {}),
        )  # fmt: skip
        if options.freeze:
            freeze(self.residual)

    @property
    def any_series(self) -> bool:
        """Whether series that training never saw can be told too."""
        return bool(getattr(self.residual, "any_series", True))

    def adopt(self, there: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a training that starts from another run takes of it: the trained weights.

        Scaling, profile, closed-form map and intervals stay those of the new data, unless training moves them.
        """
        closed = () if self.options.tune_skip else ("skip.weight", "cycle")
        return {name: value for name, value in there.items() if name not in closed}

    def scaled(self, x: Float[Tensor, "B n V"], mask: Bool[Tensor, "B n V"]) -> Float[Tensor, "B n V"]:
        """Original units -> z-scored, 0 where missing."""
        return ((x - self.mean) / self.std).float().masked_fill(~mask, 0.0)

    def original(self, z: Float[Tensor, "*B V"]) -> Float[Tensor, "*B V"]:
        """z-scored -> original units, in double precision."""
        return z.double() * self.std + self.mean

    def _season(self, batch: Batch) -> Float[Tensor, "B n V"]:
        """The seasonal profile over look-back and horizon."""
        steps = torch.arange(-self.lookback, self.horizon, device=self.cycle.device)
        return self.cycle[(batch["phase"][:, None] + steps) % len(self.cycle)]

    def _skip(self, x: Float[Tensor, "B L V"], mask: Bool[Tensor, "B L V"]) -> Float[Tensor, "B H V"]:
        """What the backbone's output is added to, for look-backs less their mean."""
        if self.options.skip == "ridge":
            return self.skip(x.mT).mT
        if self.options.skip == "last":
            steps = torch.arange(self.lookback, device=x.device)[:, None]
            newest = torch.where(mask, steps, 0).amax(1, keepdim=True)
            return x.gather(1, newest).expand(-1, self.horizon, -1)
        return x.new_zeros(len(x), self.horizon, x.shape[2])

    def _context(self, batch: Batch) -> tuple[Float[Tensor, "B L W K"], Bool[Tensor, "B L W K"]]:
        """Past covariates, and future ones over the look-back, standardised; with their mask."""
        past, known = batch["covariates"], batch["known"][:, : self.lookback]
        parts = [
            (values - getattr(self, f"{role}_mean")) / getattr(self, f"{role}_std")
            for role, values in (("past", past), ("future", known))
            if values.shape[-1]
        ]
        if not parts:
            empty = past.new_zeros(*past.shape[:3], 0, dtype=torch.float32)
            return empty, torch.ones_like(empty, dtype=torch.bool)
        joined = torch.cat(_same_series(parts), -1)
        mask = ~joined.isnan()
        return joined.float().masked_fill(~mask, 0.0), mask

    def _ahead(self, batch: Batch) -> Float[Tensor, "B H W F"]:
        """What is known of the steps ahead: future covariates with flags of their gaps, and the calendar."""
        known = (batch["known"][:, self.lookback :] - self.future_mean) / self.future_std
        missing = known.isnan()
        parts = [known.float().masked_fill(missing, 0.0), missing.float()]
        if self.options.calendar:
            calendar = batch["calendar"][:, self.lookback :, None].float()
            parts.append(calendar.expand(-1, -1, known.shape[2], -1))
        return torch.cat(parts, -1)

    def forward(self, batch: Batch) -> Float[Tensor, "B H V"]:
        """z-scored point forecasts of a batch as :class:`domains.timeseries.windows.Windows` makes it."""
        start, correction = self.parts(batch)
        return start + self.gate * correction

    def parts(self, batch: Batch) -> tuple[Float[Tensor, "B H V"], Float[Tensor, "B H V"]]:
        """What a forecast starts from (season, window mean, skip), and the backbone's correction; z-scored."""
        mask = batch["past_mask"]
        season = self._season(batch)
        x = (self.scaled(batch["past"], mask) - season[:, : self.lookback]).masked_fill(~mask, 0.0)
        count = mask.sum(1, keepdim=True).clamp_min(1)
        mean = x.sum(1, keepdim=True) / count
        x = (x - mean).masked_fill(~mask, 0.0)
        scale = ((x**2).sum(1, keepdim=True) / count + _EPSILON).sqrt() if self.options.window == "standard" else 1.0
        context, context_mask = self._context(batch)
        static = ((self.static - self.static_mean) / self.static_std).float()
        residual = self.residual(x / scale, mask, context, context_mask, self._ahead(batch), static)
        return self._skip(x, mask) + mean + season[:, self.lookback :], residual * scale

    def quantiles(self, batch: Batch, offsets: Float[Tensor, "Q H V"] | None = None) -> Float[Tensor, "B Q H V"]:
        """z-scored forecasts of QUANTILES, never crossing; the median is the point forecast.

        offsets: those that followed the errors up to these windows; None: those of the validation part.
        """
        mask = batch["past_mask"]
        past, count = self.scaled(batch["past"], mask), mask.sum(1, keepdim=True).clamp_min(1)
        deviation = (past - past.sum(1, keepdim=True) / count).masked_fill(~mask, 0.0)
        spread = ((deviation**2).sum(1, keepdim=True) / count).sqrt().clamp_min(LEAST_SPREAD)
        return self(batch)[:, None] + (self.offsets if offsets is None else offsets) * (spread**self.power)[:, None]


def forecasts_of(model: Forecaster) -> Callable[[Batch], Float[np.ndarray, "B H V"]]:
    """The model as a function of batches on the CPU, z-scored arrays out; evaluation mode, no gradients."""

    def run(batch: Batch) -> Float[np.ndarray, "B H V"]:
        was, device = model.training, model.mean.device
        windows, _, series = batch["past"].shape
        size = max(1, PIECE // series if device.type == "cpu" else windows)
        model.eval()
        with torch.inference_mode():
            pieces = ({k: v[i : i + size] for k, v in batch.items()} for i in range(0, windows, size))
            out = [model(to_device(piece, device)).double().cpu().numpy() for piece in pieces]
        model.train(was)
        return np.concatenate(out)

    return run


def intervals_of(model: Forecaster) -> Intervals:
    """The intervals that the model carries, as scoring takes them."""
    return Intervals(model.offsets.double().cpu().numpy(), float(model.power), float(model.rate))


def _same_series(parts: list[Tensor]) -> list[Tensor]:
    """(B, L, W, K) tensors brought to the same W: 1 is repeated."""
    width = max(part.shape[2] for part in parts)
    return [part.expand(-1, -1, width, -1) for part in parts]


def forecast_loss(
    kind: str, got: Float[Tensor, "B H V"], want: Float[Tensor, "B H V"], known: Bool[Tensor, "B H V"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean loss over observed elements, and their number (0 where none is: then the loss is 0 too)."""
    each = LOSSES[kind](got, want, reduction="none")
    count = known.sum().to(got.dtype)
    return each.masked_fill(~known, 0.0).sum() / count.clamp_min(1), count
