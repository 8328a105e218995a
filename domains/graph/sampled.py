"""Nodes in batches smaller than their graph: sampled neighbourhoods or parts to train, all neighbours to predict.

N nodes, n nodes of a batch, S seeds, T outputs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int
from torch import Tensor

from ..task import Batch, Fitted
from .batches import edge_inputs, target_tensor
from .budget import budget, free_memory, refuse_beyond
from .data import Graph
from .large import is_local, sampled_tokens, whole_graph
from .model import GraphNet
from .neighbours import Csr, csr
from .partition import partition
from .sampling import Sampled, Sampler, induced
from .store import rows_of

log = logging.getLogger("cambium.train")
SEEDS_AT_ONCE = 1024
MOST_QUADRATIC = 50_000  # nodes up to which a mixer that reads all nodes is run on all of them


class SampledNodes:
    """Seeds of one part in sampled neighbourhoods. Their draw follows torch's random state; -1 draws nothing.

    A batch is what :class:`~domains.graph.batches.WholeGraph` makes, of the nodes around the seeds; "hop_nodes" and
    "hop_arcs" say how many were found at each hop.
    """

    def __init__(
        self,
        graph: Graph,
        encoding: Float[np.ndarray, "N P"],
        index: Int[np.ndarray, "n"],
        fanouts: Sequence[int],
    ) -> None:
        self.graph, self.encoding, self.index, self.fanouts = graph, encoding, index, tuple(fanouts)
        self._attr = edge_inputs(graph)

    @cached_property
    def sampler(self) -> Sampler:
        return Sampler(csr(self.graph.edges, self.graph.nodes), self.fanouts)

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, indices: Sequence[int]) -> Batch:
        seeds = self.index[np.asarray(indices, np.int64)]
        random = np.random.default_rng(int(torch.randint(2**31, ())) if max(self.fanouts) >= 0 else 0)
        part = self.sampler.sample(seeds, random)
        found = inputs_of(self.graph, self.encoding, self._attr, part)
        return {**found, "nodes": torch.arange(len(seeds)), "target": target_tensor(self.graph, seeds)}

    def members(self, i: int) -> Int[np.ndarray, "n"]:
        """The nodes of the batch of item ``i`` alone, where all neighbours are in it."""
        return self.sampler.sample(self.index[i : i + 1], np.random.default_rng(0)).n_id


class PartNodes:
    """Parts of neighbouring nodes, with all arcs inside a batch: an item is a part that holds wanted nodes.

    Arcs between batches are not seen while training.
    """

    def __init__(
        self,
        graph: Graph,
        encoding: Float[np.ndarray, "N P"],
        index: Int[np.ndarray, "n"],
        size: int,
        seed: int,
    ) -> None:
        self.graph, self.encoding, self.index = graph, encoding, index
        self._attr, self.csr = edge_inputs(graph), csr(graph.edges, graph.nodes)
        self.part = partition(self.csr, size, "labels", seed)
        self.parts = np.unique(self.part[index])
        self.wanted = np.zeros(graph.nodes, bool)
        self.wanted[index] = True

    def __len__(self) -> int:
        return len(self.parts)

    def batch(self, indices: Sequence[int]) -> Batch:
        chosen = np.isin(self.part, self.parts[np.asarray(indices, np.int64)])
        part = induced(self.csr, np.flatnonzero(chosen))
        found = inputs_of(self.graph, self.encoding, self._attr, part)
        inside = np.flatnonzero(self.wanted[part.n_id])
        target = target_tensor(self.graph, part.n_id[inside])
        return {**found, "nodes": torch.from_numpy(inside), "target": target}


def inputs_of(
    graph: Graph, encoding: Float[np.ndarray, "N P"], attr: Float[np.ndarray, "E K"] | None, part: Sampled
) -> dict[str, Tensor]:
    """What a network reads of a part of a graph."""
    found = {
        "x": torch.from_numpy(rows_of(graph.features, part.n_id))[None],
        "edges": torch.from_numpy(part.edge_index),
        "hop_nodes": torch.tensor(part.num_sampled_nodes),
        "hop_arcs": torch.tensor(part.num_sampled_edges),
    }
    if attr is not None:
        found["edge_attr"] = torch.from_numpy(np.asarray(attr[part.e_id], np.float32))
    if encoding.shape[1]:
        found["encoding"] = torch.from_numpy(encoding[part.n_id])[None]
    return found


def sampled_outputs(model: GraphNet, batch: Batch) -> Float[Tensor, "S T"]:
    """Outputs of the nodes of a sampled batch, leaving out at every block what no seed feels anymore."""
    hops = tuple(int(n) for n in batch["hop_nodes"])
    if len(hops) == 1:  # a part: every node may be wanted
        return model(batch)
    x, layout = model.stem(batch)
    assert layout.edges is not None
    part = Sampled(
        n_id=np.arange(x.shape[1]), edge_index=layout.edges.cpu().numpy(), e_id=np.arange(layout.edges.shape[1]),
        batch_size=hops[0], num_sampled_nodes=hops, num_sampled_edges=tuple(int(n) for n in batch["hop_arcs"]),
    )  # fmt: skip
    tokens = sampled_tokens(model.backbone, x[0], part, layout.edge_attr)
    return model.head(F.dropout(tokens, model.options["head_dropout"], model.training)).float()


def all_outputs(
    model: GraphNet, graph: Graph, encoding: Float[np.ndarray, "N P"], fanouts: Sequence[int]
) -> tuple[Float32[np.ndarray, "N T"], str]:
    """Outputs of every node, and in words what they were computed from.

    Message passing alone: all neighbours, layer by layer. With a mixer that reads all nodes: the whole graph at once
    where it fits, else sampled neighbourhoods, in which that mixer sees a batch only.
    """
    model.eval()
    lists, attr, device = csr(graph.edges, graph.nodes), edge_inputs(graph), model.temperature.device
    if is_local(model.backbone):
        return _by_layers(model, graph, encoding, attr, lists), "all neighbours, layer by layer"
    everything = np.arange(graph.nodes)
    need = budget(graph.nodes, graph.arcs, graph.features.shape[1], model.backbone).step
    with torch.no_grad():
        if graph.nodes <= MOST_QUADRATIC and need < free_memory():
            whole = Sampled(everything, graph.edges, np.arange(graph.arcs), graph.nodes, (graph.nodes,), (graph.arcs,))
            batch = {k: v.to(device) for k, v in inputs_of(graph, encoding, attr, whole).items()}
            return model(batch).cpu().numpy(), "the whole graph at once"
        items, found = Sampler(lists, fanouts), []
        for i, at in enumerate(range(0, graph.nodes, SEEDS_AT_ONCE)):
            part = items.sample(everything[at : at + SEEDS_AT_ONCE], np.random.default_rng((0, i)))
            batch = {k: v.to(device) for k, v in inputs_of(graph, encoding, attr, part).items()}
            found.append(sampled_outputs(model, batch).cpu().numpy())
    return np.concatenate(found), "sampled neighbourhoods, not all neighbours"


def _by_layers(
    model: GraphNet, graph: Graph, encoding: Float[np.ndarray, "N P"], attr: Float[np.ndarray, "E K"] | None, lists: Csr
) -> Float32[np.ndarray, "N T"]:
    """Every node from all its neighbours, block by block in bounded memory."""
    stem = model.stem
    no_arcs = torch.zeros(2, 0, dtype=torch.long)

    def tokens(nodes: Int[np.ndarray, "m"]) -> Float[Tensor, "m C"]:
        batch = {"x": torch.from_numpy(rows_of(graph.features, nodes))[None], "edges": no_arcs}
        if encoding.shape[1]:
            batch["encoding"] = torch.from_numpy(encoding[nodes])[None]
        if stem.edge is not None:
            batch["edge_attr"] = stem.edge_mean.new_zeros(0, stem.edge.in_features)
        return stem({k: v.to(model.temperature.device) for k, v in batch.items()})[0][0]

    def of_arcs(arcs: Int[np.ndarray, "m"]) -> Tensor:
        if stem.edge is None or attr is None:
            return torch.zeros(len(arcs), stem.edge_features)
        some = torch.from_numpy(np.asarray(attr[arcs], np.float32)).to(stem.edge_mean.device)
        return stem.edge((some - stem.edge_mean) / stem.edge_std)

    return whole_graph(
        tokens, model.backbone, model.head, lists, edge_attr=of_arcs if stem.edge_features else None,
        device=model.temperature.device,
    )  # fmt: skip


def say_memory(model: GraphNet, graph: Graph, fitted: Fitted, fanouts: Sequence[int], whole: bool) -> None:
    """Log what training will take. Raises BadRequest where a step on the whole graph cannot fit."""
    seeds = None if whole else SEEDS_AT_ONCE
    width = 0 if fitted["sparse"] else graph.features.shape[1]
    found = budget(graph.nodes, graph.arcs, width, model.backbone, seeds=seeds, fanouts=fanouts)
    log.info("%s", found)
    refuse_beyond(found, free_memory())
