"""Predictions for every node or graph of a source, as a table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from shared_backbones.errors import BadInput

from ..scoring import softmax
from ..task import Fitted, Sink
from .batches import ManyGraphs, whole_inputs
from .config import NodeOptions
from .data import Graph
from .encodings import encodings
from .model import GraphNet
from .sampled import all_outputs
from .source import open_graph
from .tasks import GRAPHS_AT_ONCE, GraphTask, held_to
from .two_hop import TwoHopNodes


def known_levels(fitted: Fitted) -> dict[str, tuple[str, ...]]:
    """Categories of each column that a model was trained with, from the names of its features."""
    found: dict[str, list[str]] = {}
    for name in [*fitted["columns"], *fitted["edge_columns"]]:
        column, equals, level = name.partition("=")
        if equals:
            found.setdefault(column, []).append(level)
    return {column: tuple(levels) for column, levels in found.items()}


def predict_source(task: GraphTask, model: GraphNet, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
    """One row per node (or graph): id, prediction, and the probability of every class.

    Raises BadInput where the source does not match what the model was trained on. Its targets, if it has any, play no
    part.
    """
    graph = open_graph(source, task.config, task.level, levels=known_levels(fitted), classes=tuple(fitted["classes"]))
    held_to(graph, fitted, source)
    outputs = _outputs(task, model, fitted, graph)
    names = graph.names if task.level == "node" else np.arange(graph.graphs)
    table: dict[str, Any] = {"id": names}
    if fitted["classes"]:
        share = softmax(outputs / float(model.temperature))
        table["prediction"] = np.array(fitted["classes"], dtype=object)[share.argmax(1)]
        table["confidence"] = share.max(1)
        table |= {f"p_{name}": share[:, c] for c, name in enumerate(fitted["classes"])}
    else:
        table["prediction"] = model.value(torch.from_numpy(outputs)).numpy()
    if not np.isfinite(outputs).all():
        raise BadInput(
            f"{source}: the model's outputs are no numbers; look for features far outside the training range"
        )
    parquet = source.endswith(".parquet")
    name = "predictions.parquet" if parquet else "predictions.csv"
    frame = pd.DataFrame(table)
    with sink.file(name) as path:
        frame.to_parquet(path, index=False) if parquet else frame.to_csv(path, index=False, float_format="%.6g")
    return {"level": task.level, "rows": len(frame), "edges": len(graph.pairs()), "output": name}


def _outputs(task: GraphTask, model: GraphNet, fitted: Fitted, graph: Graph) -> Any:
    from .node import Node  # here: the task imports this module

    model.eval()
    device = model.temperature.device
    encoding = encodings(graph, task.config.encodings)
    found = []
    with torch.inference_mode():
        if isinstance(task.config, NodeOptions) and task.config.two_hop:
            every = np.arange(graph.nodes)
            return TwoHopNodes(graph, every, task.config.two_hop, train=False).outputs(model, every)
        if isinstance(task, Node) and task.in_pieces:
            return all_outputs(model, graph, encoding, task.fanouts)[0]
        if task.level == "node":
            batch = whole_inputs(graph, fitted, encoding)
            return model({k: v.to(device) for k, v in batch.items()}).cpu().numpy()
        items = ManyGraphs(graph, fitted, encoding, np.arange(graph.graphs))
        for start in range(0, graph.graphs, GRAPHS_AT_ONCE):
            batch = items.inputs(np.arange(start, min(graph.graphs, start + GRAPHS_AT_ONCE)))
            found.append(model({k: v.to(device) for k, v in batch.items()}).cpu().numpy())
    return np.concatenate(found)
