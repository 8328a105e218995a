"""`medical/classify`: metrics, missing labels, operating points, presets, predictions."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from domains.medical.cases import Cases
from domains.medical.classify import Classify, label_loss
from domains.medical.classify_scoring import average_precision, label_evidence, label_scores, operating_points
from shared_backbones.errors import BadInput, BadRequest
from shared_backbones.presets import adjust, load_preset, preset_names

from .dicoms import WORDS, write
from .made import RANDOM, Folder, options, scan

PRESETS = [n for n in preset_names() if "medical/classify" in load_preset(n).tasks]


@pytest.fixture(scope="session")
def cases() -> Cases:
    return Classify(options()).open("simulated")


@pytest.fixture(scope="session")
def fitted(cases: Cases) -> dict[str, Any]:
    task = Classify(options())
    return json.loads(json.dumps(task.fit(cases, task.split(cases))))


@given(st.data())
def test_scores_are_those_of_scikit_learn(data: st.DataObject) -> None:
    n = data.draw(st.integers(6, 30))
    score = np.array(data.draw(st.lists(st.integers(0, 8), min_size=n, max_size=n))) / 8
    truth = np.array(data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)), np.float64)
    weight = np.array(data.draw(st.lists(st.integers(1, 3), min_size=n, max_size=n)), np.float64)
    if truth.min() == truth.max():
        return
    assert average_precision(score, truth == 1, weight) == pytest.approx(
        sk.average_precision_score(truth, score, sample_weight=weight)
    )
    p = np.stack([1 - score, score], 1)
    evidence = label_evidence(np.arange(n), np.arange(n), ("a", "b"), True, np.stack([1 - truth, truth], 1), p)
    evidence = evidence.reweighted(weight)
    found = label_scores(evidence, 0.9)
    guess = p.argmax(1)
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(truth, score, sample_weight=weight))
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(truth, guess, sample_weight=weight))
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, guess, sample_weight=weight))
    assert found["brier"] == pytest.approx(2 * sk.brier_score_loss(truth, score, sample_weight=weight))
    false, true, _ = sk.roc_curve(truth, score, sample_weight=weight, drop_intermediate=False)
    assert found["sensitivity_at_specificity"] == pytest.approx(true[false <= 0.1 + 1e-9].max())


def test_absent_labels_are_left_out_and_unknown_ones_count_nothing() -> None:
    nan = np.nan
    target = np.array([[1, 0, nan], [0, 0, 1], [nan, 0, 0], [1, 0, nan]])
    p = np.array([[0.9, 0.1, 0.5], [0.2, 0.3, 0.8], [0.99, 0.1, 0.3], [0.6, 0.2, 0.5]])
    rows = np.arange(4)
    found = label_scores(label_evidence(rows, rows, ("x", "y", "z"), False, target, p), 0.9)
    assert found["labels_scored"] == 2
    assert np.isnan(found["auroc_y"])
    assert found["auroc"] == pytest.approx(1.0)
    known = ~np.isnan(target)
    assert found["brier"] == pytest.approx(((p - target)[known] ** 2).mean())
    z = torch.randn(4, 3, requires_grad=True)
    loss, weight = label_loss(z, torch.from_numpy(target).float(), False, None)
    loss.backward()
    assert int(weight) == known.sum()
    assert (z.grad[~torch.from_numpy(known)] == 0).all()


def test_operating_points_hold_on_the_cases_they_came_from() -> None:
    target = (RANDOM.random((200, 1)) < 0.3).astype(np.float64)
    p = np.clip(0.3 * target + 0.7 * RANDOM.random((200, 1)), 0, 1)
    at = operating_points(p, target, 0.9)[0]
    called = p[:, 0] >= at
    assert (~called[target[:, 0] == 0]).mean() >= 0.9
    rows = np.arange(200)
    best = label_scores(label_evidence(rows, rows, ("x",), False, target, p), 0.9)["sensitivity_at_specificity"]
    assert called[target[:, 0] == 1].mean() == pytest.approx(best)


def built(fitted: dict[str, Any], preset: str = "medical_mixer", task: Classify | None = None, **changes: Any) -> Any:
    torch.manual_seed(0)
    return (task or Classify(options())).build(fitted, adjust(load_preset(preset), **changes)).eval()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_learn_one_batch_and_do_not_mix_images(preset: str, cases: Cases, fitted: dict[str, Any]) -> None:
    task = Classify(options(augment={"erase": 0.0}))
    model = built(fitted, preset)
    x = torch.rand(3, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(x), torch.cat([model(row[None]) for row in x]), atol=1e-4, rtol=1e-4)
        assert model(torch.rand(1, 1, 50, 41)).shape == (1, 2)
    batch = task.items(cases, task.split(cases), fitted, "val").batch(range(4))
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        loss = task.loss(model, batch)[0]
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert min(losses[-3:]) < 0.85 * losses[0]


def test_the_ablation_builds_and_options_are_checked(fitted: dict[str, Any]) -> None:
    assert built(fitted, mixer="identity")(torch.rand(1, 1, 32, 32)).shape == (1, 2)
    for change, says in (
        ({"poool": "mean"}, "did you mean 'pool'"),
        ({"pool": "top"}, "unknown pool"),
        ({"dropout": 3}, "model.dropout"),
    ):
        with pytest.raises(BadRequest, match=says):
            built(fitted, **change)
    with pytest.raises(BadRequest, match="images have rank 2"):
        built(fitted, "itransformer")


def test_another_exposure_gives_the_same_answer(fitted: dict[str, Any]) -> None:
    model = built(fitted)
    x = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(x), model(0.5 * x + 0.2), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("labels", [0, 3])
def test_a_source_is_predicted_and_views_give_uncertainty(labels: int, tmp_path: Path) -> None:
    made = {"patients": 16, "slices": 2, "labels": labels}
    task = Classify(options(views=3, simulated=made, balance=True, smoothing=0.1, augment={"mixup": 0.2}))
    data = task.open("simulated")
    split = task.split(data)
    fitted = json.loads(json.dumps(task.fit(data, split)))
    model = built(fitted, task=task)
    task.calibrate(model, data, split, fitted)
    assert model.temperature.shape == ((3,) if labels else (1,))
    facts = task.predict(model, fitted, "simulated", Folder(tmp_path))
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert facts["images"] == len(rows) == len(data)
    evidence = task.scored(model, data, np.arange(len(data)))
    for name in data.labels:
        stated = [float(r[f"p_{name}"]) for r in rows]
        np.testing.assert_allclose(stated, evidence.columns[f"label {name}"][:, 1], atol=1e-4)
        assert max(float(r[f"sd_{name}"]) for r in rows) > 0
    loss, weight = task.loss(model.train(), task.items(data, split, fitted, "train").batch([0, 1]))
    assert torch.isfinite(loss)
    assert weight > 0


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_tables_of_other_forms(form: str, fitted: dict[str, Any], tmp_path: Path) -> None:
    import pandas as pd

    task = Classify(options(table=form))
    task.predict(built(fitted), fitted, "simulated", Folder(tmp_path))
    path = tmp_path / f"predictions.{form}"
    table = pd.read_parquet(path) if form == "parquet" else pd.read_json(path, lines=True)
    assert len(table) == 32


def test_dicom_files_train_and_predict_under_pseudonyms(tmp_path: Path) -> None:
    for i in range(24):
        pixels = scan(i, (20, 20)).astype(np.uint16) * 4
        write(tmp_path / "in" / ("a" if i % 2 else "b") / f"{i}.dcm", pixels, PatientID=f"MRN-77421903-{i // 2}")
    task = Classify(options(size=16))
    data = task.open(str(tmp_path / "in"))
    assert set(data.patients) == {f"p{i}" for i in range(1, 25)} or len(set(data.patients)) == 12
    split = task.split(data)
    fitted = task.fit(data, split)
    model = built(fitted, task=task)
    out = tmp_path / "out"
    out.mkdir()
    facts = task.predict(model, fitted, str(tmp_path / "in" / "a" / "1.dcm"), Folder(out))
    told = f"{data}{data.manifest.to_json()}{split.to_json()}{fitted}{facts}{(out / 'predictions.csv').read_text()}"
    told += str(task.audit(data, split))
    assert not [word for word in WORDS if word in told]
    assert "image-" in (out / "predictions.csv").read_text()
    (tmp_path / "in" / "a" / "1.dcm").write_bytes(b"")
    with pytest.raises(BadInput, match="the file is empty"):
        task.predict(model, fitted, str(tmp_path / "in" / "a" / "1.dcm"), Folder(out))
