"""Deployments: ``prefect.yaml`` is their one description, registered anew at every start.

Prefect turns schedules off when what serves them is restarted, so ``serve`` always deploys first. It then runs one
process worker, which starts each flow run as a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from shared_backbones.errors import BadRequest

from .server import Server, ServerError, bound, exported, loopback_server, quiet_environment

POOL = "cambium"
FILE = Path(__file__).parent.parent / "prefect.yaml"


def deployments(file: Path) -> list[str]:
    """``flow/deployment`` names in a prefect.yaml. Raises BadRequest where it is none."""
    try:
        content = yaml.safe_load(file.read_text())
        return [f"{entry['flow']}/{entry['name']}" for entry in content["deployments"]]
    except OSError:
        raise BadRequest(f"no file {file}: start from a checkout of Cambium, or name a prefect.yaml") from None
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise BadRequest(f"{file} does not list deployments with 'name' and 'flow' ({error!r})") from None


def _prefect(*words: str) -> None:
    env = os.environ | {"CAMBIUM_WORK": str(Path.cwd())}  # where flow runs start: relative paths are the user's
    done = subprocess.run([sys.executable, "-m", "prefect", *words], env=env, capture_output=True, text=True)
    if done.returncode:
        raise ServerError(f"prefect {' '.join(words)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def _register(file: Path) -> list[str]:
    names = deployments(file)
    _prefect("--no-prompt", "work-pool", "create", POOL, "--type", "process", "--overwrite")
    _prefect("--no-prompt", "deploy", "--all", "--prefect-file", str(file.resolve()))
    return names


def deploy(root: Path, file: Path | None = None, *, api: str | None = None) -> list[str]:
    """Register every deployment of ``file`` (Cambium's own by default); returns ``flow/deployment`` names.

    api: the URL of a Prefect server that runs already; without it they are registered in the home below ``root``,
    where a later ``serve`` finds them. Registering twice changes nothing.
    """
    file = file or FILE
    deployments(file)  # a bad file is refused before a server is started
    if api is None:
        with loopback_server(root):
            return _register(file)
    with exported({**quiet_environment(), "PREFECT_API_URL": api}):
        return _register(file)


def _worker() -> Sequence[str]:
    return ["-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", "cambium"]


def serve(root: Path, file: Path | None = None, *, port: int | None = None, ui: bool = False) -> int:
    """Start the server, register the deployments, and work on their runs until interrupted; the worker's exit code."""
    file = file or FILE
    deployments(file)
    with loopback_server(root, port=port, ui=ui) as server:
        names = _register(file)
        _announce(server, names)
        worker = bound(_worker(), env={}, cwd=Path.cwd())
        try:
            return worker.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            worker.terminate()
            worker.wait()


def _announce(server: Server, names: Sequence[str]) -> None:
    print(f"serving {', '.join(names)} at {server.url}; stop with Ctrl-C. From another shell:", file=sys.stderr)
    print(
        f"  PREFECT_API_URL={server.url} DO_NOT_TRACK=1 {sys.executable} -m prefect deployment run {names[0]}",
        file=sys.stderr,
        flush=True,
    )
