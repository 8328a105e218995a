"""Drift: rarely a false alarm, always one at half a standard deviation; a retrain stops at another schema or range."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from domains.hyperspectral.data import copy_cube
from domains.hyperspectral.simulate import simulate
from domains.timeseries.objects.simulate import BANDS, simulated
from pipelines import checks, engines, features
from pipelines.checks import held_to, schema_changes
from pipelines.config import resolve
from pipelines.drift import against, batch_drift, drift, ks, outside, stability
from pipelines.features import FEATURES, Sample, keep_reference, load_reference
from pipelines.predict import predict
from pipelines.runs import load_run
from shared_backbones.errors import BadInput

from .made import Rows, make_run, rows_task, untrained_run  # noqa: F401 - a fixture
from .toy import Line

PRESET = str(Path(__file__).with_name("rows.yaml"))


def two(seed: int, n: int = 192, m: int = 96, shift: float = 0.0, d: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Correlated, partly skewed rows of one distribution; the first feature of the second part is shifted."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n + m, d))
    z[:, 0] += 0.5 * z[:, 1]
    z[:, 2] = np.exp(z[:, 2] / 2)
    z[n:, 0] += shift * z[:n, 0].std()
    return z[:n], z[n:]


def test_false_alarms_are_as_rare_as_stated() -> None:
    """200 unshifted batches: at most 5 % alarm (3 % is stated)."""
    assert sum(drift(*two(seed), draws=199, alpha=0.03).alarm for seed in range(200)) <= 10


def test_half_a_standard_deviation_is_seen() -> None:
    found = [drift(*two(seed, 512, 256, shift=0.5)) for seed in range(3)]
    assert all(f.alarm for f in found)
    assert all(t.feature == "feature 1" for f in found for t in f.tests[:2])
    assert found[0].features["feature 1"]["shift_sd"] == pytest.approx(0.5, abs=0.25)


def test_a_changed_spread_is_seen_by_the_classifier() -> None:
    a, b = two(0, 512, 512)
    tests = {t.name.split()[0]: t.alarm for t in drift(a, b * 1.8).tests}
    assert tests["classifier"]


def test_the_statistics_are_the_known_ones() -> None:
    a, b = two(3, shift=0.3)
    rows, new = np.concatenate([a, b]), np.r_[np.zeros(len(a)), np.ones(len(b))][None]
    order = np.argsort(rows, axis=0)
    assert ks(order, new)[0] == pytest.approx([ks_2samp(x, y).statistic for x, y in zip(a.T, b.T, strict=True)])
    ranks = np.argsort(order[:, 0])
    edges = np.linspace(0, len(rows), 11).astype(int)
    p, q = (np.histogram(r, edges)[0] + 0.5 for r in (ranks[: len(a)], ranks[len(a) :]))
    p, q = p / p.sum(), q / q.sum()
    assert stability(order, new)[0, 0] == pytest.approx(((q - p) * np.log(q / p)).sum())


def test_rows_outside_the_range() -> None:
    a = np.random.default_rng(0).uniform(size=(50, 2))
    assert outside(a, a) == 0
    assert outside(a, np.array([[0.5, 0.5], [9, 0.5], [np.nan, 0.5], [1.5, 0.5]])) == 0.5
    with pytest.raises(ValueError, match="needs 16 rows of both"):
        drift(a, a[:3])


def test_a_sample_is_bounded_and_even() -> None:
    sample = Sample(50)
    for start in range(0, 5000, 100):
        sample.add(np.arange(start, start + 100, dtype=float)[:, None])
    assert sample.kept is not None
    assert len(sample.kept) == 50
    assert abs(sample.kept.mean() - 2500) < 4 * 5000 / np.sqrt(12 * 50)


@pytest.fixture
def run(rows_task: str, tmp_path: Path) -> Path:  # noqa: F811
    """A run with the sample that training leaves in it."""
    folder = make_run(tmp_path / "runs" / "toy-rows" / "0123456789ab", sets=("rows=2000",))
    trained = load_run(folder)
    data = trained.task.open("simulated")
    items = trained.task.items(data, trained.task.split(data), trained.fitted, "train")
    assert keep_reference(folder, trained.task, trained.model, items, 100) is not None
    return folder


def test_what_travels_with_a_model(run: Path) -> None:
    reference = load_reference(run)
    assert reference is not None
    assert reference.unit == "item"
    assert len(reference.rows) == features.ROWS
    assert np.allclose(reference.rows.std(0, ddof=1), 1, atol=1e-3)
    before = torch.random.get_rng_state()
    (run / features.REFERENCE).unlink()
    assert load_reference(run) is None
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_task_says_what_a_prediction_shows_its_model(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = load_run(run)
    data = trained.task.open("simulated")
    items = trained.task.items(data, trained.task.split(data), trained.fitted, "train")

    def moved(self: Line, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> None:
        model(batch["x"] + 3.0)

    plain = load_reference(run)
    monkeypatch.setattr(Line, "glimpse", moved, raising=False)
    monkeypatch.setattr(Line, "drift_unit", "token", raising=False)
    found = keep_reference(run, trained.task, trained.model, items, 100)
    assert plain is not None
    assert found is not None
    assert found.unit == "token"
    kept = load_reference(run)
    assert kept is not None
    assert (plain.pieces, found.pieces, kept.pieces) == (False, True, True)
    assert len(found.rows) == features.ROWS
    assert not np.allclose(plain.mean[: trained.model.backbone.dim_in], found.mean[: trained.model.backbone.dim_in])


def test_features_of_the_inputs_are_held_against_training_too(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of four input features moves, which the task names; where an input shows others, only those are left out."""
    monkeypatch.setattr(Line, "drift_inputs", ("", 0, 1), raising=False)
    trained = load_run(run)
    data = trained.task.open("simulated")
    items = trained.task.items(data, trained.task.split(data), trained.fitted, "train")
    found = keep_reference(run, trained.task, trained.model, items, 100)
    kept = load_reference(run)
    assert found is not None
    assert kept is not None
    assert (kept.inputs, kept.names) == (4, found.names)
    assert kept.names[-4:] == ("input 1", "input 2", "input 3", "input 4")
    assert kept.rows[:, -1].std(ddof=1) == pytest.approx(1, abs=1e-3)

    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(5)
    for i in range(6):
        np.save(tmp_path / "in" / f"{i}.npy", rng.normal(size=(100, 4)) + np.array([0, 0, 0.5, 0]))
    moved = predict(run, [str(tmp_path / "in")], tmp_path / "out").drift
    assert moved is not None
    assert moved["alarm"]
    shift = {name: round(facts["shift_sd"], 1) for name, facts in moved["features"].items() if name.startswith("in")}
    assert max(shift, key=lambda name: abs(shift[name])) == "input 3"
    assert shift["input 3"] == pytest.approx(0.5, abs=0.15)

    rows = kept.project(np.tile(kept.mean, (40, 1)))
    rows[:, -4:] = np.nan  # of other features
    far, tried = against(kept, rows + rng.normal(size=rows.shape).astype(np.float32))
    assert far < 0.2
    assert tried is not None
    assert not any(name.startswith("input") for name in tried.features)
    rows[:, 0] = np.nan  # a model that answers with no numbers
    assert against(kept, rows) == (1.0, None)


