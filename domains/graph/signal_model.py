"""The model of node signals: a closed form over lags and neighbours, and a backbone over the nodes for what is left.

B windows, N nodes, L lags, E arcs.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from domains.task import Batch, Fitted
from shared_backbones.backbone import Backbone, Tokens
from shared_backbones.errors import BadRequest, unknown
from shared_backbones.layout import Layout
from shared_backbones.presets import Preset

OPTIONS = ("dropout",)


def repeated(edges: Tensor, items: int, nodes: int) -> Tensor:
    """Arcs of one graph as arcs of ``items`` copies side by side: (2, E) -> (2, items * E)."""
    shift = nodes * torch.arange(items, device=edges.device)
    return (edges[:, None] + shift[:, None]).flatten(1)


class SignalModel(nn.Module):
    """Windows in the units of the file -> the next value of every node, z-scored.

    forecast = closed form + gate * backbone; ``gate`` and ``width`` (of the 90 % interval) are set on validation.
    """

    mean: Float[Tensor, "N"]
    std: Float[Tensor, "N"]
    edges: Tensor
    near: Float[Tensor, "N N"]
    weight: Float[Tensor, "3 L"]
    gate: Float[Tensor, ""]
    width: Float[Tensor, "N"]

    def __init__(self, fitted: Fitted, preset: Preset) -> None:
        super().__init__()
        for name in preset.model:
            if name not in OPTIONS:
                raise unknown("model option of graph/signals", name, OPTIONS)
        if preset.stem != "signals":
            raise BadRequest(f"graph/signals has the stem 'signals', preset {preset.name!r} asks for {preset.stem!r}")
        nodes, lags = len(fitted["names"]), int(fitted["lags"])
        self.register_buffer("mean", torch.tensor(fitted["mean"], dtype=torch.float64))
        self.register_buffer("std", torch.tensor(fitted["std"], dtype=torch.float64))
        self.register_buffer("edges", torch.tensor(fitted["edges"], dtype=torch.long).reshape(2, -1))
        near = torch.zeros(nodes, nodes).index_put((self.edges[1], self.edges[0]), torch.ones(()), accumulate=True)
        self.register_buffer("near", near / near.sum(1, keepdim=True).clamp_min(1))
        self.register_buffer("weight", torch.zeros(3, lags))
        self.register_buffer("gate", torch.ones(()))
        self.register_buffer("width", torch.zeros(nodes))
        tokens = Tokens(rank=1, ordered=False, provides=frozenset({"edges"}))
        self.backbone = Backbone(preset.backbone, tokens)
        self.embed = nn.Linear(lags, self.backbone.dim_in)
        self.dropout = nn.Dropout(float(preset.model.get("dropout", 0.1)))
        self.head = nn.Linear(self.backbone.dim, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def scaled(self, x: Float[Tensor, "B N *L"]) -> Float[Tensor, "B N *L"]:
        """The units of the file -> z-scored."""
        shape = (-1,) + (1,) * (x.ndim - 2)
        return ((x - self.mean.reshape(shape)) / self.std.reshape(shape)).float()

    def parts(self, batch: Batch) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
        """The closed form, and the backbone's correction."""
        x = self.scaled(batch["past"])
        start = x @ self.weight[0] + torch.einsum("ij,bj->bi", self.near, x @ self.weight[1])
        start = start + (x @ self.weight[2]).mean(1, keepdim=True)
        layout = Layout((x.shape[1],), ordered=False, edges=repeated(self.edges, x.shape[0], x.shape[1]))
        tokens, _ = self.backbone(self.dropout(self.embed(x)), layout)
        return start, self.head(self.dropout(tokens))[..., 0]

    def forward(self, batch: Batch) -> Float[Tensor, "B N"]:
        start, correction = self.parts(batch)
        return start + self.gate * correction
