"""Registry: an index of the run directories that may be lost without loss."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import registry
from pipelines.card import write_card
from pipelines.predict import find_model
from pipelines.registry import RegistryError, promote, record, resolve, versions
from pipelines.report import write_report
from pipelines.tracking import client_of
from shared_backbones.errors import BadRequest

from .made import make_run, rows_task  # noqa: F401 - a fixture


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to make its tables: once for all tests."""
    folder = tmp_path_factory.mktemp("database")
    registry.rebuild(folder)
    return folder / registry.DATABASE


@pytest.fixture
def root(rows_task: str, tmp_path: Path, empty_database: Path) -> Path:  # noqa: F811
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_database, tmp_path / "runs")
    return tmp_path / "runs"


def add(root: Path, name: str, **more: object) -> Path:
    return make_run(root / "toy-rows" / name, **more)  # type: ignore[arg-type]


def test_versions_aliases_and_places(root: Path) -> None:
    first, second = add(root, "aaaaaaaaaaaa"), add(root, "bbbbbbbbbbbb", seed=1, mse=0.3)
    assert record(first, root) == {"model": "toy-rows", "version": 1, "aliases": ["champion"]}
    assert record(second, root) == {"model": "toy-rows", "version": 2, "aliases": []}
    assert record(first, root)["version"] == 1  # the same run is the same version
    assert [(v["version"], v["score"]) for v in versions(root)] == [(2, "mse 0.3"), (1, "mse 0.5")]
    assert resolve("toy-rows@champion", root) == first
    assert find_model("toy-rows@2", root) == second
    assert promote("toy-rows@2", root)["previous"] == 1
    assert promote(str(second), root)["previous"] == 2  # by its run; it has the alias already
    assert resolve("toy-rows@champion", root) == second
    rows = [json.loads(line) for line in (root / registry.HISTORY).read_text().splitlines()]
    assert [(r["run"], r["previous"]) for r in rows] == [("aaaaaaaaaaaa", None), ("bbbbbbbbbbbb", 1)]


def test_what_is_tracked(root: Path) -> None:
    folder = add(root, "aaaaaaaaaaaa")
    write_report(folder)
    card = write_card(folder).read_text()
    record(folder, root)
    client = client_of(root)
    (run,) = client.search_runs([client.get_experiment_by_name("toy-rows").experiment_id])
    assert run.data.metrics["mse"] == 0.5
    assert run.data.metrics["baseline.mean.mse"] == 1.0
    assert run.data.params["train.lr"] == "0.003"
    assert run.data.tags["cambium.run"] == "aaaaaaaaaaaa"
    kept = Path(run.info.artifact_uri.removeprefix("file://"))
    assert {path.name for path in kept.iterdir()} == {"MODEL_CARD.md", "report.html", "config.yaml"}
    assert root in kept.parents
    assert run.data.tags["mlflow.note.content"] == card, "shown as the run's description"
    assert "bias" not in run.data.metrics  # undefined, not zero


def test_unknown_names_are_answered_with_the_known(root: Path) -> None:
    with pytest.raises(BadRequest, match="no registry in"):
        resolve("toy-rows@champion", root / "nowhere")
    assert not (root / "nowhere").exists()
    assert versions(root / "nowhere") == versions(root) == []
    with pytest.raises(BadRequest, match="nothing is registered yet"):
        resolve("toy-rows@champion", root)
    record(add(root, "aaaaaaaaaaaa"), root)
    for text, said in (
        ("toy-row@champion", "did you mean 'toy-rows'"),
        ("toy-rows@champ", "did you mean 'champion'"),
        ("toy-rows@7", r"unknown version of 'toy-rows' '7'.*allowed: 1, champion"),
        ("cccccccccccc", "no registered model"),
    ):
        with pytest.raises(BadRequest, match=said):
            promote(text, root)
    with pytest.raises(BadRequest, match="plain word"):
        promote("toy-rows@1", root, "a b")


@pytest.mark.parametrize("damage", ["garbage", "empty"])
def test_a_broken_database_is_put_aside(root: Path, damage: str) -> None:
    (root / registry.DATABASE).write_bytes({"garbage": b"no database " * 99, "empty": b""}[damage])
    with pytest.raises(RegistryError, match="run the same command again"):
        resolve("toy-rows@champion", root)
    assert [p.name.split("-")[0] for p in root.glob("mlflow.db*")] == ["mlflow.db.broken"]


@pytest.mark.parametrize("damage", ["gone", "truncated"])
def test_a_lost_database_is_built_again(root: Path, damage: str) -> None:
    first, second = add(root, "aaaaaaaaaaaa"), add(root, "bbbbbbbbbbbb", seed=1)
    record(first, root)
    record(second, root)
    promote("toy-rows@2", root)
    path = root / registry.DATABASE
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:50000])
        with pytest.raises(RegistryError, match="run the same command again"):
            resolve("toy-rows@champion", root)
        assert list(root.glob("mlflow.db.broken-*"))
    assert resolve("toy-rows@champion", root) == second
    assert {v["run"] for v in versions(root)} == {"aaaaaaaaaaaa", "bbbbbbbbbbbb"}


def test_a_half_entered_run_is_entered_anew(root: Path) -> None:
    folder = add(root, "aaaaaaaaaaaa")
    record(folder, root)
    with sqlite3.connect(root / registry.DATABASE) as connection:
        connection.execute("update runs set status = 'RUNNING'")
    connection.close()
    assert record(folder, root)["version"] == 1
    client = client_of(root)
    (run,) = client.search_runs([client.get_experiment_by_name("toy-rows").experiment_id])
    assert run.info.status == "FINISHED"


def test_two_at_once(root: Path) -> None:
    folders = [add(root, name, seed=i) for i, name in enumerate(("aaaaaaaaaaaa", "bbbbbbbbbbbb"))]
    code = "import sys; from pathlib import Path; from pipelines.registry import record; "
    code += "record(Path(sys.argv[1]), Path(sys.argv[2]))"
    children = [subprocess.Popen([sys.executable, "-c", code, folder, root]) for folder in [*folders, folders[0]]]
    assert [child.wait() for child in children] == [0, 0, 0]
    assert sorted(v["version"] for v in versions(root)) == [1, 2]


def test_a_run_that_moved_is_found(root: Path, tmp_path: Path) -> None:
    record(add(root, "aaaaaaaaaaaa"), root)
    moved = tmp_path / "elsewhere"
    root.rename(moved)
    assert resolve("toy-rows@champion", moved) == moved / "toy-rows" / "aaaaaaaaaaaa"
    (moved / "toy-rows" / "aaaaaaaaaaaa" / "model.json").unlink()
    with pytest.raises(BadRequest, match="whose folder is gone"):
        resolve("toy-rows@champion", moved)
