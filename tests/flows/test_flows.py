"""The flows through a real server: results, caching by content, retries, artifacts."""

from __future__ import annotations

import base64
import json
import logging
import shutil
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows import load_flow
from shared_backbones.errors import BadInput, BadRequest
from tests.pipelines.made import make_run

pytestmark = pytest.mark.usefixtures("server")


@dataclass
class Trainer:
    """In the place of the training pipeline: makes runs without training, counts, and fails as it is told."""

    task: str
    errors: list[Exception] = field(default_factory=list)
    asked: list[tuple[int, str]] = field(default_factory=list)  # (seed, data)

    def __call__(self, config: Any, out: Path, **_: Any) -> Path:
        self.asked.append((config.seed, config.data))
        if self.errors:
            raise self.errors.pop(0)
        run = out / "toy-rows" / f"run{config.seed}"
        if not (run / "model.safetensors").is_file():  # as the real one does
            shutil.rmtree(run, ignore_errors=True)
            make_run(run, task=self.task, seed=config.seed)
        return run


@pytest.fixture
def trainer(toy: str, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    import pipelines.registry
    import pipelines.train
    from flows import tasks

    made = Trainer(toy)
    monkeypatch.setattr(pipelines.train, "train", made)
    monkeypatch.setattr(pipelines.registry, "record", lambda folder, root: {"model": "toy", "version": "1"})
    monkeypatch.setattr(tasks, "fit", tasks.fit.with_options(retry_delay_seconds=0))  # without the pauses
    return made


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the flows log."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("prefect.flow_runs")
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def train(task: str, out: Path, **options: Any) -> dict[str, Any]:
    preset = str(Path(__file__).parents[1] / "pipelines" / "rows.yaml")
    result: dict[str, Any] = load_flow("train")(task=task, out=str(out), preset=preset, **options)
    return result


def artifacts(key: str) -> dict[str, Any]:
    """Key without ``key`` -> content of the artifacts whose key starts with it; the newest counts."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found = [a for a in client.read_artifacts(limit=200) if a.key and a.key.startswith(key)]
    found.sort(key=lambda a: a.created)
    return {a.key.removeprefix(key): json.loads(a.data) if a.type == "table" else a.data for a in found}


def stored(root: Path) -> list[str]:
    """Everything that Prefect keeps of results."""
    folder = root / ".prefect" / "storage"
    return [path.read_text() for path in folder.rglob("*") if path.is_file()]


# --- train


def test_a_second_run_reuses_the_first_and_says_so(trainer: Trainer, tmp_path: Path, said: list[str]) -> None:
    first = train(trainer.task, tmp_path, seed=1)
    again = train(trainer.task, tmp_path, seed=1)
    assert trainer.asked == [(1, "simulated")], "not trained again"
    assert (first["reused"], again["reused"]) == (False, True)
    assert again["directory"] == first["directory"]
    assert any(f"reused run {first['directory']}" in line for line in said)
    train(trainer.task, tmp_path, seed=2)
    train(trainer.task, tmp_path, seed=1, data="simulated:5")
    assert trainer.asked[1:] == [(2, "simulated"), (1, "simulated:5")], "other requests are other results"


def test_other_code_trains_again(trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pipelines.runs

    train(trainer.task, tmp_path)
    monkeypatch.setattr(pipelines.runs, "code_version", lambda task: "another digest")
    assert not train(trainer.task, tmp_path)["reused"]
    assert len(trainer.asked) == 2


@pytest.mark.parametrize("lost", ["run", "model.safetensors"])
def test_training_is_done_again_where_its_result_is_gone(
    trainer: Trainer, tmp_path: Path, said: list[str], lost: str
) -> None:
    run = Path(train(trainer.task, tmp_path)["directory"])
    if lost == "run":
        shutil.rmtree(run)
    else:
        (run / lost).unlink()
    again = train(trainer.task, tmp_path)
    assert len(trainer.asked) == 2
    assert not again["reused"]
    assert (run / "model.safetensors").is_file()
    assert any("is gone or has changed" in line for line in said)


def test_weights_that_were_changed_are_never_served(trainer: Trainer, tmp_path: Path) -> None:
    weights = Path(train(trainer.task, tmp_path)["directory"]) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(BadInput, match="has changed since training: remove the folder"):
        train(trainer.task, tmp_path)


def test_only_small_references_are_kept_and_nothing_pickled(trainer: Trainer, tmp_path: Path, root: Path) -> None:
    train(trainer.task, tmp_path)
    with pytest.raises(BadInput):
        train(trainer.task, tmp_path, data="bad")
    for text in stored(root):
        content = json.loads(text)  # plain JSON, and the result in it too
        assert len(text) < 4000
        if "__exc_type__" not in content:
            assert content["metadata"]["serializer"]["type"] == "json"
            json.loads(content["result"])


# --- retries


def test_infrastructure_errors_are_tried_again(trainer: Trainer, tmp_path: Path) -> None:
    from pipelines.train import TrainerKilledError

    trainer.errors = [TrainerKilledError("killed by SIGKILL"), ConnectionResetError("storage went away")]
    assert Path(train(trainer.task, tmp_path)["directory"]).is_dir()
    assert len(trainer.asked) == 3


def test_other_errors_are_not(trainer: Trainer, tmp_path: Path) -> None:
    trainer.errors = [BadInput("row 3 holds no number")]
    with pytest.raises(BadInput, match="row 3"):
        train(trainer.task, tmp_path)
    assert len(trainer.asked) == 1


def test_what_counts_as_infrastructure() -> None:
    from flows.tasks import infrastructure
    from pipelines.store import DiskFull
    from pipelines.train import TrainerKilledError, TrainingError

    for error in (OSError(5, "I/O"), TimeoutError(), BrokenPipeError(), BrokenProcessPool(), TrainerKilledError()):
        assert infrastructure(error), error
    own = (BadInput(), BadRequest(), DiskFull(), TrainingError("diverged"), ValueError(), AssertionError())
    for error in (*own, FileNotFoundError(), PermissionError(), OSError(28, "full"), KeyboardInterrupt(), None):
        assert not infrastructure(error), error


def test_retries_end(trainer: Trainer, tmp_path: Path) -> None:
    trainer.errors = [OSError("gone") for _ in range(9)]
    with pytest.raises(OSError, match="gone"):
        train(trainer.task, tmp_path)
    assert len(trainer.asked) == 4


def test_a_bad_request_trains_nothing(trainer: Trainer, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"train\.epochs"):
        train(trainer.task, tmp_path, sets=["train.epoch=1"])
    with pytest.raises(BadRequest, match="did you mean 'toy/rows'"):
        train("toy/row", tmp_path)
    with pytest.raises(BadInput, match="row 3 holds no number"):
        train(trainer.task, tmp_path, data="bad")
    assert trainer.asked == []


# --- predict


def inputs(folder: Path, **arrays: Any) -> list[str]:
    folder.mkdir(exist_ok=True)
    for name, rows in arrays.items():
        np.save(folder / f"{name}.npy", rows)
    return [str(folder)]


def test_predict_end_to_end(toy: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "toy-rows" / "abc", task=toy)
    sources = inputs(tmp_path / "in", a=np.ones((3, 4)), b=np.zeros((2, 4)), wrong=np.ones((3, 5)))
    options = {"model": str(run), "inputs": sources, "out": str(tmp_path / "out"), "root": str(tmp_path / "runs")}
    result = load_flow("predict")(**options)
    assert (result["exit_code"], result["done"], result["reused"]) == (3, 2, 0)
    assert [Path(row["input"]).name for row in result["refused"]] == ["wrong.npy"]
    assert len(np.loadtxt(tmp_path / "out" / "a" / "prediction.csv")) == 3
    shown = artifacts("batch")
    assert "2 done (0 of them earlier), 1 refused, 0 failed" in shown[""]
    assert "rows of 4 numbers, got shape (3, 5)" in shown["-refused"][0]["reason"]

    (tmp_path / "out" / "a" / "prediction.csv").unlink()
    again = load_flow("predict")(**options)
    assert (again["done"], again["reused"]) == (2, 1), "b stays, a is made again"
    assert (tmp_path / "out" / "a" / "prediction.csv").is_file()


def test_an_input_that_fails_fails_the_flow_after_the_rest_is_done(toy: str, tmp_path: Path) -> None:
    from flows.predict import SomeInputsFailedError

    run = make_run(tmp_path / "run", task=toy)
    sources = inputs(tmp_path / "in", a=np.full((3, 4), 1e30), b=np.zeros((2, 4)))
    with pytest.raises(SomeInputsFailedError, match=r"1 inputs failed; .* says why") as caught:
        load_flow("predict")(model=str(run), inputs=sources, out=str(tmp_path / "out"), root=str(tmp_path))
    assert caught.value.summary["done"] == 1
    assert "a fault of the model's own" in caught.value.summary["failed"][0]["reason"]


def test_predict_refuses_what_is_no_run(toy: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="no run directory"):
        load_flow("predict")(model=str(tmp_path / "nothing"), inputs=["x"], out=str(tmp_path / "out"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadRequest, match="is not a finished run"):
        load_flow("predict")(model=str(tmp_path / "empty"), inputs=["x"], out=str(tmp_path / "out"), root=str(tmp_path))
    assert not (tmp_path / "out").exists()


# --- a real task


def test_a_real_task_end_to_end(tmp_path: Path, root: Path) -> None:
    """Forecasting simulated series: trained in a subprocess, scored, reported, registered, published."""
    sets = ["lookback=24", "horizon=4", "ets_origins=0", "train.epochs=1"]
    result: dict[str, Any] = load_flow("train")(task="timeseries/forecast", out=str(tmp_path), sets=sets, seed=3)
    run = Path(result["directory"])
    assert run == tmp_path / "timeseries-forecast" / result["run"]
    metrics = json.loads((run / "metrics.json").read_text())
    for name in ("metrics", "baselines", "cost"):
        assert result[name] == metrics[name]
    assert result["metrics"]["mse"]["value"] < result["baselines"]["repeat_last"]["mse"]
    assert result["report"] == str(run / "report.html")
    assert result["reused"] is False
    assert "champion" in result["aliases"]

    shown = artifacts(f"scores-timeseries-forecast-{result['run']}")
    link = Path(result["report"]).as_uri()
    for part in ("| repeat_last |", "| window_ridge |", f"run {result['run']}", link, metrics["split"]["protocol"]):
        assert part in shown[""]
    assert link in shown["-report"]
    rows = {row["method"]: row for row in shown["-table"]}
    assert rows["this model"]["mse"] == metrics["metrics"]["mse"]["value"]
    assert rows["repeat_last"]["mse"] == metrics["baselines"]["repeat_last"]["mse"]
    address = artifacts("picture-")[result["run"]]
    first = json.loads((run / "figures" / "figures.json").read_text())[0]["file"]
    assert base64.b64decode(address.removeprefix("data:image/png;base64,")) == (run / "figures" / first).read_bytes()
    steps = {row["step"]: row for row in artifacts("usage-")[result["run"]]}
    assert (
        list(steps) == ["ingest", "fit", "register", "evaluate", "report"] == [row["step"] for row in result["usage"]]
    )
    assert steps["fit"]["CPU, s"] > 1, "the training process counts"
    assert steps["fit"]["peak memory, MB"] > 200
    assert artifacts("progress-train-timeseries-forecast")[""] == 100
    assert [row["step"] for row in metrics["usage"]] == ["prepare", "train", "score", "picture"]
    assert any(result["run"] in text for text in stored(root)), "the result is kept below the flow's home"
