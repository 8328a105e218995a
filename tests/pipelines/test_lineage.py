"""Lineage: any output tells its model, data, configuration and code, also after it was moved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipelines.cli import run as cambium
from pipelines.lineage import CARD, lineage
from pipelines.predict import input_digests, model_digest, predict
from pipelines.runs import code_version
from shared_backbones.errors import BadInput

from .made import make_run, rows_task  # noqa: F401 - a fixture


@pytest.fixture
def batch(rows_task: str, tmp_path: Path) -> tuple[Path, Path]:  # noqa: F811
    run = make_run(tmp_path / "runs" / "toy-rows" / "0123456789ab")
    np.save(tmp_path / "a.npy", np.zeros((3, 4)))
    predict(run, [str(tmp_path / "a.npy")], tmp_path / "out")
    return run, tmp_path / "out" / "a" / "prediction.csv"


def test_an_output_tells_where_it_came_from(batch: tuple[Path, Path], tmp_path: Path) -> None:
    run, file = batch
    meta = json.loads((run / "model.json").read_bytes())
    source = str(tmp_path / "a.npy")
    facts = lineage(file)
    assert (facts["run"], facts["directory"], facts["model"]) == (run.name, str(run), model_digest(run))
    assert facts["trained_on"] == {"source": "simulated", "sha256": meta["data_sha256"]}
    assert (facts["input"], facts["input_sha256"]) == (source, input_digests([source])[source])
    assert facts["code"] == code_version("toy/rows")
    assert Path(facts["config"]).is_file()
    assert (facts["intact"], facts["run_is_there"]) == (True, True)


def test_a_changed_output_and_a_moved_one(batch: tuple[Path, Path], tmp_path: Path) -> None:
    run, file = batch
    moved = shutil.copytree(file.parent, tmp_path / "elsewhere") / file.name
    assert lineage(moved)["run"] == run.name
    assert lineage(moved)["intact"] is None
    file.write_text("0\n")
    assert lineage(file)["intact"] is False
    (file.parent / CARD).unlink()
    assert lineage(file)["run"] == run.name  # by the ledger alone
    shutil.rmtree(run)
    assert lineage(file)["run_is_there"] is False


def test_a_file_of_a_run_and_a_foreign_one(batch: tuple[Path, Path], tmp_path: Path) -> None:
    run, _ = batch
    assert lineage(run / "metrics.json")["run"] == run.name
    with pytest.raises(BadInput, match=r"no lineage\.json beside it"):
        lineage(tmp_path / "a.npy")
    with pytest.raises(BadInput, match="no file"):
        lineage(tmp_path / "gone")


def test_from_the_shell(batch: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    run, file = batch
    assert cambium(["lineage", str(file), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["run"] == run.name
    assert cambium(["lineage", str(file)]) == 0
    assert run.name in capfd.readouterr().out
