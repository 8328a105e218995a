"""The network of temporal graphs: tokens of (node, patch), messages inside patches, attention across them.

A node's tokens stand along the patches of the past; ``message`` mixes inside a patch, ``over`` axis 1 across patches.
B blocks, n nodes, M patches, C width, Q queries, K candidates of each, H numbers of their history.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from shared_backbones.backbone import Backbone, Tokens
from shared_backbones.errors import unknown
from shared_backbones.layout import Layout
from shared_backbones.presets import Preset

from ..task import Batch, Fitted
from .model import edge_width
from .patches import NODE_INPUTS

OPTIONS: dict[str, Any] = {"dropout": 0.1}


class PatchNet(nn.Module):
    """Embeddings of the nodes of each block from its past, and of one that the past does not hold."""

    def __init__(self, fitted: Fitted, preset: Preset) -> None:
        super().__init__()
        for name in preset.model:
            if name not in OPTIONS:
                raise unknown("model option of temporal graphs", name, OPTIONS)
        if preset.stem != "interactions":
            raise unknown("stem of temporal graphs", preset.stem, ("interactions",))
        self.patches = int(fitted["patches"])
        sentences = [layer.mixer_options for stage in preset.backbone.stages for layer in stage.layers]
        width = edge_width(sentences)
        tokens = Tokens(rank=2, provides=frozenset({"edges"}))
        self.backbone = Backbone(preset.backbone, tokens)
        dim_in, dim = self.backbone.dim_in, self.backbone.dim
        self.embed = nn.Linear(NODE_INPUTS, dim_in)
        self.place = nn.Parameter(0.1 * torch.randn(self.patches, dim_in))  # the temporal position of a patch
        self.edge = nn.Linear(int(fitted["edge_inputs"]), width) if width else None
        self.absent = nn.Parameter(torch.zeros(dim))
        self.dropout = nn.Dropout(float({**OPTIONS, **preset.model}["dropout"]))

    def forward(self, batch: Batch) -> Float[Tensor, "R C"]:
        """(B * (n + 1), C): the mean of each node's tokens over the patches that it is in; see patches.joined."""
        inputs, mask = batch["inputs"], batch["present"]
        blocks, nodes = inputs.shape[:2]
        x = (self.embed(inputs) + self.place).flatten(1, 2)
        attr = None if self.edge is None else self.edge(batch["edge_attr"])
        layout = Layout((nodes, self.patches), mask=mask, edges=batch["edges"], edge_attr=attr)
        x, _ = self.backbone(self.dropout(layout.clean(x)), layout)
        real = mask.reshape(blocks, nodes, self.patches, 1).to(x.dtype)
        x = layout.clean(x).reshape(blocks, nodes, self.patches, -1)
        mean = (x * real).sum(2) / real.sum(2).clamp_min(1)
        absent = self.absent.to(mean.dtype).expand(blocks, 1, -1)
        return torch.cat([mean, absent], 1).flatten(0, 1)


class FutureNet(nn.Module):
    """A score per candidate: a linear map of its history, and gate * MLP of what source and candidate have become.

    With one candidate per query, the source itself, it scores the state of the source.
    """

    gate: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, fitted: Fitted, preset: Preset) -> None:
        super().__init__()
        self.past = PatchNet(fitted, preset)
        dim, width = self.past.backbone.dim, len(fitted["input_mean"])
        self.history = nn.Linear(width, 1)
        self.score = nn.Sequential(nn.Linear(3 * dim + width, dim), nn.ReLU(), nn.Linear(dim, 1))
        self.register_buffer("gate", torch.ones(()))
        self.register_buffer("mean", torch.tensor(fitted["input_mean"]))
        self.register_buffer("std", torch.tensor(fitted["input_std"]))

    def parts(self, batch: Batch) -> tuple[Float[Tensor, "Q K"], Float[Tensor, "Q K"]]:
        """Logits from the history of each candidate alone, and from the network."""
        z = self.past(batch)[batch["at"]]  # (Q, 1 + K, C): the source, then its candidates
        source, other = z[:, :1].expand_as(z[:, 1:]), z[:, 1:]
        x = (batch["history"] - self.mean) / self.std
        learnt = self.score(torch.cat([source, other, source * other, x], -1))[..., 0]
        return self.history(x)[..., 0], learnt

    def forward(self, batch: Batch) -> Float[Tensor, "Q K"]:
        start, learnt = self.parts(batch)
        return start + self.gate * learnt


def future_loss(model: FutureNet, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean cross-entropy of the true partner (the first candidate) among all, and the number of interactions."""
    z = model(batch)
    hidden = F.pad(~batch["there"], (1, 0))
    return F.cross_entropy(z.masked_fill(hidden, -1e9), z.new_zeros(len(z), dtype=torch.long)), z.new_tensor(
        float(len(z))
    )


def state_loss(model: FutureNet, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean cross-entropy of the state of the source, and the number of labelled interactions."""
    z, y = model(batch)[:, 0], batch["label"]
    known = ~y.isnan()
    each = F.binary_cross_entropy_with_logits(z, y.nan_to_num().to(z.dtype), reduction="none")
    count = known.sum().to(z.dtype)
    return each.masked_fill(~known, 0.0).sum() / count.clamp_min(1), count