def test_what_inputs_are_held_against(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = load_run(run)
    data = trained.task.open("simulated")
    split = trained.task.split(data)
    parts = [len(features.reference_items(trained.task, data, split, trained.fitted))]
    monkeypatch.setattr(Line, "drift_part", "val", raising=False)
    parts.append(len(features.reference_items(trained.task, data, split, trained.fitted)))
    assert parts == [len(split.parts["train"]), len(split.parts["val"])]


def test_a_batch_says_whether_it_drifted(run: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for name, shift in (("same", 0.0), ("moved", 0.5)):
        (tmp_path / name).mkdir()
        for i in range(6):
            np.save(tmp_path / name / f"{i}.npy", rng.normal(size=(100, 4)) + shift)
    same, moved = (predict(run, [str(tmp_path / n)], tmp_path / f"out-{n}").drift for n in ("same", "moved"))
    assert same is not None
    assert moved is not None
    assert (same["alarm"], moved["alarm"]) == (False, True)
    assert moved["rows"] >= 512
    assert json.loads((tmp_path / "out-moved" / "drift.json").read_text())["why"].startswith("unlike the training data")
    token = replace(load_reference(run), pieces=True)  # type: ignore[type-var]
    with pytest.MonkeyPatch.context() as patch:  # places of a few scenes are no independent draws
        patch.setattr("pipelines.drift.load_reference", lambda folder: token)
        told = batch_drift(run, sorted(p.parent for p in (tmp_path / "out-moved").glob("*/features.npy")))
    assert told is not None
    assert told["alarm"] is None
    assert told["why"].startswith("shifts are told, not judged: rows are pieces of 6 input(s)")
    assert told["features"] == moved["features"]
    few = predict(run, [str(tmp_path / "same")], tmp_path / "out-same").to_json()["drift"]
    assert few == {"alarm": False, "why": "like the training data", "rows": same["rows"]}  # from what is kept


def test_a_retrain_stops_at_another_range_or_schema(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolve("toy/rows", data="simulated:3", preset=PRESET)
    found = held_to(run, config)
    assert found["schema"] == []
    assert found["outside_range"] == 0
    open_, fit = Line.open, Line.fit

    def in_another_unit(self: Any, source: str) -> Any:
        data = open_(self, source)
        return replace(data, x=1000 * data.x)

    monkeypatch.setattr(Rows, "open", in_another_unit)
    with pytest.raises(BadInput, match=r"\d+ % of its training rows lie far outside"):
        held_to(run, config)
    monkeypatch.setattr(Rows, "open", open_)
    monkeypatch.setattr(Rows, "fit", lambda self, data, split: {**fit(self, data, split), "names": ["a", "b"]})
    with pytest.raises(BadInput, match=r"another schema .* names\[0\] 'a' is new"):
        held_to(run, config)
    monkeypatch.setattr(checks, "load_run", lambda path: (_ for _ in ()).throw(BadInput("of another format")))
    assert "cannot be loaded" in held_to(run, config)["why"]


def test_schema_changes() -> None:
    old = {"names": ["a", "b"], "freq": "h", "mean": [1.0]}
    assert schema_changes(old, {"names": ["a", "b"], "freq": "h", "mean": [7.0, 3.0]}) == []
    assert schema_changes(old, {"names": ["a"], "freq": "d"}) == ["freq is 'd', was 'h'", "names[1] 'b' is gone"]


def stars(path: Path, objects: int, fainter: float = 0.0) -> str:
    """Light curves that no training saw, as a table."""
    lines = ["object,time,mag,magerr,band"]
    for one in simulated({"objects": objects, "visits": 20, "seed": 7}).objects:
        lines += [f"{one.name},{t},{mag + fainter},{error},{BANDS[int(band)]}" for t, mag, error, band in one.values]
    path.write_text("\n".join(lines))
    return str(path)


def test_a_model_that_answers_without_its_backbone_is_held_to_it_all_the_same(tmp_path: Path) -> None:
    options = {"simulated": {"objects": 90, "visits": 20}}
    run = untrained_run("timeseries/classify", options, tmp_path / "runs" / "0123456789ab")
    trained = load_run(run)
    data = trained.task.open("simulated")
    items = trained.task.items(data, trained.task.split(data), trained.fitted, "train")
    assert float(trained.model.gate) == 0  # validation kept the ridge alone
    assert keep_reference(run, trained.task, trained.model, items, 16) is not None
    same = predict(run, [stars(tmp_path / "same.csv", 60)], tmp_path / "same").drift
    moved = predict(run, [stars(tmp_path / "moved.csv", 60, fainter=2.0)], tmp_path / "moved").drift
    few = predict(run, [stars(tmp_path / "few.csv", 9)], tmp_path / "few").drift
    assert same is not None
    assert moved is not None
    assert few is not None
    assert (same["rows"], same["alarm"]) == (60, False)
    assert (moved["rows"], moved["alarm"]) == (60, True)
    assert (few["alarm"], few["why"]) == (None, "9 item(s) are too few to test; 16 are needed")
    (tmp_path / "few" / "few" / FEATURES).unlink()
    told = batch_drift(run, [tmp_path / "few" / "few"])
    assert told is not None
    assert (told["rows"], told["why"]) == (0, "the model's backbone was shown nothing of these inputs")
    wide = np.load(tmp_path / "same" / "same" / FEATURES).shape[1]
    np.save(tmp_path / "few" / "few" / FEATURES, np.full((40, wide), np.nan))
    told = batch_drift(run, [tmp_path / "few" / "few"])
    assert told is not None
    assert told["why"] == "fewer than 16 of 40 items hold numbers throughout; 16 are needed"


def test_processes_that_share_a_scene_share_its_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = ("simulated.rows=96", "simulated.cols=96", "simulated.bands=8", "split.block=12", "predict_tile=8")
    run = make_run(tmp_path / "runs" / "x", task="hyperspectral/classify", sets=sets)
    trained = load_run(run)
    data = trained.task.open("simulated")
    items = trained.task.items(data, trained.task.split(data), trained.fitted, "train")
    assert keep_reference(run, trained.task, trained.model, items, 100) is not None
    scene = tmp_path / "scene.tif"
    copy_cube(simulate(7, shape=(48, 40), bands=8).scene, scene, "int16")
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    predict(run, [str(scene)], alone)
    here = partial(engines.map, workers=1)
    monkeypatch.setattr("pipelines.predict.engines.map", lambda fn, items, **given: here(fn, items))
    assert predict(run, [str(scene)], shared, workers=3).exit_code == 0
    assert (alone / "scene" / "scene_class.tif").read_bytes() == (shared / "scene" / "scene_class.tif").read_bytes()
    one, several = (np.load(out / "scene" / FEATURES) for out in (alone, shared))
    assert one.shape == several.shape
    assert np.abs(one.mean(0) - several.mean(0)).max() < 0.5
    assert len(np.unique(several, axis=0)) > 0.9 * len(several)
