"""Change: classical methods beside their equations, grids that do not match refused, maps as of the whole at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from sklearn.cross_decomposition import CCA
from sklearn.metrics import average_precision_score, cohen_kappa_score, f1_score, precision_recall_curve

from domains.hyperspectral.changing.classical import angles, change_vectors, mad, normalised, reweighted_mad
from domains.hyperspectral.changing.config import ChangeOptions
from domains.hyperspectral.changing.mapping import NO_CLASS
from domains.hyperspectral.changing.scoring import best_threshold, cases, scores
from domains.hyperspectral.changing.simulate import simulate_pair
from domains.hyperspectral.changing.source import PairScene, paired
from domains.hyperspectral.changing.task import Change
from domains.hyperspectral.data import ArrayScene, copy_cube
from domains.hyperspectral.source import content_of
from pipelines.inputs import input_digests
from pipelines.sink import SHELF, FolderSink
from shared_backbones.errors import BadInput
from shared_backbones.presets import load_preset

from .conftest import Folder, scene_of
from .test_resume import Calls, Killed, outputs

SMALL: dict[str, Any] = {
    "simulated": {"rows": 60, "cols": 60, "bands": 12, "pixels_per_field": 50},
    "split": {"block": 12},
    "patch_radius": 3,
    "tile": 20,
}


def made(source: str = "simulated", **options: Any) -> dict[str, Any]:
    task = Change(ChangeOptions.model_validate({**SMALL, **options}))
    data = task.open(source)
    split = task.split(data)
    fitted = task.fit(data, split)
    torch.manual_seed(0)
    model = task.build(fitted, load_preset(task.default_preset))
    task.initialise(model, data, split)
    task.calibrate(model, data, split, fitted)
    return {"task": task, "data": data, "split": split, "fitted": fitted, "model": model.eval()}


@pytest.fixture(scope="module")
def ready() -> dict[str, Any]:
    return made()


def two_dates(n: int = 600, b: int = 4, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], Any]:
    """Correlated dates, the second on another scale; a tenth of the pixels has nothing to do with its first date."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, b)) @ rng.normal(size=(b, b)) + 3
    y = x @ (np.eye(b) + 0.2 * rng.normal(size=(b, b))) * 2 + 1 + 0.3 * rng.normal(size=(n, b))
    changed = rng.random(n) < 0.1
    y[changed] = rng.normal(size=(int(changed.sum()), b)) * y.std(0) + y.mean(0)
    return x, y, changed


def test_mad_is_canonical_correlation() -> None:
    x, y, _ = two_dates()
    found = mad(x, y)
    cca = CCA(4, scale=False, max_iter=5000, tol=1e-12).fit(x, y)
    u, v = cca.transform(x, y)
    wanted = [np.corrcoef(u[:, i], v[:, i])[0, 1] for i in range(4)]
    np.testing.assert_allclose(found.rho, wanted, atol=2e-3)
    u, v = (x - found.mean_x) @ found.a.T, (y - found.mean_y) @ found.b.T
    np.testing.assert_allclose(u.T @ u / len(u), np.eye(4), atol=1e-3)
    np.testing.assert_allclose(v.T @ v / len(v), np.eye(4), atol=1e-3)
    np.testing.assert_allclose(u.T @ v / len(v), np.diag(found.rho), atol=1e-3)
    by_hand = ((u - v) ** 2 / (u - v).var(0)).sum(1)  # its own variance is 2 (1 - rho)
    np.testing.assert_allclose(found.squares(x, y), by_hand, rtol=1e-3)


def test_mad_does_not_care_for_the_scale_of_a_date_and_reweighting_helps() -> None:
    x, y, changed = two_dates()
    plain, again = mad(x, y), reweighted_mad(x, y)
    rng = np.random.default_rng(1)
    turn = rng.normal(size=(4, 4)) + 3 * np.eye(4)
    np.testing.assert_allclose(mad(x @ turn - 7, y).squares(x @ turn - 7, y), plain.squares(x, y), rtol=1e-3)
    before, after = (average_precision_score(changed, m.squares(x, y)) for m in (plain, again))
    assert after > before
    assert after > 0.8
    assert again.rho.mean() > plain.rho.mean()
    weight = chi2.sf(again.squares(x, y), 4)
    assert weight[~changed].mean() > 5 * weight[changed].mean()


