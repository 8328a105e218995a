"""The task from raw files to evidence: statistics of the training part only, and scores that add up."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, recall_score

from domains.calibration import fitted_temperature
from domains.hyperspectral.baselines import classical, sample
from domains.hyperspectral.classify import Classify, ClassifyOptions
from domains.hyperspectral.data import copy_cube
from domains.hyperspectral.data.labels import outlines, write_polygons
from domains.hyperspectral.datasets import DATASETS, aviris_nominal
from domains.hyperspectral.linear import discriminants
from domains.hyperspectral.scoring import Tally, scores
from domains.hyperspectral.simulate import simulate
from domains.hyperspectral.source import spectra
from domains.task import PARTS
from shared_backbones.errors import BadInput, BadRequest

from .conftest import SIMULATED, Ready, ready


def _files(tmp_path: Path, **options: Any) -> ClassifyOptions:
    """A simulated scene with polygons in files."""
    made = simulate(0, shape=(72, 72), bands=24, pixels_per_field=60)
    copy_cube(made.scene, tmp_path / "scene.tif", "int16")
    fields = [
        (g, int(made.ids[made.fields == i][0]))
        for g, i in outlines(made.fields, made.scene.transform)  # type: ignore[arg-type]
    ]
    write_polygons(tmp_path / "fields.gpkg", fields, made.scene.crs)
    base = {"labels": str(tmp_path / "fields.gpkg"), "patch_radius": 2, "tile": 16}
    return ClassifyOptions.model_validate({**base, **options})


def test_from_files_with_polygons(tmp_path: Path) -> None:
    task = Classify(_files(tmp_path))
    data = task.open(str(tmp_path / "scene.tif"))
    split = task.split(data)
    assert split.facts["by"] == "polygons"
    assert data.polygons is not None
    groups = [set(data.polygons.ravel()[split.parts[p]].tolist()) for p in PARTS]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert json.loads(json.dumps(data.manifest.to_json()))["facts"]["crs"] == "EPSG:32632"


def test_a_scene_by_url(tmp_path: Path) -> None:
    task = Classify(_files(tmp_path))
    data = task.open((tmp_path / "scene.tif").as_uri())
    assert data.manifest.sha256 == task.open(str(tmp_path / "scene.tif")).manifest.sha256


def test_content_names_the_data(tmp_path: Path) -> None:
    a = Classify(ClassifyOptions.model_validate({"simulated": {"rows": 40, "cols": 40}})).open("simulated")
    b = Classify(ClassifyOptions.model_validate({"simulated": {"rows": 40, "cols": 40, "seed": 1}})).open("simulated")
    assert a.manifest.sha256 != b.manifest.sha256


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        ("salinas", {}, "did you mean 'salinas_a'"),
        ("nowhere/scene.tif", {"labels": "x.tif"}, "no such file"),
        ("{scene}", {}, "which labels"),
        ("{scene}", {"labels": "{folder}/missing.gpkg"}, "missing.gpkg: no such label file"),
        ("{scene}", {"labels": "{folder}/fields.gpkg", "unlabelled": (2, 4, 7, 10, 12)}, "one class only"),
        ("{scene}", {"labels": "{folder}/fields.gpkg", "label_attribute": "clas"}, "did you mean 'class'"),
    ],
)
def test_sources_that_cannot_be_used(tmp_path: Path, source: str, options: dict[str, Any], says: str) -> None:
    _files(tmp_path)
    names = {"scene": tmp_path / "scene.tif", "folder": tmp_path}
    options = {k: v.format(**names) if isinstance(v, str) else v for k, v in options.items()}
    with pytest.raises((BadInput, BadRequest), match=says):
        Classify(ClassifyOptions.model_validate(options)).open(source.format(**names))


def test_unknown_option_of_the_simulator() -> None:
    with pytest.raises(BadRequest, match="did you mean 'rows'"):
        Classify(ClassifyOptions.model_validate({"simulated": {"row": 10}})).open("simulated")


def test_a_scene_without_wavelengths_asks_for_them(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((20, 20, 5)).astype(np.float32))
    np.save(tmp_path / "l.npy", np.arange(400).reshape(20, 20) % 3)
    options = ClassifyOptions.model_validate({"labels": str(tmp_path / "l.npy")})
    with pytest.raises(BadInput, match=r"states no wavelengths.*wavelengths=400-2500"):
        Classify(options).open(str(tmp_path / "a.npy"))
    told = options.model_copy(update={"wavelengths": "400-2500"})
    assert Classify(told).open(str(tmp_path / "a.npy")).class_ids == (1, 2)


def test_dead_bands_and_bad_bands_are_left_out(small: Ready) -> None:
    scene = small.data.scene
    array = scene.array.copy()
    array[3], array[5] = 17, -9999  # one value only; nodata only
    good = tuple(i != 8 and g for i, g in enumerate(scene.bands.good))
    data = replace(small.data, scene=replace(scene, array=array, bands=replace(scene.bands, good=good)))
    with pytest.raises(BadInput, match=r"band \[6\] without data and band \[4\] of one value.*dead_bands=drop"):
        small.task.fit(data, small.split)
    drop = Classify(small.task.config.model_copy(update={"dead_bands": "drop"}))
    fitted = drop.fit(data, small.split)
    assert fitted["dead_bands"] == [3, 5]
    assert not {3, 5, 8} & set(fitted["used"])
    chosen = small.task.config.model_copy(update={"ranges_nm": ((450.0, 900.0),), "dead_bands": "drop"})
    nm = Classify(chosen).fit(data, small.split)["nm"]
    assert nm
    assert min(nm) >= 450
    assert max(nm) <= 900


def test_all_nodata_is_refused(small: Ready) -> None:
    scene = small.data.scene
    data = replace(small.data, scene=replace(scene, array=np.full_like(scene.array, -9999)))
    with pytest.raises(BadInput, match="none of its 24 bands can be used"):
        small.task.fit(data, small.split)


def test_statistics_are_those_of_training_pixels(small: Ready) -> None:
    values, seen = spectra(small.data, small.split.parts["train"])
    assert seen.all()
    used = small.fitted["used"]
    np.testing.assert_allclose(small.fitted["mean"], values[:, used].astype(np.float64).mean(0), rtol=1e-9)
    np.testing.assert_allclose(small.fitted["std"], values[:, used].astype(np.float64).std(0), rtol=1e-6)


def test_spectra_are_read_where_asked(small: Ready) -> None:
    at = np.random.default_rng(0).permutation(72 * 72)[:500]
    cube, mask = small.data.read(slice(0, 72), slice(0, 72))
    values, seen = spectra(small.data, at)
    np.testing.assert_array_equal(values, cube.reshape(24, -1).T[at])
    np.testing.assert_array_equal(seen, mask.reshape(24, -1).T[at])


@pytest.mark.parametrize("part", PARTS)
def test_tiles_hand_out_every_pixel_once_and_no_more_than_its_patch(small: Ready, part: Any) -> None:
    items = small.task.items(small.data, small.split, small.fitted, part)
    shown = sum(int((items.batch([i])["target"] >= 0).sum()) for i in range(len(items)))
    assert shown == len(small.split.parts[part])
    whole, _ = small.data.read(slice(0, 72), slice(0, 72))
    clean = small.task._tiles(small.data, small.split, small.fitted, part)
    rows, cols = np.divmod(small.split.parts[part], 72)
    for i in range(len(clean)):
        batch, place = clean.batch([i]), clean.place(i)
        wanted = batch["target"][0] >= 0
        at = place[wanted].numpy()
        assert np.array_equal(batch["target"][0][wanted].numpy(), small.data.index.ravel()[at])
        np.testing.assert_array_equal(
            batch["cube"][0][:, wanted].numpy(), whole.reshape(24, -1)[small.fitted["used"]][:, at]
        )
        for flat in place[batch["seen"][0].any(0)].tolist():
            r, c = divmod(flat, 72)
            assert np.maximum(abs(rows - r), abs(cols - c)).min() <= 3


def test_turning_a_tile_does_not_change_its_pixels(small: Ready) -> None:
    options = {"light": 0.0}
    task = Classify(small.task.config.model_copy(update=options))
    items = task.items(small.data, small.split, small.fitted, "train")
    plain = task._tiles(small.data, small.split, small.fitted, "train").batch([0])
    wanted = sorted(map(tuple, plain["cube"][0][:, plain["target"][0] >= 0].T.tolist()))
    for seed in range(6):
        torch.manual_seed(seed)
        batch = items.batch([0])
        assert sorted(map(tuple, batch["cube"][0][:, batch["target"][0] >= 0].T.tolist())) == wanted


def test_a_balanced_loss_weighs_classes_alike(small: Ready) -> None:
    task = Classify(small.task.config.model_copy(update={"balanced": True}))
    fitted = task.fit(small.data, small.split)
    pixels, weight = np.array(fitted["class_pixels"]), np.array(fitted["class_weight"])
    np.testing.assert_allclose(pixels * weight, pixels.sum() / 6)


@pytest.mark.parametrize("leak", [False, True])
def test_poison_leaves_statistics_and_start_alone(leak: bool) -> None:
    split = {"block": 12, "allow_leak": leak}
    made = ready(split=split)
    poisoned = made.task.poison(made.data, made.split)
    assert made.task.fit(poisoned, made.split) == made.fitted
    before = {k: v.clone() for k, v in made.model.state_dict().items()}
    made.task.initialise(made.model, poisoned, made.split)
    for name, value in made.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    test = made.split.parts["test"]
    assert (poisoned.index.ravel()[test] != made.data.index.ravel()[test]).all()
    if not leak:
        assert (spectra(poisoned, test)[0] == np.float32(1e30)).all()


def test_a_training_step_sees_nothing_of_the_test_part(small: Ready) -> None:
    poisoned = small.task.poison(small.data, small.split)
    losses = []
    for data in (small.data, poisoned):
        items = small.task.items(data, small.split, small.fitted, "train")
        torch.manual_seed(0)
        losses.append(small.task.loss(small.model, items.batch(range(len(items))))[0].item())
    assert losses[0] == losses[1]


def test_training_lowers_the_loss() -> None:
    made = ready()
    items = made.task.items(made.data, made.split, made.fitted, "train")
    optimiser = torch.optim.AdamW(made.model.parameters(), lr=3e-3)
    made.model.train()
    losses = []
    for _ in range(12):
        torch.manual_seed(0)
        loss, _ = made.task.loss(made.model, items.batch(range(len(items))))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_evidence_counts_every_test_pixel_and_its_metrics_agree_with_sklearn(small: Ready) -> None:
    evidence = small.task.evidence(small.model, small.data, small.split, small.fitted, "test")
    assert evidence.sum("confusion").sum() == len(small.split.parts["test"])
    assert evidence.sum("bins")[:, 0].sum() == len(small.split.parts["test"])
    again = small.task.evidence(small.model, small.data, small.split, small.fitted, "test")
    np.testing.assert_array_equal(evidence.columns["confusion"], again.columns["confusion"])
    got = small.task.metrics(evidence)
    truth, guess = _cases(evidence.sum("confusion"))
    _agrees(got, truth, guess, small.data.class_ids)


def _cases(confusion: Any) -> tuple[list[int], list[int]]:
    pairs = [(i, j) for (i, j), n in np.ndenumerate(confusion) for _ in range(int(n))]
    return [i for i, _ in pairs], [j for _, j in pairs]


def _agrees(got: dict[str, float], truth: list[int], guess: list[int], ids: tuple[int, ...]) -> None:
    labels = sorted(set(truth))
    assert got["oa"] == pytest.approx(accuracy_score(truth, guess))
    assert got["kappa"] == pytest.approx(cohen_kappa_score(truth, guess), abs=1e-9)
    recall = recall_score(truth, guess, labels=labels, average=None, zero_division=0)
    assert got["aa"] == pytest.approx(np.mean(recall))
    f1 = f1_score(truth, guess, labels=labels, average=None, zero_division=0)
    assert got["f1_macro"] == pytest.approx(np.mean(f1))
    for c, value in zip(labels, f1, strict=True):
        assert got[f"f1_{ids[c]}"] == pytest.approx(value)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=60))
def test_metrics_against_sklearn(rows: list[tuple[int, int, int]]) -> None:
    unit, truth, guess = (np.array(v, dtype=np.int64) for v in zip(*rows, strict=True))
    if len(set(truth.tolist())) < 2:
        return
    tally = Tally((4, 9, 11))
    for half in (slice(0, len(rows) // 2), slice(len(rows) // 2, None)):
        tally.add(unit[half], truth[half], guess[half])
    _agrees(scores(tally.evidence()), truth.tolist(), guess.tolist(), (4, 9, 11))


def test_calibration_error_by_hand() -> None:
    tally = Tally((1, 2))
    sure = np.array([0.95, 0.95, 0.55, 0.55])
    guess = np.array([0, 0, 1, 1])
    tally.add(np.zeros(4, np.int64), np.array([0, 1, 1, 1]), guess, sure, np.ones(4))
    got = scores(tally.evidence())
    assert got["ece"] == pytest.approx(0.5 * abs(0.95 - 0.5) + 0.5 * abs(0.55 - 1.0))
    assert got["ece_before"] == pytest.approx(0.25)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_a_known_temperature_is_found_again(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(20_000, 4, generator=generator, dtype=torch.float64)
    truth = torch.multinomial(z.softmax(1), 1, generator=generator)[:, 0]
    assert fitted_temperature((z * temperature).float(), truth) == pytest.approx(temperature, rel=0.05)


def test_perfect_validation_does_not_give_boundless_confidence() -> None:
    z = torch.eye(3).repeat(20, 1) * 4
    temperature = fitted_temperature(z, z.argmax(1))
    assert 0.3 < temperature < 3


def test_calibrate_changes_confidence_and_no_class(small: Ready) -> None:
    made = ready()
    before = made.task.evidence(made.model, made.data, made.split, made.fitted, "test")
    with torch.no_grad():
        made.model.skip.weight.mul_(0.2)  # much too modest
        made.model.skip.bias.mul_(0.2)
    made.task.calibrate(made.model, made.data, made.split, made.fitted)
    after = made.task.evidence(made.model, made.data, made.split, made.fitted, "test")
    np.testing.assert_array_equal(before.sum("confusion"), after.sum("confusion"))
    metrics = made.task.metrics(after)
    assert float(made.model.temperature) < 0.5
    assert metrics["ece"] < metrics["ece_before"]


def test_discriminants_agree_with_sklearn() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 200)
    x = rng.standard_normal((200, 6)) + np.eye(6)[label] * 2
    x = np.concatenate([x, np.full((200, 1), 5.0)], 1)  # one feature that never varies
    (found,) = discriminants(x, label, 3, (0.2,))
    scaled = x[:, :6] / x[:, :6].std(0)
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=None)
    centred = scaled - np.stack([scaled[label == c].mean(0) for c in range(3)])[label]
    covariance = centred.T @ centred / 200
    covariance = 0.8 * covariance + 0.2 * np.trace(covariance) / 6 * np.eye(6)
    oracle.fit(scaled, label)
    weight = np.linalg.solve(covariance, oracle.means_.T).T
    bias = np.log(np.bincount(label) / 200) - 0.5 * (weight * oracle.means_).sum(1)
    np.testing.assert_allclose(x @ found.weight.T + found.bias, scaled @ weight.T + bias, rtol=1e-8, atol=1e-8)
    assert (found.weight[:, 6] == 0).all()


def test_baselines_are_scored_on_the_same_pixels(small: Ready) -> None:
    evidence = small.task.evidence(small.model, small.data, small.split, small.fitted, "test")
    found = classical(small.data, small.split, small.fitted["used"])
    assert set(found) == {"svm_rbf", "random_forest", "nearest_neighbour", "spectral_angle"}
    for rival in found.values():
        np.testing.assert_array_equal(rival.unit, evidence.unit)
        np.testing.assert_array_equal(rival.columns["confusion"].sum(2), evidence.columns["confusion"].sum(2))
        assert scores(rival)["oa"] > 0.7
    assert np.isnan(scores(found["svm_rbf"])["ece"])


def test_samples_are_even_over_classes() -> None:
    label = np.repeat([0, 1, 2], [1000, 1000, 50])
    kept = label[sample(label, 300)]
    assert np.bincount(kept).tolist() == [100, 100, 50]
    assert len(sample(label, 5000)) == 2050


def test_figures_can_be_drawn(small: Ready, tmp_path: Path) -> None:
    scored = {"model": small.task.evidence(small.model, small.data, small.split, small.fitted, "test")}
    figures = small.task.figures(small.model, small.data, small.split, small.fitted, scored)
    assert set(figures) == {
        "Scene", "Class map", "Confusion", "Spectra of the classes", "Split and audits", "Reliability",
    }  # fmt: skip
    for i, figure in enumerate(figures.values()):
        figure.savefig(tmp_path / f"{i}.png", dpi=40)


def test_public_data_are_described(public_data: Path) -> None:
    assert len(aviris_nominal()) == 204
    data = Classify(ClassifyOptions()).open("salinas_a")
    assert data.scene.shape == (83, 86)
    assert data.class_ids == (1, 10, 11, 12, 13, 14)
    assert np.bincount(data.index[data.index >= 0]).tolist() == [391, 1343, 616, 1525, 674, 799]
    assert data.manifest.licence == DATASETS["salinas_a"].licence == "none stated"
    assert "nominal" in data.manifest.facts["notes"][0]


def test_options_of_the_small_scene_are_used(small: Ready) -> None:
    assert small.data.scene.shape == (SIMULATED["rows"], SIMULATED["cols"])


def test_scene_writer_fixture(write_scene: Callable[..., Path]) -> None:
    assert write_scene(np.ones((2, 3, 4), np.int16)).is_file()
