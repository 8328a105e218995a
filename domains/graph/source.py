"""From a source as the user names it to a graph: a path, a public data set's name, or ``simulated``."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path
from typing import Any

from shared_backbones.errors import BadInput

from ..public import locate
from .config import GraphOptions
from .data import Graph, read_graph
from .datasets import GRAPHS
from .simulate import citations, molecules

SIMULATED = "simulated"


def open_graph(source: str, options: GraphOptions, level: str, **known: Any) -> Graph:
    """A checked graph for tasks on nodes or on graphs. ``known``: categories and classes of a finished model.

    Raises BadInput where the source is not there, cannot be read, or has no targets at this level.
    """
    graph = _read(source, options, level, known)
    graph = replace(graph, manifest=replace(graph.manifest, source=source))
    if graph.level != level and graph.target is not None:
        other = "graph/graph" if graph.level == "graph" else "graph/node"
        raise BadInput(f"{source}: its targets are of {graph.level}s, not of {level}s: use the task {other}")
    if options.target_kind == "class" and graph.target is not None and not graph.classes:
        raise BadInput(
            f"{source}: the target holds real values, and classes are asked for. For regression: "
            "--set target_kind=value"
        )
    if options.target_kind == "value" and graph.classes:
        graph = replace(graph, target=_values(graph, source), classes=())
    return graph


def _values(graph: Graph, source: str) -> Any:
    """Class names read as numbers, where whole numbers are meant as values."""
    import numpy as np

    try:
        names = np.array([float(c) for c in graph.classes])
    except ValueError:
        raise BadInput(
            f"{source}: target_kind=value, and the target holds names such as {graph.classes[0]!r}"
        ) from None
    assert graph.target is not None
    return np.where(graph.target >= 0, names[np.maximum(graph.target, 0)], np.nan)


def _read(source: str, options: GraphOptions, level: str, known: dict[str, Any]) -> Graph:
    if source == SIMULATED:
        graph = (citations if level == "node" else molecules)(options.simulated)
        return replace(graph, manifest=replace(graph.manifest, licence="simulated, free of rights"))
    schema = options.schema_of(**known)
    if source in GRAPHS:
        entry = GRAPHS[source]
        files = locate(entry)
        path = next(iter(files.values())) if len(files) == 1 else entry.place
        graph = read_graph(path, schema, options.rules())
        return replace(graph, manifest=replace(graph.manifest, licence=entry.licence))
    near = difflib.get_close_matches(source, [*GRAPHS, SIMULATED], n=2, cutoff=0.6)
    if near and not Path(source).exists():
        raise BadInput(f"{source}: no such file; did you mean the data set {' or '.join(map(repr, near))}?")
    return read_graph(Path(source), schema, options.rules(), options.edges)
