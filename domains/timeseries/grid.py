"""Regular time grids: stamps on equal steps, where a calendar or plain step numbers count them.

A grid's frequency is a pandas offset alias ("h", "15min", "MS") or, for series without dates, a number of steps
as digits ("1"). Stamps are datetime64[ns] in the first case and int64 in the second.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped
from pandas.tseries.frequencies import to_offset

from shared_backbones.errors import BadInput

_CALENDAR_STEPS = ("B", "MS", "ME", "QS", "QE", "YS", "YE", "W-SUN", "W-MON")
_HOUR = 3_600_000_000_000  # ns
CALENDAR = ("hour of day", "day of week", "day of month", "day of year")


def is_steps(freq: str) -> bool:
    """Whether a frequency counts plain steps, not time."""
    return freq.isdigit()


def normal_freq(freq: str) -> str:
    """The usual spelling of a declared frequency; raises BadInput where pandas knows no such step."""
    if is_steps(freq) and int(freq) > 0:
        return str(int(freq))
    try:
        return str(to_offset(freq).freqstr)
    except (ValueError, AttributeError, TypeError):
        raise BadInput(
            f"freq {freq!r} is not a time step; write 'h', '15min', 'D', 'B', 'W', 'MS' ... or '1'"
        ) from None


def _steps(first: Any, last: Any, freq: str) -> Shaped[np.ndarray, "T"]:
    if is_steps(freq):
        return np.arange(first, last + 1, int(freq))
    return pd.date_range(first, last, freq=freq).to_numpy()


def _candidates(stamps: Shaped[np.ndarray, "n"]) -> list[str]:
    smallest = np.diff(stamps).min()
    if stamps.dtype.kind == "i":
        return [str(int(smallest))]
    step: Any = pd.Timedelta(smallest)
    return [str(to_offset(step).freqstr), *_CALENDAR_STEPS]


def infer_freq(stamps: Shaped[np.ndarray, "n"]) -> str | None:
    """The step of increasing stamps: the grid that holds them all with the fewest holes.

    None where no grid holds them, or where more than half of its steps would be holes.
    """
    if len(stamps) < 3:
        return None
    best, share = None, 0.5
    for freq in _candidates(stamps):
        grid_size = (stamps[-1] - stamps[0]) / np.diff(stamps).min()
        if grid_size > 100 * len(stamps):
            continue  # a stray stamp: do not build a grid that is nearly empty
        grid = _steps(stamps[0], stamps[-1], freq)
        if len(grid) >= len(stamps) and np.isin(stamps, grid).all() and len(stamps) / len(grid) > share:
            best, share = freq, len(stamps) / len(grid)
    return best


def regular(stamps: Shaped[np.ndarray, "n"], freq: str | None, where: str) -> tuple[Shaped[np.ndarray, "T"], str]:
    """The whole grid from the first stamp to the last, and its frequency.

    ``stamps`` increase strictly; ``freq`` None means: infer it. Raises BadInput where a stamp is off the grid.
    """
    if freq is None:
        freq = infer_freq(stamps)
        if freq is None:
            raise BadInput(_irregular(stamps, where))
    freq = normal_freq(freq)
    if is_steps(freq) != (stamps.dtype.kind == "i"):
        raise BadInput(f"{where}: freq {freq!r} does not fit stamps such as {stamps[0]}")
    grid = _steps(stamps[0], stamps[-1], freq)
    off = np.flatnonzero(~np.isin(stamps, grid))
    if len(off):
        raise BadInput(
            f"{where}: stamp {show(stamps[off[0]])} is not on the declared step {freq!r} counted from "
            f"{show(stamps[0])} ({len(off)} of {len(stamps)} stamps are off it). Correct freq, or resample the file"
        )
    return grid, freq


def _irregular(stamps: Shaped[np.ndarray, "n"], where: str) -> str:
    if len(stamps) < 3:
        return f"{where}: {len(stamps)} time stamps are too few to infer the step; declare it, e.g. --set freq=h"
    gaps = np.diff(stamps)
    sizes, counts = np.unique(gaps, return_counts=True)
    usual = sizes[counts.argmax()]
    odd = int(np.flatnonzero(gaps != usual)[0])
    spell = (lambda d: str(int(d))) if stamps.dtype.kind == "i" else (lambda d: str(pd.Timedelta(d)))
    return (
        f"{where}: the time step is irregular: mostly {spell(usual)} ({counts.max()} of {len(gaps)} steps), but "
        f"{spell(gaps[odd])} after {show(stamps[odd])}. Declare the step (e.g. --set freq=h) if stamps are only "
        "missing, or resample the file if they lie between steps"
    )


def future(last: Any, freq: str, steps: int) -> Shaped[np.ndarray, "H"]:
    """The ``steps`` stamps that follow ``last``, which is on the grid."""
    if is_steps(freq):
        return np.int64(last) + int(freq) * np.arange(1, steps + 1)
    return pd.date_range(last, periods=steps + 1, freq=freq).to_numpy()[1:]


def before(first: Any, freq: str, steps: int) -> Shaped[np.ndarray, "n"]:
    """The ``steps`` stamps that come before ``first``, which is on the grid."""
    if is_steps(freq):
        return np.int64(first) - int(freq) * np.arange(steps, 0, -1)
    return pd.date_range(end=first, periods=steps + 1, freq=freq).to_numpy()[:-1]


def day_steps(freq: str) -> float:
    """Steps per day of a fixed step; 0 for step numbers and for steps of a day or longer."""
    if is_steps(freq):
        return 0.0
    offset = to_offset(freq)
    nanos = getattr(offset, "nanos", None) if isinstance(offset, pd.tseries.offsets.Tick) else None
    return 24 * _HOUR / nanos if nanos is not None and nanos < 24 * _HOUR else 0.0


def season_of(freq: str) -> int:
    """Steps of the usual season: a day of hours, a week of days, a year of weeks, months or quarters; else 1."""
    per_day = day_steps(freq)
    if per_day >= 2:
        return round(per_day)
    if is_steps(freq):
        return 1
    kind = str(to_offset(freq).name).split("-")[0]
    return {"D": 7, "B": 5, "C": 5, "W": 52, "MS": 12, "ME": 12, "BMS": 12, "BME": 12, "QS": 4, "QE": 4}.get(kind, 1)


def steps_in(days: float, freq: str) -> int:
    """Grid steps in so many days of a fixed step; raises BadInput for a step of no fixed length."""
    offset = None if is_steps(freq) else to_offset(freq)
    if not isinstance(offset, pd.tseries.offsets.Tick):
        raise BadInput(f"a split in months needs a fixed time step, got freq {freq!r}; use one in percent (70/10/20)")
    return int(days * 24 * _HOUR // offset.nanos)


def phase(times: Shaped[np.ndarray, "T"], freq: str, season: int) -> Int[np.ndarray, "T"]:
    """Place of each stamp in its season, 0 .. season - 1: the same for the same hour of day, weekday or month.

    Consecutive stamps of the grid have consecutive places, in this file and in any later one.
    """
    if times.dtype.kind == "i":
        return (times // int(freq)) % season
    offset = to_offset(freq)
    at = pd.DatetimeIndex(times)
    if isinstance(offset, pd.tseries.offsets.Tick):
        count = times.astype("datetime64[ns]").astype(np.int64) // offset.nanos
    elif str(offset.name) == "B":
        days = times.astype("datetime64[D]").astype(np.int64) + 3  # days since Monday, 1969-12-29
        count = 5 * (days // 7) + days % 7
    elif str(offset.name).startswith("W"):
        count = times.astype("datetime64[D]").astype(np.int64) // 7
    else:
        months = at.year.to_numpy() * 12 + at.month.to_numpy() - 1
        per_step = {"Q": 3, "Y": 12}.get(str(offset.name).removeprefix("B")[0], 1)
        count = months // per_step
    return np.asarray(count % season, dtype=np.int64)


def calendar(times: Shaped[np.ndarray, "T"]) -> Float[np.ndarray, "T 8"]:
    """Sine and cosine of hour of day, day of week, day of month and day of year; zeros for step numbers."""
    if times.dtype.kind == "i":
        return np.zeros((len(times), 2 * len(CALENDAR)))
    at = pd.DatetimeIndex(times)
    day = (at.hour + at.minute / 60 + at.second / 3600).to_numpy() / 24
    month = (at.day.to_numpy() - 1 + day) / at.days_in_month.to_numpy()
    year = (at.dayofyear.to_numpy() - 1 + day) / np.where(at.is_leap_year, 366, 365)
    phase = 2 * np.pi * np.stack([day, (at.dayofweek.to_numpy() + day) / 7, month, year], 1)
    return np.stack([np.sin(phase), np.cos(phase)], 2).reshape(len(times), -1)


def show(stamp: Any) -> str:
    """A stamp as people write it."""
    return str(stamp) if isinstance(stamp, (int, np.integer)) else str(pd.Timestamp(stamp))
