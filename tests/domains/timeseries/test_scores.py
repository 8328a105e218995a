"""Metrics against naive loops, batch-size independence, intervals, baselines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.timeseries import windows as windows_module
from domains.timeseries.baselines import (
    all_baselines,
    fewer,
    forecaster,
    last_observed,
    part_windows,
    repeat_last,
    require_statsforecast,
    seasonal_naive,
)
from domains.timeseries.config import LEVELS, QUANTILES
from domains.timeseries.fitting import fit_panel, seasonal_error
from domains.timeseries.intervals import Intervals, fit_intervals, nested, offsets_of
from domains.timeseries.ridge import WindowRidge
from domains.timeseries.scoring import by_series, conformal, metrics, score, score_given
from domains.timeseries.statistical import history
from shared_backbones.errors import BadRequest
from tests.domains.timeseries.made import opened, table, task

NO_RIDGE = WindowRidge(np.zeros((24, 12)), np.zeros((1, 3)), 1.0, 0.0)


@pytest.fixture
def gappy(tmp_path: Path) -> tuple[object, object, dict[str, object]]:
    frame = table()
    frame.iloc[300:310, 1] = np.nan
    frame.iloc[350:380:3, 2] = np.nan
    panel = opened(frame, tmp_path)
    chosen = task()
    split = chosen.split(panel)
    return panel, split, chosen.fit(panel, split)


def test_metrics_equal_a_naive_loop(gappy: tuple) -> None:
    panel, split, fitted = gappy
    test = part_windows(panel, split, fitted, "test")
    random = np.random.default_rng(0)
    offsets = nested(np.sort(random.normal(size=(5, 12, 3)), 0))
    run = forecaster("seasonal_naive", fitted, NO_RIDGE)
    got = metrics(score(run, Intervals(offsets), test, fitted))
    mean, std, scale = (np.array(fitted[k]) for k in ("mean", "std", "seasonal_error"))
    squared, absolute, scaled, inside, pinball = [], [], [], {80: [], 95: []}, []
    wide: dict[int, list[float]] = {80: [], 95: []}
    top, bottom = np.zeros(3), np.zeros(3)
    for i, t in enumerate(test.origins):
        forecast = run(test.batch([i]))[0]
        for h in range(12):
            for v in range(3):
                if not panel.mask[t + h, v]:
                    continue
                y = (panel.values[t + h, v] - mean[v]) / std[v]
                error = y - forecast[h, v]
                squared.append(error**2)
                absolute.append(abs(error))
                scaled.append(abs(error) * std[v] / scale[v])
                top[v] += abs(error) * std[v]
                bottom[v] += abs(panel.values[t + h, v])
                gaps = error - offsets[:, h, v]
                pinball.append(np.mean([q * g if g > 0 else (q - 1) * g for q, g in zip(QUANTILES, gaps, strict=True)]))
                for level, (low, high) in LEVELS.items():
                    inside[level].append(offsets[low, h, v] <= error <= offsets[high, h, v])
                    missed = max(offsets[low, h, v] - error, error - offsets[high, h, v], 0)
                    wide[level].append(offsets[high, h, v] - offsets[low, h, v] + 200 / (100 - level) * missed)
    want = {
        "mse": np.mean(squared), "mae": np.mean(absolute), "mase": np.mean(scaled), "wape": np.mean(top / bottom),
        "pinball": np.mean(pinball), "coverage_80": 100 * np.mean(inside[80]), "coverage_95": 100 * np.mean(inside[95]),
        "crps": 2 * np.mean(pinball), "winkler_80": np.mean(wide[80]), "winkler_95": np.mean(wide[95]),
    }  # fmt: skip
    assert got == pytest.approx(want, rel=1e-9)


def test_scores_do_not_depend_on_the_batch_size(gappy: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    panel, split, fitted = gappy
    test = part_windows(panel, split, fitted, "test")
    run = forecaster("repeat_last", fitted, NO_RIDGE)
    intervals = conformal(run, part_windows(panel, split, fitted, "val"), fitted, np.arange(24, 100))
    whole = metrics(score(run, intervals, test, fitted))
    monkeypatch.setattr(windows_module, "CHUNK_ELEMENTS", 1)  # one window at a time
    assert metrics(score(run, intervals, test, fitted)) == pytest.approx(whole, rel=1e-12)


def test_scores_by_series_add_up(gappy: tuple) -> None:
    panel, split, fitted = gappy
    test = part_windows(panel, split, fitted, "test")
    evidence = score(forecaster("repeat_last", fitted, NO_RIDGE), Intervals(np.zeros((5, 12, 3))), test, fitted)
    rows = by_series(evidence, fitted)
    assert [row["series"] for row in rows] == ["s0", "s1", "s2"]
    total = sum(row["n"] for row in rows)
    assert sum(row["mse"] * row["n"] for row in rows) / total == pytest.approx(metrics(evidence)["mse"])
    assert rows[2]["mae_original"] == pytest.approx(rows[2]["mae"] * fitted["std"][2])


def test_nothing_observed_gives_no_score(gappy: tuple) -> None:
    panel, split, fitted = gappy
    test = fewer(part_windows(panel, split, fitted, "test"), 2)
    points = np.full((len(test), 12, 3), np.nan)
    evidence = score_given(points, np.full((5, *points.shape), np.nan), test, fitted)
    assert all(np.isnan(value) for value in metrics(evidence).values())


def test_mase_divides_by_the_seasonal_error_of_training() -> None:
    values = np.array([[0.0], [1.0], [4.0], [3.0], [0.0]])
    assert seasonal_error(values, np.ones((5, 1), bool), 2).tolist() == [pytest.approx((4 + 2 + 4) / 3)]
    mask = np.array([[1], [1], [0], [1], [1]], bool)
    assert seasonal_error(np.where(mask, values, np.nan), mask, 2)[0] == pytest.approx(2.0)
    exact = np.tile([[0.0], [2.0]], (4, 1))
    assert seasonal_error(exact, np.ones((8, 1), bool), 2).tolist() == [2.0]  # the mean step instead
    assert seasonal_error(np.array([[0.0], [2.0]]), np.array([[1], [1]], bool), 9).tolist() == [2.0]


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), n=st.integers(0, 40), gaps=st.floats(0, 1), shift=st.floats(-5, 5))
def test_quantiles_never_cross_and_enclose_the_forecast(seed: int, n: int, gaps: float, shift: float) -> None:
    random = np.random.default_rng(seed)
    errors = random.normal(size=(n, 6, 2)) + shift
    known = random.random(errors.shape) >= gaps
    spread = random.uniform(0.05, 3, size=(n, 2))
    intervals = fit_intervals(np.where(known, errors, 0.0), known, spread)
    offsets = intervals.around(random.uniform(0.05, 3, size=(3, 2)))
    assert np.isfinite(offsets).all()
    assert (np.diff(offsets, axis=0) >= 0).all()
    assert not offsets[2].any()


def test_offsets_are_conformal_quantiles() -> None:
    errors = np.arange(-50.0, 49.0)[:, None, None]  # 99 errors
    got = offsets_of(errors, np.ones(errors.shape, bool))[:, 0, 0]
    assert got.tolist() == [-49.0, -41.0, 0.0, 39.0, 47.0]  # ranks floor(100 q) below the median, ceil(100 q) above it


def test_intervals_cover_exchangeable_errors() -> None:
    random = np.random.default_rng(0)
    spread = random.uniform(0.2, 2, size=(4000, 1))
    errors = random.normal(size=(4000, 3, 1)) * spread[:, None]
    known = np.ones(errors.shape, bool)
    fitted = fit_intervals(errors[:2000], known[:2000], spread[:2000])
    assert fitted.power == 1.0
    offsets = fitted.around(spread[2000:])
    for level, (low, high) in LEVELS.items():
        inside = (errors[2000:] >= offsets[low]) & (errors[2000:] <= offsets[high])
        assert 100 * inside.mean() == pytest.approx(level, abs=2)


def short_of_validation(folder: Path) -> tuple:
    """Four slow autoregressions, whose validation part holds little more than one horizon."""
    random, values = np.random.default_rng(3), np.zeros((1700, 4))
    for step in range(1, len(values)):
        values[step] = 0.98 * values[step - 1] + random.normal(size=4)
    frame = pd.DataFrame(values, columns=list("abcd"))
    frame.insert(0, "date", pd.date_range("2020-01-01", periods=len(frame), freq="h"))
    options = {"horizon": 60, "split": {"protocol": "1000/70/600 rows"}}
    panel = opened(frame, folder, **options)
    chosen = task(**options)
    split = chosen.split(panel)
    return panel, split, chosen.fit(panel, split)


def test_intervals_hold_what_they_promise_where_validation_is_one_horizon(tmp_path: Path) -> None:
    panel, split, fitted = short_of_validation(tmp_path)
    train, val, test = (part_windows(panel, split, fitted, part) for part in ("train", "val", "test"))
    run = forecaster("repeat_last", fitted, NO_RIDGE)
    few, many = (conformal(run, val, fitted, trained) for trained in (train.origins[:0], train.origins))
    assert (np.abs(many.offsets) >= np.abs(few.offsets)).all()
    fixed = [metrics(score(run, replace(found, rate=0.0), test, fitted))["coverage_80"] for found in (few, many)]
    assert fixed[0] < 65
    assert fixed[1] == pytest.approx(80, abs=6)


def test_naive_forecasts_by_hand() -> None:
    past = np.array([[[1.0], [2.0], [3.0], [4.0], [5.0]]])
    seen = np.ones_like(past, bool)
    assert repeat_last(past, seen, 2)[0, :, 0].tolist() == [5, 5]
    assert seasonal_naive(past, seen, 5, 3)[0, :, 0].tolist() == [3, 4, 5, 3, 4]
    seen[0, 2] = False
    assert seasonal_naive(past, seen, 5, 3)[0, :, 0].tolist() == [5, 4, 5, 5, 4]  # nothing at that place: the newest
    seen[0, 3:] = False
    assert last_observed(past, seen)[0].tolist() == [[2.0]]
    seen[:] = False
    assert repeat_last(past, seen, 2)[0, :, 0].tolist() == [0, 0]


def test_a_season_longer_than_the_look_back_falls_back_to_the_newest() -> None:
    past = np.arange(4.0)[None, :, None]
    got = seasonal_naive(past, np.ones_like(past, bool), 6, 6)[0, :, 0]
    assert got.tolist() == [3, 3, 0, 1, 2, 3]


def test_statistical_baselines_state_their_windows_and_skip_gaps(gappy: tuple) -> None:
    pytest.importorskip("statsforecast")
    panel, split, fitted = gappy
    found = all_baselines(panel, split, fitted, 2)
    assert {"repeat_last", "seasonal_naive", "window_ridge", "window_ridge (2 windows)"} <= set(found)
    theta = found["auto_theta (2 windows)"]
    assert np.isfinite(metrics(theta)["mse"])
    assert metrics(theta)["mse"] < metrics(found["repeat_last"])["mse"]
    assert theta.sum("n").sum() <= found["window_ridge (2 windows)"].sum("n").sum()


def test_history_is_the_stretch_behind_the_newest_gap() -> None:
    values, mask = np.arange(100.0), np.ones(100, bool)
    assert history(values, mask, 90, 4).tolist() == list(range(90))
    mask[60] = False
    assert history(values, mask, 90, 4).tolist() == list(range(61, 90))
    assert history(values, mask, 70, 12) is None


def test_without_statsforecast_the_request_names_the_extra(monkeypatch: pytest.MonkeyPatch, gappy: tuple) -> None:
    panel, split, _ = gappy
    require_statsforecast()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadRequest, match=r"cambium\[timeseries\].*ets_origins=0"):
        task(ets_origins=3).fit(panel, split)
    assert task(ets_origins=0).fit(panel, split)


def test_fit_is_the_training_part_alone(gappy: tuple) -> None:
    panel, split, fitted = gappy
    chosen = task()
    assert chosen.fit(chosen.poison(panel, split), split) == fitted
    train = panel.values[split.parts["train"]]
    assert fitted["mean"] == pytest.approx(np.nanmean(train, 0))
    assert fitted["std"] == pytest.approx(np.nanstd(train, 0))
    assert fit_panel(panel, split, chosen.config) == fitted
    assert torch.tensor(fitted["mean"]).isfinite().all()
