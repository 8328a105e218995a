"""Flows: the pipelines under Prefect, against one loopback server per command. Importing this imports no prefect."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared_backbones.errors import CambiumError, unknown


def _train() -> Any:
    from .train import train

    return train


def _predict() -> Any:
    from .predict import predict

    return predict


def _job(name: str) -> Callable[[], Any]:
    def load() -> Any:
        from . import jobs

        return getattr(jobs, name)

    return load


JOBS = ("retrain", "batch_predict", "backfill", "sweep", "cleanup")
FLOWS: dict[str, Callable[[], Any]] = {  # name -> what imports the flow
    "train": _train,
    "predict": _predict,
    **{name: _job(name) for name in JOBS},
}


def load_flow(name: str) -> Any:
    """The Prefect flow of a name; raises BadRequest for an unknown one. Only below a server's environment."""
    if name not in FLOWS:
        raise unknown("flow", name, FLOWS)
    return FLOWS[name]()


class _NoTrace(logging.Filter):
    """A user's mistake is one sentence on the console, without the traceback that Prefect adds to it."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, CambiumError):
            record.exc_info = record.exc_text = None
            record.msg, record.args = f"{type(error).__name__}: {error}", ()
        return True


_NO_TRACE = _NoTrace()


def run_flow(name: str, root: Path = Path("runs"), /, **options: Any) -> Any:
    """Run a flow in this process against a server that lives as long as it does; returns the flow's result.

    root: where Prefect's home is kept (``root / ".prefect"``). ``options`` are the flow's parameters. Raises what
    the flow raised, BadRequest for an unknown flow, ServerError where the server does not come up.
    """
    from .server import loopback_server

    if name not in FLOWS:
        raise unknown("flow", name, FLOWS)
    with loopback_server(Path(root)):
        flow = load_flow(name)
        for handler in logging.getLogger().handlers:
            handler.addFilter(_NO_TRACE)  # does nothing where it is there already
        return flow(**options)


def serve(root: Path = Path("runs"), file: Path | None = None, *, port: int | None = None, ui: bool = False) -> int:
    """Serve the deployments of ``prefect.yaml`` until interrupted; see :mod:`flows.serving`."""
    from .serving import serve

    return serve(root, file, port=port, ui=ui)


def deploy(root: Path = Path("runs"), file: Path | None = None, *, api: str | None = None) -> list[str]:
    """Register the deployments of ``prefect.yaml``; see :mod:`flows.deploying`."""
    from .deploying import deploy

    return deploy(root, file, api=api)
