"""Domains: what scientific signals mean. Each task is named here once and imported when asked for.

Another installed package adds tasks of its own through the entry point group ``cambium.tasks``, in its pyproject::

    [project.entry-points."cambium.tasks"]
    "geology/facies" = "my_package.facies:Facies"
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import Any

from shared_backbones.errors import unknown


def _forecast() -> type[Any]:
    from .timeseries.forecast import Forecast

    return Forecast


def _impute() -> type[Any]:
    from .timeseries.impute import Impute

    return Impute


def _pretrain_series() -> type[Any]:
    from .timeseries.pretrain import Pretrain

    return Pretrain


def _traffic() -> type[Any]:
    from .timeseries.traffic import Traffic

    return Traffic


def _events() -> type[Any]:
    from .timeseries.events import EventClasses

    return EventClasses


def _series_detect() -> type[Any]:
    from .timeseries.detect import Detect

    return Detect


def _classify_series() -> type[Any]:
    from .timeseries.classify import Classify

    return Classify


def _classify_scene() -> type[Any]:
    from .hyperspectral.classify import Classify

    return Classify


def _unmix() -> type[Any]:
    from .hyperspectral.unmixing.task import Unmix

    return Unmix


def _denoise() -> type[Any]:
    from .hyperspectral.restoring.task import Denoise

    return Denoise


def _superres() -> type[Any]:
    from .hyperspectral.restoring.task import Superres

    return Superres


def _detect_in_scene() -> type[Any]:
    from .hyperspectral.detecting.task import Detect

    return Detect


def _scene_change() -> type[Any]:
    from .hyperspectral.changing.task import Change

    return Change


def _pretrain_scene() -> type[Any]:
    from .hyperspectral.pretraining.task import Pretrain

    return Pretrain


def _graph_link() -> type[Any]:
    from .graph.link import Link

    return Link


def _graph_temporal() -> type[Any]:
    from .graph.temporal import Temporal

    return Temporal


def _graph_state() -> type[Any]:
    from .graph.state import State

    return State


def _graph_signals() -> type[Any]:
    from .graph.signals import NodeSignals

    return NodeSignals


def _recall() -> type[Any]:
    from .synthetic.recall import Recall

    return Recall


def _listops() -> type[Any]:
    from .synthetic.listops import Listops

    return Listops


def _patterns() -> type[Any]:
    from .synthetic.patterns import Patterns

    return Patterns


def _graph_node() -> type[Any]:
    from .graph.node import Node

    return Node


def _audio_classify() -> type[Any]:
    from .audio.classify import Classify

    return Classify


def _audio_separate() -> type[Any]:
    from .audio.separate import Separate

    return Separate


def _audio_recognise() -> type[Any]:
    from .audio.recognise import Recognise

    return Recognise


def _audio_pretrain() -> type[Any]:
    from .audio.pretrain import Pretrain

    return Pretrain


def _audio_regress() -> type[Any]:
    from .audio.regress import Regress

    return Regress


def _medical_classify() -> type[Any]:
    from .medical.classify import Classify

    return Classify


def _medical_pretrain() -> type[Any]:
    from .medical.pretrain import Pretrain

    return Pretrain


def _medical_signal() -> type[Any]:
    from .medical.signal import Signal

    return Signal


def _graph_graph() -> type[Any]:
    from .graph.graphs import Graphs

    return Graphs


def _medical_segment() -> type[Any]:
    from .medical.segment import Segment

    return Segment


TASKS: dict[str, Callable[[], type[Any]]] = {  # by domain, the one to begin with first
    "timeseries/forecast": _forecast,
    "timeseries/classify": _classify_series,
    "timeseries/detect": _series_detect,
    "timeseries/events": _events,
    "timeseries/impute": _impute,
    "timeseries/traffic": _traffic,
    "timeseries/pretrain": _pretrain_series,
    "hyperspectral/classify": _classify_scene,
    "hyperspectral/unmix": _unmix,
    "hyperspectral/denoise": _denoise,
    "hyperspectral/superres": _superres,
    "hyperspectral/detect": _detect_in_scene,
    "hyperspectral/change": _scene_change,
    "hyperspectral/pretrain": _pretrain_scene,
    "graph/node": _graph_node,
    "graph/graph": _graph_graph,
    "graph/link": _graph_link,
    "graph/temporal": _graph_temporal,
    "graph/state": _graph_state,
    "graph/signals": _graph_signals,
    "audio/classify": _audio_classify,
    "audio/recognise": _audio_recognise,
    "audio/separate": _audio_separate,
    "audio/regress": _audio_regress,
    "audio/pretrain": _audio_pretrain,
    "medical/classify": _medical_classify,
    "medical/segment": _medical_segment,
    "medical/signal": _medical_signal,
    "medical/pretrain": _medical_pretrain,
    "synthetic/recall": _recall,
    "synthetic/listops": _listops,
    "synthetic/patterns": _patterns,
}


def all_tasks() -> dict[str, Callable[[], type[Any]]]:
    """Every task by name: those that ship with Cambium, and those of other installed packages."""
    return {**{point.name: point.load for point in metadata.entry_points(group="cambium.tasks")}, **TASKS}


def load_task(name: str) -> type[Any]:
    """The task class (see :class:`domains.task.Task`) by its name; raises BadRequest for an unknown one."""
    if name in TASKS:
        return TASKS[name]()
    tasks = all_tasks()
    if name not in tasks:
        raise unknown("task", name, tasks)
    return tasks[name]()
