"""graph/node: a class or a value for every node of one graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..task import Evidence, Fitted, MetricFact, Split, TaskConfig
from .baselines import node_baselines
from .config import NodeOptions
from .data import Graph
from .scoring import CLASS_FACTS
from .tasks import GraphTask


class Node(GraphTask):
    """Classification or regression of nodes, transductive: the whole graph is there, targets only in training."""

    name: ClassVar[str] = "graph/node"
    summary: ClassVar[str] = "Classes or values of the nodes of a graph, from a few that are known."
    level: ClassVar[str] = "node"
    Config: ClassVar[type[TaskConfig]] = NodeOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 200, "batch_size": 1_000_000, "lr": 0.01, "weight_decay": 0.3, "patience": 60,
    }  # fmt: skip
    default_preset: ClassVar[str] = "graph_propagation"
    metric_facts: Mapping[str, MetricFact] = CLASS_FACTS

    def baselines(self, data: Graph, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """MLP, label propagation, SGC + logistic regression, tuned GCN, GPS with full attention, on the test part."""
        return node_baselines(data, split, fitted, self.config)  # type: ignore[arg-type]
