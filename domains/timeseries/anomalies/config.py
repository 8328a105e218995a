"""The options of timeseries/detect."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from domains.task import TaskConfig


class DetectOptions(TaskConfig):
    """What is read, what counts as training, and when an alarm is raised. Lengths are in steps of the series."""

    lookback: int = Field(64, ge=8, description="steps that the next one is told from")
    probation: float = Field(0.15, gt=0, lt=0.9, description="share of each series, its start, that training sees")
    probation_most: int = Field(750, ge=1, description="steps of the probation at most (the NAB: 15 % of 5000)")
    val: float = Field(0.25, gt=0, lt=0.9, description="share of the probation, its end, that validates")
    smooth: int = Field(5, ge=1, description="errors of the last so many steps are averaged into a score")
    alarm_rate: float = Field(1e-4, gt=0, lt=0.1, description="share of quiet steps that may raise an alarm")
    level: Literal["following", "fixed"] = Field(
        "following", description="what an alarm takes follows the series' own scores so far, or is the threshold alone"
    )
    hold: int = Field(64, ge=1, description="steps after an alarm in which no further one is counted by the NAB score")
    point_adjust: bool = Field(False, description="also report F1 after point adjustment, which flatters")

    time: str = Field("auto", description="column of time stamps (auto: date, ds, time, timestamp, datetime; or none)")
    time_format: str | None = None
    back: Literal["refuse", "keep"] = Field(
        "refuse",
        description="where time goes back or stands still: refuse the file, or keep its rows (clocks set back)",
    )
    columns: tuple[str, ...] = Field((), description="series to watch; empty: every numeric column")
    label: str = Field("label", description="column of 0 and 1, if there: 1 where an anomaly is")
    windows: str | None = Field(None, description="JSON of anomaly windows by file, beside or inside the source")
    separator: str = ","
    missing_values: tuple[float, ...] = ()
    discord_cells: int = Field(300_000_000, ge=0, description="most distances of the discord baseline in one series")
    forest_trees: int = Field(100, ge=0, description="of the isolation forest; 0 leaves it out")
    simulated: dict[str, int] = Field(default_factory=dict, description="for --data simulated: series, steps, seed")
