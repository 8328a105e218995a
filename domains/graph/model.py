"""The network of all tasks on nodes and on graphs: stem, backbone of any mixers, head. It carries its preprocessing.

Shapes: B items, N nodes, F features, P encodings, E arcs, K edge features, C width, T outputs (classes, or one value).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared_backbones.backbone import Backbone, Tokens
from shared_backbones.errors import BadRequest, unknown
from shared_backbones.layout import Layout
from shared_backbones.presets import Preset

from ..task import Batch, Fitted
from .augment import NeighbourFeatures

STEMS = ("nodes",)
OPTIONS: dict[str, Any] = {
    "input_dropout": 0.0,  # of single features
    "dropout": 0.0,  # after the stem
    "head_dropout": 0.0,  # before the head
    "activation": "relu",  # of the stem: relu or none
    "augment": 0,  # latent numbers of a drawn neighbour's features beside a node's own (graph/node); 0: none is drawn
    "readout": ("mean", "max"),  # of a graph: mean, sum, max over its nodes, side by side
}
READOUTS = ("mean", "sum", "max")


def edge_width(sentences: Iterable[Any]) -> int:
    """The ``edge_features`` that any mixer of a preset asks for, inner ones too. BadRequest for two widths."""
    found: set[int] = set()

    def look(value: Any) -> None:
        if isinstance(value, Mapping):
            if value.get("edge_features"):
                found.add(int(value["edge_features"]))
            for inner in value.values():
                look(inner)
        elif isinstance(value, (list, tuple)):
            for inner in value:
                look(inner)

    for sentence in sentences:
        look(sentence)
    if len(found) > 1:
        raise BadRequest(f"mixers of one preset ask for edge_features {sorted(found)}; give them one width")
    return found.pop() if found else 0


def options_of(preset: Preset) -> dict[str, Any]:
    """The model options of a preset above their defaults. Raises BadRequest for an unknown name or value."""
    for name in preset.model:
        if name not in OPTIONS:
            raise unknown("model option", name, OPTIONS)
    options = {**OPTIONS, **preset.model}
    for name in ("input_dropout", "dropout", "head_dropout"):
        if not isinstance(options[name], (int, float)) or not 0 <= options[name] < 1:
            raise BadRequest(f"model.{name} must lie in 0 .. 1, got {options[name]!r}")
    if options["activation"] not in ("relu", "none"):
        raise unknown("activation", str(options["activation"]), ("relu", "none"))
    if type(options["augment"]) is not int or options["augment"] < 0:
        raise BadRequest(f"model.augment must be a whole number of 0 or more, got {options['augment']!r}")
    readout = options["readout"]
    options["readout"] = (readout,) if isinstance(readout, str) else tuple(readout)
    for name in options["readout"]:
        if name not in READOUTS:
            raise unknown("readout", str(name), READOUTS)
    return options


def _sparse_linear(
    layer: nn.Linear, at: Int[Tensor, "2 k"], value: Float[Tensor, "k"], n: int
) -> Float[Tensor, "1 N C"]:
    """A linear map of n rows that are zero but for ``value`` at (row, column)."""
    matrix = torch.sparse_coo_tensor(at, value, (n, layer.in_features), is_coalesced=True, check_invariants=False)
    with torch.autocast(value.device.type, enabled=False):
        return (torch.sparse.mm(matrix, layer.weight.T) + layer.bias)[None]


class Stem(nn.Module):
    """Scaled features, encodings and edge features as tokens and their Layout."""

    mean: Tensor
    std: Tensor
    edge_mean: Tensor
    edge_std: Tensor

    def __init__(self, fitted: Fitted, dim: int, edge_features: int, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.scale, self.options = fitted["scale"], options
        self.register_buffer("mean", torch.tensor(fitted["mean"]))
        self.register_buffer("std", torch.tensor(fitted["std"]))
        width = len(fitted["columns"])
        self.embed = nn.Linear(width, dim)
        self.generator = NeighbourFeatures(width, options["augment"]) if options["augment"] else None
        self.drawn = nn.Linear(width, dim, bias=False) if options["augment"] else None
        self.laplacian, width = fitted["encodings"]["laplacian"], fitted["encoding_width"]
        self.place = nn.Linear(width, dim, bias=False) if width else None
        self.edge_features = edge_features
        self.register_buffer("edge_mean", torch.tensor(fitted["edge_mean"]))
        self.register_buffer("edge_std", torch.tensor(fitted["edge_std"]))
        known = len(fitted["edge_mean"])
        self.edge = nn.Linear(known, edge_features) if edge_features and known else None

    def scaled(self, x: Float[Tensor, "... F"]) -> Float[Tensor, "... F"]:
        """Features as the network reads them."""
        return ((F.normalize(x, dim=-1) if self.scale == "row" else x) - self.mean) / self.std

    def neighbour(self, centre: Float[Tensor, "... H"]) -> Float[Tensor, "... C"]:
        """What a drawn neighbour's features add."""
        assert self.generator is not None
        assert self.drawn is not None
        return self.drawn(F.dropout(self.generator.draw(centre), self.options["input_dropout"], self.training))

    def features(self, batch: Batch) -> Float[Tensor, "B N C"]:
        """The embedding of the features; where they are mostly zero, only their non-zeros are touched."""
        rate, training = self.options["input_dropout"], self.training
        if "x" in batch:
            x = batch["x"]
            if "mask" in batch:
                x = x.masked_fill(~batch["mask"][..., None], 0.0)
            x = self.scaled(x)
            own = self.embed(F.dropout(x, rate, training))
            return own if self.generator is None else own + self.neighbour(self.generator.centre(x))
        at, value, n = batch["x_at"], batch["x_value"], int(batch["size"])
        if self.scale == "row":
            total = value.new_zeros(n).index_add(0, at[0], value * value)
            value = value / total.sqrt().clamp_min(1e-12)[at[0]]
        own = _sparse_linear(self.embed, at, F.dropout(value, rate, training), n)
        if self.generator is None:
            return own
        return own + self.neighbour(_sparse_linear(self.generator.centre, at, value, n))

    def layout(self, batch: Batch, n: int) -> Layout:
        attr, edges = None, batch["edges"]
        if self.edge is not None:
            attr = self.edge((batch["edge_attr"] - self.edge_mean) / self.edge_std)
        elif self.edge_features:
            attr = self.embed.weight.new_zeros(edges.shape[1], self.edge_features)
        return Layout((n,), ordered=False, mask=batch.get("mask"), edges=edges, edge_attr=attr)

    def forward(self, batch: Batch) -> tuple[Float[Tensor, "B N C"], Layout]:
        x = self.features(batch)
        if self.place is not None:
            code = batch["encoding"]
            if self.training and self.laplacian:  # an eigenvector's sign means nothing
                flip = torch.randint(0, 2, (code.shape[0], 1, self.laplacian), device=code.device) * 2 - 1
                code = torch.cat([code[..., : self.laplacian] * flip, code[..., self.laplacian :]], -1)
            x = x + self.place(code)
        x = F.relu(x) if self.options["activation"] == "relu" else x
        layout = self.layout(batch, x.shape[1])
        return layout.clean(F.dropout(x, self.options["dropout"], self.training)), layout


