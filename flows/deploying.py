"""Deployments: ``prefect.yaml`` is their one description, registered anew at every start of :mod:`flows.serving`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from shared_backbones.errors import BadRequest

from .server import ServerError, exported, loopback_server, quiet_environment

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


def _prefect(root: Path, *words: str) -> None:
    # where flow runs start, since relative paths are the user's, and where their runs are
    env = os.environ | {"CAMBIUM_WORK": str(Path.cwd()), "CAMBIUM_RUNS": str(root.resolve())}
    for _ in range(3):
        done = subprocess.run([sys.executable, "-m", "prefect", *words], env=env, capture_output=True, text=True)
        if done.returncode >= 0:  # else it was killed, which says nothing about what it was asked
            break
    if done.returncode:
        raise ServerError(f"prefect {' '.join(words)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def register(file: Path, root: Path) -> list[str]:
    """Register every deployment of ``file`` in the server of the environment; returns ``flow/deployment`` names."""
    names = deployments(file)
    _prefect(root, "--no-prompt", "work-pool", "create", POOL, "--type", "process", "--overwrite")
    _prefect(root, "--no-prompt", "deploy", "--all", "--prefect-file", str(file.resolve()))
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
            return register(file, root)
    with exported({**quiet_environment(), "PREFECT_API_URL": api}):
        return register(file, root)
