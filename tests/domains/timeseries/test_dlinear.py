"""DLinear in closed form and the drift line against what they should be worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from domains.timeseries.baselines import drift, part_windows
from domains.timeseries.dlinear import KERNEL, branches, fit_dlinear
from domains.timeseries.ridge import WindowRidge, zscored
from domains.timeseries.windows import Windows, rows
from tests.domains.timeseries.made import opened, table, task

NO_RIDGE = WindowRidge(np.zeros((24, 12)), np.zeros((1, 3)), 1.0, 0.0)


def parts(folder: Path) -> list[Windows]:
    """The training and the validation windows of a made table, z-scored."""
    panel, chosen = opened(table(), folder), task()
    split = chosen.split(panel)
    fitted = chosen.fit(panel, split)
    mean, std = np.array(fitted["mean"]), np.array(fitted["std"])
    return [zscored(part_windows(panel, split, fitted, p), mean, std) for p in ("train", "val")]


@pytest.mark.parametrize("lookback", [3, 24, 40])
def test_branches_are_a_moving_mean_and_what_is_left(lookback: int) -> None:
    x = np.random.default_rng(0).normal(size=lookback)
    half = (KERNEL - 1) // 2
    padded = np.concatenate([np.full(half, x[0]), x, np.full(half, x[-1])])
    mean = np.array([padded[i : i + KERNEL].mean() for i in range(lookback)])
    got = np.append(x, 1.0) @ branches(lookback)
    np.testing.assert_allclose(got, np.concatenate([mean, x - mean, [1.0]]), atol=1e-12)


def test_the_map_is_the_ridge_solution_in_both_branches(tmp_path: Path) -> None:
    train, val = parts(tmp_path)
    found = fit_dlinear(train, val, NO_RIDGE)
    pairs = [rows(train, np.arange(len(train)), v, 0.0, 1.0) for v in range(3)]
    x = np.concatenate([np.concatenate([p[0], np.ones((len(p[0]), 1))], 1) for p in pairs]) @ branches(24)
    y = np.concatenate([p[2] for p in pairs])
    tall = np.concatenate([x, np.sqrt(found.penalty) * np.eye(x.shape[1])])
    by_hand = np.linalg.lstsq(tall, np.concatenate([y, np.zeros((x.shape[1], 12))]), rcond=None)[0]
    np.testing.assert_allclose(found.weight, branches(24) @ by_hand, atol=1e-6)
    past = np.stack([p[0][:5] for p in pairs], 2)
    want = np.stack([p[0][:5] @ found.weight[:-1] + found.weight[-1] for p in pairs], 2)
    np.testing.assert_allclose(found.forecast(past, np.ones(past.shape, bool)), want, atol=1e-12)


def test_missing_targets_leave_a_usable_map(tmp_path: Path) -> None:
    train, val = parts(tmp_path)
    mask = train.mask.copy()
    mask[::7] = False
    holes = replace(train, values=np.where(mask, train.values, 0.0), mask=mask)
    assert np.isfinite(fit_dlinear(holes, val, NO_RIDGE).weight).all()


def test_drift_goes_on_along_the_line_through_the_ends() -> None:
    past = np.array([[9.0, 2.0, 5.0, 4.0, 9.0]]).reshape(1, 5, 1)
    mask = np.array([0, 1, 1, 1, 0], bool).reshape(1, 5, 1)  # from 2 at step 1 to 4 at step 3; step 4 is missing
    np.testing.assert_allclose(drift(past, mask, 3)[0, :, 0], [6.0, 7.0, 8.0])
    np.testing.assert_allclose(drift(past, mask & (np.arange(5) == 3)[None, :, None], 2)[0, :, 0], [4.0, 4.0])
    np.testing.assert_allclose(drift(past, np.zeros_like(mask), 2)[0, :, 0], [0.0, 0.0])