class GraphNet(nn.Module):
    """Stem, backbone and head: logits or a scaled value per node, or per graph where ``level`` is "graph"."""

    temperature: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(self, fitted: Fitted, preset: Preset, level: str) -> None:
        super().__init__()
        if preset.stem not in STEMS:
            raise unknown("stem of a graph task", preset.stem, STEMS)
        options = options_of(preset)
        if options["augment"] and level == "graph":
            raise BadRequest("model.augment draws features of neighbours for graph/node; the task here is graph/graph")
        self.level, self.options = level, options
        sentences = [layer.mixer_options for stage in preset.backbone.stages for layer in stage.layers]
        dim = preset.backbone.stages[0].dim
        self.stem = Stem(fitted, dim, edge_width(sentences), options)
        self.backbone = Backbone(preset.backbone, Tokens(rank=1, ordered=False, provides=frozenset({"edges"})))
        outputs = max(1, len(fitted["classes"]))
        parts = len(options["readout"]) if level == "graph" else 1
        self.head = nn.Linear(parts * self.backbone.dim, outputs)
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("target_mean", torch.tensor(float(fitted["target_mean"])))
        self.register_buffer("target_std", torch.tensor(float(fitted["target_std"])))

    def embedding(self, batch: Batch) -> Float[Tensor, "B N C"]:
        """What the head reads, node by node."""
        x, layout = self.stem(batch)
        return layout.clean(self.backbone(x, layout)[0])

    def read(self, h: Float[Tensor, "B N C"], mask: Tensor | None) -> Float[Tensor, "B R"]:
        """A graph's vector: mean, sum or maximum over its own nodes."""
        real = h.new_ones(h.shape[:2], dtype=torch.bool) if mask is None else mask
        found = []
        for name in self.options["readout"]:
            if name == "max":
                low = h.masked_fill(~real[..., None], torch.finfo(h.dtype).min).amax(1)
                found.append(low.masked_fill(~real.any(1)[:, None], 0.0))
            else:
                total = h.masked_fill(~real[..., None], 0.0).sum(1)
                found.append(total if name == "sum" else total / real.sum(1).clamp_min(1)[:, None].to(h.dtype))
        return torch.cat(found, -1)

    def forward(self, batch: Batch) -> Float[Tensor, "n T"]:
        """Outputs of the nodes in "nodes" (all where there are none), or of every graph."""
        h = self.embedding(batch)
        if self.level == "graph":
            h = self.read(h, batch.get("mask"))
        else:
            h = h.flatten(0, 1)
            h = h[batch["nodes"]] if "nodes" in batch else h
        return self.head(F.dropout(h, self.options["head_dropout"], self.training)).float()

    def value(self, outputs: Float[Tensor, "n 1"]) -> Float[Tensor, "n"]:
        """A regression's outputs in the target's own unit."""
        return outputs[:, 0] * self.target_std + self.target_mean


def task_loss(model: GraphNet, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean cross-entropy, or mean squared error of the scaled value, and the number of cases."""
    return outputs_loss(model, model(batch), batch)


def outputs_loss(
    model: GraphNet, out: Float[Tensor, "n T"], batch: Batch
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The same of outputs that are there already."""
    target = batch["target"]
    count = torch.tensor(float(len(target)), device=out.device)
    if target.dtype == torch.int64:
        return F.cross_entropy(out, target), count
    return F.mse_loss(out[:, 0], (target - model.target_mean) / model.target_std), count
