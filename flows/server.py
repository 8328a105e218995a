"""One loopback Prefect server per command: started, named to everyone through the environment, and always reaped.

Prefect's own ephemeral server is never used: every worker process would start another one, four commands on a fresh
home time out, and a killed command leaves its server behind. Nothing here imports prefect, because prefect reads its
settings from the environment when it is imported, and they must stand there before.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from pipelines.events import json_lines

HOME = ".prefect"  # below the run root: Prefect's database, cached results, logs of the servers
BOUND = "CAMBIUM_BOUND"  # in a bound process and its children: the process' id
STARTUP_SECONDS = 600.0  # a first start makes the database: 9 s on an idle machine, 120 s and more on a busy one
_LOOPBACK = "127.0.0.1"
_PR_SET_PDEATHSIG = 1
# another server's address or credentials, which a user may have in the environment, must not leak into this command
_FOREIGN = ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "PREFECT_PROFILE", "PREFECT_API_DATABASE_CONNECTION_URL")


class ServerError(RuntimeError):
    """The loopback server did not come up; says what its log ends with."""


@dataclass(frozen=True)
class Server:
    """A running server, owned by this process."""

    url: str  # of the API
    port: int
    process: subprocess.Popen[bytes]
    home: Path
    log: Path

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    def lives(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None


def quiet_environment() -> dict[str, str]:
    """Settings that keep Prefect silent towards the outside, wherever its API is."""
    bypass = [name for name in os.environ.get("NO_PROXY", "").split(",") if name]
    return {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # Prefect's own choice is pickle, which can execute
        **({"PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER": "json"} if json_lines() else {}),
        "NO_PROXY": ",".join(dict.fromkeys([*bypass, _LOOPBACK])),  # a company's proxy cannot reach our loopback
    }


def environment(port: int, home: Path, *, ui: bool = False) -> dict[str, str]:
    """What prefect must find in the environment, here, in the server and in every child."""
    return {
        **quiet_environment(),
        "PREFECT_API_URL": f"http://{_LOOPBACK}:{port}/api",
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_UI_ENABLED": str(ui).lower(),
        # who holds a deployment's slot is kept on disk: in memory, a server that is started again ends what runs
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    }


@contextmanager
def exported(env: Mapping[str, str]) -> Iterator[None]:
    """``env`` in this process' environment (and so in its children's) for a block; what stood there comes back."""
    before = {name: os.environ.get(name) for name in (*env, *_FOREIGN)}
    for name in _FOREIGN:
        os.environ.pop(name, None)
    os.environ.update(env)
    try:
        _reread()
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _reread()


def _reread() -> None:
    """Where prefect was imported earlier in this process (several flows, tests), have it read its settings anew."""
    context = sys.modules.get("prefect.context")
    if context is not None:
        context.refresh_global_settings_context()


def _flush() -> None:
    """Let prefect send the logs and events that it has queued in this process, before the server goes."""
    for module, worker in (("prefect.logging.handlers", "APILogWorker"), ("prefect.events.worker", "EventsWorker")):
        if module in sys.modules:
            getattr(sys.modules[module], worker).drain_all(timeout=5)


@contextmanager
def loopback_server(
    root: Path, *, port: int | None = None, ui: bool = False, timeout: float = STARTUP_SECONDS
) -> Iterator[Server]:
    """A server with its home in ``root / ".prefect"``, for the time of the block; its environment is exported.

    It ends with the block, and with this process however that ends: on Linux the kernel kills it, elsewhere the next
    command finds it by its pid file. Call from the main thread: the kernel watches the thread that started it.
    port: a free one by default. Raises ServerError where it does not answer within ``timeout`` seconds.
    """
    home = root.resolve() / HOME
    home.mkdir(parents=True, exist_ok=True)
    reap_orphans(home)
    with _one_at_a_time(home):  # making the database is not safe for two at once
        process, port = _start(home, port, ui, timeout)
    try:
        with exported(environment(port, home, ui=ui)):
            try:
                yield Server(os.environ["PREFECT_API_URL"], port, process, home, _log(home))
            finally:
                _flush()
    finally:
        _end(process)
        _note(home, process.pid).unlink(missing_ok=True)


def _log(home: Path) -> Path:
    return home / "server.log"


def _note(home: Path, pid: int) -> Path:
    return home / f"server-{pid}.json"  # who it is and whose, see ``reap_orphans``


@contextmanager
def _one_at_a_time(home: Path) -> Iterator[None]:
    with (home / "start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # freed by the kernel, however this process ends
        yield


def _free_port() -> int:
    with socket.socket() as s:
        s.bind((_LOOPBACK, 0))
        return int(s.getsockname()[1])


def _start(home: Path, wanted: int | None, ui: bool, timeout: float) -> tuple[subprocess.Popen[bytes], int]:
    """A server that answers. Another program may take the free port before it does, so it is tried thrice."""
    for _ in range(3):
        port = wanted or _free_port()
        process = _spawn(home, port, ui)
        answered = False
        try:
            answered = _answers(process, port, time.monotonic() + timeout)
        finally:
            if not answered:
                _end(process)
                _note(home, process.pid).unlink(missing_ok=True)
        if answered:
            return process, port
        if "address already in use" not in _tail(home):
            break
    how = "did not answer" if process.returncode < 0 else f"ended with code {process.returncode}"
    raise ServerError(f"the Prefect server {how} within {timeout:g} s of its start; {_log(home)} ends:\n{_tail(home)}")


def _spawn(home: Path, port: int, ui: bool) -> subprocess.Popen[bytes]:
    env = environment(port, home, ui=ui)
    command = ["-m", "prefect", "server", "start", "--host", _LOOPBACK, "--port", str(port)]
    with _log(home).open("ab") as log:  # never the inherited pipe, which an orphan would keep open
        process = bound([*command, "--ui" if ui else "--no-ui"], env=env, cwd=home, log=log)
    note = {"server": _identity(process.pid), "owner": _identity(os.getpid())}
    _note(home, process.pid).write_text(json.dumps(note))
    return process


def bound(
    command: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """Start ``python COMMAND`` so that it ends with this process, and not by Ctrl-C before it."""
    return subprocess.Popen(
        [sys.executable, "-P", str(Path(__file__).resolve()), str(os.getpid()), *command],
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if k not in _FOREIGN} | dict(env),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=None if log is None else subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is for the command, which then ends this one in order
    )


def _answers(process: subprocess.Popen[bytes], port: int, deadline: float) -> bool:
    """True when the API is healthy, False when the process ended or the deadline has passed."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), direct.open(f"http://{_LOOPBACK}:{port}/api/health", timeout=5) as reply:
            return bool(reply.status == 200)
        time.sleep(0.1)
    return False


