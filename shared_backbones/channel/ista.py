"""A channel layer that is one step of an optimisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import BadRequest
from ..layout import Layout
from .base import Channel


class Ista(Channel):
    """y = relu(x + step D^T (x - D x) - step sparsity): one step towards a sparse code of x in a dictionary D, C x C.

    The sparsifying half of "White-Box Transformers via Sparse Rate Reduction" (Yu et al. 2023). It replaces the tokens,
    so a block with it is a serial mixer ``[{mixer: residual, norm: layer, inner: {mixer: subspace}}, {mixer: norm},
    {mixer: feed_forward, layer: ista}]`` with ``channel: none``, ``placement: plain`` and ``norm: none``.
    """

    def __init__(self, dim: int, step: float = 0.1, sparsity: float = 0.1) -> None:
        super().__init__()
        if step <= 0 or sparsity < 0:
            raise BadRequest(f"step must be positive and sparsity not negative, got step={step}, sparsity={sparsity}")
        self.step, self.sparsity = step, sparsity
        self.dictionary = nn.Parameter(torch.empty(dim, dim))
        nn.init.kaiming_uniform_(self.dictionary)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        missing = x - F.linear(x, self.dictionary)
        return F.relu(x + self.step * F.linear(missing, self.dictionary.mT) - self.step * self.sparsity)
