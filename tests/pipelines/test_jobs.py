"""What is left running: watched folders, ranges of days, grids, retention. Twice: the second time all is found."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import history, sweep
from pipelines.alerts import ALERTS
from pipelines.cli import run as cambium
from pipelines.jobs import alert, backfill, batch_predict, cleanup, days
from pipelines.predict import Summary
from pipelines.search import axis, proposals
from pipelines.sweep import grid
from shared_backbones.errors import BadRequest

from .made import make_run, rows_task  # noqa: F401 - a fixture

PRESET = str(Path(__file__).with_name("rows.yaml"))


@pytest.fixture
def run(rows_task: str, tmp_path: Path) -> Path:  # noqa: F811
    return make_run(tmp_path / "runs" / "toy-rows" / "0123456789ab")


def put(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        np.save(folder / name, np.zeros((2, 4)))


def test_a_watched_folder(run: Path, tmp_path: Path) -> None:
    inbox, out = tmp_path / "in", tmp_path / "out"
    inbox.mkdir()
    model = str(run)
    assert batch_predict(model, [str(inbox)], out)["said"] == "nothing to predict yet"
    put(inbox, "a.npy")
    assert batch_predict(model, [str(inbox)], out)["waiting"] == 1  # it may still be arriving
    assert not out.exists()
    (inbox / "note.txt").write_text("not an input")
    (inbox / "bad.npy").write_bytes(b"torn")
    first = batch_predict(model, [str(inbox)], out, settle=0)
    assert (first["done"], first["exit_code"], first["said"]) == (1, 3, "1 predicted, 0 were done before")
    (inbox / "bad.npy").unlink()
    again = batch_predict(model, [str(inbox)], out, settle=0)
    assert (again["reused"], again["exit_code"], again["said"]) == (1, 0, "all 1 done before")
    put(inbox, "b.npy")
    assert batch_predict(model, [str(inbox)], out, settle=0)["said"] == "1 predicted, 1 were done before"


def test_a_drift_alarm_is_written_once(tmp_path: Path) -> None:
    drift = {"alarm": True, "run": "r", "inputs": 3, "rows": 50, "why": "unlike the training data"}
    for found in (drift, drift, {**drift, "alarm": False}, {**drift, "inputs": 4}):
        alert(Summary(tmp_path, (), frozenset(), found))
    rows = [json.loads(line) for line in (tmp_path / ALERTS).read_text().splitlines()]
    assert [row["inputs"] for row in rows] == [3, 4]


def test_a_range_of_days(run: Path, tmp_path: Path) -> None:
    put(tmp_path / "in", "2026-02-27.npy", "2026-03-01.npy", "2026-03-02.npy")
    pattern, out = str(tmp_path / "in" / "%Y-%m-%d.npy"), tmp_path / "out"
    found = backfill(str(run), pattern, "2026-02-27", "2026-03-01", out)
    assert (found["done"], found["missing"]) == (2, ["2026-02-28"])
    assert backfill(str(run), pattern, "2026-02-27", "2026-03-02", out)["said"] == "1 predicted, 2 were done before"
    for bad, said in (
        (("x.npy", "2026-01-01", "2026-01-02"), "every day's own"),
        ((pattern, "2026-01-02", "2026-01-01"), "ends before"),
        ((pattern, "2026-13-01", "2026-13-02"), "ISO dates"),
        ((pattern, "2025-01-01", "2025-01-02"), "none of 2 days"),
    ):
        with pytest.raises(BadRequest, match=said):
            backfill(str(run), *bad, out)
    assert len(days("2024-02-28", "2024-03-01")) == 3


def test_a_grid() -> None:
    points = grid(["train.lr=1e-3,1e-2", "model.depth=1,2,3"])
    assert len(points) == 6
    assert points[1] == {"train.lr": 1e-3, "model.depth": 2}
    for bad in ([], ["train.lr"], ["a=1", "a=2"], ["a=" + ",".join(map(str, range(201)))]):
        with pytest.raises(BadRequest):
            grid(bad)


def test_a_sweep_chooses_by_validation(
    rows_task: str,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def trained(config: Any, out: Path, *, quiet: bool, share: Any) -> Path:
        share(0.5)
        settings = config.train
        folder = out / "toy-rows" / f"{int(settings.lr * 1e6):010d}{settings.epochs % 10}{len(settings.schedule) % 10}"
        if not folder.exists():
            make_run(folder, mse=10 * config.train.lr)  # the best on test is the worst on validation
            metrics = json.loads((folder / "metrics.json").read_bytes())
            metrics["training"] = {"best_val_loss": 1 - config.train.lr}
            (folder / "metrics.json").write_text(json.dumps(metrics))
        return folder

    monkeypatch.setattr(sweep, "train", trained)
    found = sweep.sweep("toy/rows", ["train.lr=0.1,0.2"], tmp_path, preset=PRESET)
    assert (found["options"], found["said"]) == ({"train.lr": 0.2}, "2 trained, 0 found")
    again = sweep.sweep("toy/rows", ["train.lr=0.1,0.2,0.3"], tmp_path, preset=PRESET)
    assert (again["options"], again["said"]) == ({"train.lr": 0.3}, "1 trained, 2 found")
    assert len(list((tmp_path / "sweeps").glob("*.json"))) == 2

    def searched(trials: int) -> dict[str, Any]:
        options = ["train.lr=0.01:0.4:log", "train.epochs=1:3", "train.schedule=cosine,constant"]
        return sweep.sweep("toy/rows", [], tmp_path, search=options, trials=trials, preset=PRESET)

    first, more = searched(3), searched(12)  # a search that is run again goes on from where it was
    assert (more["reused"], more["said"]) == (3, "9 trained, 3 found")
    assert [r["options"] for r in first["rows"]] == [r["options"] for r in more["rows"] if r["reused"]]
    assert all(
        0.01 <= r["options"]["train.lr"] <= 0.4 and r["options"]["train.epochs"] in (1, 2, 3) for r in more["rows"]
    )
    assert more["options"]["train.lr"] == max(r["options"]["train.lr"] for r in more["rows"])  # least validation loss


def test_what_a_search_cannot_walk() -> None:
    for wrong, says in (
        ("train.lr", "NAME=VALUE"),
        ("train.lr=", "takes NAME=a,b,c"),
        ("train.lr=1:x", "takes NAME=a,b,c"),
        ("train.lr=1:2:lin", "takes NAME=a,b,c"),
        ("train.lr=2:1", "must rise"),
        ("train.lr=0:1:log", "from above zero"),
    ):
        with pytest.raises(BadRequest, match=says):
            axis(wrong)
    for grid_, search, trials in (([], [], 1), (["train.lr=1"], ["train.lr=1:2"], 1), ([], ["train.lr=1:2"], 0)):
        with pytest.raises(BadRequest, match=r"--grid|--trials"):
            sweep.sweep("toy/rows", grid_, search=search, trials=trials)
    with pytest.raises(BadRequest, match="twice"):
        next(proposals(["train.lr=1:2", "train.lr=3:4"], 1, 0))


def test_cleanup_keeps_champions_of_all_times(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = run.parents[1]
    other, young = (make_run(run.with_name(name)) for name in ("b" * 12, "c" * 12))
    staging = run.with_name(".staging-dddddddddddd")
    staging.mkdir()
    (staging / "config.yaml").touch()
    (run.parent / ".writing-x").touch()
    history.append(root, {"model": "toy-rows", "alias": "champion", "run": run.name})
    then = time.time() - 100 * 86400
    for path in (run / "metrics.json", other / "metrics.json", staging / "config.yaml", run.parent / ".writing-x"):
        os.utime(path, (then, then))
    assert cambium(["cleanup", "--runs", str(root), "--dry", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert len(told["removed"]) == 3
    assert other.exists()
    assert cleanup(root)["removed"] == told["removed"]
    assert sorted(path.name for path in run.parent.iterdir()) == [run.name, young.name]
    assert cleanup(root)["said"] == "nothing is old enough to remove"
    with pytest.raises(BadRequest, match="at least 0"):
        cleanup(root, days_kept=-1)
