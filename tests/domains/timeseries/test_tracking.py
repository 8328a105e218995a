"""Intervals that follow the errors: against a plain loop, without a look ahead, and steadier than fixed ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from domains.timeseries import model as model_module
from domains.timeseries.baselines import part_windows, repeat_last
from domains.timeseries.config import LEVELS
from domains.timeseries.dropping import QuickDropout, quick, unmasked
from domains.timeseries.intervals import Intervals, spread_of
from domains.timeseries.model import forecasts_of, intervals_of
from domains.timeseries.scoring import conformal, metrics, offsets_at, scaled_past, score
from domains.timeseries.tracking import RATES, Tracker, opened
from domains.timeseries.windows import windows
from shared_backbones.layout import Layout
from tests.domains.timeseries.made import opened as opened_panel
from tests.domains.timeseries.made import table, task
from tests.domains.timeseries.test_model import ready
from tests.domains.timeseries.test_predicting import predicted


def test_factors_are_those_of_a_plain_loop() -> None:
    random, horizon, series, n = np.random.default_rng(0), 4, 2, 30
    offsets = np.sort(random.normal(size=(5, horizon, series)), 0)
    offsets -= offsets[2]
    errors = random.normal(size=(n, horizon, series)) * 2
    errors[random.random(errors.shape) < 0.2] = np.nan
    errors = errors.astype(np.float32).astype(np.float64)
    got = Tracker(offsets, 0.3, horizon, np.arange(horizon)).through(np.arange(50, 50 + n), errors, 55)
    wide = opened(offsets)
    for h in range(horizon):
        for v in range(series):
            for level, (low, high) in LEVELS.items():
                factor = 1.0
                for t in range(n):
                    missed = errors[t - 1 - h, h, v] if t - 1 - h >= 0 else np.nan
                    if t >= 5 and not np.isnan(missed):
                        inside = factor * wide[low, h, v] <= missed <= factor * wide[high, h, v]
                        factor *= np.exp(0.3 * ((not inside) - (1 - level / 100)))
                    if level == 80:
                        assert got[low, t, h, v] == pytest.approx(factor * wide[low, h, v])
                        assert got[high, t, h, v] == pytest.approx(factor * wide[high, h, v])
    assert (np.diff(got, axis=0) >= 0).all()


@pytest.fixture
def setting(tmp_path: Path) -> tuple[Any, ...]:
    panel = opened_panel(table(600), tmp_path)
    chosen = task()
    split = chosen.split(panel)
    fitted = chosen.fit(panel, split)

    def run(batch: Any) -> np.ndarray:
        return repeat_last(*scaled_past(batch, fitted), 12)

    return panel, split, fitted, run, part_windows(panel, split, fitted, "test")


def test_intervals_never_see_what_lies_ahead(setting: tuple[Any, ...]) -> None:
    _, _, fitted, run, test = setting
    fixed = Intervals(np.linspace(-1, 1, 5)[:, None, None] * np.ones((1, 12, 3)), 0.0, 0.1)
    first, end = int(test.origins[0]), int(test.origins[0]) + 30
    values = test.values.copy()
    values[end:] = 1e9
    got = [offsets_at(run, fixed, replace(test, values=x), fitted, first, end) for x in (test.values, values)]
    assert np.array_equal(*got)
    assert not np.array_equal(got[0], opened(fixed.offsets))
    values[end - 1] = 1e9
    assert not np.array_equal(got[0], offsets_at(run, fixed, replace(test, values=values), fitted, first, end))


def test_too_wide_and_too_narrow_intervals_find_their_width(setting: tuple[Any, ...]) -> None:
    panel, split, fitted, run, test = setting
    honest = conformal(run, part_windows(panel, split, fitted, "val"), fitted, np.arange(24, 100))
    assert honest.rate in RATES
    for wrong in (0.3, 3.0):
        start = Intervals(honest.offsets * wrong, honest.power)
        fixed, followed = (metrics(score(run, replace(start, rate=rate), test, fitted)) for rate in (0.0, 0.1))
        assert abs(followed["coverage_80"] - 80) < abs(fixed["coverage_80"] - 80) - 5
        assert followed["mse"] == fixed["mse"]
    few = replace(test, origins=test.origins[::7])  # not consecutive: fixed
    assert metrics(score(run, replace(start, rate=0.1), few, fitted)) == metrics(score(run, start, few, fitted))


def test_a_forecast_follows_the_files_own_errors(tmp_path: Path) -> None:
    chosen, panel, split, fitted, model = ready(tmp_path)
    chosen.calibrate(model, panel, split, fitted)
    model.rate.fill_(0.05)
    frame = table()  # as trained on: its last fifth is the test part
    path = tmp_path / "later.csv"
    frame.to_csv(path, index=False)
    got, facts = predicted((chosen, panel, split, fitted, model), str(path), tmp_path)
    assert facts["intervals_followed_steps"] == len(split.parts["test"])
    model.rate.fill_(0.0)
    fixed, facts = predicted((chosen, panel, split, fitted, model), str(path), tmp_path)
    assert facts["intervals_followed_steps"] == 0
    assert np.allclose(got["forecast"], fixed["forecast"])
    assert not np.allclose(got["hi_80"], fixed["hi_80"])
    intervals = replace(intervals_of(model), rate=0.05)
    first, end = int(split.parts["test"][0]), len(panel.times)
    source = windows(panel, np.array([end]), 24, 12, int(fitted["cycle"]))
    want = offsets_at(forecasts_of(model), intervals, source, fitted, first, end)
    spread = spread_of(*scaled_past(source.batch([0]), fitted))[0]
    upper = got["hi_80"].to_numpy().reshape(3, 12) - got["forecast"].to_numpy().reshape(3, 12)
    assert np.allclose(upper.T / np.array(fitted["std"]), want[3] * spread**intervals.power, rtol=1e-3)


def test_forecasts_in_pieces_are_those_of_all_windows_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, panel, split, fitted, model = ready(tmp_path, "itransformer")
    nn.init.normal_(model.skip.weight, std=0.1)
    batch = chosen.items(panel, split, fitted, "val").batch(range(11))
    whole = model.eval()(batch).detach().numpy()
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0]["past"])))
    for piece, expected in ((12, [4, 4, 3]), (1, [1] * 11), (10_000, [11])):  # of three series each
        monkeypatch.setattr(model_module, "PIECE", piece)
        sizes.clear()
        assert np.allclose(forecasts_of(model)(batch), whole, atol=1e-5)
        assert sizes == expected


def test_quick_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer = quick(nn.Sequential(nn.Dropout(0.3), nn.Sequential(nn.Dropout(0.0))))
    x = torch.ones(3, 33_333, requires_grad=True)
    y = layer(x)
    assert isinstance(layer[0], QuickDropout)
    assert abs(float((y.detach() == 0).float().mean()) - 0.3) < 0.01
    assert abs(float(y.detach().mean()) - 1) < 0.01
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert torch.equal(layer.eval()(x), x)


def test_a_mask_that_hides_nothing_is_left_out() -> None:
    mask = torch.ones(2, 5, dtype=torch.bool)
    assert unmasked(Layout((5,), mask=mask)).mask is None
    mask[1, 2] = False
    assert unmasked(Layout((5,), mask=mask)).mask is mask