def _tail(home: Path, size: int = 2000) -> str:
    return _log(home).read_bytes()[-size:].decode(errors="replace") if _log(home).exists() else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# --- orphans


def _identity(pid: int) -> dict[str, float]:
    return {"pid": pid, "started": psutil.Process(pid).create_time()}


def _living(identity: Mapping[str, float]) -> psutil.Process | None:
    """The process, unless it has ended; a pid that was given to another process since does not count."""
    try:
        process = psutil.Process(int(identity["pid"]))
        same = abs(process.create_time() - identity["started"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    return process if same else None


def reap_orphans(home: Path) -> list[int]:
    """End servers of this home whose command is gone (kill -9 where the kernel does not do it); returns their pids."""
    ended = []
    for note in home.glob("server-*.json"):
        try:
            content = json.loads(note.read_text())
            owner, server = _living(content["owner"]), _living(content["server"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # half-written, or another command was faster
            note.unlink(missing_ok=True)
            continue
        if owner is not None:
            continue
        if server is not None:
            with suppress(psutil.NoSuchProcess):
                server.kill()
                server.wait(10)
            ended.append(server.pid)
        note.unlink(missing_ok=True)
    return ended


# --- inside the process that is bound to this one


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends (Linux; a no-op elsewhere). Survives exec."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        sys.exit(1)


def end_with_worker() -> None:
    """A flow run that a worker of :func:`flows.serve` started ends with it, as its trainer ends with the flow run.

    So a run whose worker was killed is not at work any more when another worker takes it up. Elsewhere a no-op.
    """
    if os.environ.get(BOUND) == str(os.getppid()):
        die_with(os.getppid())


if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    os.environ[BOUND] = str(os.getpid())  # the id stays the same
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
