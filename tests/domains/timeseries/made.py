"""Small tables and panels for the tests of time series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from domains.timeseries.data import Panel
from domains.timeseries.forecast import Forecast
from domains.timeseries.opening import open_source

SMALL: dict[str, Any] = {"lookback": 24, "horizon": 12, "ets_origins": 0}


def table(steps: int = 400, series: int = 3, seed: int = 0, freq: str = "h") -> pd.DataFrame:
    """A wide table of daily waves with noise."""
    random = np.random.default_rng(seed)
    hours = np.arange(steps)[:, None]
    waves = np.sin(2 * np.pi * (hours + 3 * np.arange(series)) / 24) * (1 + np.arange(series))
    values = waves + 0.3 * random.normal(size=(steps, series)).cumsum(0) / 5 + 10 * np.arange(series)
    frame = pd.DataFrame(values, columns=[f"s{i}" for i in range(series)])
    frame.insert(0, "date", pd.date_range("2024-02-27 05:00", periods=steps, freq=freq))
    return frame


def written(frame: pd.DataFrame, folder: Path, name: str = "a.csv") -> str:
    """The frame as a CSV file; its path."""
    path = folder / name
    frame.to_csv(path, index=False)
    return str(path)


def task(**options: Any) -> Forecast:
    """A small forecasting task."""
    return Forecast(Forecast.Config(**{**SMALL, **options}))


def opened(frame: pd.DataFrame, folder: Path, **options: Any) -> Panel:
    """The frame written and opened."""
    return open_source(written(frame, folder), Forecast.Config(**{**SMALL, **options}))
