"""Runs as MLflow keeps them: one SQLite file beside the runs, by an explicit address; no server, no network.

A run directory is entered once with its parameters, scores and curves, and its model card as the description; card,
report and configuration are its artefacts there. The weights stay where they are.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from .card import CARD

DATABASE = "mlflow.db"
RUN_TAG = "cambium.run"
ARTEFACTS = ".mlflow"  # below the runs
NOTE = "mlflow.note.content"  # the tag that MLflow shows as a run's description
_LONGEST = 5000  # characters of a tag's value


class RegistryError(RuntimeError):
    """The database could not be used; it was put aside, and the next command builds it again from the runs."""


def check(path: Path) -> None:
    """Put a file that is no healthy SQLite database aside. Raises RegistryError then."""
    if not path.is_file():
        return
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            verdict = connection.execute("pragma quick_check").fetchone()[0]
            connection.execute("select count(*) from sqlite_master").fetchone()
            if path.stat().st_size == 0:
                verdict = "it is empty"
    except sqlite3.DatabaseError as error:
        verdict = str(error)
    if verdict == "ok":
        return
    aside = path.with_name(f"{path.name}.broken-{time.strftime('%Y%m%d-%H%M%S')}")
    path.replace(aside)
    for tail in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + tail).unlink(missing_ok=True)
    raise RegistryError(
        f"the registry {path} cannot be read ({verdict}); it was moved to {aside.name}. The runs are whole: "
        "run the same command again and the registry is built from them"
    )


def client_of(root: Path) -> Any:
    """An MLflow client on ``root / mlflow.db``, made if it is not there."""
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # its import sets its own
    uri = f"sqlite:///{(root / DATABASE).resolve()}"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def close(client: Any) -> None:
    """Let go of the file: MLflow keeps connections, which would outlive a database that is put aside."""
    with suppress(AttributeError):
        for store in (client._tracking_client.store, client._get_registry_client().store):
            store.engine.dispose()


def tags_of(folder: Path, metrics: Mapping[str, Any]) -> dict[str, str]:
    """What a run and its version are found by: run id, task, place, digest of the weights, preset, data."""
    model = json.loads((folder / "model.json").read_bytes())
    return {
        RUN_TAG: metrics["run"],
        "cambium.task": metrics["task"],
        "cambium.directory": str(folder),
        "cambium.weights": model["weights_sha256"],
        "cambium.preset": str(model["config"]["preset"]),
        "cambium.data": str(model["config"]["data"]),
    }


def _parameters(folder: Path) -> dict[str, str]:
    config = json.loads((folder / "model.json").read_bytes())["config"]
    flat: dict[str, str] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        else:
            flat[prefix] = str(value)[:500]  # MLflow's limit is 6000; lists of columns are not parameters to read

    walk("", config)
    return flat


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Every score with its interval, of model and baselines, cost, and what steps took, under names MLflow takes."""
    found: dict[str, float] = {}
    for name, raw in metrics["metrics"].items():
        for key, suffix in (("value", ""), ("low", ".low"), ("high", ".high")):
            found[f"{name}{suffix}"] = raw.get(key)
    for baseline, values in (metrics.get("baselines") or {}).items():
        found |= {f"baseline.{baseline}.{name}": value for name, value in values.items()}
    found |= {f"cost.{name}": value for name, value in (metrics.get("cost") or {}).items()}
    for row in metrics.get("usage") or ():
        found |= {f"usage.{row['step']}.{name}": value for name, value in row.items()}
    numbers = {k: float(v) for k, v in found.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    return {re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)[:250]: value for name, value in numbers.items()}


def _curves(folder: Path) -> list[tuple[str, float, int]]:
    path = folder / "history.json"
    rows = json.loads(path.read_bytes()) if path.is_file() else []
    return [(k, float(r[k]), int(r["epoch"])) for r in rows for k in ("train_loss", "val_loss") if r.get(k) is not None]


def model_name(task: str) -> str:
    """``timeseries/forecast`` -> ``timeseries-forecast``, under which its versions are registered."""
    return task.replace("/", "-")


def _tracked(client: Any, experiment: str, run: str) -> Any:
    from mlflow.entities import ViewType

    found = client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{run}'", ViewType.ACTIVE_ONLY)
    for old in found:
        if old.info.status == "FINISHED":
            return old
        client.delete_run(old.info.run_id)  # a process was killed between its first and last entry
    return None


def track(client: Any, folder: Path, metrics: Mapping[str, Any]) -> str:
    """The MLflow run id of a run directory, entered if it is not yet."""
    from mlflow.entities import Metric, Param, RunTag

    name = model_name(metrics["task"])
    known = client.get_experiment_by_name(name)
    place = folder.parents[1] / ARTEFACTS / name
    experiment = known.experiment_id if known else client.create_experiment(name, artifact_location=place.as_uri())
    old = _tracked(client, experiment, metrics["run"])
    if old is not None:
        if old.data.tags.get("cambium.directory") != str(folder):  # the runs were moved
            client.set_tag(old.info.run_id, "cambium.directory", str(folder))
        return str(old.info.run_id)
    run = client.create_run(experiment, run_name=metrics["run"])
    now = int(time.time() * 1000)
    points = [Metric(k, v, now, 0) for k, v in _numbers(metrics).items()]
    points += [Metric(k, v, now, step) for k, v, step in _curves(folder)]
    params = [Param(k, v) for k, v in _parameters(folder).items()]
    tags = [RunTag(k, v) for k, v in tags_of(folder, metrics).items()]
    for start in range(0, max(len(points), len(params)), 100):  # MLflow's limit for one request
        client.log_batch(run.info.run_id, points[start : start + 100], params[start : start + 100], [])
    if (folder / CARD).is_file():
        tags.append(RunTag(NOTE, (folder / CARD).read_text()[:_LONGEST]))
    client.log_batch(run.info.run_id, tags=tags)
    if run.info.artifact_uri.startswith(place.as_uri()):  # else the runs were moved, and theirs is another place
        for artefact in (folder / CARD, folder / "report.html", folder / "config.yaml"):
            if artefact.is_file():
                client.log_artifact(run.info.run_id, str(artefact))
    client.set_terminated(run.info.run_id, "FINISHED")
    return str(run.info.run_id)
