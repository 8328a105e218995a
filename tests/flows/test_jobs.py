"""Scheduled work: served by one command, started by another, and the second time everything is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from flows import load_flow
from flows.server import Server, ServerError
from flows.serving import Patience, serve
from pipelines.ledger import read
from shared_backbones.errors import BadRequest
from tests.pipelines.made import make_run

from .serving import ENDED, Serving
from .test_flows import artifacts

PRESET = str(Path(__file__).parents[1] / "pipelines" / "rows.yaml")


@pytest.mark.slow
def test_served_through_the_death_of_the_server_and_of_the_worker(
    toy: str, root: Path, server: Server, tmp_path: Path
) -> None:
    """Asked twice: the first run goes on when server and worker were killed, the second finds everything.

    ``serve`` with a home of its own would make a database for seconds; it uses that of the tests' server.
    """
    out, work = tmp_path / "runs", tmp_path / "work"
    out.mkdir()
    work.mkdir()
    (out / ".prefect").symlink_to(root / ".prefect")
    make_run(out / "toy-rows" / "0123456789ab", task=toy)
    (work / "in").mkdir()
    for name in "abcde":
        np.save(work / "in" / f"{name}.npy", np.zeros((3, 4)))
    parameters = {"model": str(out / "toy-rows" / "0123456789ab"), "inbox": ["in"], "out": "out", "settle": 0}
    entry: dict[str, Any] = {"name": "small", "flow": "batch_predict", "entrypoint": "flows.jobs.batch_predict"}
    pull = [{"prefect.deployments.steps.set_working_directory": {"directory": "{{ $CAMBIUM_WORK }}"}}]
    entry |= {"parameters": {**parameters, "root": "{{ $CAMBIUM_RUNS }}"}, "work_pool": {"name": "cambium"}}
    entry |= {"concurrency_limit": {"limit": 1, "collision_strategy": "CANCEL_NEW"}}
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump({"name": "t", "pull": pull, "deployments": [entry]}))
    env = os.environ | {"TOY_SLEEP": "1.5"}
    serving = Serving(out, work, tmp_path / "prefect.yaml", env)
    serving.start()
    try:
        small = serving.deployments(1)["small"]
        first = serving.create(small)
        for number, victim in enumerate(("server", "worker"), 1):
            while len(read(work / "out" / "ledger.jsonl")) < number:
                # the dead server's state is not asked for: waiting for the new one, the batch would end meanwhile
                assert number > 1 or serving.state(first) not in ENDED
                time.sleep(0.05)
            next(p for p, what in serving.family().items() if what == victim).kill()
        assert serving.wait(first) == "COMPLETED"
        there = os.environ | {"PREFECT_API_URL": serving.api}
        words = ["deployment", "run", "batch_predict/small", "--watch", "--watch-interval", "1"]
        done = subprocess.run([sys.executable, "-m", "prefect", *words], env=there, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        with pytest.raises(BadRequest, match="served already"):
            serve(out, tmp_path / "prefect.yaml")
    finally:
        assert serving.stop() == 0
    said = serving.log.read_text()
    assert "the server ended; starting it again" in said
    assert "the worker ended; starting it again" in said
    assert "whose worker ended" in said
    assert len((work / "out" / "ledger.jsonl").read_text().splitlines()) == 5  # nothing was done twice
    (text,) = [v for k, v in artifacts("batch-").items() if "0123456789ab" in k]
    assert "all 5 done before" in text


def test_what_keeps_ending_is_given_up() -> None:
    patience = Patience(times=3, seconds=60)
    patience.spend("worker")
    patience.ended[0] -= 100  # long ago
    patience.spend("worker")
    patience.spend("server")
    with pytest.raises(ServerError, match="the worker ended; that was 3 ends within 60 s"):
        patience.spend("worker")


def test_a_retrain_says_what_it_found(
    toy: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def retrain(config: Any, root: Path, **options: Any) -> dict[str, Any]:
        asked.append((config.task, config.seed, root, options))
        found = len(asked) > 1
        options["share"](0.5)
        usage = [{"step": "train", "wall_s": 2.0, "cpu_s": 1.5, "peak_rss_mb": 300.0, "gpu_mb": None}]
        return {"challenger": "b" * 12, "directory": str(root / "run"), "usage": usage,
                "promoted": True, "reason": "as the test wants",
                "reused_run": found, "reused_decision": found}  # fmt: skip

    monkeypatch.setattr("pipelines.retrain.retrain", retrain)
    for said in ("trained; promoted: as", "found, not trained again; promoted, decided before: as"):
        load_flow("retrain")(task=toy, preset=PRESET, seed=4, out=str(tmp_path), margin=0.25)
        assert said in artifacts("retrain-toy-rows")[""]
    assert artifacts("progress-retrain-toy-rows") == {"": 100.0}
    (row,) = artifacts("usage-retrain-toy-rows")[""]
    assert (row["step"], row["wall, s"], row["GPU memory, MB"]) == ("train", 2.0, None)
    assert not [key for key in artifacts("picture-") if key == "b" * 12], "a run without pictures"
    task, seed, root, options = asked[0]
    assert (task, seed, root, options["terms"].margin) == (toy, 4, tmp_path, 0.25)


def test_the_other_jobs(toy: str, server: Server, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "toy-rows" / "abcabcabcabc", task=toy)
    np.save(tmp_path / "2026-01-02.npy", np.zeros((3, 4)))
    days = {"pattern": str(tmp_path / "%Y-%m-%d.npy"), "first": "2026-01-01", "last": "2026-01-02"}
    found = load_flow("backfill")(model=str(run), out=str(tmp_path / "out"), root=str(tmp_path / "runs"), **days)
    assert (found["done"], found["missing"]) == (1, ["2026-01-01"])
    assert json.loads(json.dumps(found)) == found
    assert load_flow("cleanup")(root=str(tmp_path / "runs"), days=0, dry=True)["removed"] == [str(run)]


@pytest.mark.parametrize(("name", "block"), [("seal", "cambium-seal-key"), ("hook", "cambium-alert-webhook")])
def test_secrets_come_from_blocks(server: Server, monkeypatch: pytest.MonkeyPatch, name: str, block: str) -> None:
    from prefect.blocks.system import Secret

    from flows.jobs import secrets
    from pipelines.alerts import HOOK
    from pipelines.seal import KEY

    variable = {"seal": KEY, "hook": HOOK}[name]
    for each in (KEY, HOOK):
        monkeypatch.setenv(each, "")  # and it comes back after the test
    secrets()
    assert not os.environ[variable]
    Secret(value="a value that is long enough").save(block, overwrite=True)
    secrets()
    assert os.environ[variable] == "a value that is long enough"
    monkeypatch.setenv(variable, "another one that is there")
    secrets()
    assert os.environ[variable] == "another one that is there"
    Secret.delete(block)
