"""`timeseries/traffic`: forecasts of many places at once, on a road graph, a grid of cells, or a learned graph."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from domains.task import Evidence, Fitted, Manifest, MetricFact, Sink, Split
from shared_backbones.errors import BadInput

from .baselines import part_windows
from .clear import clearly_less
from .data import Panel, parse_panel, refuse_constant
from .forecast import Forecast
from .model import Forecaster
from .opening import SIMULATED, load, open_source
from .predicting import forecast_file
from .ridge import WindowRidge, fit_ridge, zscored
from .scoring import FACTS, conformal, metrics, score
from .seasons import unit_losses
from .sensors.baselines import historical_average, weekly_table
from .sensors.config import TrafficConfig
from .sensors.data import SensorPanel, parse_adjacency
from .sensors.simulate import simulated_road
from .splits import origins
from .tables import ReadOptions, named_file, read_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNITS: Mapping[str, MetricFact] = {
    "mae_units": MetricFact("unit of the file", "lower", "mean absolute error over all observed values"),
    "rmse_units": MetricFact("unit of the file", "lower", "root mean squared error over all observed values"),
}


class Traffic(Forecast):
    """Forecasts of places that influence each other. As timeseries/forecast, with an adjacency or a grid."""

    name: ClassVar[str] = "timeseries/traffic"
    drift_pieces: ClassVar[bool] = True  # windows of a table
    summary: ClassVar[str] = "Forecasts of sensors on a road graph or cells of a grid, scored by rolling origins."
    Config: ClassVar[type[TrafficConfig]] = TrafficConfig
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 8, "batch_size": 32, "lr": 1e-3, "weight_decay": 0.01, "patience": 3,
    }  # fmt: skip
    default_preset: ClassVar[str] = "sttn_traffic"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = {**UNITS, **FACTS}
    config: TrafficConfig

    def open(self, source: str) -> Panel:
        """A panel with its adjacency, from a wide or long table, or ``simulated``. Raises BadInput."""
        if source == SIMULATED:
            raw, adjacency = simulated_road()
            panel = parse_panel(raw, source, self.config.reading())
            refuse_constant(panel)
            panel = replace(panel, manifest=replace(panel.manifest, licence="simulated, free of rights"))
        else:
            panel, adjacency = open_source(source, self.config), np.zeros((0, 0))
        if self.config.adjacency is not None:
            path = named_file(source, "adjacency", self.config.adjacency)
            adjacency = parse_adjacency(read_bytes(path), panel.names, path, self.config.directed)
        if self.config.grid and math.prod(self.config.grid) != len(panel.names):
            raise BadInput(
                f"{source}: grid={list(self.config.grid)} has {math.prod(self.config.grid)} cells, and there are "
                f"{len(panel.names)} series"
            )
        known = {f.name: getattr(panel, f.name) for f in fields(Panel)}
        return SensorPanel(**{**known, "manifest": _with(panel.manifest, adjacency)}, adjacency=adjacency)

    def fit(self, data: Panel, split: Split) -> Fitted:
        """As for forecasts, with the adjacency and the lattice on which the places stand."""
        assert isinstance(data, SensorPanel)
        lattice = {"axes": list(self.config.grid) or [len(data.names)], "adjacency": data.adjacency.tolist()}
        return {**super().fit(data, split), "lattice": lattice}

    def initialise(self, model: nn.Module, data: Panel, split: Split) -> None:
        """As for forecasts; or the ridge behind the average of each hour of the week, where validation is clearly
        for it: the profile of forecasts wants several weeks, and of traffic one is worth knowing."""
        super().initialise(model, data, split)
        assert isinstance(model, Forecaster)
        if not model.options.cycle or model.options.skip != "ridge":
            return
        mean, std = model.mean.cpu().numpy(), model.std.cpu().numpy()
        train, val = (zscored(self._windows(data, split, part), mean, std) for part in ("train", "val"))
        weekly = fit_ridge(train, val, weekly_table(data, split, self.fit(data, split)))
        weight, cycle = model.skip.weight.detach().cpu().numpy().T, model.cycle.detach().cpu().numpy()
        found = WindowRidge(weight.astype(float), cycle.astype(float), 0.0, 0.0)
        if clearly_less(unit_losses(weekly, val), unit_losses(found, val)):
            with torch.no_grad():
                model.cycle.copy_(torch.from_numpy(weekly.cycle))
                model.skip.weight.copy_(torch.from_numpy(weekly.weight.T))

    def baselines(self, data: Panel, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """Persistence (repeat-last), seasonal naive, window ridge, and the average of each hour of the week."""
        average = historical_average(data, split, fitted)
        test, val = (part_windows(data, split, fitted, part) for part in ("test", "val"))
        intervals = conformal(average, val, fitted, origins(split.parts["train"], val.lookback, val.horizon))
        found = dict(super().baselines(data, split, fitted))
        return {**found, "historical_average": score(average, intervals, test, fitted)}

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        count = max(float(evidence.sum("n").sum()), 1e-12)
        units = {
            "mae_units": float(evidence.sum("abs_error").sum()) / count,
            "rmse_units": float(np.sqrt(evidence.sum("squared_error").sum() / count)),
        }
        return {**units, **metrics(evidence)}

    def figures(
        self, model: nn.Module, data: Panel, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .sensors.figures import sensor_map

        return {**super().figures(model, data, split, fitted, scored), "Places": sensor_map(data, split, fitted)}

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        """The future after the end of a new file of the same sensors, as forecast.csv. Raises BadInput."""
        assert isinstance(model, Forecaster)
        return forecast_file(model, fitted, source, sink, _load)

    def portable(self, model: nn.Module, fitted: Fitted) -> None:
        """None: tokens of the exported graph would fix the number of windows."""
        return


def _load(source: str, options: ReadOptions) -> tuple[bytes, ReadOptions, Any]:
    return (simulated_road()[0], options, None) if source == SIMULATED else load(source, options)


def _with(manifest: Manifest, adjacency: np.ndarray) -> Manifest:
    """The manifest of table and adjacency together."""
    digest = hashlib.sha256(manifest.sha256.encode() + np.ascontiguousarray(adjacency).tobytes()).hexdigest()
    return replace(manifest, sha256=digest, facts={**manifest.facts, "edges": int((adjacency > 0).sum())})