def test_mad_bears_more_bands_than_pixels() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 40))
    found = mad(x, x + 0.1 * rng.normal(size=x.shape), components=5)
    assert len(found.rho) == 5
    assert np.isfinite(found.squares(x, x)).all()


def test_change_vectors_and_angles_are_their_formulas() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(1, 2, (50, 3)), rng.uniform(2, 5, (50, 3))
    z = [(v - v.mean(0)) / v.std(0) for v in (x, y)]
    wanted = np.sqrt(((z[1] - z[0]) ** 2).mean(1))
    np.testing.assert_allclose(change_vectors(x, y, normalised(x, y)), wanted, rtol=1e-6)
    assert np.allclose(change_vectors(x, 3 * x + 2, normalised(x, 3 * x + 2)), 0, atol=1e-6)
    cosine = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    np.testing.assert_allclose(angles(x, y), np.arccos(cosine))
    assert np.allclose(angles(x, 7 * x), 0, atol=1e-6)
    assert angles(np.zeros((1, 3)), x[:1])[0] == 0


@given(st.integers(0, 1000), st.integers(1, 3))
def test_metrics_are_those_of_sklearn(seed: int, decimals: int) -> None:
    rng = np.random.default_rng(seed)
    label = rng.random(200) < 0.2
    label[:2] = True, False
    score = np.round(rng.normal(size=200) + label, decimals)  # with ties
    threshold = best_threshold(score, label)
    precision, recall, _ = precision_recall_curve(label, score)
    best = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
    evidence = cases(np.arange(200) % 9, score, label, threshold)
    found = scores(evidence)
    guess = score > threshold
    assert found["f1"] == pytest.approx(best)
    assert found["f1"] == pytest.approx(f1_score(label, guess))
    assert found["kappa"] == pytest.approx(cohen_kappa_score(label, guess))
    assert found["average_precision"] == pytest.approx(average_precision_score(label, score))
    assert found["area_error"] == pytest.approx(abs(int(guess.sum()) - int(label.sum())) / label.sum())
    weight = np.arange(9) % 3
    again = scores(evidence.reweighted(weight.astype(float)))
    each = weight[np.arange(200) % 9]
    assert again["f1"] == pytest.approx(f1_score(label, guess, sample_weight=each))
    assert again["average_precision"] == pytest.approx(average_precision_score(label, score, sample_weight=each))


def test_without_change_there_is_no_score() -> None:
    score = np.arange(5.0)
    found = scores(cases(np.arange(5), score, np.zeros(5), best_threshold(score, np.zeros(5))))
    assert np.isnan(found["f1"])
    assert found["oa"] == 1.0


def shifted(scene: ArrayScene, **changes: Any) -> ArrayScene:
    return replace(scene, **changes)


def test_dates_on_different_grids_are_refused() -> None:
    pair = simulate_pair(0, shape=(20, 20), bands=6)
    a, b = pair.before, pair.after
    assert paired(a, b).shape == (20, 20)
    assert b.transform is not None
    c, d, e, f, g, h = b.transform
    with pytest.raises(BadInput, match="20 x 18"):
        paired(a, shifted(b, array=b.array[:, :, :18]))
    with pytest.raises(BadInput, match="EPSG:32633"):
        paired(a, shifted(b, crs="EPSG:32633"))
    with pytest.raises(BadInput, match=r"0\.5 px away.*co-register"):
        paired(a, shifted(b, transform=(c, d, e + 15, f, g, h)))
    with pytest.raises(BadInput, match=r"0\.2 px away"):
        paired(a, shifted(b, transform=(c * 1.01, d, e, f, g, h)))  # 20 px of 30.3 m: off by 6 m at the far end
    paired(a, shifted(b, transform=(c, d, e + 0.1, f, g, h)))
    paired(a, shifted(b, transform=None, crs=None))
    with pytest.raises(BadInput, match="5 bands, the first date has 6"):
        paired(a, shifted(b, array=b.array[:5], bands=b.bands.select(range(5))))


