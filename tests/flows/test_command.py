"""``python -m flows``, which ``cambium flow`` runs: exit codes, nothing left behind, deployments."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

import flows.__main__ as command
from flows import FLOWS
from flows.deploying import FILE, deploy, deployments
from flows.server import Server
from shared_backbones.errors import BadInput, BadRequest

PRESET = str(Path(__file__).parents[1] / "pipelines" / "rows.yaml")


def gone(pids: set[int], seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def waited_for(found: Callable[[], Any], seconds: float = 300) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.05)
    raise AssertionError("waited in vain")


# --- the whole command


@pytest.mark.slow
def test_a_killed_command_leaves_nothing_and_the_next_one_goes_on(toy: str, root: Path, server: Server) -> None:
    """kill -9 of ``cambium flow`` while it trains: no server, no trainer stays, and the same command then finishes.

    The home is that of the tests' own server, so the second server also finds a database in use.
    """
    out = root / "killed"
    out.mkdir()
    (out / ".prefect").symlink_to(root / ".prefect")
    flow = ["flow", "run", "train", toy, "--preset", PRESET, "--set", "train.epochs=2", "--set", "figures=false"]
    words = [sys.executable, "-m", "pipelines.cli", *flow, "--out", str(out), "--json"]
    notes = set(server.home.glob("server-*.json"))
    with subprocess.Popen(words, env=os.environ | {"TOY_SLEEP": "0.5"}, stdout=subprocess.PIPE) as first:
        waited_for(lambda: list(out.glob("toy-rows/.staging-*/checkpoints/last.pt")))
        family = {p.pid for p in psutil.Process(first.pid).children(recursive=True)}
        commands = [" ".join(psutil.Process(pid).cmdline()) for pid in family]
        assert any("prefect server start" in c for c in commands)
        assert any("pipelines.train" in c for c in commands)
        first.send_signal(signal.SIGKILL)
    assert gone(family)

    second = subprocess.run(words, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    answer = json.loads(second.stdout)
    assert answer["exit"] == 0
    assert Path(answer["report"]).is_file()
    assert "resuming the unfinished run" in second.stderr
    assert set(server.home.glob("server-*.json")) == notes, "the note of the killed server is gone too"


def test_a_users_mistake_is_one_sentence_on_the_terminal(
    toy: str, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Prefect logs a traceback for every failure; a mistake in the data is not one."""
    monkeypatch.setattr("flows.server.loopback_server", lambda root: nullcontext(server))  # the one that runs
    words = ["run", "train", toy, "--preset", PRESET, "--data", "bad", "--out", str(tmp_path), "--json"]
    assert command.main(words) == 2
    said = capfd.readouterr()
    assert json.loads(said.out) == {"error": "bad: row 3 holds no number; mend it", "exit": 2}
    assert "Traceback" not in said.err
    assert said.err.rstrip().endswith("error: bad: row 3 holds no number; mend it")
    assert not (tmp_path / "toy-rows").exists()


# --- exit codes and words


def run_with(monkeypatch: pytest.MonkeyPatch, outcome: Any) -> list[tuple[Any, ...]]:
    """The command with ``run_flow`` replaced by what returns or raises ``outcome``."""
    asked: list[tuple[Any, ...]] = []

    def run_flow(*words: Any, **options: Any) -> Any:
        asked.append((*words, options))
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(command, "run_flow", run_flow)
    return asked


BATCH = {"done": 1, "reused": 0, "refused": [{"input": "b.csv", "reason": "no rows"}], "failed": [], "ledger": "l"}
PREDICT = ["run", "predict", "RUN", "a.csv", "b.csv", "--out", "o"]


@pytest.mark.parametrize(
    ("outcome", "code", "words"),
    [
        ({**BATCH, "exit_code": 3}, 3, "b.csv: no rows"),
        ({**BATCH, "exit_code": 0, "refused": []}, 0, "1 done"),
        (BadInput("b.csv: no rows"), 2, "error: b.csv: no rows"),
        (BadRequest("no run directory"), 2, "error: no run directory"),
        (RuntimeError("a fault"), 1, "failed: RuntimeError: a fault"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    outcome: Any,
    code: int,
    words: str,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    run_with(monkeypatch, outcome)
    assert command.main(PREDICT) == code
    said = capfd.readouterr()
    assert words in said.out + said.err
    assert "Traceback" not in said.out + said.err


def test_json_is_one_object_on_stdout(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    run_with(monkeypatch, {**BATCH, "exit_code": 3})
    assert command.main([*PREDICT, "--json"]) == 3
    assert json.loads(capfd.readouterr().out) == {**BATCH, "exit_code": 3, "exit": 3}


def test_options_reach_the_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = run_with(monkeypatch, BadRequest("enough"))
    command.main(["run", "train", "a/b", "--set", "x=1", "--set", "y=2", "--seed", "7", "--out", "o", "--data", "d"])
    name, root, options = asked[0]
    assert (name, root) == ("train", Path("o"))
    assert options == {
        "task": "a/b",
        "data": "d",
        "preset": None,
        "config": None,
        "sets": ["x=1", "y=2"],
        "seed": 7,
        "out": "o",
        "evaluate_on": None,
    }


@pytest.mark.parametrize("words", [["run", "tarin"], ["run", "train"], ["run", "train", "a/b", "--sed", "1"], ["no"]])
def test_a_wrong_command_line_is_a_bad_request(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert command.main(words) == 2
    assert capfd.readouterr().err.startswith("error: ")


def test_flows_are_listed(capfd: pytest.CaptureFixture[str]) -> None:
    assert command.main(["list"]) == 0
    assert capfd.readouterr().out.split() == sorted(FLOWS)


# --- deployments


def test_the_deployments_fit_their_flows(server: Server) -> None:
    """Every entry point is a flow that takes the given parameters."""
    from prefect.flows import Flow, load_flow_from_entrypoint

    for entry in yaml.safe_load(FILE.read_text())["deployments"]:
        flow: Flow[..., Any] = load_flow_from_entrypoint(entry["entrypoint"])
        assert flow.name == entry["flow"]
        flow.validate_parameters(entry["parameters"])


def test_deployments_are_registered(server: Server) -> None:
    from prefect.client.orchestration import get_client

    names = deploy(Path("unused"), api=server.url)
    assert names == deployments(FILE)
    with get_client(sync_client=True) as client:
        found = {d.name: d for d in client.read_deployments()}
    assert set(found) >= {name.partition("/")[2] for name in names}  # another test may have left one
    assert found["predict-timeseries"].concurrency_options.collision_strategy == "CANCEL_NEW"
    assert [s.active for s in found["predict-timeseries"].schedules] == [False]
    assert found["train"].work_pool_name == "cambium"


def test_every_domain_is_retrained_and_used() -> None:
    """A deployment of both for every domain whose tasks read data."""
    from domains import TASKS, load_task

    rooms = {name.partition("/")[0] for name in TASKS if not getattr(load_task(name), "diagnostic", False)}
    names = deployments(FILE)
    missing = [room for room in rooms if not {f"retrain/retrain-{room}", f"batch_predict/predict-{room}"} <= set(names)]
    assert not missing, f"prefect.yaml deploys nothing for {missing}"


@pytest.mark.parametrize("content", [None, "deployments: 3", "{", "deployments: [{name: x}]"])
def test_a_file_without_deployments_is_refused(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "prefect.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(BadRequest, match=r"prefect\.yaml"):
        deploy(tmp_path, file)
    assert not (tmp_path / ".prefect").exists()
