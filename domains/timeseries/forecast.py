"""timeseries/forecast: from a table of series to forecasts with intervals, scored by rolling origins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from domains.following import Follower
from domains.task import Audit, Batch, Evidence, Fitted, MetricFact, Part, Portable, Sink, Split
from shared_backbones.presets import Preset

from .baselines import all_baselines, require_statsforecast
from .config import ForecastConfig
from .data import Panel
from .fitting import cycle_of, fit_panel
from .gating import share_losses, smallest_share
from .grid import season_of
from .model import Forecaster, forecast_loss, forecasts_of, intervals_of
from .opening import open_source
from .panels import with_room, without_few
from .predicting import forecast_file
from .ridge import zscored
from .scoring import FACTS, Scored, by_series, conformal, metrics, score
from .seasons import closed_form
from .splits import audits, chronological, draws, origins
from .windows import Windows, windows

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LATER: tuple[Part, ...] = ("val", "test")


class Forecast:
    """Forecasts of every series of a table, ``horizon`` steps ahead from ``lookback`` steps. See domains.task.Task."""

    name: ClassVar[str] = "timeseries/forecast"
    drift_pieces: ClassVar[bool] = True  # windows of a table
    summary: ClassVar[str] = "Forecast series of a table ahead, with 80 and 95 % intervals, scored by rolling origins."
    Config: ClassVar[type[ForecastConfig]] = ForecastConfig
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 8, "batch_size": 64, "lr": 1e-4, "weight_decay": 0.05, "patience": 2,
    }  # fmt: skip
    drift_inputs: ClassVar[tuple[str, int | str, int]] = ("", "past", 2)  # mean of each series
    default_preset: ClassVar[str] = "linear_skip"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = FACTS
    fixed_baselines: ClassVar[bool] = True  # they draw no random numbers

    def __init__(self, config: ForecastConfig) -> None:
        self.config = config

    def open(self, source: str) -> Panel:
        """A panel from a path, a URL, a public name or ``simulated``; see :mod:`.panels`. Raises BadInput."""
        config, drop = self.config, self.config.few == "drop"
        panel = open_source(source, config, constant=drop)
        panel = with_room(panel, self._protocol(panel), config.lookback, config.horizon)
        return without_few(panel, self.split(panel)) if drop else panel

    def split(self, data: Panel) -> Split:
        """Chronological parts as target steps. Raises BadInput where a part cannot hold one window."""
        return chronological(data, self._protocol(data), self.config.lookback, self.config.horizon)

    def audit(self, data: Panel, split: Split) -> list[Audit]:
        lookback, horizon = self.config.lookback, self.config.horizon
        return [*audits(data, split, lookback, horizon), draws(split, horizon)]

    def poison(self, data: Panel, split: Split) -> Panel:
        """The panel with 1e9 in every series and covariate from the first test step on."""
        start = int(split.parts["test"][0])
        spoilt = {name: getattr(data, name).copy() for name in ("values", "mask", "past", "future")}
        for name, array in spoilt.items():
            array[start:] = True if name == "mask" else 1e9
        return replace(data, **spoilt)

    def fit(self, data: Panel, split: Split) -> Fitted:
        """Scaling from the training part, and the schema. Raises BadInput for an unusable series."""
        if self.config.ets_origins:
            require_statsforecast()
        return fit_panel(data, split, self.config)

    def build(self, fitted: Fitted, preset: Preset) -> Forecaster:
        return Forecaster(fitted, preset)

    def initialise(self, model: nn.Module, data: Panel, split: Split) -> None:
        """Seasonal profile and skip map in closed form; see domains.timeseries.seasons for how they are chosen."""
        assert isinstance(model, Forecaster)
        options = model.options
        if options.skip != "ridge" and not options.cycle:
            return
        season, cycle = self._season(data)
        mean, std = model.mean.cpu().numpy(), model.std.cpu().numpy()
        train, val = (zscored(self._windows(data, split, part), mean, std) for part in ("train", "val"))
        periods = sorted({season, cycle}) if options.cycle else []
        found = closed_form(train, val, split.parts["train"], periods, cycle)
        with torch.no_grad():
            model.cycle.copy_(torch.from_numpy(found.cycle))
            if options.skip == "ridge":
                model.skip.weight.copy_(torch.from_numpy(found.weight.T))

    def items(self, data: Panel, split: Split, fitted: Fitted, part: Part) -> Windows:
        """Every window of a part, stride 1."""
        return self._windows(data, split, part)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean loss over the observed, z-scored targets of a batch, and their number."""
        assert isinstance(model, Forecaster)
        known = batch["future_mask"]
        return forecast_loss(self.config.loss, model(batch), model.scaled(batch["future"], known), known)

    def calibrate(self, model: nn.Module, data: Panel, split: Split, fitted: Fitted) -> None:
        """How much of the backbone's correction is kept, from the validation windows; then the interval widths."""
        assert isinstance(model, Forecaster)
        val = self._windows(data, split, "val")
        with torch.no_grad():
            if model.options.skip != "none":
                model.gate.fill_(smallest_share(share_losses(model, val, self.config.loss)))
        intervals = conformal(
            forecasts_of(model), val, fitted, origins(split.parts["train"], val.lookback, val.horizon)
        )
        with torch.no_grad():
            model.offsets.copy_(torch.from_numpy(intervals.offsets))
            model.power.fill_(intervals.power)
            model.rate.fill_(intervals.rate)

    def evidence(self, model: nn.Module, data: Panel, split: Split, fitted: Fitted, part: Part) -> Evidence:
        """All windows of a part, scored in chunks; rows are blocks of look-back + horizon neighbouring windows."""
        assert isinstance(model, Forecaster)
        return score(forecasts_of(model), intervals_of(model), self._windows(data, split, part), fitted, by_step=True)

    def baselines(self, data: Panel, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """Naive ones, DLinear and the window ridge on the test part, statistical methods on a few of its windows."""
        return all_baselines(data, split, fitted, self.config.ets_origins)

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        return metrics(evidence)

    def details(self, evidence: Evidence, fitted: Fitted) -> list[dict[str, Any]]:
        """Scores per series, z-scored and in original units: a table for the report."""
        return by_series(evidence, fitted)

    def tables(
        self, model: nn.Module, data: Panel, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> dict[str, list[dict[str, Any]]]:
        """Title -> rows: scores of the test part in original units, per series, per step ahead, and of groups."""
        from .hierarchy import tables

        own = scored["model"]
        assert isinstance(model, Forecaster)
        assert isinstance(own, Scored)
        parts = {part: self._windows(data, split, part) for part in LATER}
        return tables(own, forecasts_of(model), data, fitted, parts, split.parts["train"])

    def figures(
        self, model: nn.Module, data: Panel, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .figures import all_figures

        assert isinstance(model, Forecaster)
        return all_figures(model, self._windows(data, split, "test"), data, fitted, scored)

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        """The future after the end of a new file, as forecast.csv in original units. Raises BadInput."""
        assert isinstance(model, Forecaster)
        return forecast_file(model, fitted, source, sink, any_id=True)

    def follow(self, model: nn.Module, fitted: Fitted) -> Follower:
        """Forecasts after each new row of a growing table."""
        from .following import ForecastFollower

        assert isinstance(model, Forecaster)
        return ForecastFollower(model, fitted)

    def portable(self, model: nn.Module, fitted: Fitted) -> Portable | None:
        """The point forecast as a function of plain tensors, for export."""
        from .portable import portable

        assert isinstance(model, Forecaster)
        return portable(model, fitted)

    def _protocol(self, data: Panel) -> str:
        protocol = self.config.split.protocol
        return data.protocol if protocol == "auto" else protocol

    def _season(self, data: Panel) -> tuple[int, int]:
        season = self.config.season or season_of(data.freq)
        return season, cycle_of(data, season)

    def _windows(self, data: Panel, split: Split, part: Part) -> Windows:
        lookback, horizon = self.config.lookback, self.config.horizon
        at = origins(split.parts[part], lookback, horizon)
        return windows(data, at, lookback, horizon, self._season(data)[1])
