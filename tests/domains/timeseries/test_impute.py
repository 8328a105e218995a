"""Filling gaps: what is hidden, straight lines against numpy's, the closed form, intervals, and a file made whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.timeseries.impute import Impute
from domains.timeseries.imputing.config import ImputeConfig
from domains.timeseries.imputing.hiding import hidden
from domains.timeseries.imputing.items import gaps_of
from domains.timeseries.imputing.model import KINDS, kind_of, neighbours, straight
from domains.timeseries.imputing.scoring import fill_of, metrics, score
from pipelines.sink import FolderSink
from shared_backbones.errors import BadInput
from shared_backbones.presets import load_preset


@pytest.mark.parametrize("kind", ["points", "blocks", "outages"])
def test_hidden_has_the_share_and_the_length_asked_for(kind: str) -> None:
    config = ImputeConfig.model_validate({"hide": kind, "share": 0.3, "gap": 6})
    found = hidden((40, 400, 8), config, np.random.default_rng(0))
    assert abs(found.mean() - 0.3) < 0.03
    assert (found == found[..., :1]).all() == (kind == "outages")
    ends = np.diff(found.astype(int), axis=1)
    length = found.sum() / max(1, (ends == 1).sum() + found[:, 0].sum())
    assert abs(length - (6 if kind != "points" else 1 / 0.7)) < 0.5
    again = hidden((40, 400, 8), config, np.random.default_rng(0))
    assert np.array_equal(found, again)
    if kind == "blocks":  # the start says nothing of the change behind it
        first = hidden((4000, 3, 4), config, np.random.default_rng(1))
        pair = first[:, 0] & first[:, 1]
        assert abs(first[:, 2][pair].mean() - 5 / 6) < 0.03


@settings(max_examples=60)
@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 2**16))
def test_straight_lines_are_numpys(steps: int, series: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    x, seen = random.normal(size=(1, steps, series)), random.random((1, steps, series)) < 0.4
    found = straight(torch.from_numpy(np.where(seen, x, 1e9)), torch.from_numpy(seen)).numpy()
    kind = kind_of(torch.from_numpy(seen)).numpy()
    before, after = neighbours(torch.from_numpy(seen))
    for v in range(series):
        at = np.flatnonzero(seen[0, :, v])
        if not len(at):
            assert (found[0, :, v] == 0).all()
            assert (kind[0, :, v] == len(KINDS) - 1).all()
            continue
        np.testing.assert_allclose(found[0, :, v], np.interp(np.arange(steps), at, x[0, at, v]), atol=1e-12)
        for t in range(steps):
            far = np.abs(at - t).min()
            assert kind[0, t, v] == min(4, int(np.log2(max(1, far))))
            assert before[0, t, v] == max([i for i in at if i <= t], default=-1)
            assert after[0, t, v] == min([i for i in at if i >= t], default=steps)


@pytest.fixture(scope="module")
def ready() -> dict[str, object]:
    """Five series, three of them driven by a fourth: what one hides, the others show."""
    task = Impute(ImputeConfig.model_validate({"length": 48, "hide": "blocks", "gap": 8}))
    data = task.open("simulated")
    split = task.split(data)
    fitted = task.fit(data, split)
    torch.manual_seed(0)
    model = task.build(fitted, load_preset("series_filler"))
    task.initialise(model, data, split)
    task.calibrate(model, data, split, fitted)
    return {"task": task, "data": data, "split": split, "fitted": fitted, "model": model.eval()}


def test_every_step_of_a_part_is_scored_once(ready: dict[str, object]) -> None:
    task, data, split = (ready[k] for k in ("task", "data", "split"))
    steps = split.parts["test"][:-5]  # no multiple of the length
    gaps = gaps_of(data, steps, task.config, 24, train=False)
    times = np.zeros(len(data.times), int)
    for start, counts in zip(gaps.starts, gaps.counts, strict=True):
        times[start : start + 48] += counts
    assert (times[steps] == 1).all()
    assert times.sum() == len(steps)
    batch = gaps.batch(range(len(gaps)))
    assert not (batch["seen"] & batch["asked"]).any()
    assert batch["asked"].sum() == (gaps.hidden & gaps.mask)[steps].sum()


def test_the_closed_form_uses_the_other_series_and_intervals_cover(ready: dict[str, object]) -> None:
    task, data, split, fitted, model = (ready[k] for k in ("task", "data", "split", "fitted", "model"))
    own = metrics(task.evidence(model, data, split, fitted, "test"))
    rivals = {name: metrics(e) for name, e in task.baselines(data, split, fitted).items()}
    assert rivals["ridge across series"]["mse"] <= rivals["straight lines"]["mse"]
    assert own["mse"] == pytest.approx(rivals["ridge across series"]["mse"], rel=1e-4)  # the network is untrained
    assert abs(own["coverage_80"] - 80) < 6
    assert abs(own["coverage_95"] - 95) < 4


def test_scores_are_those_of_a_plain_loop(ready: dict[str, object]) -> None:
    task, data, split, fitted, model = (ready[k] for k in ("task", "data", "split", "fitted", "model"))
    gaps = gaps_of(data, split.parts["test"][:200], task.config, 24, train=False)
    evidence = score(fill_of(model), model.width.double().numpy(), gaps, fitted)
    errors, inside = [], []
    for i in range(len(gaps)):
        batch = gaps.batch([i])
        with torch.no_grad():
            z, half = model(batch)[0].double().numpy(), model.half_width(batch["seen"])[0, 0].double().numpy()
        for t, v in zip(*np.nonzero(batch["asked"][0].numpy()), strict=True):
            y = (data.values[gaps.starts[i] + t, v] - fitted["mean"][v]) / fitted["std"][v]
            errors.append(y - z[t, v])
            inside.append(abs(y - z[t, v]) <= half[t, v])
    found = metrics(evidence)
    assert found["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-5)
    assert found["mse"] == pytest.approx(np.square(errors).mean(), rel=1e-5)
    assert found["coverage_80"] == pytest.approx(100 * np.mean(inside), abs=0.5)


def test_a_file_is_made_whole_and_what_was_seen_stays(ready: dict[str, object], tmp_path: Path) -> None:
    task, data, fitted, model = (ready[k] for k in ("task", "data", "fitted", "model"))
    table = pd.DataFrame(data.values[:300], columns=list(data.names))
    table.insert(0, "date", data.times[:300])
    truth = table.copy()
    table.loc[50:60, data.names[0]] = np.nan
    table.loc[100:103, list(data.names)] = np.nan
    table = table.drop(index=range(200, 205))  # rows that are not there at all
    table.to_csv(tmp_path / "holes.csv", index=False)
    sink = FolderSink(tmp_path / "out", "holes")
    facts = task.predict(model, fitted, str(tmp_path / "holes.csv"), sink)
    sink.publish()
    whole = pd.read_csv(tmp_path / "out" / "holes" / "filled.csv", parse_dates=["ds"])
    gaps = pd.read_csv(tmp_path / "out" / "holes" / "gaps.csv", parse_dates=["ds"])
    assert len(whole) == 300
    assert not whole.isna().any().any()
    missing = 300 * 5 - int((~table.isna()).to_numpy()[:, 1:].sum())
    assert facts["filled"] == len(gaps) == missing
    assert ((gaps.lo_95 <= gaps.lo_80) & (gaps.lo_80 <= gaps.value) & (gaps.value <= gaps.hi_80)).all()
    kept = ~np.isin(np.arange(300), [*range(50, 61), *range(100, 104), *range(200, 205)])
    np.testing.assert_allclose(whole[data.names[0]].to_numpy()[kept], truth[data.names[0]].to_numpy()[kept], rtol=1e-12)
    inside = gaps.merge(truth.melt("date", var_name="unique_id", value_name="true"), left_on=["unique_id", "ds"],
                        right_on=["unique_id", "date"])  # fmt: skip
    assert ((inside.true >= inside.lo_95) & (inside.true <= inside.hi_95)).mean() > 0.75


def test_other_series_and_units_are_refused(ready: dict[str, object], tmp_path: Path) -> None:
    task, data, fitted, model = (ready[k] for k in ("task", "data", "fitted", "model"))
    table = pd.DataFrame(data.values[:100] * 1e4, columns=list(data.names))
    table.insert(0, "date", data.times[:100])
    table.to_csv(tmp_path / "units.csv", index=False)
    with pytest.raises(BadInput, match="another unit"):
        task.predict(model, fitted, str(tmp_path / "units.csv"), FolderSink(tmp_path, "out"))
    table.rename(columns={data.names[1]: "else"}).to_csv(tmp_path / "names.csv", index=False)
    with pytest.raises(BadInput, match=data.names[1]):
        task.predict(model, fitted, str(tmp_path / "names.csv"), FolderSink(tmp_path, "out"))
