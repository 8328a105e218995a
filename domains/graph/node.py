"""graph/node: a class or a value for every node of one graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..scoring import CLASS_FACTS
from ..task import Batch, Evidence, Fitted, Items, MetricFact, Part, Split, TaskConfig
from .augment import disagreement, fit_neighbours
from .baselines import node_baselines
from .batches import target_tensor
from .config import NodeOptions
from .data import Graph
from .encodings import encodings
from .model import GraphNet, outputs_loss
from .sampled import PartNodes, SampledNodes, all_outputs, log, sampled_outputs, say_memory
from .tasks import GraphTask
from .two_hop import TwoHopNodes, widened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from shared_backbones.presets import Preset

DRAWS = 2  # of neighbours' features in a training step
MOST_DRAWN = 1500  # test nodes whose neighbourhoods are read for a picture


class Node(GraphTask):
    """Classification or regression of nodes, transductive: the whole graph is there, targets only in training."""

    name: ClassVar[str] = "graph/node"
    summary: ClassVar[str] = "Classes or values of the nodes of a graph, from a few that are known."
    level: ClassVar[str] = "node"
    Config: ClassVar[type[TaskConfig]] = NodeOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 200, "batch_size": 1_000_000, "lr": 0.01, "weight_decay": 0.3, "patience": 60,
    }  # fmt: skip
    drift_inputs: ClassVar[tuple[str, int | str, int]] = ("stem", "x", 2)  # features of a node
    default_preset: ClassVar[str] = "graph_propagation"
    metric_facts: Mapping[str, MetricFact] = CLASS_FACTS

    @property
    def in_pieces(self) -> bool:
        """Whether a training batch is a part of the graph."""
        options = self.config
        assert isinstance(options, NodeOptions)
        return bool(options.sample or options.part_nodes or options.two_hop)

    def build(self, fitted: Fitted, preset: Preset) -> GraphNet:
        """The network; with ``two_hop`` its stem reads what a token carries."""
        assert isinstance(self.config, NodeOptions)
        return super().build(widened(fitted) if self.config.two_hop else fitted, preset)

    @property
    def fanouts(self) -> tuple[int, ...]:
        """Neighbours per hop, as configured; two hops of all neighbours where there are none."""
        assert isinstance(self.config, NodeOptions)
        return self.config.sample or (-1, -1)

    def initialise(self, model: nn.Module, data: Graph, split: Split) -> None:
        """Says what memory training will take, and fits the generator of neighbours where the preset has one.

        Raises BadRequest where the memory cannot fit.
        """
        assert isinstance(model, GraphNet)
        say_memory(model, data, self.fit(data, split), self.fanouts, whole=not self.in_pieces)
        if model.stem.generator is not None:
            log.info(
                "generator of neighbours: loss %.4f", fit_neighbours(model.stem.generator, model.stem.scaled, data)
            )

    def items(self, data: Graph, split: Split, fitted: Fitted, part: Part) -> Items:
        """Nodes of a part: in the whole graph, or in what ``sample`` or ``part_nodes`` says.

        Held-out nodes see all their neighbours, over as many hops as ``sample`` has numbers.
        """
        if not self.in_pieces:
            return super().items(data, split, fitted, part)
        assert isinstance(self.config, NodeOptions)
        index = split.parts[part]
        if self.config.two_hop:
            return TwoHopNodes(data, index, self.config.two_hop, part == "train")
        place = encodings(data, self.config.encodings)
        if part != "train":
            return SampledNodes(data, place, index, (-1,) * len(self.fanouts))
        if self.config.part_nodes:
            return PartNodes(data, place, index, self.config.part_nodes, self.config.split.seed)
        return SampledNodes(data, place, index, self.fanouts)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean cross-entropy, or mean squared error of the scaled value, and the number of nodes.

        While neighbours are drawn for the whole graph: of several draws, and how far they disagree on any node.
        """
        assert isinstance(model, GraphNet)
        if "hop_nodes" in batch:
            return outputs_loss(model, sampled_outputs(model, batch), batch)
        if model.stem.generator is None or not model.training or "nodes" not in batch:
            return outputs_loss(model, model(batch), batch)
        everywhere = {name: value for name, value in batch.items() if name != "nodes"}
        draws = torch.stack([model(everywhere) for _ in range(DRAWS)])
        found = [outputs_loss(model, out[batch["nodes"]], batch) for out in draws]
        return torch.stack([loss for loss, _ in found]).mean() + disagreement(draws), found[0][1]

    def _all(self, model: nn.Module, items: Items) -> tuple[Tensor, Tensor]:
        assert isinstance(model, GraphNet)
        if isinstance(items, TwoHopNodes):
            log.info("scored on nodes drawn within two hops, not on all of them")
            return torch.from_numpy(items.outputs(model, items.index)), target_tensor(items.graph, items.index)
        if not isinstance(items, SampledNodes):
            return super()._all(model, items)
        found, how = all_outputs(model, items.graph, items.encoding, self.fanouts)
        log.info("scored on %s", how)
        return torch.from_numpy(found[items.index]), target_tensor(items.graph, items.index)

    def figures(
        self, model: nn.Module, data: Graph, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        test = split.parts["test"]
        if self.in_pieces and len(test) > MOST_DRAWN:
            split = replace(split, parts={**split.parts, "test": test[:: -(-len(test) // MOST_DRAWN)]})
        return super().figures(model, data, split, fitted, scored)

    def baselines(self, data: Graph, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """MLP, label propagation, SGC + logistic regression, tuned GCN, GPS with full attention, on the test part."""
        return node_baselines(data, split, fitted, self.config)  # type: ignore[arg-type]