def test_the_model_beats_methods_without_labels_on_simulated_change(ready: dict[str, Any]) -> None:
    task, data, split, fitted = (ready[k] for k in ("task", "data", "split", "fitted"))
    found = task.metrics(task.evidence(ready["model"], data, split, fitted, "test"))
    rivals = {n: task.metrics(e) for n, e in task.baselines(data, split, fitted).items()}
    assert set(rivals) == {"change_vectors", "spectral_angle", "mad", "ir_mad", "random_forest"}
    alone = max(rivals[n]["average_precision"] for n in rivals if n != "random_forest")
    assert found["average_precision"] > alone - 0.05  # untrained: a logistic over these statistics
    assert found["f1"] > 0.5


def written(folder: Path, pair: Any, mask: bool = True) -> None:
    folder.mkdir(exist_ok=True)
    copy_cube(pair.before, folder / "x_before.tif", "int16")
    copy_cube(pair.after, folder / "x_after.tif", "int16")
    if mask:
        np.save(folder / "x_change.npy", np.where(pair.mask < 0, 7, pair.mask * 255).astype(np.uint8))


def test_files_are_read_as_the_simulation_and_the_map_is_that_of_the_whole(
    ready: dict[str, Any], tmp_path: Path
) -> None:
    pair = simulate_pair(0, shape=(60, 60), bands=12, pixels_per_field=50)
    written(tmp_path / "in", pair)
    again = made(str(tmp_path / "in"), predict_tile=13)
    assert again["split"].digest == ready["split"].digest
    assert np.array_equal(again["data"].index, ready["data"].index)
    task, fitted, model = (again[k] for k in ("task", "fitted", "model"))
    torch.nn.init.normal_(model.head.weight)
    (tmp_path / "list.csv").write_text("before,after,name\nin/x_before.tif,in/x_after.tif,spring\n")
    out = tmp_path / "out"
    out.mkdir()
    facts = task.predict(model, fitted, str(tmp_path / "list.csv"), Folder(out))
    with rasterio.open(out / "spring_probability.tif") as file:
        p, where = file.read(1), file.transform
    with rasterio.open(out / "spring_change.tif") as file:
        called, nodata = file.read(1), file.nodata
    values, seen = again["data"].read(slice(0, 60), slice(0, 60))
    index = [*fitted["used"], *(u + 12 for u in fitted["used"])]
    with torch.no_grad():
        whole = model(torch.from_numpy(values[index])[None], torch.from_numpy(seen[index])[None])[0]
    there = (pair.before.array[0] != -9999) & (pair.after.array[0] != -9999)
    np.testing.assert_allclose(p[there], whole.sigmoid().numpy()[there], atol=1e-4)
    assert (p[~there] == -1).all()
    assert nodata == NO_CLASS
    assert np.array_equal(called == NO_CLASS, ~there)
    near = np.abs(whole.numpy() - float(model.threshold)) < 1e-3
    assert np.array_equal((called == 1)[there & ~near], (whole.numpy() > float(model.threshold))[there & ~near])
    assert tuple(where)[:6] == pair.before.transform
    assert facts["pairs"]["spring"]["pixels_changed"] == (called == 1).sum()


