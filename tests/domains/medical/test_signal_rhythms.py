"""Rhythms of `medical/signal`: annotations read, seconds counted, learned, told, and a rival from intervals."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wfdb
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from domains.medical.data.signals import open_record, read_rhythms
from domains.medical.signal import Signal
from domains.medical.signal_config import SignalOptions
from domains.medical.signal_data import Heart, Hearts
from domains.medical.signal_figures import rhythms_picture
from domains.medical.signal_rhythms import codes_at, rhythm_scores, rhythm_table, seconds_of, smoothed, spans_told
from domains.task import Manifest
from shared_backbones.presets import load_preset

from .made import Folder

SMALL: dict[str, Any] = {"simulated": {"seconds": 240, "records": 2, "rhythms": 1}, "window_s": 10}


@pytest.fixture(scope="module")
def task() -> Signal:
    return Signal(SignalOptions.model_validate(SMALL))


@pytest.fixture(scope="module")
def hearts(task: Signal) -> Hearts:
    return task.open("simulated")


def test_marks_of_rhythm_last_until_the_next(tmp_path: Path) -> None:
    wfdb.wrsamp("r", 100, ["mV"], ["II"], np.sin(np.arange(3000) / 9)[:, None], fmt=["16"], write_dir=str(tmp_path))
    marks, notes = ["+", "N", "+", "~", "+", "N"], ["(N\x00", "", "(AFIB", "", "(N", ""]
    at = np.array([200, 250, 1000, 1200, 2500, 2600])
    wfdb.wrann("r", "atr", at, np.array(marks), aux_note=notes, write_dir=str(tmp_path))
    record = open_record(tmp_path / "r.hea")
    assert read_rhythms(record) == ((2.0, 10.0, "N"), (10.0, 25.0, "AFIB"), (25.0, 30.0, "N"))
    assert read_rhythms(record, "none") == ()


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=30))
def test_seconds_by_rhythm_are_counted(pairs: list[tuple[int, int]]) -> None:
    """Truth 2 is a rhythm that was never learned; one pair a second."""
    names = ("N", "AFIB", "VT")
    rhythm = tuple((float(i), i + 1.0, names[t]) for i, (t, _) in enumerate(pairs))
    heart = Heart("x", np.zeros(len(pairs) * 100, np.float32), np.zeros(0), np.zeros(0, np.int64), rhythm)
    data = Hearts(Manifest("x", "x"), 100.0, (heart,))
    rows = np.array([[0, 0, 100 * len(pairs)]])
    told = np.repeat([t for _, t in pairs], 4)
    table = rhythm_table(data, rows, names[:2], {0: [(0.0, 0.25, told)]})[0]
    assert table.sum() == pytest.approx(len(pairs))
    truth, guess = (np.array(v) for v in zip(*pairs, strict=True))
    found = rhythm_scores(table)
    if (truth < 2).any():
        assert found["rhythm_accuracy"] == pytest.approx((truth == guess).mean())
        there = [k for k in (0, 1) if (truth == k).any()]
        assert found["rhythm_f1_macro"] == pytest.approx(f1_score(truth, guess, labels=there, average="macro"))
    assert seconds_of(data, rows) == {n: float((truth == i).sum()) for i, n in enumerate(names) if (truth == i).any()}


def test_what_is_told_is_smooth_and_joined() -> None:
    p = np.zeros((400, 2))
    p[:200, 0], p[200:, 1] = 0.9, 0.9
    p[50:53], p[300] = [0, 1], [1, 0]  # single beats
    codes = smoothed(p, 0.1)
    assert spans_told([(5.0, 0.1, codes[:100]), (15.0, 0.1, codes[100:])], ["N", "AFIB"]) == [
        (5.0, pytest.approx(25.0, abs=0.11), "N"), (pytest.approx(25.0, abs=0.11), pytest.approx(45.0), "AFIB")
    ]  # fmt: skip


def test_rhythms_are_learned_told_and_written(task: Signal, hearts: Hearts, tmp_path: Path) -> None:
    split = task.split(hearts)
    fitted = json.loads(json.dumps(task.fit(hearts, split)))
    assert fitted["rhythms"] == ["AFIB", "N"]
    assert fitted == json.loads(json.dumps(task.fit(task.poison(hearts, split), split)))
    torch.manual_seed(0)
    model = task.build(fitted, load_preset("beat_mixer"))
    batch = task.items(hearts, split, fitted, "val").batch([0, 1, 2])
    at = np.arange(1792) / 180 + 0.5 / 180
    row = split.parts["val"][1]
    np.testing.assert_array_equal(
        batch["rhythm"][1].numpy(), codes_at(hearts.hearts[int(row[0])], row[1] / 180 + at, fitted["rhythms"])
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(4):
        loss = task.loss(model, batch)[0]
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        assert model.head.weight.grad is not None
        assert float(model.head.weight.grad[-1].abs().sum()) > 0
        optimizer.step()
    assert losses[-1] < losses[0]
    task.calibrate(model, hearts, split, fitted)
    found = task.metrics(task.evidence(model, hearts, split, fitted, "test"))
    assert 0 <= found["rhythm_accuracy"] <= 1
    rivals = {name: task.metrics(e) for name, e in task.baselines(hearts, split, fitted).items()}
    assert rivals["pan_tompkins"]["rhythm_accuracy"] > max(0.7, rivals["slope_threshold"]["rhythm_accuracy"])
    facts = task.predict(model, fitted, "simulated", Folder(tmp_path))
    rows = list(csv.DictReader((tmp_path / "rhythms.csv").open()))
    assert {r["rhythm"] for r in rows} <= {"N", "AFIB"}
    assert sum(float(r["end_s"]) - float(r["start_s"]) for r in rows) == pytest.approx(facts["seconds"], abs=0.5)
    picture = rhythms_picture(task.evidence(model, hearts, split, fitted, "test"), fitted["rhythms"])
    assert {t.get_text() for t in picture.axes[0].get_yticklabels()} == {"AFIB", "N", "other"}
