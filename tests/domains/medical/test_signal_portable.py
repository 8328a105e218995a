"""`medical/signal` for use without Cambium: an exported program and its runner say what predictions say."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from domains.medical.data import run_signal
from domains.medical.signal import Signal
from domains.medical.signal_config import SignalOptions
from domains.medical.signal_predicting import predict_source
from domains.medical.signal_simulate import RATE, simulated
from pipelines.export import export
from pipelines.runs import load_run, save_model
from shared_backbones.export import unchecked_shapes
from tests.pipelines.made import untrained_run

from .made import Folder
from .test_signal import write_record

SMALL: dict[str, Any] = {"simulated": {"seconds": 90, "records": 3, "rhythms": 1}, "window_s": 4, "split": {"gap_s": 1}}


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(encoding="utf-8")))


def same(alone: list[dict[str, str]], here: list[dict[str, str]]) -> None:
    """Tables that agree to what is written of them."""
    assert len(alone) == len(here) > 3
    for a, b in zip(alone, here, strict=True):
        assert set(a) == set(b) - {"record"}
        for name, value in a.items():
            if value.replace(".", "").isdigit():
                assert float(value) == pytest.approx(float(b[name]), abs=2e-4)
            else:
                assert value == b[name]


def test_an_exported_listener_runs_alone_and_says_what_predictions_say(tmp_path: Path) -> None:
    run = untrained_run("medical/signal", SMALL, tmp_path / "run")
    trained = load_run(run)
    state = dict(trained.model.state_dict())  # an answer that depends on the wave
    state |= {"head.weight": 6 * state["head.weight"], "threshold": torch.tensor(0.12)}
    trained.model.load_state_dict(state)
    save_model(run, trained.config, trained.preset, trained.fitted, trained.model, run="x", data_sha256="x")
    assert trained.fitted["kinds"]
    assert trained.fitted["rhythms"] == ["AFIB", "N"]
    with unchecked_shapes():
        made = export(run, "onnx", tmp_path / "out")
    assert made["parity"]["other_size"]["largest_difference"] <= 1e-5
    source = write_record(tmp_path / "in").with_suffix(".hea")  # with a gap
    command = [sys.executable, str(tmp_path / "out" / "run_signal.py"), str(source)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    trained.task.predict(load_run(run).model, trained.fitted, str(source), Folder(tmp_path))
    for what in ("beats", "rhythms"):
        alone = rows_of(tmp_path / "out" / f"made_{what}.csv")
        here = rows_of(tmp_path / f"{what}.csv")
        if what == "beats":
            same(alone, here)
        else:
            assert [r["rhythm"] for r in alone] == [r["rhythm"] for r in here]


def test_stretches_of_a_long_recording_join_as_predictions_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("domains.medical.signal_predicting.STRETCH_S", 20.0)
    task = Signal(SignalOptions.model_validate({**SMALL, "rate": 200.0}))  # samples are resampled
    data = task.open("simulated")
    fitted = task.fit(data, task.split(data))
    run = untrained_run("medical/signal", {**SMALL, "rate": 200.0}, tmp_path / "run")
    model = load_run(run).model
    with torch.no_grad():
        model.head.weight.mul_(6)  # type: ignore[union-attr,operator]
        model.threshold.fill_(0.12)  # type: ignore[union-attr,operator]
    found = task.portable(model, fitted)
    about = {**found.about, "stretch_s": 20.0}

    def said(x: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [y.numpy() for y in found.module.eval()(torch.from_numpy(x))]

    source = write_record(tmp_path / "in").with_suffix(".hea")
    beats, rhythms = run_signal.told(said, *run_signal.samples_of(source, 0, None), about)
    predict_source(task, model, fitted, str(source), Folder(tmp_path))  # type: ignore[arg-type]
    alone = [{"time_s": f"{t:.4f}", "probability": f"{p:.4f}", "kind": k} for t, p, k in beats]
    same(alone, [{k: r[k] for k in ("record", *alone[0])} for r in rows_of(tmp_path / "beats.csv")])
    assert [name for _, _, name in rhythms] == [r["rhythm"] for r in rows_of(tmp_path / "rhythms.csv")]


def test_columns_of_samples_need_their_rate(tmp_path: Path) -> None:
    wave = simulated({"seconds": 60, "records": 1})[0].wave[:50]
    text = [f"{v:.6f}" for v in wave]
    text[3] = ""
    (tmp_path / "a.csv").write_text("\n".join(text) + "\n")
    np.save(tmp_path / "a.npy", wave)
    x, rate = run_signal.samples_of(tmp_path / "a.csv", 0, RATE)
    assert rate == RATE
    assert np.isnan(x[3])
    np.testing.assert_allclose(np.delete(x, 3), np.delete(wave, 3), atol=1e-6)
    np.testing.assert_array_equal(run_signal.samples_of(tmp_path / "a.npy", 0, RATE)[0], wave)
    with pytest.raises(SystemExit, match="--rate"):
        run_signal.samples_of(tmp_path / "a.csv", 0, None)
