"""Channel layers that use a part of their width per token.

Shapes: B items, N tokens, C channels, H hidden channels, S blocks of W hidden channels, K learners.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import BadRequest
from ..layout import Layout
from ..mixers.base import at_least
from .base import Channel, Router, hidden_of, precise


class TopK(Channel):
    """y = W2 top_k(relu(W1 x)): only the k largest hidden activations of each token are kept.

    "The Lazy Neuron Phenomenon: On Emergence of Activation Sparsity in Transformers" (Li et al. 2023).

    share: k over the hidden width. Of equal activations at the border the counted k are kept, never more.
    """

    def __init__(self, dim: int, ratio: float = 4.0, share: float = 0.1) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise BadRequest(f"share must lie in (0, 1], got {share}")
        hidden = hidden_of(dim, ratio)
        self.kept = max(1, round(share * hidden))
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        hidden = F.relu(precise(layout.clean(x), self.up.weight, self.up.bias))
        values, places = hidden.topk(self.kept, dim=-1)
        return self.down(torch.zeros_like(hidden).scatter(-1, places, values).to(x.dtype))


class HiddenRouting(Channel):
    """y = W2 (M (m * h)) with h = gelu(W1 x) in S blocks, of which a few are always on and others chosen per token.

    "Mixture of Hidden-Dimensions Transformer" (Chen et al. 2024), for the hidden width of this layer. m is 1 for the
    ``shared`` blocks; for the ``chosen`` routed ones of each token it is their softmax weight times their number;
    0 for the rest. The sum is scaled by S / (shared + chosen), so that its size does not hang on the sparsity, and M
    mixes the blocks place by place (it starts as the identity) to spread what was left out.

    blocks: S. The hidden width is the ratio times C, rounded up to whole blocks.
    """

    def __init__(self, dim: int, ratio: float = 4.0, blocks: int = 8, shared: int = 2, chosen: int = 2) -> None:
        super().__init__()
        at_least("chosen", chosen, 1), at_least("shared", shared, 0)
        if shared + chosen > blocks:
            raise BadRequest(f"shared + chosen must not exceed blocks, got {shared} + {chosen} and {blocks}")
        self.blocks, self.shared, self.chosen = blocks, shared, chosen
        hidden = -(-hidden_of(dim, ratio) // blocks) * blocks
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.router = Router(dim, blocks - shared)
        self.fuse = nn.Parameter(torch.eye(blocks))

    def gate(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N S"]:
        """m for every block, scaled by all over active blocks."""
        weights = self.router(x).softmax(-1)
        values, places = weights.topk(self.chosen, dim=-1)
        values = values / values.sum(-1, keepdim=True) * self.chosen
        routed = torch.zeros_like(weights).scatter(-1, places, values)
        always = torch.ones_like(weights[..., :1]).expand(*weights.shape[:-1], self.shared)
        return torch.cat([always, routed], -1) * (self.blocks / (self.shared + self.chosen))

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        hidden = F.gelu(self.up(x)).unflatten(-1, (self.blocks, -1)) * self.gate(x)[..., None].to(x.dtype)
        return self.down((self.fuse @ hidden).flatten(-2))


class AdaptiveChain(Channel):
    """y = sum of the first k learners, with k in 0 .. K chosen for each token by a gate.

    "Adaptive Computation Modules: Granular Conditional Computation For Efficient Inference" (Wojcik et al. 2024). Each
    learner is a small MLP. Training draws k from the gate's softmax with Gumbel noise; evaluation takes the most
    likely k, and runs each learner on those tokens alone that reach it. :meth:`prefixes` are what distillation fits
    to a trained layer, :func:`expected_learners` is what a budget is put on.

    learners: K. ratio: hidden width of all learners together, over C.
    """

    def __init__(self, dim: int, ratio: float = 4.0, learners: int = 4) -> None:
        super().__init__()
        hidden = max(1, hidden_of(dim, ratio) // at_least("learners", learners, 1))
        self.learners = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)) for _ in range(learners)
        )
        self.router = Router(dim, learners + 1)

    def chosen(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N K"]:
        """1 for every learner that a token runs, 0 for the others; its gradient is that of the softmax."""
        logits = self.router(x)
        if self.training:
            logits = logits - torch.log(-torch.log(torch.rand_like(logits).clamp(1e-9, 1 - 1e-7)))
        soft = logits.softmax(-1)
        hard = F.one_hot(logits.argmax(-1), logits.shape[-1]).to(soft.dtype)
        return reaches(hard + soft - soft.detach())

    def prefixes(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "K B N C"]:
        """The output after one learner, after two, and so on."""
        return torch.stack([learner(x) for learner in self.learners]).cumsum(0)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        runs = self.chosen(x).to(x.dtype)
        if torch.is_grad_enabled() or torch.compiler.is_exporting():  # a gate learns from what it left out too
            return torch.stack([m(x) * r[..., None] for m, r in zip(self.learners, runs.unbind(-1), strict=True)]).sum(
                0
            )
        tokens, y = x.flatten(0, 1), torch.zeros_like(x).flatten(0, 1)
        for learner, run in zip(self.learners, runs.flatten(0, 1).unbind(-1), strict=True):
            at = run.nonzero()[:, 0]
            y = y.index_add(0, at, learner(tokens[at]).to(y.dtype))
        return y.reshape(x.shape)


def reaches(choice: Float[Tensor, "*tokens K1"]) -> Float[Tensor, "*tokens K"]:
    """Weights of k = 0 .. K -> weights of "at least i learners run" for i = 1 .. K."""
    return choice.flip(-1).cumsum(-1).flip(-1)[..., 1:]


def expected_learners(logits: Float[Tensor, "*tokens K1"]) -> Float[Tensor, "*tokens"]:
    """How many learners the gate expects to run, from its logits: the quantity of a budget loss."""
    return reaches(logits.softmax(-1)).sum(-1)


__all__ = ["AdaptiveChain", "HiddenRouting", "TopK", "expected_learners", "reaches"]
