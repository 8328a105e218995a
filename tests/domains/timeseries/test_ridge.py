"""The window ridge against scikit-learn and the published figures; the seasonal profile and its choice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from domains.timeseries.baselines import part_windows
from domains.timeseries.clear import clearly_less
from domains.timeseries.data import Panel
from domains.timeseries.ridge import WindowRidge, fit_ridge, zscored
from domains.timeseries.scoring import statistics
from domains.timeseries.seasons import Judged, choose_profile, closed_form, seasonal_profile, unit_losses, weakest
from domains.timeseries.windows import Windows, windows
from tests.domains.timeseries.made import opened, table, task


def scaled_parts(panel: Panel, **options: object) -> tuple[Windows, Windows]:
    chosen = task(**options)
    split = chosen.split(panel)
    fitted = chosen.fit(panel, split)
    mean, std, _ = statistics(fitted)
    train, val = (zscored(part_windows(panel, split, fitted, part), mean, std) for part in ("train", "val"))  # type: ignore[arg-type]
    return train, val


def rows(source: Windows) -> tuple[np.ndarray, np.ndarray]:
    """Centred look-backs and targets by a plain loop."""
    x, y = [], []
    for v in range(source.values.shape[1]):
        for t in source.origins:
            past, ahead = source.values[t - source.lookback : t, v], source.values[t : t + source.horizon, v]
            x.append(past - past.mean())
            y.append(ahead - past.mean())
    return np.array(x), np.array(y)


def test_equals_sklearn_for_the_chosen_penalty(tmp_path: Path) -> None:
    train, val = scaled_parts(opened(table(), tmp_path))
    found = fit_ridge(train, val, np.zeros((24, 3)))
    x, y = rows(train)
    expected = {p: Ridge(alpha=p, fit_intercept=False).fit(x, y) for p in (found.penalty, 10.0)}
    assert np.allclose(found.weight, expected[found.penalty].coef_.T, atol=1e-8)
    xv, yv = rows(val)
    errors = {p: np.mean((m.predict(xv) - yv) ** 2) for p, m in expected.items()}
    assert found.val_mse == pytest.approx(errors[found.penalty], rel=1e-5)
    assert found.val_mse <= errors[10.0] * (1 + 1e-6)


def test_missing_targets_do_not_bend_the_map(tmp_path: Path) -> None:
    """With targets missing, imputation converges to least squares over the observed ones, step by step ahead."""
    frame = table(900, series=1)
    frame.loc[np.random.default_rng(3).random(900) < 0.1, "s0"] = np.nan
    train, val = scaled_parts(opened(frame, tmp_path), horizon=2)
    found = fit_ridge(train, val, np.zeros((24, 1)), penalties=[1.0])
    x, y, known = [], [], []
    for t in train.origins:
        seen = train.mask[t - 24 : t, 0]
        past = train.values[t - 24 : t, 0]
        x.append(np.where(seen, past - past[seen].mean(), 0))
        y.append(train.values[t : t + 2, 0] - past[seen].mean())
        known.append(train.mask[t : t + 2, 0])
    for h in range(2):
        use = np.array(known)[:, h]
        alone = Ridge(alpha=1.0, fit_intercept=False).fit(np.array(x)[use], np.array(y)[use, h])
        assert np.allclose(found.weight[:, h], alone.coef_, atol=2e-3)


def test_forecast_is_the_map_on_centred_windows(tmp_path: Path) -> None:
    train, val = scaled_parts(opened(table(), tmp_path))
    found = fit_ridge(train, val, np.zeros((24, 3)))
    t = int(val.origins[5])
    past = val.values[t - 24 : t][None]
    got = found.forecast(past, np.ones_like(past, bool), np.array([0]), 12)
    mean = past.mean(1, keepdims=True)
    assert np.allclose(got, np.einsum("blv,lh->bhv", past - mean, found.weight) + mean)


def test_a_seasonal_profile_is_recovered_through_gaps() -> None:
    random = np.random.default_rng(0)
    steps = np.arange(24 * 60)
    wave = np.sin(2 * np.pi * steps / 24)
    values = (wave + 0.01 * steps + 0.05 * random.normal(size=len(steps)))[:, None]
    mask = random.random(values.shape) > 0.1
    got = seasonal_profile(np.where(mask, values, 0.0), mask, steps % 168, 24, 168)
    assert np.abs(got[:24, 0] - wave[:24]).max() < 0.06
    assert np.array_equal(got[:24], got[24:48])


def made_windows(values: np.ndarray, cycle: int) -> Windows:
    n = len(values)
    return Windows(
        np.arange(48, n - 12), 48, 12, values, np.ones(values.shape, bool), np.arange(n) % cycle, np.zeros((n, 8)),
        np.zeros((n, 1, 0)), np.zeros((n, 1, 0)),
    )  # fmt: skip


def start(values: np.ndarray, periods: list[int], cycle: int) -> WindowRidge:
    whole = made_windows(values, cycle)
    cut = len(values) * 3 // 4
    train = replace(whole, origins=whole.origins[whole.origins + 12 <= cut])
    val = replace(whole, origins=whole.origins[whole.origins >= cut])
    return closed_form(train, val, np.arange(cut), periods, cycle)


def test_a_profile_is_taken_where_it_helps_and_left_where_it_does_not() -> None:
    random = np.random.default_rng(1)
    noise = random.normal(size=(168 * 12, 2)).cumsum(0) * 0.05
    steps = np.arange(len(noise))
    weekly = np.where((steps // 24) % 7 >= 5, -2.0, 0.0)[:, None] + noise  # two days in seven, unseen in 48 hours
    taken = start(weekly, [24, 168], 168)
    assert taken.cycle[5 * 24 : 7 * 24].mean() < taken.cycle[: 5 * 24].mean() - 0.4
    plain = start(weekly, [], 168)
    assert not plain.cycle.any()
    assert taken.val_mse < 0.9 * plain.val_mse
    assert not start(noise, [24, 168], 168).cycle.any()


def test_too_short_for_blocks_there_is_no_profile() -> None:
    noise = np.random.default_rng(2).normal(size=(90, 1)).cumsum(0)
    assert not start(noise, [24], 24).cycle.any()
    whole = made_windows(noise, 24)
    assert not choose_profile(whole, np.arange(30), [24], 24).any()


def test_the_weakest_profile_that_the_blocks_cannot_tell_from_the_best() -> None:
    none, some, full = (
        Judged(np.zeros((1, 1)), np.array(errors)) for errors in ([0.5, 0.7, 0.6], [0.1, 0.2, 0.1], [0.1, 0.1, 0.1])
    )
    assert weakest([none, some, full]) is some
    assert weakest([none, full]) is full
    assert weakest([none]) is none


def test_a_difference_is_clear_over_units_not_by_one_of_them() -> None:
    old = np.array([1.0, 1.1, 0.9, 1.0])
    assert clearly_less(old - np.array([0.1, 0.12, 0.09, 0.1]), old)
    assert not clearly_less(old - np.array([0.9, 0.0, -0.1, 0.0]), old)
    assert not clearly_less(old[:1] - 0.5, old[:1])
    assert not clearly_less(old, old)


def test_unit_losses_add_up_to_the_validation_error(tmp_path: Path) -> None:
    train, val = scaled_parts(opened(table(), tmp_path))
    ridge = fit_ridge(train, val, np.zeros((168, 3)))
    assert unit_losses(ridge, val).sum() / (len(val) * 36) == pytest.approx(ridge.val_mse, rel=1e-5)


@pytest.mark.parametrize(("lookback", "mse", "mae"), [(96, 0.383, 0.392), (336, 0.370, 0.391)])
def test_published_figures_on_ett_h1(public_data: Path, lookback: int, mse: float, mae: float) -> None:
    """Horizon 96, all windows: the rows that ../shared/field/timeseries.md gives; to its three digits."""
    chosen = task(lookback=lookback, horizon=96)
    panel = chosen.open("ett_h1")
    split = chosen.split(panel)
    fitted = chosen.fit(panel, split)
    mean, std, _ = statistics(fitted)
    train, val, test = (
        zscored(part_windows(panel, split, fitted, part), mean, std)
        for part in ("train", "val", "test")  # type: ignore[arg-type]
    )
    ridge = fit_ridge(train, val, np.zeros((1, 7)), penalties=[1.0, 10.0, 100.0])
    assert len(test) == 2785
    assert errors(ridge, test) == pytest.approx([mse, mae], abs=0.001)


def errors(ridge: WindowRidge, test: Windows) -> tuple[float, float]:
    batch = test.batch(range(len(test)))
    got = ridge.forecast(batch["past"].numpy(), batch["past_mask"].numpy(), batch["phase"].numpy(), test.horizon)
    gap = got - batch["future"].numpy()
    return float((gap**2).mean()), float(np.abs(gap).mean())


def test_windows_helper_is_the_task_s_own(tmp_path: Path) -> None:
    panel = opened(table(), tmp_path)
    chosen = task()
    split = chosen.split(panel)
    fitted = chosen.fit(panel, split)
    assert np.array_equal(
        part_windows(panel, split, fitted, "val").origins, chosen.items(panel, split, fitted, "val").origins
    )
    assert windows(panel, np.array([30]), 24, 12, 168).phase.max() == 167
