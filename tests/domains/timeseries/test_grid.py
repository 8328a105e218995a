"""Regular grids: inference, gaps, irregular steps, the stamps ahead, and places in the season."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domains.timeseries.grid import (
    calendar,
    future,
    infer_freq,
    normal_freq,
    phase,
    regular,
    season_of,
    steps_in,
)
from shared_backbones.errors import BadInput

FREQS = ["15min", "h", "6h", "D", "B", "W-SUN", "MS", "ME", "QS", "YS"]


def stamps(freq: str, n: int = 60) -> np.ndarray:
    return pd.date_range("2023-12-29 00:00", periods=n, freq=freq).to_numpy()


@pytest.mark.parametrize("freq", FREQS)
def test_whole_grids_are_recognised(freq: str) -> None:
    got = infer_freq(stamps(freq))
    assert got is not None
    grid, _ = regular(stamps(freq), None, "x")
    assert np.array_equal(grid, stamps(freq))


@pytest.mark.parametrize("freq", ["h", "D", "B", "MS"])
@given(lost=st.sets(st.integers(1, 58), max_size=12))
def test_gaps_are_put_back(freq: str, lost: set[int]) -> None:
    whole = stamps(freq)
    kept = np.delete(whole, sorted(lost))
    grid, got = regular(kept, freq, "x")
    assert np.array_equal(grid, whole)
    assert got == normal_freq(freq)


def test_a_grid_with_some_gaps_is_inferred() -> None:
    whole = stamps("h", 100)
    grid, freq = regular(np.delete(whole, [5, 6, 7, 50]), None, "x")
    assert freq == "h"
    assert np.array_equal(grid, whole)


def test_irregular_steps_are_refused_with_the_place() -> None:
    uneven = stamps("h", 50).copy()
    uneven[20] += np.timedelta64(7, "m")
    with pytest.raises(BadInput, match=r"irregular: mostly 0 days 01:00:00 .* after .*Declare the step"):
        regular(uneven, None, "file.csv")
    with pytest.raises(BadInput, match=r"2023-12-29 20:07:00 is not on the declared step 'h'"):
        regular(uneven, "h", "file.csv")


def test_too_few_stamps_need_a_declared_step() -> None:
    with pytest.raises(BadInput, match="too few to infer"):
        regular(stamps("h", 2), None, "x")
    assert len(regular(stamps("h", 2), "h", "x")[0]) == 2


def test_unknown_steps_are_refused() -> None:
    for freq in ("fortnightly", "0", "-1"):
        with pytest.raises(BadInput, match="not a time step"):
            normal_freq(freq)
    with pytest.raises(BadInput, match="does not fit stamps"):
        regular(np.arange(5), "h", "x")
    with pytest.raises(BadInput, match="fixed time step"):
        steps_in(30, "MS")


def test_numbered_rows_are_a_grid() -> None:
    grid, freq = regular(np.array([2, 4, 6, 10, 12]), None, "x")
    assert freq == "2"
    assert grid.tolist() == [2, 4, 6, 8, 10, 12]
    assert future(np.int64(12), freq, 2).tolist() == [14, 16]


@pytest.mark.parametrize("freq", FREQS)
def test_the_stamps_ahead_continue_the_grid(freq: str) -> None:
    whole = stamps(freq, 60)
    assert np.array_equal(future(whole[39], freq, 20), whole[40:])


@pytest.mark.parametrize("freq", FREQS)
@pytest.mark.parametrize("season", [2, 5, 7, 12, 24])
def test_places_in_the_season_go_on_by_one(freq: str, season: int) -> None:
    places = phase(stamps(freq, 80), freq, season)
    assert np.array_equal(np.diff(places) % season, np.ones(79))
    assert np.array_equal(phase(stamps(freq, 80)[33:], freq, season), places[33:])


def test_places_mean_the_same_hour_and_month_in_every_file() -> None:
    hours = pd.DatetimeIndex(stamps("h", 200))
    places = phase(hours.to_numpy(), "h", 24)
    assert all(len(set(hours.hour[places == p])) == 1 for p in range(24))
    months = pd.DatetimeIndex(stamps("MS", 40))
    places = phase(months.to_numpy(), "MS", 12)
    assert all(len(set(months.month[places == p])) == 1 for p in range(12))


def test_usual_seasons() -> None:
    got = {
        freq: season_of(freq) for freq in ("15min", "h", "3h", "12h", "D", "B", "W-SUN", "MS", "ME", "QS", "YS", "1")
    }
    assert list(got.values()) == [96, 24, 8, 2, 7, 5, 52, 12, 12, 4, 1, 1]


def test_calendar_features_are_on_the_circle_and_repeat() -> None:
    times = stamps("h", 24 * 14)
    features = calendar(times)
    assert np.allclose(features[:, 0::2] ** 2 + features[:, 1::2] ** 2, 1)
    assert np.allclose(features[:24, :2], features[24:48, :2])  # hour of day
    assert np.allclose(features[:168, 2:4], features[168:, 2:4])  # day of week
    assert not calendar(np.arange(5)).any()
