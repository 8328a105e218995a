"""The options of tasks on tables of series, and of timeseries/forecast."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from domains.task import TaskConfig

from .tables import ReadOptions

QUANTILES = (0.025, 0.1, 0.5, 0.9, 0.975)  # the median, and the ends of the 80 % and 95 % intervals
LEVELS = {80: (1, 3), 95: (0, 4)}  # interval in percent -> places of its ends in QUANTILES


class SplitConfig(BaseModel):
    """How the series are cut in time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: str = (
        "auto"  # "70/10/20" (percent), "12/4/4 months", "700/100/200 rows"; auto: as the source is usually cut
    )


class TableConfig(TaskConfig):
    """How a table of series is read and cut in time."""

    season: int | None = Field(None, ge=1)  # steps of the season; None: from the frequency (a day of hours ...)
    split: SplitConfig = SplitConfig()

    layout: Literal["auto", "wide", "long"] = "auto"  # auto: long where the id and the target column are there
    time: str = "auto"  # time column; auto: date, ds, time, timestamp or datetime; none: rows are numbered
    time_format: str | None = None  # strptime pattern of the stamps; None: ISO 8601
    freq: str | None = None  # step of the series ("h", "15min", "D", "MS"); None: inferred where it is regular
    columns: tuple[str, ...] = ()  # the series to use; empty: all
    id: str = "unique_id"  # long frames: the column that names the series
    target: str = "y"  # long frames: the column of values
    separator: str = ","
    header: bool = True
    missing_values: tuple[float, ...] = ()  # sentinels that mean "not observed", such as -999

    def reading(self) -> ReadOptions:
        """How a table is read."""
        return ReadOptions(
            layout=self.layout, time=self.time, time_format=self.time_format, columns=self.columns, id=self.id,
            target=self.target, freq=self.freq, separator=self.separator, header=self.header,
            missing_values=self.missing_values,
        )  # fmt: skip


class ForecastConfig(TableConfig):
    """What to forecast, and from what. Lengths are in steps of the series."""

    lookback: int = Field(96, ge=2)
    horizon: int = Field(96, ge=1)
    loss: Literal["mse", "mae", "huber"] = "mse"

    past_covariates: tuple[str, ...] = ()  # known up to the present
    future_covariates: tuple[str, ...] = ()  # known ahead too
    static_covariates: tuple[str, ...] = ()  # one number per series, long frames only

    groups: tuple[str, ...] = ()  # long frames: columns whose labels group the series; sums are scored too

    few: Literal["refuse", "drop"] = "refuse"  # series without two different values in the training part

    ets_origins: int = Field(
        8, ge=0
    )  # test windows that AutoETS, AutoTheta and AutoARIMA are fitted for; 0: leave them out

    def reading(self) -> ReadOptions:
        """How a table is read."""
        return replace(
            super().reading(),
            past=self.past_covariates,
            future=self.future_covariates,
            static=self.static_covariates,
            groups=self.groups,
        )
