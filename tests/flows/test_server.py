"""The loopback server: one per command, silent towards the outside, and never left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows import server as module
from flows.server import Server, ServerError, environment, exported, loopback_server, reap_orphans
from shared_backbones.errors import BadRequest


def gone(pid: int, seconds: float = 10) -> bool:
    """Whether a process ends within a while."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


def identity(pid: int) -> dict[str, float]:
    return {"pid": pid, "started": psutil.Process(pid).create_time()}


DEAD = {"pid": 4_000_000, "started": 0.0}  # above the largest pid that Linux gives by default


def write_note(home: Path, server: dict[str, float], owner: dict[str, float]) -> Path:
    note = home / f"server-{server['pid']}.json"
    note.write_text(json.dumps({"server": server, "owner": owner}))
    return note


# --- start-up stays light, and the environment comes first


def test_nothing_of_prefect_is_imported_before_the_environment_is_set() -> None:
    code = (
        "import sys, flows, flows.server, flows.serving, flows.__main__\n"
        "print([m for m in ('prefect', 'torch', 'lightning', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_environment_is_silent_loopback_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "https://elsewhere.example/api")
    monkeypatch.setenv("PREFECT_API_KEY", "a secret of another server")
    monkeypatch.setenv("NO_PROXY", "intranet")
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    with exported(environment(4321, tmp_path)):
        assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:4321/api"
        assert os.environ["PREFECT_HOME"] == str(tmp_path)
        assert os.environ["DO_NOT_TRACK"] == "1"
        assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
        assert os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] == "false"
        assert os.environ["NO_PROXY"] == "intranet,127.0.0.1"
        assert "PREFECT_API_KEY" not in os.environ
    assert os.environ["PREFECT_API_URL"] == "https://elsewhere.example/api"
    assert os.environ["PREFECT_API_KEY"] == "a secret of another server"
    assert "PREFECT_HOME" not in os.environ


# --- orphans


def test_an_orphan_is_ended(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    note = write_note(tmp_path, identity(sleeper.pid), DEAD)
    assert reap_orphans(tmp_path) == [sleeper.pid]
    assert gone(sleeper.pid)
    assert not note.exists()
    assert reap_orphans(tmp_path) == []


def test_a_server_whose_command_lives_is_left_alone(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    note = write_note(tmp_path, identity(sleeper.pid), identity(os.getpid()))
    assert reap_orphans(tmp_path) == []
    assert sleeper.poll() is None
    assert note.exists()


def test_a_pid_that_belongs_to_another_process_by_now_is_left_alone(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    note = write_note(tmp_path, {"pid": sleeper.pid, "started": identity(sleeper.pid)["started"] - 3600}, DEAD)
    assert reap_orphans(tmp_path) == []
    assert sleeper.poll() is None
    assert not note.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"server": {}}', "null"])
def test_a_half_written_note_is_removed(tmp_path: Path, content: str) -> None:
    note = tmp_path / "server-7.json"
    note.write_text(content)
    assert reap_orphans(tmp_path) == []
    assert not note.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_bound_process_ends_with_a_parent_that_is_killed() -> None:
    code = (
        "from pathlib import Path; import time; from flows.server import bound\n"
        "p = bound(['-c', 'import time; time.sleep(60)'], env={}, cwd=Path.cwd())\n"
        "print(p.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert psutil.pid_exists(child)
        parent.send_signal(signal.SIGKILL)
    assert gone(child)


# --- a server that does not come up


def fake_server(monkeypatch: pytest.MonkeyPatch, code: str) -> list[int]:
    """Python code in the place of Prefect's server; returns the pids that were started."""
    started: list[int] = []
    real = module.bound

    def bound(command: object, **options: object) -> subprocess.Popen[bytes]:
        process = real(["-c", code], **options)  # type: ignore[arg-type]
        started.append(process.pid)
        return process

    monkeypatch.setattr(module, "bound", bound)
    return started


def test_a_server_that_ends_while_starting_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = fake_server(monkeypatch, "print('no module named fastapi'); raise SystemExit(3)")
    why = r"ended with code 3 .*\n.*no module named fastapi"
    with pytest.raises(ServerError, match=why), loopback_server(tmp_path):
        pass
    assert len(started) == 1
    assert not list((tmp_path / ".prefect").glob("server-*.json"))


def test_a_port_that_was_taken_meanwhile_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = fake_server(monkeypatch, "print('error: address already in use'); raise SystemExit(1)")
    with pytest.raises(ServerError), loopback_server(tmp_path):
        pass
    assert len(started) == 3


def test_a_server_that_does_not_answer_in_time_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = fake_server(monkeypatch, "import time; time.sleep(60)")
    with pytest.raises(ServerError, match=r"did not answer within 0\.5 s"), loopback_server(tmp_path, timeout=0.5):
        pass
    assert gone(started[0])
    assert not list((tmp_path / ".prefect").glob("server-*.json"))


def test_an_unknown_flow_starts_no_server(tmp_path: Path) -> None:
    from flows import run_flow

    with pytest.raises(BadRequest, match="did you mean 'train'"):
        run_flow("trian", tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- the real one


def test_the_server_answers_on_the_loopback_address_alone(server: Server, root: Path) -> None:
    with urllib.request.urlopen(f"{server.url}/health") as reply:
        assert reply.status == 200
    addresses = {c.laddr.ip for c in psutil.Process(server.pid).net_connections() if c.status == psutil.CONN_LISTEN}
    assert addresses == {"127.0.0.1"}
    assert server.home == root / ".prefect"
    assert server.log.is_file()
    with socket.socket() as s:  # the port is really this server's
        s.connect(("127.0.0.1", int(server.url.split(":")[2].split("/")[0])))
