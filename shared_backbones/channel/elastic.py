"""Channel layers whose width can change after training: narrower by a prefix, wider by appended parameters.

Shapes: B items, N tokens, C channels, H hidden channels, P parameter tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import BadRequest
from ..layout import Layout
from ..mixers.base import at_least
from .base import Channel, hidden_of
from .mlp import MLP


class Nested(Channel):
    """y = W2[:, :m] gelu(W1[:m] x): an MLP whose first m hidden units are themselves a trained MLP.

    "MatFormer: Nested Transformer for Elastic Inference" (Devvrit et al. 2024). ``width`` is the share in use, 1 at the
    start; :func:`set_widths` changes it (one draw per training step, or a choice per layer), :func:`extract` makes a
    plain MLP of it.
    """

    def __init__(self, dim: int, ratio: float = 4.0) -> None:
        super().__init__()
        hidden = hidden_of(dim, ratio)
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.width = 1.0

    def units(self) -> int:
        """Hidden units in use."""
        return max(1, round(self.width * self.up.out_features))

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        m = self.units()
        hidden = F.gelu(F.linear(layout.clean(x), self.up.weight[:m], self.up.bias[:m]))
        return F.linear(hidden, self.down.weight[:, :m], self.down.bias)


def nested_layers(model: nn.Module) -> list[Nested]:
    """The nested layers of a model, in the order of its modules."""
    return [m for m in model.modules() if isinstance(m, Nested)]


def set_widths(model: nn.Module, *shares: float) -> None:
    """Sets the share of hidden units in use: one for all nested layers, or one for each.

    Raises BadRequest for another number of shares, or one outside (0, 1].
    """
    layers = nested_layers(model)
    if len(shares) not in (1, len(layers)):
        raise BadRequest(f"give one share, or one for each of the {len(layers)} nested layers; got {len(shares)}")
    if any(not 0 < share <= 1 for share in shares):
        raise BadRequest(f"shares must lie in (0, 1], got {shares}")
    for layer, share in zip(layers, shares * (1 if len(shares) > 1 else len(layers)), strict=True):
        layer.width = share


def extract(layer: Nested) -> MLP:
    """A plain MLP with the hidden units in use: the same function, without the rest of the weights."""
    m, dim = layer.units(), layer.up.in_features
    mlp = MLP(dim, m / dim)
    mlp.load_state_dict(
        {
            "up.weight": layer.up.weight[:m].detach(),
            "up.bias": layer.up.bias[:m].detach(),
            "down.weight": layer.down.weight[:, :m].detach(),
            "down.bias": layer.down.bias.detach(),
        }
    )
    return mlp.to(layer.up.weight)


class ParameterTokens(Channel):
    """y = gelu(sqrt(P0) s / |s|) V with s = x K^T: each token attends to P learned pairs of key and value.

    "TokenFormer: Rethinking Transformer Scaling with Tokenized Model Parameters" (Wang et al. 2025). P0 is the number
    of pairs at the start and stays: :func:`grow` appends pairs with zero keys, whose scores are 0, so that the larger
    layer begins as the same function.

    ratio: P0 over C.
    """

    def __init__(self, dim: int, ratio: float = 4.0) -> None:
        super().__init__()
        count = hidden_of(dim, ratio)
        self.keys = nn.Parameter(torch.randn(count, dim) * dim**-0.5)
        self.values = nn.Parameter(torch.randn(count, dim) * count**-0.5)
        self.scale = count**0.5

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        scores = layout.clean(x) @ self.keys.mT
        return F.gelu(F.normalize(scores, dim=-1) * self.scale) @ self.values


def grow(layer: ParameterTokens, pairs: int) -> None:
    """Appends ``pairs`` parameter pairs in place; the function stays the same. Build the optimiser anew afterwards."""
    at_least("pairs", pairs, 1)
    keys, values = layer.keys, layer.values
    fresh = torch.randn(pairs, values.shape[1], dtype=values.dtype, device=values.device) * values.shape[0] ** -0.5
    layer.keys = nn.Parameter(torch.cat([keys.detach(), torch.zeros_like(fresh)]))
    layer.values = nn.Parameter(torch.cat([values.detach(), fresh]))


__all__ = ["Nested", "ParameterTokens", "extract", "grow", "nested_layers", "set_widths"]
