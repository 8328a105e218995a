"""``cambium flow serve``: one server, one worker, both started again when they end, and no flow run lost with them.

Prefect turns schedules off when what serves them is restarted, so the deployments are registered first. The worker
starts each flow run as a process of its own, which waits for a server that is started again, and ends with its worker.
Runs whose worker ended are given to the next one: all flows find what is done already, so they go on.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import time
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared_backbones.errors import BadRequest

from .deploying import FILE, POOL, deployments, register
from .server import HOME, Server, ServerError, bound, loopback_server

TRIES = 5  # of a flow run whose worker ended again and again


@dataclass
class Patience:
    """How often something may end: fewer than ``times`` within ``seconds``."""

    times: int = 8
    seconds: float = 60.0
    ended: deque[float] = field(default_factory=deque)

    def spend(self, what: str) -> None:
        """Count an end of ``what``; raises ServerError where it is one too many."""
        now = time.monotonic()
        self.ended.append(now)
        while self.ended and now - self.ended[0] > self.seconds:
            self.ended.popleft()
        if len(self.ended) >= self.times:
            said = f"the {what} ended; that was {self.times} ends within {self.seconds:g} s"
            raise ServerError(f"{said}, so serving stops; the server's log is in {HOME}, below the runs")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _only_one(root: Path) -> Iterator[None]:
    """Two workers of one home would take each other's runs for lost ones. Raises BadRequest for the second."""
    home = root.resolve() / HOME
    home.mkdir(parents=True, exist_ok=True)
    with (home / "serve.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # freed by the kernel, however this process ends
        except BlockingIOError:
            other = "end the other `cambium flow serve`, or name another --runs"
            raise BadRequest(f"{root} is served already: {other}") from None
        yield


def _post(url: str, body: Mapping[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=60) as reply:
        return json.load(reply)


def take_up(api: str) -> list[str]:
    """Schedule the runs that a worker left unfinished, for the next worker; returns their names.

    One that was begun TRIES times is said to have crashed instead: it may be what ends its workers.
    """
    wanted = {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}
    pool = {"name": {"any_": [POOL]}}
    taken = []
    for run in _post(f"{api}/flow_runs/filter", {"flow_runs": wanted, "work_pools": pool, "limit": 200}):
        again = run["run_count"] < TRIES
        state = {"type": "SCHEDULED", "name": "AwaitingRetry"} if again else {"type": "CRASHED", "name": "Crashed"}
        state["message"] = "its worker ended" if again else f"its worker ended {TRIES} times"
        details = {"scheduled_time": datetime.now(UTC).isoformat()} if again else {}
        _post(f"{api}/flow_runs/{run['id']}/set_state", {"state": {**state, "state_details": details}})
        taken += [run["name"]] if again else []
    return taken


def _start_worker(server: Server) -> subprocess.Popen[bytes]:
    if taken := take_up(server.url):
        _say(f"going on with {', '.join(taken)}, whose worker ended")
    words = ["worker", "start", "--pool", POOL, "--type", "process", "--name", "cambium"]
    return bound(["-m", "prefect", *words], env={}, cwd=Path.cwd())


def _end(worker: subprocess.Popen[bytes] | None) -> None:
    if worker is None or worker.poll() is not None:
        return
    worker.terminate()
    try:
        worker.wait(timeout=30)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()


def serve(root: Path, file: Path | None = None, *, port: int | None = None, ui: bool = False) -> int:
    """Start the server, register the deployments, and work on their runs until interrupted; 0 then.

    Whichever of the two ends by itself is started again, the server at the same address. Raises ServerError where that
    does not last, BadRequest for a bad file or where ``root`` is served already.
    """
    file = file or FILE
    deployments(file)
    worker: subprocess.Popen[bytes] | None = None
    names: list[str] = []
    patience = Patience()
    with _only_one(root):
        try:
            while True:
                with loopback_server(root, port=port, ui=ui) as server:
                    port = server.port
                    try:
                        names = names or register(file, root)
                        _announce(server, names)
                        while server.lives():
                            worker = _tended(worker, server, patience)
                            time.sleep(0.2)
                    except KeyboardInterrupt:
                        _end(worker)  # while it can still say so to the server
                        return 0
                    except (ServerError, OSError):
                        if server.lives():  # else it ended while it was asked something
                            raise
                _say("the server ended; starting it again at the same address")
                patience.spend("server")
        finally:
            _end(worker)


def _tended(worker: subprocess.Popen[bytes] | None, server: Server, patience: Patience) -> subprocess.Popen[bytes]:
    """The worker, or a new one where there is none or it has ended."""
    if worker is not None:
        if worker.poll() is None:
            return worker
        _say("the worker ended; starting it again")
        patience.spend("worker")
    return _start_worker(server)


def _announce(server: Server, names: Sequence[str]) -> None:
    _say(f"serving {', '.join(names)} at {server.url}; stop with Ctrl-C. From another shell:")
    _say(f"  PREFECT_API_URL={server.url} DO_NOT_TRACK=1 {sys.executable} -m prefect deployment run {names[0]}")
