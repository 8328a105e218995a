"""graph/graph: a class or a value for every graph of a set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Shaped

from ..scoring import CLASS_FACTS
from ..task import Evidence, Fitted, MetricFact, Split, TaskConfig
from .config import GraphSetOptions
from .data import Graph
from .kernels import graph_baselines
from .tasks import GraphTask


class Graphs(GraphTask):
    """Classification or regression of whole graphs, inductive: test graphs are seen when they are scored."""

    name: ClassVar[str] = "graph/graph"
    summary: ClassVar[str] = "Classes or values of whole graphs, such as molecules or proteins."
    level: ClassVar[str] = "graph"
    Config: ClassVar[type[TaskConfig]] = GraphSetOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 60, "batch_size": 32, "lr": 2e-3, "weight_decay": 0.01, "patience": 20,
    }  # fmt: skip
    default_preset: ClassVar[str] = "graph_isomorphism"
    metric_facts: Mapping[str, MetricFact] = CLASS_FACTS

    def _rows(self, data: Graph, split: Split) -> Shaped[np.ndarray, "n"]:
        """The nodes of the training graphs."""
        return np.flatnonzero(np.isin(data.graph_of(), split.parts["train"]))

    def poison(self, data: Graph, split: Split) -> Graph:
        """Absurd features and other targets in the test graphs."""
        spoilt = super().poison(data, split)
        features = np.array(data.features, np.float32)
        features[np.isin(data.graph_of(), split.parts["test"])] = 1e9
        return replace(spoilt, features=features)

    def fit(self, data: Graph, split: Split) -> Fitted:
        """As for nodes; edge features are scaled by the training graphs' edges."""
        own = np.isin(data.graph_of()[data.edges[1]], split.parts["train"])
        fitted = super().fit(data, split)
        if fitted["edge_mean"]:
            part = super().fit(data.only_arcs(own), split)
            fitted |= {key: part[key] for key in ("edge_mean", "edge_std")}
        return fitted

    def baselines(self, data: Graph, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """Majority, bag of node features and sizes + SVM, Weisfeiler-Lehman kernel + SVM, on the test part."""
        return graph_baselines(data, split)
