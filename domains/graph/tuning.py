"""Sparse-GIN tuning: a finished model stays as it is; small graph networks on its own attention are learned beside it.

"Graph-Aware Isomorphic Attention for Adaptive Dynamics in Transformers" (Buehler 2025): the attention of all heads,
cut below a learned threshold, is the adjacency of a graph that a graph isomorphism network reads. What it finds is
added with a learned scale that starts at 0, so tuning starts from the very function that was trained.
B items, N tokens, C channels, H heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shared_backbones.errors import BadInput, BadRequest
from shared_backbones.layout import Layout
from shared_backbones.mixers.attention import Attention, hidden
from shared_backbones.mixers.base import Mixer

from .data.tensors import read_weights

START = 1.0  # the threshold, in multiples of an even share of attention
NARROW = 4  # C over the hidden width


class SparseGin(Mixer):
    """y = base(X) + s MLP((1 + e) X + A X), A = relu(n a - t), n a: mean attention of all heads over an even share.

    Rows of A are divided by their sum. Only s, e, t and the MLP learn.
    """

    def __init__(self, base: Attention, dim: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        for fact in ("ranks", "sets", "causal_axes", "needs", "rank", "causal"):
            setattr(self, fact, getattr(base, fact))
        hidden_width = max(1, dim // NARROW)
        self.scale, self.own = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
        self.threshold = nn.Parameter(torch.tensor(START))
        self.mlp = nn.Sequential(nn.Linear(dim, hidden_width), nn.ReLU(), nn.Linear(hidden_width, dim))

    def adjacency(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N N"]:
        """The sparse graph of the frozen attention: rows sum to 1, or to 0 where nothing passes the threshold."""
        with torch.no_grad():
            q, k, _ = self.base.project(x, layout)
            scores, seen = (q * q.shape[-1] ** -0.5) @ k.mT, self.base.seen(layout, q.device)
            bias = self.base.position.bias(layout, q)
            a = hidden(scores if bias is None else scores + bias, seen).softmax(-1).mean(1)
            if seen is not None:
                a = a.masked_fill(~seen[:, 0], 0.0)
            keys = a.shape[-1] if seen is None else seen[:, 0].sum(-1, keepdim=True)
        cut = torch.relu(a * keys - self.threshold)
        return cut / cut.sum(-1, keepdim=True).clamp_min(1e-6)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        clean = layout.clean(x)
        around = self.adjacency(x, layout).to(x.dtype) @ clean
        return self.base(x, layout) + self.scale * self.mlp((1 + self.own) * clean + around)


def attach(model: nn.Module, dim: int) -> list[str]:
    """Puts a SparseGin around every attention of a model and freezes all else; returns where.

    Raises BadRequest where there is no attention on all tokens.
    """
    model.requires_grad_(False)
    found = [name for name, part in model.named_modules() if type(part) is Attention]
    if not found:
        raise BadRequest("tune_from adds to attention, and the preset has none; take one with it, such as graph_gps")
    for name in found:
        above, _, last = name.rpartition(".")
        parent = model.get_submodule(above)
        base = parent.get_submodule(last)
        assert isinstance(base, Attention)
        setattr(parent, last, SparseGin(base, dim).to(next(base.parameters()).device))
    return found


def load_base(model: nn.Module, run: Path) -> None:
    """The weights of a finished run (its folder) into a model with attached parts.

    Raises BadInput where there are none, or they are of another preset or other data.
    """
    path = run / "model.safetensors"
    if not path.is_file():
        raise BadInput(f"{run}: no model.safetensors there; tune_from is the folder of a finished run")
    weights: Mapping[str, Tensor] = read_weights(path)
    parts = [f"{name}." for name, part in model.named_modules() if isinstance(part, SparseGin)]

    def placed(name: str) -> str:
        part = next((p for p in parts if name.startswith(p)), "")
        return f"{part}base.{name[len(part) :]}" if part else name

    own = model.state_dict()
    found = {placed(name): value for name, value in weights.items()}
    added = {name for p in parts for name in own if name.startswith(p) and not name.startswith(f"{p}base.")}
    odd = sorted(set(found) ^ (set(own) - added)) or [n for n, v in found.items() if v.shape != own[n].shape]
    if odd:
        raise BadInput(f"{path}: the weights of another preset or of other data: {', '.join(odd[:3])} do not fit")
    model.load_state_dict({**own, **found})
