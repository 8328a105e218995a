"""Anomalies: metrics against the definitions, scores that never look ahead, files that cannot be watched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from domains.checks import _Folder
from domains.timeseries.anomalies.config import DetectOptions
from domains.timeseries.anomalies.data import runs
from domains.timeseries.anomalies.discord import left_profile
from domains.timeseries.anomalies.judging import moving_z
from domains.timeseries.anomalies.leveling import Level
from domains.timeseries.anomalies.metrics import (
    alarms,
    nab_raw,
    point_adjusted,
    range_parts,
    sigmoid_score,
    soft_labels,
    vus_pr,
)
from domains.timeseries.anomalies.scores import causal_mean, surprise, threshold_of
from domains.timeseries.detect import Detect
from shared_backbones.errors import BadInput, BadRequest
from shared_backbones.presets import load_preset

SMALL: dict[str, Any] = {"lookback": 16, "simulated": {"series": 3, "steps": 800}, "forest_trees": 5}
WINDOWS = np.array([[10, 19], [40, 59]])


def task(**options: Any) -> Detect:
    return Detect(DetectOptions(**{**SMALL, **options}))


def fitted_model(t: Detect) -> tuple[Any, Any, Any, Any]:
    data = t.open("simulated")
    split = t.split(data)
    fitted = t.fit(data, split)
    torch.manual_seed(0)
    model = t.build(fitted, load_preset("series_watcher"))
    t.initialise(model, data, split)
    t.calibrate(model, data, split, fitted)
    return data, split, fitted, model


def test_the_nab_score_is_that_of_its_profile() -> None:
    assert nab_raw(np.array([], int), WINDOWS) == -2
    assert nab_raw(np.array([10, 40]), WINDOWS) == pytest.approx(2.0)
    late = sigmoid_score(-1 / 20) / sigmoid_score(-1)
    assert nab_raw(np.array([10, 59]), WINDOWS) == pytest.approx(1 + late)
    assert nab_raw(np.array([10, 11, 59, 40]), WINDOWS) == pytest.approx(2.0)  # the best of a window counts, once
    assert nab_raw(np.array([5]), WINDOWS) == pytest.approx(-2 - 0.11)
    after = 0.11 * sigmoid_score((22 - 19) / 9)
    assert after < 0
    assert nab_raw(np.array([10, 22, 40]), WINDOWS) == pytest.approx(2 + after)
    assert sigmoid_score(9.0) == -1


def test_alarms_wait() -> None:
    flags = np.zeros(30, bool)
    flags[[2, 3, 9, 12, 25]] = True
    assert alarms(flags, 8).tolist() == [2, 12, 25]
    assert runs(flags).tolist() == [[2, 3], [9, 9], [12, 12], [25, 25]]


def test_ranges_count_existence_overlap_and_pieces() -> None:
    flags = np.zeros(70, bool)
    flags[10:15] = flags[18:20] = flags[30:32] = True
    found = range_parts(flags, WINDOWS)
    assert found["range_recall"] == pytest.approx(0.5 + 0.5 * (7 / 10) / 2)
    assert found["range_precision"] == pytest.approx(2.0)
    assert (found["ranges"], found["guessed"]) == (2, 3)
    assert point_adjusted(flags, WINDOWS).sum() == 10 + 2


def test_the_volume_ranks_knowing_above_guessing() -> None:
    random = np.random.default_rng(0)
    truth = soft_labels(WINDOWS, 400, 0)
    assert truth.sum() == 30
    soft = soft_labels(WINDOWS, 400, 8)
    np.testing.assert_allclose(soft[20:25], [np.sqrt(1 - d / 8) for d in (1, 2, 3, 4)] + [0])
    perfect = vus_pr(truth + 1e-3 * random.random(400), WINDOWS, 0)
    guessed = np.mean([vus_pr(random.random(400), WINDOWS, 0) for _ in range(20)])
    assert perfect > 0.97
    assert abs(guessed - 30 / 400) < 0.06
    assert np.isnan(vus_pr(truth, WINDOWS[:0], 0))


def test_the_profile_equals_the_definition() -> None:
    x, width = np.random.default_rng(0).normal(size=60), 7
    x[20:27] = 3.0  # flat
    found = left_profile(x, width)
    for end in range(2 * width - 1, 60):
        here = x[end - width + 1 : end + 1]
        best = np.inf
        for first in range(end - 2 * width + 2):
            pair = [(w - w.mean()) / w.std() if w.std() > 1e-9 else 0 * w for w in (here, x[first : first + width])]
            best = min(best, float(np.sqrt(((pair[0] - pair[1]) ** 2).sum())))
        assert found[end] == pytest.approx(best, abs=2e-3)
    assert not found[: 2 * width - 1].any()


def test_means_and_surprises_never_look_ahead() -> None:
    random = np.random.default_rng(0)
    x = random.exponential(size=300)
    x[7] = np.nan
    np.testing.assert_allclose(causal_mean(x, 4)[50], x[47:51].mean())
    spoilt = x.copy()
    spoilt[200:] = 1e9
    np.testing.assert_array_equal(surprise(x, 100, 3)[:200], surprise(spoilt, 100, 3)[:200])
    assert (np.diff(surprise(np.linspace(0, 5, 50), 25, 1)) >= 0).all()  # the larger the error, the larger the surprise


def test_the_threshold_holds_the_rate_of_an_exponential() -> None:
    random = np.random.default_rng(0)
    level = threshold_of([random.exponential(size=20_000)], 1e-4)
    assert abs(level + np.log(1e-4)) < 0.5


@pytest.mark.parametrize("rate", [1e-3, 1e-2])
def test_the_level_keeps_the_promised_rate_where_scores_drift(rate: float) -> None:
    random = np.random.default_rng(0)
    scores = random.exponential(size=40_000) * np.linspace(1, 2, 40_000)
    fixed, options = threshold_of([scores[:500]], rate), DetectOptions(alarm_rate=rate)
    flagged = Level(scores[:500], fixed, options).push(scores[500:]) >= 1
    assert (scores[500:] >= fixed).mean() > 4 * rate
    assert rate / 2 < flagged.mean() < 2 * rate


def test_the_level_of_a_step_rests_on_earlier_scores_however_they_come() -> None:
    random, options = np.random.default_rng(0), DetectOptions(lookback=16)
    past, scores = random.exponential(size=100), random.exponential(size=200)
    whole = Level(past, 3.0, options).push(scores)
    pieces = Level(past, 3.0, options)
    np.testing.assert_array_equal(np.concatenate([pieces.push(s) for s in np.split(scores, [0, 5, 40, 41])]), whole)
    spoilt = np.where(np.arange(200) < 150, scores, 1e9)
    np.testing.assert_array_equal(Level(past, 3.0, options).push(spoilt)[:150], whole[:150])
    assert (whole <= scores / 3.0 + 1e-12).all()  # never easier than the threshold


def test_an_anomaly_hardly_raises_the_level() -> None:
    random, options = np.random.default_rng(0), DetectOptions(lookback=64)
    level = Level(random.exponential(size=1000), 9.0, options)
    before = level.now
    assert (level.push(np.full(128, 1e6)) > 1e4).all()
    assert level.now < 1.5 * before


def test_moving_z_is_the_distance_from_the_steps_before() -> None:
    data = task().open("simulated")
    record = data.items[0]
    found = moving_z(record, 16)
    x = record.values[84:100, 0]
    z = (record.values[100, 0] - x.mean()) / x.std()
    assert found[100, 0] == pytest.approx(abs(z), rel=1e-3)


def test_scores_never_look_ahead_and_the_threshold_never_at_the_test_part() -> None:
    t = task()
    data, split, fitted, model = fitted_model(t)
    before, threshold = t.scores(model, data), float(model.threshold)
    later = [replace(r, values=np.where(np.arange(len(r))[:, None] < 500, r.values, -77.0)) for r in data.items]
    after = t.scores(model, replace(data, items=tuple(later)))
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a[:500], b[:500], rtol=1e-5, atol=1e-5)
    t.calibrate(model, t.poison(data, split), split, fitted)
    assert float(model.threshold) == threshold


def test_faults_are_found_better_than_by_chance() -> None:
    t = task(simulated={"series": 4, "steps": 1500}, discord_cells=0)
    data, split, fitted, model = fitted_model(t)
    mine = t.metrics(t.evidence(model, data, split, fitted, "test"))
    others = {k: t.metrics(e) for k, e in t.baselines(data, split, fitted).items()}
    assert "discord" not in others
    assert mine["vus_pr"] > 3 * others["random scores"]["vus_pr"]
    assert mine["nab"] > others["random scores"]["nab"]
    assert "f1_point_adjusted" not in mine
    adjusted = task(point_adjust=True)
    adjusted_metrics = t.metrics(adjusted.evidence(model, data, split, fitted, "test"))
    assert adjusted_metrics["f1_point_adjusted"] >= adjusted_metrics["f1"]


def table(steps: int = 400) -> pd.DataFrame:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"timestamp": pd.date_range("2024-01-01", periods=steps, freq="h")})
    frame["a"], frame["b"] = np.sin(np.arange(steps) / 5) + 0.1 * random.normal(size=steps), random.normal(size=steps)
    return frame.assign(label=0)


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        (lambda f: f.iloc[::-1], {}, r"row 3: time goes back.*back=keep"),
        (lambda f: pd.concat([f[:6], f[5:]]), {}, r"row 8: time stamp 2024-01-01 05:00:00 stands twice.*back=keep"),
        (lambda f: f.assign(label=2), {}, "labels are 0 or 1"),
        (lambda f: f.head(60), {}, "lookback"),
        (lambda f: f, {}, "no anomaly is labelled after"),
        (lambda f: f, {"columns": ("c",)}, "no column 'c'"),
        (lambda f: f.assign(a=np.nan), {"columns": ("a",)}, "no observed value"),
        (lambda f: f, {"windows": "w.json"}, "another file"),
        (lambda f: f, {"windows": "broken.json"}, "no JSON of windows"),
        (lambda f: f, {"windows": "none.json"}, "windows=none.json: no such file"),
    ],
)
def test_bad_tables_say_where(tmp_path: Path, change: Any, options: dict[str, Any], says: str) -> None:
    change(table()).to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "w.json").write_text('{"a.csv": [["2030-01-01", "2030-01-02"]]}')
    (tmp_path / "broken.json").write_text("[1, 2")
    with pytest.raises(BadInput, match=says):
        task(**options).open(str(tmp_path / "a.csv"))


def test_a_table_of_two_channels_is_watched_and_labels_are_not_needed_to_predict(tmp_path: Path) -> None:
    frame = table()
    frame.loc[300:310, ["a", "label"]] = [9.0, 1]
    frame.loc[50:60, "b"] = np.nan
    folder = tmp_path / "in"
    folder.mkdir()
    frame.to_csv(folder / "a.csv", index=False)
    t = task()
    data = t.open(str(folder))
    assert data.items[0].channels == ("a", "b")
    split = t.split(data)
    model = t.build(fitted := t.fit(data, split), load_preset("series_watcher"))
    t.initialise(model, data, split)
    t.calibrate(model, data, split, fitted)
    frame.drop(columns="label").to_csv(folder / "a.csv", index=False)
    facts = t.predict(model, fitted, str(folder / "a.csv"), _Folder(tmp_path))
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert facts["steps"] == len(scores) == 400
    assert scores.flagged[300:312].any()
    assert not scores.flagged[: data.items[0].known].any()
    assert pd.read_csv(tmp_path / "events.csv").highest_score.max() > 1


def test_unknown_options_are_refused() -> None:
    preset = load_preset("series_watcher")
    with pytest.raises(BadRequest, match="skip"):
        task().build({"lookback": 16}, replace(preset, model={"skp": True}))


@pytest.mark.data
def test_the_nab_subset_has_its_windows(public_data: Path) -> None:
    data = task(lookback=64).open("nab")
    assert len(data.items) == 20
    assert sum(len(r.windows) for r in data.items) == 39
