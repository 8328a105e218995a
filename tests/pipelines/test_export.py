"""Export: what is written does what the original does, also at another batch size; else nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from domains.task import Portable
from pipelines.export import ExportError, export
from pipelines.runs import load_run
from shared_backbones.errors import BadRequest

from .made import Rows, make_run, rows_task  # noqa: F401 - a fixture
from .test_bad_input import SMALL, frame, untrained
from .test_cli import here  # noqa: F401 - a fixture


@pytest.fixture
def run(rows_task: str, tmp_path: Path) -> Path:  # noqa: F811
    return make_run(tmp_path / "runs" / "toy-rows" / "0123456789ab")


@pytest.mark.parametrize("to", ["onnx", "torch"])
def test_the_written_model_equals_the_original(run: Path, tmp_path: Path, to: str) -> None:
    result = export(run, to, tmp_path / "out")
    described = json.loads((tmp_path / "out" / "description.json").read_text())
    assert described["inputs"] == [
        {"name": "x", "dtype": "float32", "shape": [None, 4], "meaning": "(batch, 4), plain numbers"}
    ]
    assert described["parity"]["checked_batch"] == 3
    x = torch.randn(7, 4)  # a size that neither tracing nor the check has seen
    if to == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(result["files"][0], providers=["CPUExecutionProvider"])
        got = torch.from_numpy(session.run(None, {"x": x.numpy()})[0])
    else:
        got = torch.export.load(result["files"][0]).module()(x)
    torch.testing.assert_close(got, load_run(run).model(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(BadRequest, match="holds something already"):
        export(run, to, tmp_path / "out")


def test_a_forecaster_leaves_with_its_preprocessing(
    here: Path,  # noqa: F811
) -> None:
    frame().to_csv(here / "series.csv", index=False)
    run = untrained(here / "run", "timeseries/forecast", "series.csv", *SMALL[1::2])
    made = export(run, "torch", here / "out")
    described = json.loads((here / "out" / "description.json").read_text())
    assert [i["shape"] for i in described["inputs"]] == [[None, 12, 2], [None], [None, 18, 8]]
    past = torch.randn(5, 12, 2, dtype=torch.float64)
    past[0, 3, 1] = float("nan")  # a gap
    phase, calendar = torch.arange(5), torch.zeros(5, 18, 8)
    got = torch.export.load(made["files"][0]).module()(past, phase, calendar)
    model = load_run(run).model
    empty = past.new_zeros(5, 18, 1, 0)
    batch = {"past": past.nan_to_num(0.0), "past_mask": ~past.isnan(), "phase": phase, "calendar": calendar}
    with torch.no_grad():
        want = model.original(model({**batch, "covariates": empty[:, :12], "known": empty}))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


class Fickle(nn.Module):
    """Another function while it is traced."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if torch.compiler.is_compiling() else x + 1


class BuiltIn(nn.Module):
    """A batch size that is part of the model."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 4) * torch.arange(2)[:, None]


def portable_as(module: nn.Module) -> Any:
    return lambda self, model, fitted: Portable(module, (torch.randn(2, 4),), {"x": ""}, {"y": ""})


def test_a_difference_is_found_and_nothing_written(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rows, "portable", portable_as(Fickle()))
    with pytest.raises(ExportError, match="differ by up to"):
        export(run, "torch", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs"]


def test_a_fixed_batch_is_said_to_be_fixed(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rows, "portable", portable_as(BuiltIn()))
    assert export(run, "torch", tmp_path / "out")["parity"]["free_batch"] is False
    described = json.loads((tmp_path / "out" / "description.json").read_text())
    assert described["inputs"][0]["shape"] == [2, 4]


def test_requests_that_cannot_be_met(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadRequest, match="unknown format 'onx'; did you mean 'onnx'"):
        export(run, "onx")
    monkeypatch.delattr(Rows, "portable")
    with pytest.raises(BadRequest, match="cannot be exported"):
        export(run, "torch")
    assert not list(run.glob("export*"))