def test_a_killed_map_of_two_pairs_goes_on_and_ends_the_same(ready: dict[str, Any], tmp_path: Path) -> None:
    task = Change(ready["task"].config.model_copy(update={"predict_tile": 20}))
    rows = ["before,after,name"]
    for i in range(2):
        written(tmp_path / f"p{i}", simulate_pair(5 + i, shape=(60, 40), bands=12), mask=False)
        rows.append(f"p{i}/x_before.tif,p{i}/x_after.tif,p{i}")
    (tmp_path / "list.csv").write_text("\n".join(rows))

    def run(out: Path, at: int | None = None) -> int:
        sink = FolderSink(out, "list", "k")
        with Calls(ready["model"], at) as calls:
            try:
                task.predict(ready["model"], ready["fitted"], str(tmp_path / "list.csv"), sink)
                sink.publish()
            except Killed:
                pass
        return calls.n

    whole = run(tmp_path / "whole")
    first = run(tmp_path / "out", at=whole - 2)
    assert (tmp_path / "out" / f"{SHELF}list").is_dir()
    assert first + run(tmp_path / "out") < 2 * whole - 3
    assert outputs(tmp_path / "out" / "list") == outputs(tmp_path / "whole" / "list")


def test_a_scene_that_a_list_names_is_part_of_the_input(tmp_path: Path) -> None:
    rows = ["before,after"]
    for name in ("a", "b"):
        copy_cube(scene_of(np.ones((3, 4, 4), np.float32)), tmp_path / f"{name}.tif")
    (tmp_path / "list.csv").write_text("\n".join([*rows, "a.tif,b.tif"]))
    task, source = Change(ChangeOptions()), str(tmp_path / "list.csv")

    def digest() -> str | None:
        return input_digests([source], task.companions)[source]

    before, known = digest(), content_of(tmp_path / "b.tif")
    assert digest() == before
    assert input_digests([source])[source] != before
    (tmp_path / "b.json").write_text('{"unit": "reflectance"}')
    described = digest()
    assert described != before
    assert content_of(tmp_path / "b.tif") != known
    copy_cube(scene_of(np.zeros((3, 4, 4), np.float32)), tmp_path / "b.tif")
    assert digest() not in (before, described)
    (tmp_path / "list.csv").write_text("before,after\na.tif,gone.tif\n")
    assert digest() is not None  # refused later, with a reason


def test_several_pairs_are_dealt_out_whole(tmp_path: Path) -> None:
    rows = ["before,after,change,name,part"]
    for i in range(6):
        written(tmp_path / f"p{i}", simulate_pair(i, shape=(30, 30), bands=8, pixels_per_field=40))
        part = ("train", "train", "train", "val", "test", "test")[i]
        rows.append(f"p{i}/x_before.tif,p{i}/x_after.tif,p{i}/x_change.npy,p{i},{part}")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    found = made(str(tmp_path / "list.csv"))
    data, split = found["data"], found["split"]
    assert data.manifest.facts["pairs"] == 6
    assert data.polygons is not None
    units = [set(data.polygons.ravel()[split.parts[p]].tolist()) for p in ("train", "val", "test")]
    assert units == [{0, 1, 2}, {3}, {4, 5}]
    evidence = found["task"].evidence(found["model"], data, split, found["fitted"], "test")
    assert evidence.units.tolist() == [4, 5]
    (tmp_path / "list.csv").write_text("\n".join(r.rsplit(",", 1)[0] for r in rows))
    found = made(str(tmp_path / "list.csv"))
    assert "whole scenes" in found["split"].protocol


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    pair = simulate_pair(0, shape=(20, 20), bands=6)
    written(tmp_path, pair)
    task = Change(ChangeOptions())
    with pytest.raises(BadInput, match="after=FILE"):
        task.open(str(tmp_path / "x_before.tif"))
    with pytest.raises(BadInput, match="labels=FILE"):
        Change(ChangeOptions(after=str(tmp_path / "x_after.tif"))).open(str(tmp_path / "x_before.tif"))
    np.save(tmp_path / "x_change.npy", np.zeros((20, 20), np.uint8))
    with pytest.raises(BadInput, match="400 px without and 0 px with change"):
        task.open(str(tmp_path))
    with pytest.raises(ValueError, match="none in both"):
        ChangeOptions(changed=(0, 1))
    assert PairScene(pair.before, pair.after).bands.names[6] == "after: band 1"
