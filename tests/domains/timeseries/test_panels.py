"""Panels as they come: new ids, short series, other lengths and steps, and going on from a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from domains.timeseries.panels import own_steps
from pipelines.trainer.start import _startable
from shared_backbones.errors import BadInput
from tests.domains.timeseries.made import opened, table, task, written
from tests.domains.timeseries.test_model import ready
from tests.domains.timeseries.test_predicting import predicted


def long(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.melt("date", var_name="unique_id", value_name="y").rename(columns={"date": "ds"}).dropna()


@pytest.fixture(params=["itransformer", "patch_tst", "linear_skip"])
def parts(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, ...]:
    chosen, panel, split, fitted, model = ready(tmp_path, request.param, long(table()))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    chosen.calibrate(model, panel, split, fitted)
    return chosen, panel, split, fitted, model


def test_a_new_series_gets_a_forecast_that_says_so(parts: tuple[Any, ...], tmp_path: Path) -> None:
    frame = table(60, seed=5)
    alone, facts = predicted(parts, written(long(frame), tmp_path, "known.csv"), tmp_path)
    assert facts["new_series"] == 0
    frame["a new one"] = 500 + 100 * frame["s1"]  # sorts before the others, and has a scale of its own
    frame["b still"] = 7.0
    got, facts = predicted(parts, written(long(frame), tmp_path, "new.csv"), tmp_path)
    assert facts["new_names"] == ["a new one", "b still"]
    of = dict(list(got.groupby("unique_id")))
    assert {name: rows["basis"].unique().tolist() for name, rows in of.items()} == {
        "s0": ["trained"], "s1": ["trained"], "s2": ["trained"],
        "a new one": ["new"], "b still": ["new, one value throughout"],
    }  # fmt: skip
    both = got[got["basis"] == "trained"].reset_index(drop=True)
    pd.testing.assert_frame_equal(both, alone)  # who else is in the file does not matter to the trained ones
    new = of["a new one"]
    level = frame["a new one"]
    assert level.min() - 3 * level.std() < new["forecast"].mean() < level.max() + 3 * level.std()
    assert (np.diff(new[["lo_95", "lo_80", "hi_80", "hi_95"]].to_numpy(), axis=1) >= 0).all()
    assert (new["hi_80"] > new["lo_80"]).any()
    assert of["b still"]["lo_80"].isna().all()
    assert of["b still"]["forecast"].notna().all()


def test_series_of_other_lengths_ends_and_steps(parts: tuple[Any, ...], tmp_path: Path) -> None:
    frame = table(80, seed=5)
    frame["late"] = np.where(np.arange(80) >= 72, frame["s0"], np.nan)
    frame.loc[frame.index[:-30], "s1"] = np.nan
    frame.loc[frame.index[-40:], "s2"] = np.nan  # it ended before the look-back of 24 steps
    frame["every six"] = np.where(np.arange(80) % 6 == 4, frame["s0"], np.nan)  # the newest at step 76
    got, facts = predicted(parts, written(long(frame), tmp_path, "mixed.csv"), tmp_path)
    of = dict(list(got.groupby("unique_id")))
    assert of["late"]["basis"].iloc[0] == "new, short look-back"
    assert of["s1"]["basis"].iloc[0] == "trained"
    assert of["s2"]["basis"].iloc[0] == "trained, no value in the look-back"
    assert of["s2"]["forecast"].isna().all()
    assert facts["without_forecast"] == 1
    assert facts["short_lookbacks"] == 1
    assert of["every six"]["ds"].tolist() == [frame["date"].iloc[76] + pd.Timedelta(h, "h") for h in (6, 12)]
    assert len(of["s0"]) == 12
    assert of["late"]["forecast"].notna().all()


def test_a_file_shorter_than_the_look_back(parts: tuple[Any, ...], tmp_path: Path) -> None:
    got, facts = predicted(parts, written(long(table(10, seed=5)), tmp_path, "short.csv"), tmp_path)
    assert facts["short_lookbacks"] == 3
    assert set(got["basis"]) == {"trained, short look-back"}
    assert got["forecast"].notna().all()
    assert facts["missing_in_lookback_percent"] == pytest.approx(100 * 14 / 24, abs=0.01)


def test_many_short_series_train(tmp_path: Path) -> None:
    path = written(long(table(63, series=6)), tmp_path, "panel.csv")
    chosen = task(split={"protocol": "35/14/14 rows"})  # look-back 24 + horizon 12: 35 training steps are one too few
    panel = chosen.open(path)
    assert panel.lead == 18
    split = chosen.split(panel)
    assert split.parts["train"][0] == 18
    assert len(split.parts["train"]) == 35
    assert split.facts["steps_before_the_first"] == 18
    fitted = chosen.fit(panel, split)
    items = chosen.items(panel, split, fitted, "train")
    assert len(items) == 35 - 6 - 12 + 1
    first = items.batch([0])
    assert int(first["past_mask"][0, :, 0].sum()) == 6  # a quarter of the look-back
    assert chosen.fit(chosen.poison(panel, split), split) == fitted
    assert opened(table(120), tmp_path).lead == 0
    with pytest.raises(BadInput, match=r"part 'train' .* needs at least 18"):
        task().split(task().open(written(long(table(20)), tmp_path, "tiny.csv")))


def test_series_without_a_training_scale_are_dropped_where_asked(tmp_path: Path) -> None:
    frame = table()
    frame["born late"] = np.where(np.arange(400) > 350, frame["s0"], np.nan)
    frame["still"] = 3.0
    path = written(long(frame), tmp_path, "panel.csv")
    with pytest.raises(BadInput, match="'still' is constant"):
        task().open(path)
    panel = task(few="drop").open(path)
    assert panel.names == ("s0", "s1", "s2")
    assert panel.manifest.facts["dropped"] == ["born late", "still"]
    with pytest.raises(BadInput, match="no series has two different values"):
        task(few="drop").open(written(long(frame[["date", "still"]]), tmp_path, "still.csv"))


def test_own_steps() -> None:
    mask = np.zeros((30, 4), bool)
    mask[::6, 0] = True
    mask[[0, 6, 8], 1] = True
    mask[[3, 9], 2] = True
    assert own_steps(mask).tolist() == [6, 2, 1, 1]


def test_going_on_takes_the_network_and_not_the_closed_form(tmp_path: Path) -> None:
    """Policy: scaling, closed-form maps and intervals are those of the new rows; only trained weights are taken."""
    chosen, panel, split, _, model = ready(tmp_path, "linear_skip")
    chosen.initialise(model, panel, split)
    there = {name: value.clone() for name, value in model.state_dict().items()}
    left = set(there) - set(model.adopt(there))
    assert left == {"skip.weight", "cycle"}
    assert {name for name, _ in _startable(model)} - left
    assert "residual.head.weight" in model.adopt(there)
