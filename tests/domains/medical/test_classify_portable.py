"""`medical/classify` for use without Cambium: the same answers from images of any size; isotonic calibration."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.isotonic import IsotonicRegression

from domains.medical.canvas import letterbox, on_canvas
from domains.medical.canvas_portable import PlainCanvas
from domains.medical.classify import Classify
from domains.medical.classify_calibration import calibrate
from domains.medical.isotonic import KNOTS, curved, fitted_curves, identity, pooled
from pipelines.export import export
from pipelines.runs import load_run, save_model
from shared_backbones.export import unchecked_shapes
from shared_backbones.presets import load_preset
from tests.pipelines.made import untrained_run

from .made import SMALL, Folder, options, scan


@given(st.integers(8, 70), st.integers(8, 70), st.integers(8, 40), st.booleans(), st.booleans(), st.data())
def test_the_canvas_as_arithmetic_is_the_canvas(
    h: int, w: int, side: int, colour: bool, crop: bool, data: st.DataObject
) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    pixels = (random.integers(0, 256, (h, w, 3 if colour else 1)) / 255).astype(np.float32)
    dark = data.draw(st.integers(0, h - 1))
    pixels[:dark] *= data.draw(st.sampled_from([0.0, 0.05, 1.0]))
    for channels in (1, 3):
        wanted = torch.from_numpy(on_canvas(pixels, side, channels, crop))
        shown = torch.from_numpy(np.broadcast_to(pixels, (h, w, 3)).transpose(2, 0, 1).copy())[None]
        canvas = PlainCanvas(side, channels, crop)(shown)
        assert torch.equal((canvas[0] * 255).round().to(torch.uint8), wanted)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(2, 40))
def test_the_letterbox_resizes_as_torch_does(h: int, w: int, side: int) -> None:
    size = [max(1, round(side * n / max(h, w))) for n in (h, w)]
    if size[1] == 1:
        return  # torch 2.13 takes the first row for all
    x = torch.rand(2, 3, h, w, dtype=torch.float64)
    top, left = ((side - n) // 2 for n in size)
    canvas = letterbox(x, side)
    wanted = F.interpolate(x, size, mode="bilinear", antialias=True)
    torch.testing.assert_close(canvas[:, :, top : top + size[0], left : left + size[1]], wanted)
    assert float(canvas.sum()) == pytest.approx(float(wanted.sum()))


def test_an_exported_classifier_runs_alone_and_says_what_predictions_say(tmp_path: Path) -> None:
    run = untrained_run(
        "medical/classify", {**SMALL, "calibration": "isotonic", "model.mixer": "identity"}, tmp_path / "run"
    )
    trained = load_run(run)
    state = dict(trained.model.state_dict())  # an answer that depends on the image
    state |= {"head.scores.weight": 30 * state["head.scores.weight"], "temperature": torch.ones(1)}
    state["curves"] = identity(2) ** torch.tensor([1.0, 0.5])
    trained.model.load_state_dict(state)
    save_model(run, trained.config, trained.preset, trained.fitted, trained.model, run="x", data_sha256="x")
    with unchecked_shapes():
        made = export(run, "onnx", tmp_path / "out")
    assert made["parity"]["other_size"]["shapes"] == [[3, 3, 72, 95]]
    assert made["parity"]["other_size"]["largest_difference"] <= 1e-5
    (tmp_path / "in").mkdir()
    files = [tmp_path / "in" / name for name in ("grey.png", "colour.png", "wide.png")]
    Image.fromarray(scan(1, (90, 61))).save(files[0])
    Image.fromarray(np.stack([scan(i, (37, 52)) for i in (2, 3, 4)], 2)).save(files[1])
    Image.fromarray(np.pad(scan(5, (33, 41)), 6)).save(files[2])
    command = [sys.executable, str(tmp_path / "out" / "run_classify.py"), *map(str, files)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    alone = list(csv.DictReader(io.StringIO(said.stdout)))
    task = trained.task
    assert isinstance(task, Classify)
    model = load_run(run).model
    sink = tmp_path / "said"
    sink.mkdir()
    task.predict(model, trained.fitted, str(tmp_path / "in"), Folder(sink))
    here = {row["file"]: row for row in csv.DictReader((sink / "predictions.csv").open())}
    for row in alone:
        assert row["prediction"] == here[row["file"]]["prediction"]
        for name in trained.fitted["labels"]:
            assert float(row[f"p_{name}"]) == pytest.approx(float(here[row["file"]][f"p_{name}"]), abs=1e-5)
    assert len({row[f"p_{trained.fitted['labels'][0]}"] for row in alone}) == 3
    about = json.loads((tmp_path / "out" / "description.json").read_text())["about"]
    assert about["inside"][-1] == "isotonic fitted on validation"


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=40))
def test_pooled_violators_are_those_of_scikit_learn(cases: list[tuple[int, bool]]) -> None:
    score, truth = (np.array(v, np.float64) for v in zip(*cases, strict=True))
    at, value = pooled(score, truth)
    np.testing.assert_allclose(value, IsotonicRegression().fit(score, truth).predict(at), atol=1e-12)


@pytest.mark.parametrize("exclusive", [True, False])
def test_curves_rise_and_mend_what_is_out_of_shape(exclusive: bool) -> None:
    random = np.random.default_rng(0)
    p = random.random(4000)
    truth = random.random(4000) < p**3  # stated far too high
    stated, true = (torch.from_numpy(np.stack([1 - v, v], 1)) for v in (p, truth.astype(np.float64)))
    true[0, 1] = float("nan") if not exclusive else true[0, 1]
    curves = fitted_curves(stated, true, exclusive)
    assert curves.shape == (2, KNOTS, 2)
    assert (curves.diff(dim=1) >= 0).all()
    q = curved(stated, curves, exclusive)
    assert float((q[:, 1] - stated[:, 1] ** 3).abs().mean()) < 0.03
    assert (q > 0).all()
    assert (q < 1).all()
    if exclusive:
        torch.testing.assert_close(q.sum(1), torch.ones(4000, dtype=torch.float64))
    same = fitted_curves(stated, torch.zeros_like(true), False)  # no label has both outcomes
    torch.testing.assert_close(curved(stated, same, False), stated, atol=1e-6, rtol=0)


def test_a_model_is_calibrated_on_validation_by_the_curve_that_is_asked_for() -> None:
    task = Classify(options(calibration="isotonic"))
    data = task.open("simulated")
    fitted = task.fit(data, task.split(data))
    model = task.build(fitted, load_preset("medical_mixer"))
    z = torch.randn(300, 2) * 4
    target = torch.eye(2)[(torch.rand(300) < (z[:, 1] - z[:, 0]).div(9).sigmoid()).long()]
    calibrate(model, z, target, 0.9)
    assert model.curves is not None
    after, before = model.probabilities(z), z.double().softmax(1)
    assert ((after - target) ** 2).mean() < ((before - target) ** 2).mean()
    again = model.probabilities(z)
    calibrate(model, z, target, 0.9)
    torch.testing.assert_close(model.probabilities(z), again)
