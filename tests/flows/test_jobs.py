"""Scheduled work: served by one command, started by another, and the second time everything is found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from flows import load_flow
from flows.server import Server
from pipelines.ledger import read
from tests.pipelines.made import make_run

from .test_flows import artifacts

PRESET = str(Path(__file__).parents[1] / "pipelines" / "rows.yaml")


@pytest.mark.slow
def test_a_served_deployment_runs_twice_and_finds_everything_the_second_time(
    toy: str, root: Path, server: Server, tmp_path: Path
) -> None:
    """``serve`` with a home of its own would make a database for seconds; it uses that of the tests' server."""
    out, work = tmp_path / "runs", tmp_path / "work"
    out.mkdir()
    work.mkdir()
    (out / ".prefect").symlink_to(root / ".prefect")
    make_run(out / "toy-rows" / "0123456789ab", task=toy)
    (work / "in").mkdir()
    for name in ("a", "b"):
        np.save(work / "in" / f"{name}.npy", np.zeros((3, 4)))
    parameters = {"model": str(out / "toy-rows" / "0123456789ab"), "inbox": ["in"], "out": "out", "settle": 0}
    entry: dict[str, Any] = {"name": "small", "flow": "batch_predict", "entrypoint": "flows.jobs.batch_predict"}
    pull = [{"prefect.deployments.steps.set_working_directory": {"directory": "{{ $CAMBIUM_WORK }}"}}]
    entry |= {"parameters": {**parameters, "root": str(out)}, "work_pool": {"name": "cambium"}}
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump({"name": "t", "pull": pull, "deployments": [entry]}))
    words = [sys.executable, "-m", "flows", "serve", "--runs", str(out), "--file", str(tmp_path / "prefect.yaml")]
    with subprocess.Popen(words, cwd=work, stderr=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stderr is not None
            url = (
                next(line for line in serving.stderr if "PREFECT_API_URL=" in line)
                .split("PREFECT_API_URL=")[1]
                .split()[0]
            )
            there = os.environ | {"PREFECT_API_URL": url}
            for _ in range(2):
                start = ["deployment", "run", "batch_predict/small", "--watch", "--watch-interval", "1"]
                done = subprocess.run(
                    [sys.executable, "-m", "prefect", *start], env=there, capture_output=True, text=True
                )
                assert done.returncode == 0, done.stdout + done.stderr
        finally:
            serving.send_signal(signal.SIGTERM)
            serving.communicate()
    assert len(read(work / "out" / "ledger.jsonl")) == 2
    assert len((work / "out" / "ledger.jsonl").read_text().splitlines()) == 2  # nothing was done twice
    (text,) = [v for k, v in artifacts("batch-").items() if "0123456789ab" in k]
    assert "all 2 done before" in text


def test_a_retrain_says_what_it_found(
    toy: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def retrain(config: Any, root: Path, **options: Any) -> dict[str, Any]:
        asked.append((config.task, config.seed, root, options))
        found = len(asked) > 1
        return {"challenger": "b" * 12, "promoted": True, "reason": "as the test wants",
                "reused_run": found, "reused_decision": found}  # fmt: skip

    monkeypatch.setattr("pipelines.retrain.retrain", retrain)
    for said in ("trained; promoted: as", "found, not trained again; promoted, decided before: as"):
        load_flow("retrain")(task=toy, preset=PRESET, seed=4, out=str(tmp_path), margin=0.25)
        assert said in artifacts("retrain-toy-rows")[""]
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
