"""The network of link prediction: embeddings of nodes, a score of two of them, and classical scores beside it.

B = 1 graph, N nodes, n links, K candidates of each, H similarity scores, C width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared_backbones.backbone import Backbone, Tokens
from shared_backbones.errors import unknown
from shared_backbones.presets import Preset

from ..task import Batch, Fitted
from .model import STEMS, Stem, edge_width, options_of


class LinkNet(nn.Module):
    """logit(i, j) = linear map of similarity scores + gate * MLP of what the embeddings of i and j share."""

    gate: Tensor
    score_mean: Tensor
    score_std: Tensor

    def __init__(self, fitted: Fitted, preset: Preset) -> None:
        super().__init__()
        if preset.stem not in STEMS:
            raise unknown("stem of graph/link", preset.stem, STEMS)
        options = options_of(preset)
        sentences = [layer.mixer_options for stage in preset.backbone.stages for layer in stage.layers]
        self.stem = Stem(fitted, preset.backbone.stages[0].dim, edge_width(sentences), options)
        self.backbone = Backbone(preset.backbone, Tokens(rank=1, ordered=False, provides=frozenset({"edges"})))
        dim, self.directed = self.backbone.dim, bool(fitted["directed"])
        self.dropout = nn.Dropout(float(options["head_dropout"]))
        self.pair = nn.Sequential(nn.Linear((3 if self.directed else 2) * dim, dim), nn.ReLU(), nn.Linear(dim, 1))
        self.similarity = nn.Linear(len(fitted["score_mean"]), 1)
        self.register_buffer("gate", torch.ones(()))
        self.register_buffer("score_mean", torch.tensor(fitted["score_mean"]))
        self.register_buffer("score_std", torch.tensor(fitted["score_std"]))

    def embed(self, batch: Batch) -> Float[Tensor, "N C"]:
        """Every node of the batch."""
        x, layout = self.stem(batch)
        return self.backbone(x, layout)[0][0]

    def parts(
        self, h: Float[Tensor, "N C"], pairs: Int[Tensor, "n K 2"], scores: Float[Tensor, "n K H"]
    ) -> tuple[Float[Tensor, "n K"], Float[Tensor, "n K"]]:
        """Logits from similarity scores, and from embeddings."""
        a, b = h[pairs[..., 0]], h[pairs[..., 1]]
        both = [a, b, a * b] if self.directed else [a * b, (a - b).abs()]
        learnt = self.pair(self.dropout(torch.cat(both, -1)))[..., 0]
        return self.similarity((scores - self.score_mean) / self.score_std)[..., 0], learnt

    def forward(self, batch: Batch) -> Float[Tensor, "n K"]:
        start, learnt = self.parts(self.embed(batch), batch["pairs"], batch["scores"])
        return start + self.gate * learnt


def link_loss(model: LinkNet, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean cross-entropy of links (the first candidate) and of their negatives, each half; and the number of links."""
    logits, there = model(batch), batch["there"]
    links = F.softplus(-logits[:, 0])
    others = F.softplus(logits[:, 1:]).masked_fill(~there, 0.0).sum(1) / there.sum(1).clamp_min(1)
    return 0.5 * (links + others).mean(), logits.new_tensor(float(len(logits)))
