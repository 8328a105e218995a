"""Detection: statistics beside plain formulas, rankings beside counting, the task with and without a target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.metrics import average_precision_score, roc_auc_score

from domains.hyperspectral.data import copy_cube
from domains.hyperspectral.detecting.config import DetectOptions
from domains.hyperspectral.detecting.detectors import ace, background, implanted, matched_filter, rx
from domains.hyperspectral.detecting.scoring import cases, scores
from domains.hyperspectral.detecting.task import Detect
from shared_backbones.errors import BadRequest
from shared_backbones.presets import load_preset

from .conftest import Folder

SMALL: dict[str, Any] = {"simulated": {"rows": 40, "cols": 40, "bands": 16}, "block": 10, "near": 3}


def made(**options: Any) -> dict[str, Any]:
    task = Detect(DetectOptions.model_validate({**SMALL, **options}))
    data = task.open("simulated")
    split = task.split(data)
    fitted = task.fit(data, split)
    torch.manual_seed(0)
    model = task.build(fitted, load_preset(task.default_preset))
    task.initialise(model, data, split)
    return {"task": task, "data": data, "split": split, "fitted": fitted, "model": model.eval()}


def test_detectors_are_their_formulas() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 5)) @ rng.standard_normal((5, 5)) + rng.uniform(0, 3, 5)
    target, b = rng.uniform(0, 5, 5), background(x)
    inverse, mean = np.linalg.inv(np.cov(x.T)), x.mean(0)
    s = target - mean
    for i in range(5):
        d = x[i] - mean
        assert np.isclose(rx(x, b)[i], mahalanobis(x[i], mean, inverse) ** 2, rtol=0.01)
        assert np.isclose(matched_filter(x, b, target)[i], s @ inverse @ d / (s @ inverse @ s), rtol=0.02, atol=1e-3)
        wanted = (s @ inverse @ d) ** 2 / ((s @ inverse @ s) * (d @ inverse @ d))
        assert np.isclose(np.abs(ace(x, b, target)[i]), wanted, rtol=0.02, atol=1e-3)
    assert np.isclose(matched_filter(target[None], b, target)[0], 1)
    assert np.isclose(ace((mean + 0.2 * s)[None], b, target)[0], 1)


def test_metrics_are_those_of_sklearn_whatever_the_order() -> None:
    rng = np.random.default_rng(0)
    label = rng.random(400) < 0.1
    score = np.round(rng.standard_normal(400) + label, 1)  # with ties
    evidence = cases(np.arange(400) % 7, score, label)
    found = scores(evidence)
    assert np.isclose(found["auc"], roc_auc_score(label, score))
    assert np.isclose(found["average_precision"], average_precision_score(label, score))
    weight = {u: float(u % 3) for u in range(7)}
    each = np.array([weight[u] for u in np.arange(400) % 7])
    again = scores(evidence.reweighted(weight))
    assert np.isclose(again["auc"], roc_auc_score(label, score, sample_weight=each))
    assert np.isnan(scores(cases(np.zeros(4), score[:4], np.zeros(4)))["auc"])


def test_implants_fill_what_they_are_said_to() -> None:
    rng = np.random.default_rng(0)
    cube, live = rng.uniform(0, 1, (4, 10, 10)).astype(np.float32), np.ones((10, 10), dtype=bool)
    live[:5] = False
    target = np.array([9.0, 8.0, 7.0, 6.0])
    found, where = implanted(cube, target, rng, 0.1, (0.2, 0.4), live, cube.reshape(4, -1).T.astype(np.float64))
    assert where.sum() == 5
    assert not where[:5].any()
    assert np.array_equal(found[:, ~where], cube[:, ~where])
    f = (found - cube)[:, where] / (target[:, None] - cube[:, where])
    assert np.allclose(f, f[:1], atol=1e-4)
    assert ((f > 0.2 - 1e-3) & (f < 0.4 + 1e-3)).all()


def test_a_named_target_is_found_at_least_as_well_as_by_rx(tmp_path: Path) -> None:
    nm = np.linspace(400, 2500, 60)
    paint = 0.3 + 0.25 * np.sin(nm / 180)
    rows = ["wavelength,paint,other", *(f"{w},{p},{0.5}" for w, p in zip(nm, paint, strict=True))]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    ready = made(target=str(tmp_path / "t.csv"), target_name="paint")
    task, data, split, fitted = (ready[k] for k in ("task", "data", "split", "fitted"))
    assert np.allclose(fitted["target"], np.interp(fitted["nm"], nm, paint), atol=1e-9)
    found = scores(task.evidence(ready["model"], data, split, fitted, "test"))
    rivals = {n: scores(e) for n, e in task.baselines(data, split, fitted).items()}
    assert set(rivals) == {"rx", "ace", "matched_filter"}
    assert found["auc"] >= rivals["rx"]["auc"]
    assert found["auc"] > 0.9
    with pytest.raises(BadRequest, match="target_name"):
        made(target=str(tmp_path / "t.csv"))
    with pytest.raises(BadRequest, match="paint"):
        made(target=str(tmp_path / "t.csv"), target_name="pain")


def test_the_map_is_that_of_the_whole_scene(tmp_path: Path) -> None:
    ready = made(predict_tile=11)
    torch.nn.init.normal_(ready["model"].head.weight)
    path = tmp_path / "scene.tif"
    copy_cube(ready["data"].scene, path)
    facts = ready["task"].predict(ready["model"], ready["fitted"], str(path), Folder(tmp_path))
    with rasterio.open(tmp_path / "scene_detections.tif") as file:
        found, where = file.read(1), file.transform
    values, seen = ready["data"].plain.read(slice(0, 40), slice(0, 40))
    used = ready["fitted"]["used"]
    with torch.no_grad():
        whole = ready["model"](torch.from_numpy(values[used])[None], torch.from_numpy(seen[used])[None]).sigmoid()[0]
    assert np.allclose(found, whole.numpy(), atol=1e-4)
    assert tuple(where)[:6] == ready["data"].scene.transform
    assert facts["pixels"] == 1600
