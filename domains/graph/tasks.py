"""What the tasks on nodes and on graphs share: reading, statistics, loss, calibration, scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from shared_backbones.errors import BadInput

from ..calibration import fitted_temperature
from ..scoring import CLASS_FACTS, VALUE_FACTS, class_evidence, class_scores, softmax, value_evidence, value_scores
from ..task import Audit, Batch, Evidence, Fitted, Items, MetricFact, Part, Sink, Split, TaskConfig
from .batches import ManyGraphs, WholeGraph, edge_inputs
from .config import TunedOptions
from .data import Graph
from .encodings import encodings
from .model import GraphNet, task_loss
from .source import open_graph
from .splits import audit_split, make_split
from .store import moments
from .tuning import attach, load_base

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from shared_backbones.presets import Preset

SPARSE = 0.1  # features with a smaller share of non-zeros are taken as sparse
GRAPHS_AT_ONCE = 64
LOOKED_AT = 50_000  # rows of features that say whether they are counts


class GraphTask:
    """The contract but for what a level (node or graph) does in its own way."""

    level: ClassVar[str]
    Config: ClassVar[type[TaskConfig]]
    metric_facts: Mapping[str, MetricFact] = CLASS_FACTS

    def __init__(self, config: Any) -> None:
        self.config: TunedOptions = config
        if config.target_kind == "value":
            self.metric_facts = VALUE_FACTS

    def open(self, source: str) -> Graph:
        """A checked graph from a path, a public data set's name or ``simulated``. Raises BadInput."""
        return open_graph(source, self.config, self.level)

    def split(self, data: Graph) -> Split:
        return make_split(data, self.config.split)

    def audit(self, data: Graph, split: Split) -> list[Audit]:
        return audit_split(data, split)

    def poison(self, data: Graph, split: Split) -> Graph:
        """Other targets in the test part. Nodes and edges of a transductive graph are there for all to see."""
        assert data.target is not None
        target = data.target.copy()
        test = split.parts["test"]
        target[test] = (target[test] + 1) % max(2, len(data.classes)) if data.classes else 1e9
        return replace(data, target=target)

    def _rows(self, data: Graph, split: Split) -> Shaped[np.ndarray, "n"]:
        """Nodes that statistics may be taken from."""
        return split.parts["train"]

    def fit(self, data: Graph, split: Split) -> Fitted:
        """How features are scaled, from training nodes alone, and the schema that new graphs are held to."""
        rows = self._rows(data, split)
        x = np.asarray(data.features[rows[:: max(1, len(rows) // LOOKED_AT)]], np.float32)
        filled = float((x != 0).mean())
        scale = self.config.scale
        if scale == "auto":
            counts = filled < SPARSE and bool((x >= 0).all()) and x.shape[1] > 1
            scale = "row" if counts else "standard"
        mean, std = np.zeros(x.shape[1]), np.ones(x.shape[1])
        if scale == "standard":
            mean, spread = moments(data.features, rows)
            std = np.where(spread > 1e-8, spread, 1.0)
        attr = edge_inputs(data)
        target = np.asarray(data.target)[split.parts["train"]]
        values = not data.classes
        return {
            "level": self.level,
            "columns": list(data.columns) or [f"x{i}" for i in range(x.shape[1])],
            "edge_columns": list(data.edge_columns),
            "weighted": data.weight is not None,
            "directed": data.directed,
            "scale": scale,
            "sparse": self.level == "node" and data.graphs == 1 and scale != "standard" and filled < SPARSE,
            "mean": mean.tolist(),
            "std": std.tolist(),
            "edge_mean": [] if attr is None else attr.mean(0, dtype=np.float64).tolist(),
            "edge_std": [] if attr is None else np.maximum(attr.std(0, dtype=np.float64), 1e-6).tolist(),
            "encodings": self.config.encodings.model_dump(),
            "encoding_width": self.config.encodings.width,
            "classes": list(data.classes),
            "class_counts": np.bincount(target, minlength=len(data.classes)).tolist() if data.classes else [],
            "target_mean": float(target.mean()) if values else 0.0,
            "target_std": float(max(target.std(), 1e-12)) if values else 1.0,
        }

    def build(self, fitted: Fitted, preset: Preset) -> GraphNet:
        model = GraphNet(fitted, preset, self.level)
        if self.config.tune_from:
            attach(model, model.backbone.dim)
        return model

    def initialise(self, model: nn.Module, data: Graph, split: Split) -> None:
        """Nothing, weights start at random; with ``tune_from`` those of the finished run. Raises BadInput."""
        if self.config.tune_from:
            load_base(model, Path(self.config.tune_from))

    def items(self, data: Graph, split: Split, fitted: Fitted, part: Part) -> Items:
        kind = WholeGraph if self.level == "node" else ManyGraphs
        return kind(data, fitted, encodings(data, self.config.encodings), split.parts[part])

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean cross-entropy, or mean squared error of the scaled value, and the number of cases."""
        assert isinstance(model, GraphNet)
        return task_loss(model, batch)

    def outputs(self, model: nn.Module, items: Items) -> Iterator[tuple[Tensor, Tensor]]:
        """(outputs, targets) of all items, in order, in evaluation mode."""
        assert isinstance(model, GraphNet)
        model.eval()
        device = model.temperature.device
        step = len(items) if self.level == "node" else GRAPHS_AT_ONCE
        for start in range(0, len(items), max(1, step)):
            batch = items.batch(range(start, min(len(items), start + step)))
            with torch.no_grad():
                yield model({k: v.to(device) for k, v in batch.items()}).cpu(), batch["target"]

    def _all(self, model: nn.Module, items: Items) -> tuple[Tensor, Tensor]:
        found = list(self.outputs(model, items))
        return torch.cat([o for o, _ in found]), torch.cat([t for _, t in found])

    def calibrate(self, model: nn.Module, data: Graph, split: Split, fitted: Fitted) -> None:
        """Fit the temperature on the validation part (classes only)."""
        assert isinstance(model, GraphNet)
        if not fitted["classes"]:
            return
        out, truth = self._all(model, self.items(data, split, fitted, "val"))
        model.temperature.fill_(fitted_temperature(out, truth))

    def evidence(self, model: nn.Module, data: Graph, split: Split, fitted: Fitted, part: Part) -> Evidence:
        assert isinstance(model, GraphNet)
        out, truth = self._all(model, self.items(data, split, fitted, part))
        at = split.parts[part]
        if not fitted["classes"]:
            return value_evidence(at, truth.numpy().astype(np.float64), model.value(out).numpy().astype(np.float64))
        z = out.numpy()
        return class_evidence(at, truth.numpy(), softmax(z / float(model.temperature)), softmax(z))

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        return class_scores(evidence) if "guess" in evidence.columns else value_scores(evidence)

    def figures(
        self, model: nn.Module, data: Graph, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .figures import all_figures

        assert isinstance(model, GraphNet)
        return all_figures(self, model, data, split, fitted, scored)

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        """Every node or graph of a source as predictions.csv (.parquet for parquet input). Raises BadInput."""
        from .predicting import predict_source

        assert isinstance(model, GraphNet)
        return predict_source(self, model, fitted, source, sink)


def held_to(graph: Graph, fitted: Fitted, source: str) -> None:
    """Raise BadInput where a graph has not the columns that a model was trained on."""
    columns = list(graph.columns) or [f"x{i}" for i in range(graph.features.shape[1])]
    if columns != fitted["columns"]:
        missing = [c for c in fitted["columns"] if c not in columns]
        extra = [c for c in columns if c not in fitted["columns"]]
        raise BadInput(
            f"{source}: its node features are not those that the model was trained on: missing {missing[:5]}, "
            f"unknown {extra[:5]}, {len(columns)} for {len(fitted['columns'])}"
        )
    width = 0 if edge_inputs(graph) is None else edge_inputs(graph).shape[1]  # type: ignore[union-attr]
    if width != len(fitted["edge_mean"]):
        raise BadInput(f"{source}: {width} edge features, and the model was trained on {len(fitted['edge_mean'])}")
    if graph.directed != fitted["directed"]:
        ways = ("undirected", "directed")
        raise BadInput(
            f"{source}: the graph is {ways[graph.directed]}, and the model was trained on "
            f"{ways[fitted['directed']]} ones"
        )
