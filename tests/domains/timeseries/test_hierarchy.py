"""Scores per series, per step and of sums in original units, against plain loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from domains.timeseries.baselines import part_windows, repeat_last
from domains.timeseries.hierarchy import members, tables
from domains.timeseries.intervals import Intervals
from domains.timeseries.scoring import metrics, scaled_past, score, winkler
from shared_backbones.errors import BadInput
from tests.domains.timeseries.made import opened, table, task, written
from tests.domains.timeseries.test_model import ready

REGION = {"s0": "north", "s1": "south", "s2": "north"}


def grouped(steps: int = 400) -> pd.DataFrame:
    frame = table(steps).melt("date", var_name="unique_id", value_name="y").rename(columns={"date": "ds"})
    return frame.assign(region=frame["unique_id"].map(REGION))


@pytest.fixture
def setting(tmp_path: Path) -> tuple[Any, ...]:
    frame = grouped()
    frame.loc[(frame["unique_id"] == "s2") & (frame.index % 17 == 3), "y"] = np.nan
    chosen = task(groups=("region",))
    panel = opened(frame, tmp_path, groups=("region",))
    split = chosen.split(panel)
    fitted = chosen.fit(panel, split)

    def run(batch: Any) -> np.ndarray:
        return repeat_last(*scaled_past(batch, fitted), 12)

    parts = {part: part_windows(panel, split, fitted, part) for part in ("val", "test")}
    fixed = Intervals(np.linspace(-1, 1, 5)[:, None, None] * np.linspace(0.1, 1, 12)[:, None] * np.ones((1, 12, 3)))
    return panel, split, fitted, run, fixed, parts


def test_rows_are_those_of_a_plain_loop(setting: tuple[Any, ...]) -> None:
    panel, split, fitted, run, fixed, parts = setting
    scored = score(run, fixed, parts["test"], fitted, by_step=True)
    found = tables(scored, run, panel, fitted, parts, split.parts["train"])
    steps = {(r["level"], r["name"], r["step"]): r for r in found["scores by step"]}
    test = parts["test"]
    ahead = {v: [] for v in range(3)}
    for origin in test.origins:
        for v in range(3):
            seen = np.flatnonzero(panel.mask[origin - 24 : origin, v])
            ahead[v].append(panel.values[origin - 24 + seen[-1], v])
    points = np.array([ahead[v] for v in range(3)]).T  # windows x series, in original units
    for h in (0, 11):
        truth = np.stack([panel.values[test.origins + h, v] for v in range(3)], 1)
        error = truth - points
        for v, name in enumerate(panel.names):
            row, known = steps["series", name, h + 1], ~np.isnan(error[:, v])
            assert row["n"] == known.sum()
            assert row["mae"] == pytest.approx(np.abs(error[known, v]).mean())
            assert row["rmse"] == pytest.approx(np.sqrt((error[known, v] ** 2).mean()))
            width = fixed.offsets[3, h, v] * fitted["std"][v]
            assert row["coverage_80"] == pytest.approx(100 * (np.abs(error[known, v]) <= width).mean())
            score_80 = 2 * width + 10 * np.maximum(np.abs(error[known, v]) - width, 0)
            assert row["winkler_80"] == pytest.approx(score_80.mean())
        north = error[:, 0] + error[:, 2]  # known where both are
        row = steps["region", "north", h + 1]
        assert row["n"] == (~np.isnan(north)).sum()
        assert row["mae"] == pytest.approx(np.nanmean(np.abs(north)))
        everyone = steps["all", "all", h + 1]
        assert everyone["mae"] == pytest.approx(np.nanmean(np.abs(error.sum(1))))
        assert 20 < everyone["coverage_80"] <= 100
    whole = {r["name"]: r for r in found["scores by series"]}
    assert set(whole) == {"s0", "s1", "s2", "north", "south", "all"}
    assert whole["s1"]["mae"] == pytest.approx(whole["south"]["mae"])  # a group of one
    assert whole["s1"]["mase"] == pytest.approx(whole["south"]["mase"])


def test_crps_and_winkler_are_metrics(setting: tuple[Any, ...]) -> None:
    _, _, fitted, run, fixed, parts = setting
    found = metrics(score(run, fixed, parts["test"], fitted))
    assert found["crps"] == pytest.approx(2 * found["pinball"])
    assert found["winkler_95"] > found["winkler_80"] * 0.9
    one = np.array([[[0.5]], [[3.0]]])
    got = winkler(one, np.full((2, 1, 1), -1.0), np.full((2, 1, 1), 1.0), 80)
    assert got.ravel().tolist() == pytest.approx([2.0, 2.0 + 10 * 2.0])


def test_the_task_writes_both_tables(tmp_path: Path) -> None:
    chosen, panel, split, fitted, model = ready(tmp_path)
    scored = {"model": chosen.evidence(model, panel, split, fitted, "test")}
    found = chosen.tables(model, panel, split, fitted, scored)
    assert list(found) == ["scores by series", "scores by step"]
    assert len(found["scores by step"]) == 3 * 12
    by_evidence = chosen.details(scored["model"], fitted)
    for row, other in zip(found["scores by series"], by_evidence, strict=True):
        assert row["mae"] == pytest.approx(other["mae_original"])
        assert row["mase"] == pytest.approx(other["mase"])


def test_groups_must_be_whole(tmp_path: Path) -> None:
    frame = grouped(60)
    assert members(opened(frame, tmp_path, groups=("region",))).keys() == {
        ("all", "all"), ("region", "north"), ("region", "south"),
    }  # fmt: skip
    frame.loc[5, "region"] = "south"
    with pytest.raises(BadInput, match=r"grouping column 'region' is empty or changes within series 's0'"):
        opened(frame, tmp_path, groups=("region",))
    with pytest.raises(BadInput, match="groups need a long frame"):
        task(groups=("region",)).open(written(table(60), tmp_path, "wide.csv"))
