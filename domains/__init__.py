"""Domains: what scientific signals mean. Each task is named here once and imported when asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shared_backbones.errors import unknown


def _forecast() -> type[Any]:
    from .timeseries.forecast import Forecast

    return Forecast


def _classify_scene() -> type[Any]:
    from .hyperspectral.classify import Classify

    return Classify


TASKS: dict[str, Callable[[], type[Any]]] = {
    "timeseries/forecast": _forecast,
    "hyperspectral/classify": _classify_scene,
}


def load_task(name: str) -> type[Any]:
    """The task class (see :class:`domains.task.Task`) by its name; raises BadRequest for an unknown one."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]()
