"""A simulated grid region: hourly electric load of feeders that follow weather, people's days and their own noise.

The weather is a yearly and a daily wave plus fronts (a slow first-order autoregression); load has a base, a working-
day profile with an evening peak, heating below 15 degC and cooling above 22 degC, a multiplicative autoregressive
noise, and meter gaps. Units: degC and MW.
"""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.signal import lfilter


def _autoregression(
    random: np.random.Generator, steps: int, memory_h: float, spread: float, columns: int = 1
) -> Float[np.ndarray, "T columns"]:
    """Stationary first-order noise with a correlation time in hours and a standard deviation."""
    phi = np.exp(-1 / memory_h)
    white = random.normal(size=(steps, columns)) * spread * np.sqrt(1 - phi**2)
    white[0] = random.normal(size=columns) * spread
    return np.asarray(lfilter([1.0], [1.0, -phi], white, axis=0))


def _weather(random: np.random.Generator, hour: Int[np.ndarray, "T"]) -> Float[np.ndarray, "T"]:
    """Air temperature in degC: coldest in mid-January at five in the morning, fronts of some four days."""
    year = -9 * np.cos(2 * np.pi * (hour / 24 - 15) / 365.25)
    swing = 4 + 1.5 * np.sin(2 * np.pi * (hour / 24 - 80) / 365.25)  # days differ more in summer
    day = -swing * np.cos(2 * np.pi * (hour - 3) / 24)
    return 11 + year + day + _autoregression(random, len(hour), 96, 3.5)[:, 0]


def _day_profile(hour: Int[np.ndarray, "T"], weekend: np.ndarray) -> Float[np.ndarray, "T"]:
    """Share of activity: a morning ramp, a plateau, an evening peak; weekends start later and lower."""
    h = hour % 24
    bump = lambda at, width: np.exp(-0.5 * ((h - at) / width) ** 2)  # noqa: E731
    work = 0.8 * bump(9, 2.2) + 0.5 * bump(14, 3.5) + 1.0 * bump(19, 2.0)
    rest = 0.5 * bump(11, 3.0) + 0.8 * bump(19, 2.5)
    return np.where(weekend, rest, work)


def simulate(steps: int = 6000, feeders: int = 4, gaps: float = 0.01, seed: int = 0) -> pd.DataFrame:
    """A wide hourly table: ``date``, ``temperature_degC`` and ``load_i_MW`` per feeder; gaps are empty cells.

    ``gaps``: the share of load cells that fall into meter outages of some six hours each.
    """
    random = np.random.default_rng(seed)
    hour = np.arange(steps)
    weekend = ((hour // 24) % 7) >= 5  # 2024-01-01 is a Monday
    temperature = _weather(random, hour)
    columns = {"date": pd.date_range("2024-01-01", periods=steps, freq="h"), "temperature_degC": temperature.round(2)}
    lagged = lfilter([0.15], [1, -0.85], temperature, zi=[0.85 * temperature[0]])[0]  # buildings answer slowly
    shared = _autoregression(random, steps, 24, 0.03)[:, 0]
    own = _autoregression(random, steps, 6, 0.04, feeders)
    for i in range(feeders):
        base, activity = random.uniform(15, 40), random.uniform(6, 14)
        heating, cooling = random.uniform(0.2, 0.9), random.uniform(0.0, 0.8)
        demand = base + activity * _day_profile(hour, weekend)
        demand = demand + heating * np.maximum(0, 15 - lagged) + cooling * np.maximum(0, lagged - 22)
        load = demand * np.exp(shared + own[:, i])
        outages = random.random(steps) < gaps / 6
        load[np.convolve(outages, np.ones(6))[:steps] > 0] = np.nan
        columns[f"load_{i + 1}_MW"] = load.round(3)
    return pd.DataFrame(columns)


def simulated_csv(steps: int = 6000, seed: int = 0) -> bytes:
    """The simulated table as CSV bytes: the same on every machine for the same seed."""
    text = io.StringIO()
    simulate(steps=steps, seed=seed).to_csv(text, index=False)
    return text.getvalue().encode()
