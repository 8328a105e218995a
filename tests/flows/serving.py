"""``cambium flow serve`` in a process of its own, and what one asks its server from another."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def free_port() -> int:
    """A port of the loopback address that nobody listens at."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@dataclass
class Serving:
    """A served root of runs. ``work`` is where the command is given, and so where relative paths of flows start."""

    root: Path
    work: Path
    file: Path | None = None
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def log(self) -> Path:
        return self.work / "serve.log"

    def start(self) -> None:
        """Start the command; return at once."""
        words = [sys.executable, "-m", "flows", "serve", "--runs", str(self.root), "--port", str(self.port)]
        words += [] if self.file is None else ["--file", str(self.file)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(words, cwd=self.work, env=self.env, stdout=log, stderr=log)

    def stop(self) -> int:
        """End it in order; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait()

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One request to the server; raises OSError while it is not there."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.api + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)

    def asked(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The same, waiting for a server that is on its way; AssertionError where the command has ended."""
        while True:
            with suppress(OSError):
                return self.ask(path, body)
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            time.sleep(0.2)

    def deployments(self, least: int) -> dict[str, str]:
        """Name -> id, once there are at least so many."""
        while len(found := self.asked("/deployments/filter", {})) < least:
            time.sleep(0.2)
        return {d["name"]: d["id"] for d in found}

    def create(self, deployment: str) -> str:
        """Ask for a run of a deployment, by its id, as ``prefect deployment run`` does; the run's id."""
        return str(self.asked(f"/deployments/{deployment}/create_flow_run", {})["id"])

    def state(self, run: str) -> str:
        """Type of a run's state."""
        return str(self.asked(f"/flow_runs/{run}")["state"]["type"])

    def wait(self, run: str) -> str:
        """Type of the state that a run ends in."""
        while (state := self.state(run)) not in ENDED:
            time.sleep(0.3)
        return state

    def said(self, run: str) -> list[str]:
        """What a run's artifacts say, without their titles."""
        found = self.asked("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
        return [a["data"].split("\n")[2] for a in found if a["type"] == "markdown"]

    def family(self) -> dict[psutil.Process, str]:
        """Every process of the command, and what it is."""
        found: dict[psutil.Process, str] = {}
        with suppress(psutil.Error):
            assert self.process is not None
            top = psutil.Process(self.process.pid)
            for process in (top, *top.children(recursive=True)):
                with suppress(psutil.Error):
                    found[process] = "command" if process == top else what(process)
        return found


def what(process: psutil.Process) -> str:
    """server, worker, registration, trainer, flow run, or predictor (one of a batch's own processes)."""
    words = " ".join(process.cmdline())
    for mark, name in (
        ("prefect server start", "server"),
        ("uvicorn", "server"),
        ("prefect worker start", "worker"),
        ("--no-prompt", "registration"),
        ("pipelines.train", "trainer"),
        ("multiprocessing", "predictor"),
    ):
        if mark in words:
            return name
    return "flow run"
