"""Where a price goes: the labelling rule by loops, nothing leaks from later rows, the task on a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from domains.checks import _Folder, check_law, subject
from domains.timeseries.classify import Classify
from domains.timeseries.objects.config import ClassifyOptions, TrendOptions
from domains.timeseries.objects.stems import Bilinear
from domains.timeseries.objects.trend import moves, parts_of, persisting, worded
from shared_backbones.errors import BadInput, BadRequest
from shared_backbones.presets import adjust, load_preset

TREND: dict[str, Any] = {"price": ["mid"], "window": 12, "horizon": 4, "smooth": 2, "stride": 2}


def book(rows: int = 240, seed: int = 0) -> pd.DataFrame:
    """A price that follows the imbalance of the rows before, and a column of noise."""
    random = np.random.default_rng(seed)
    imbalance = np.zeros(rows)
    for t in range(1, rows):
        imbalance[t] = 0.95 * imbalance[t - 1] + 0.3 * random.normal()
    price = 100 * np.exp(np.cumsum(1e-3 * np.roll(imbalance, 1)))
    return pd.DataFrame(
        {"time": np.arange(rows), "mid": price, "imbalance": imbalance, "noise": random.normal(size=rows)}
    )


def task(**options: Any) -> Classify:
    return Classify(ClassifyOptions(trend=TrendOptions(**{**TREND, **options}), convolutions=168))


def written(frame: pd.DataFrame, folder: Path) -> str:
    frame.to_csv(folder / "book.csv", index=False)
    return str(folder / "book.csv")


def test_moves_equal_loops_over_the_rule() -> None:
    price = np.random.default_rng(0).uniform(1, 2, 40)
    h, k = 5, 3
    got = moves(price, h, k)
    for t in range(40):
        if t - k < 0 or t + h >= 40:
            assert np.isnan(got[t])
            continue
        before = np.mean([price[t - i] for i in range(k + 1)])
        after = np.mean([price[t + h - i] for i in range(k + 1)])
        assert got[t] == pytest.approx((after - before) / before)
    assert worded(np.array([0.2, -0.2, 0.05, np.nan]), 0.1) == ["up", "down", "flat", ""]


def test_windows_of_one_table_are_no_independent_draws() -> None:
    assert task().drift_pieces
    assert not Classify(ClassifyOptions()).drift_pieces


def test_no_row_of_a_later_part_decides_a_class() -> None:
    options = TrendOptions(**TREND)
    rows = np.arange(11, 200)
    parts = np.array(parts_of(rows, 200, options))
    for part, first, end in (("train", 0, 140), ("val", 140, 160), ("test", 160, 200)):
        mine = rows[parts == part]
        assert mine.min() >= first
        assert mine.max() + options.horizon == end - 1
    assert (parts == "").sum() == 3 * options.horizon


def test_training_is_the_same_whatever_the_later_rows_hold(tmp_path: Path) -> None:
    frame = book()
    t = task()
    first = t.open(written(frame, tmp_path))
    split = t.split(first)
    known, fitted = split.parts["train"], t.fit(first, split)
    frame.loc[int(0.7 * len(frame)) :, ["mid", "imbalance", "noise"]] = 1e9
    other = t.open(written(frame, tmp_path))
    again = t.split(other)
    assert other.manifest.facts["trend"]["threshold"] == first.manifest.facts["trend"]["threshold"]
    assert [other.names[i] for i in again.parts["train"]] == [first.names[i] for i in known]
    for i, j in zip(known, again.parts["train"], strict=True):
        assert first.classes[first.labels[i]] == other.classes[other.labels[j]]
        np.testing.assert_array_equal(first.series[i], other.series[j])
    assert t.fit(other, again) == {**fitted, "classes": list(other.classes)}


def test_another_file_is_classed_by_the_threshold_of_the_training(tmp_path: Path) -> None:
    t = task()
    first = t.open(written(book(), tmp_path))
    fitted = t.fit(first, t.split(first))
    calm = book(seed=1)
    calm["mid"] = 100 + (calm["mid"] - 100) / 50
    other = t.open(written(calm, tmp_path))
    rows = t.split(other).parts["test"]
    got = [fitted["classes"][i] for i in t.targets(other, rows, fitted)]
    assert got == worded(other.moves[rows], fitted["trend"]["threshold"])
    assert got.count("flat") > len(rows) / 2 > [other.classes[i] for i in other.labels[rows]].count("flat")
    assert [fitted["classes"][i] for i in t.targets(first, rows, fitted)] == [
        first.classes[i] for i in first.labels[rows]
    ]


def test_the_control_goes_on_as_the_window_did(tmp_path: Path) -> None:
    t = task()
    data = t.open(written(book(), tmp_path))
    trend = data.manifest.facts["trend"]
    got = persisting(data.series, data.channels, trend, data.classes)
    price = book()["mid"].to_numpy()
    move = moves(price, 4, 2)
    for name, found in zip(data.names, got, strict=True):
        assert data.classes[found] == worded(move[[int(name) - 4]], trend["threshold"])[0]
    assert persisting(data.series, ("a", "b", "c"), trend, data.classes) is None


def test_windows_are_normalised_by_themselves() -> None:
    torch.manual_seed(0)
    own = Bilinear(3, 8)
    x, seen = torch.randn(2, 8, 3).double(), torch.ones(2, 8, 3, dtype=torch.bool)
    z = own.double()(x, seen)
    torch.testing.assert_close(own(7 * x - 3, seen), z, atol=1e-6, rtol=1e-6)
    over_time = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True, correction=0)
    over_channels = (x - x.mean(2, keepdim=True)) / x.std(2, keepdim=True, correction=0)
    torch.testing.assert_close(z, (over_time + over_channels) / 2, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["tlob_trend", "mlplob"])
def test_dual_attention_learns_what_moves_the_price(name: str, tmp_path: Path) -> None:
    t = task(stride=1)
    data = t.open(written(book(500), tmp_path))
    split = t.split(data)
    fitted = t.fit(data, split)
    torch.manual_seed(0)
    preset = adjust(load_preset(name), dim=16, depth=2, dropout=0.0)
    model = t.build(fitted, preset)
    train = t.items(data, split, fitted, "train")
    optimiser = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(4):
        for rows in torch.randperm(len(train)).split(32):
            loss, _ = t.loss(model, train.batch(rows.tolist()))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    t.calibrate(model, data, split, fitted)
    found = t.metrics(t.evidence(model, data, split, fitted, "test"))["accuracy"]
    base = t.baselines(data, split, fitted)
    assert found > t.metrics(base["most frequent class"])["accuracy"] + 0.15
    assert "the trend so far" in base


def test_predictions_go_on_to_the_last_row(tmp_path: Path) -> None:
    t = task()
    source = written(book(), tmp_path)
    data = t.open(source)
    split = t.split(data)
    fitted = t.fit(data, split)
    model = t.build(fitted, load_preset("mlplob"))
    (tmp_path / "out").mkdir()
    t.predict(model, fitted, source, _Folder(tmp_path / "out"))
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert rows["object"].iloc[-1] == 239
    assert set(rows["prediction"]) <= {"down", "flat", "up"}
    turned = book()[["time", "noise", "imbalance", "mid"]]
    with pytest.raises(BadInput, match="in that order"):
        t.predict(model, fitted, written(turned, tmp_path), _Folder(tmp_path / "out"))


def test_tables_that_cannot_be_labelled_are_refused(tmp_path: Path) -> None:
    frame = book()
    with pytest.raises(BadRequest, match=r"longer than trend\.horizon"):
        task(smooth=9).open(written(frame, tmp_path))
    with pytest.raises(BadRequest, match="best bid and best ask"):
        task(threshold="spread").open(written(frame, tmp_path))
    with pytest.raises(BadInput, match="no column 'mdi'"):
        task(price=["mdi"]).open(written(frame, tmp_path))
    with pytest.raises(BadInput, match=r"row 12.*not above 0"):
        task().open(written(frame.assign(mid=frame["mid"].where(frame.index != 10, 0.0)), tmp_path))
    with pytest.raises(BadInput, match="time goes back"):
        task().open(written(frame.assign(time=frame["time"].where(frame.index != 30, 3)), tmp_path))
    with pytest.raises(BadInput, match="fewer than"):
        task().open(written(frame[:9], tmp_path))


def test_the_contract_holds_on_a_table_of_prices(tmp_path: Path) -> None:
    made = subject(Classify, task().config, source=written(book(), tmp_path), preset=load_preset("mlplob"))
    for law in ("split", "poison", "loss", "figures"):
        check_law(law, made)
