"""Scores: intervals against a naive bootstrap and against the truth, pairing, direction, cost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from domains.task import Evidence, MetricFact
from pipelines import bootstrap
from pipelines.bootstrap import additive, paired, per_unit, percentile, resample, unit_weights
from pipelines.config import build_preset, build_task, resolve
from pipelines.cost import cost_of
from pipelines.evaluate import distance, evaluate, evidences, score
from pipelines.ingest import check
from pipelines.runs import Trained, load_run, save_model
from shared_backbones.errors import BadInput


def rmse(evidence: Evidence) -> dict[str, float]:
    return {"rmse": float(np.sqrt(evidence.sum("se") / evidence.sum("n")))}


def errors(rng: np.random.Generator, units: int = 12, rows: int = 5) -> Evidence:
    """Rows of a unit share an error, as windows or pixels near each other do."""
    error = rng.normal(size=(units, 1)) + 0.3 * rng.normal(size=(units, rows))
    unit = np.repeat(rng.permutation(units) * 7, rows)
    return Evidence(unit, {"se": error.ravel() ** 2, "n": np.ones(units * rows)})


def test_an_interval_is_that_of_a_naive_bootstrap() -> None:
    """The same resamples, done by gathering the rows of every drawn unit."""
    evidence = errors(np.random.default_rng(0))
    found = resample(rmse, evidence, draws=300, seed=5)
    naive = []
    for weights in unit_weights(12, 300, seed=5):
        for weight in weights:
            rows = [
                i
                for unit, times in zip(evidence.units, weight, strict=True)
                for i in np.flatnonzero(evidence.unit == unit).repeat(int(times))
            ]
            naive.append(np.sqrt(evidence.columns["se"][rows].mean()))
    assert found.draws["rmse"] == pytest.approx(np.array(naive), rel=1e-12)
    assert found.interval("rmse", 0.9) == pytest.approx(np.quantile(naive, [0.05, 0.95]))


def test_resamples_draw_units_evenly() -> None:
    weights = np.concatenate(list(unit_weights(10, 4000, seed=1)))
    assert weights.shape == (4000, 10)
    assert (weights.sum(1) == 10).all()
    assert weights.mean(0) == pytest.approx(np.ones(10), abs=0.07)
    assert weights.var(0) == pytest.approx(np.full(10, 0.9), abs=0.12)  # multinomial: n p (1 - p)


def test_blocks_of_draws_do_not_change_them(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(unit_weights(7, 20, seed=1)))
    monkeypatch.setattr(bootstrap, "_BLOCK", 7 * 3)
    parts = list(unit_weights(7, 20, seed=1))
    assert len(parts) == 7
    assert (np.concatenate(parts) == whole).all()


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """The mean of 40 independent units, 200 times over; rows within a unit are alike, and must not count as more."""

    def mean(evidence: Evidence) -> dict[str, float]:
        return {"mean": float(evidence.sum("x") / evidence.sum("n"))}

    rng = np.random.default_rng(7)
    covered = 0
    for trial in range(200):
        x = np.repeat(rng.normal(size=40), 4)
        evidence = Evidence(np.repeat(np.arange(40), 4), {"x": x, "n": np.ones(160)})
        low, high = resample(mean, evidence, draws=150, seed=trial).interval("mean")
        covered += low <= 0.0 <= high
    assert 0.89 <= covered / 200 <= 0.985  # a little short of 95 %, as percentile intervals are; sd 0.016


def test_a_metric_of_raw_cases_is_resampled_row_by_row() -> None:
    """The weighted median cannot be had from sums."""

    def median(evidence: Evidence) -> dict[str, float]:
        weight = np.ones(len(evidence.unit)) if evidence.weight is None else evidence.weight
        order = np.argsort(evidence.columns["x"])
        share = np.cumsum(weight[order]) / weight.sum()
        return {"median": float(evidence.columns["x"][order][np.searchsorted(share, 0.5)])}

    rng = np.random.default_rng(0)
    evidence = Evidence(np.repeat(np.arange(8), 3), {"x": rng.normal(size=24)})
    assert not additive(median, evidence, per_unit(evidence), 0)
    found = resample(median, evidence, draws=50, seed=2)
    for weight, value in zip(np.concatenate(list(unit_weights(8, 50, seed=2))), found.draws["median"], strict=True):
        rows = np.repeat(evidence.columns["x"], weight.astype(int)[evidence.unit])
        assert value == np.sort(rows)[int(np.ceil(len(rows) / 2)) - 1]


@given(seed=st.integers(0, 1000), rows=st.integers(1, 40), weighted=st.booleans())
def test_sums_per_unit_are_sums(seed: int, rows: int, weighted: bool) -> None:
    rng = np.random.default_rng(seed)
    evidence = Evidence(rng.integers(0, 6, rows), {"a": rng.normal(size=rows), "b": rng.normal(size=(rows, 2, 3))})
    evidence = replace(evidence, weight=rng.random(rows)) if weighted else evidence
    sums = per_unit(evidence)
    for name in ("a", "b"):
        assert sums[name].sum(0) == pytest.approx(evidence.sum(name))
        for i, unit in enumerate(evidence.units):
            one = replace(
                evidence, weight=(evidence.unit == unit) * (1.0 if evidence.weight is None else evidence.weight)
            )
            assert sums[name][i] == pytest.approx(one.sum(name))


def test_differences_are_paired() -> None:
    """Two methods whose errors go together differ by far less than their intervals are wide."""
    rng = np.random.default_rng(3)
    a = errors(rng, units=60)
    b = replace(a, columns={**a.columns, "se": a.columns["se"] * 1.1})
    found = [resample(rmse, e, draws=500, seed=1) for e in (a, b)]
    difference = paired(found[0], found[1], "rmse")
    assert difference["low"] < difference["value"] < difference["high"] < 0
    low, high = found[0].interval("rmse")
    assert difference["high"] - difference["low"] < 0.2 * (high - low)
    assert paired(found[0], found[0], "rmse") == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_undefined_draws_are_left_out_and_too_many_leave_no_interval() -> None:
    assert percentile(np.array([1.0, 2.0, np.nan, 3.0]), 1.0) == (1.0, 3.0)
    assert np.isnan(percentile(np.array([1.0, np.nan, np.nan]), 0.95)).all()
    evidence = Evidence(np.arange(3), {"se": np.zeros(3), "n": np.zeros(3)})
    found = resample(rmse, evidence, draws=20)
    assert np.isnan(found.value["rmse"])
    assert np.isnan(found.interval("rmse")).all()


def test_better_is_as_the_metric_says() -> None:
    assert distance(1.0, MetricFact("1", "lower")) < distance(2.0, MetricFact("1", "lower"))
    assert distance(2.0, MetricFact("1", "higher")) < distance(1.0, MetricFact("1", "higher"))
    coverage = MetricFact("1", "target", target=0.9)
    assert distance(0.91, coverage) < distance(0.8, coverage) < distance(1.2, coverage)
    assert distance(float("nan"), coverage) == float("inf")


@pytest.fixture
def trained(toy_task: str, tmp_path: Path) -> Trained:
    config = resolve(toy_task, sets=["noise=0.5"])
    task, preset = build_task(config), build_preset(config)
    torch.manual_seed(0)
    model = task.build({"mean": 0.0}, preset)
    data = task.open("simulated")
    save_model(
        tmp_path / "run", config, preset, {"mean": 0.0}, model, data_sha256=data.manifest.sha256, train_seconds=1.5
    )
    return load_run(tmp_path / "run")


def opened(trained: Trained) -> tuple[Any, Any]:
    data = trained.task.open("simulated")
    return data, trained.task.split(data)


def test_a_score_is_what_the_evidence_says(trained: Trained) -> None:
    data, split = opened(trained)
    content = score(trained, data, split)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    test = split.parts["test"]
    with torch.no_grad():
        error = trained.model(torch.tensor(data.x[test]).float()).double().numpy() - data.y[test]
    assert content["metrics"]["mse"]["value"] == pytest.approx((error**2).mean(), rel=1e-5)
    mean = data.y[split.parts["train"]].mean()
    assert content["baselines"]["mean"]["mse"] == pytest.approx(((mean - data.y[test]) ** 2).mean())
    assert content["paired"]["baseline"] == "least_squares"
    difference = content["metrics"]["mse"]["value"] - content["baselines"]["least_squares"]["mse"]
    assert content["paired"]["difference"]["value"] == pytest.approx(difference)
    assert content["split"]["digest"] == split.digest
    assert content["interval"]["units"] == 12


def test_the_same_score_twice(trained: Trained) -> None:
    data, split = opened(trained)
    a, b = (score(trained, data, split) for _ in range(2))
    assert {k: v for k, v in a.items() if k != "cost"} == {k: v for k, v in b.items() if k != "cost"}


def test_methods_on_other_units_are_not_paired(trained: Trained) -> None:
    data, split = opened(trained)
    scored = evidences(trained, data, split)
    for name in ("mean", "least_squares"):
        scored[name] = replace(scored[name], unit=scored[name].unit + 100)
    assert score(trained, data, split, scored=scored, draws=10)["paired"] is None


def test_cost_is_counted(trained: Trained) -> None:
    data, split = opened(trained)
    cost = cost_of(trained, data, split, seconds=0.01)
    assert cost["parameters"] == sum(p.numel() for p in trained.model.parameters())
    # embed 4x1x8; qkv 4x8x24, out 4x8x8, attention 2x4x4x8; mlp 2x4x8x16; head 4x8; skip 4
    assert cost["macs"] == 32 + 768 + 256 + 256 + 1024 + 32 + 4
    assert cost["items_per_second"] > 0
    assert 0 < cost["batch_memory_mb"] < 10


def test_a_run_is_scored_again_on_its_own_and_on_other_data(trained: Trained) -> None:
    own = evaluate(trained.directory, draws=20)
    assert own["metrics"] == score(trained, *opened(trained), draws=20)["metrics"]
    assert own["cost"]["train_seconds"] == 1.5
    other = evaluate(trained.directory, "simulated:5", draws=20)
    assert other["data"]["source"] == "simulated:5"
    assert other["metrics"] != own["metrics"]
    whole = evaluate(trained.directory, "simulated:5", whole=True, draws=20)
    assert whole["split"]["sizes"] == {"train": 0, "val": 0, "test": 240}
    assert (whole["baselines"], whole["paired"]) == ({}, None)


def test_data_that_changed_since_training_is_refused(trained: Trained) -> None:
    path = trained.directory / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "data_sha256": "0" * 64}))
    with pytest.raises(BadInput, match=r"is not what run .* was trained on"):
        evaluate(trained.directory)
    with pytest.raises(BadInput, match="row 3"):
        evaluate(trained.directory, "bad")


def test_data_can_be_checked_without_training(toy_task: str) -> None:
    found = check(resolve(toy_task))
    assert found["split"]["sizes"] == {"train": 144, "val": 48, "test": 48}
    assert found["audits"][0]["passed"]
    with pytest.raises(BadInput, match="row 3"):
        check(resolve(toy_task, data="bad"))
