"""Heads: the tokens of a backbone -> one vector of scores per item.

Shapes: B items, N tokens, C channels, K scores.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from .errors import unknown
from .layout import Layout
from .mixers.base import at_least
from .mixers.convolution import activation
from .tokenizers import SequencePool


class MeanPool(nn.Module):
    """The mean over the real tokens."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B C"]:
        return layout.clean(x).sum(1) / layout.counts(x)[:, 0]


class LastPool(nn.Module):
    """The last real token: what has seen all others in a causal model."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B C"]:
        if layout.mask is None:
            return x[:, -1]
        last = (layout.mask.cumsum(1) * layout.mask).argmax(1)
        return layout.clean(x).gather(1, last[:, None, None].expand(-1, 1, x.shape[-1]))[:, 0]


POOLS: dict[str, Callable[[int], nn.Module]] = {"mean": MeanPool, "sequence": SequencePool, "last": LastPool}


class ClassHead(nn.Module):
    """y = W2 act(W1 pool(x)), or W pool(x) without a hidden layer.

    pool: "mean", "sequence" (a learned average) or "last"; hidden: width of the hidden layer, 0 for none; norm: whether
    the pooled vector is normalised first; classifiers: how many last maps give their mean, such as the two of a model
    that was distilled: "Training data-efficient image transformers" (Touvron et al. 2021).
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        pool: str = "mean",
        hidden: int = 0,
        act: str = "gelu",
        norm: bool = False,
        classifiers: int = 1,
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise unknown("pool", pool, POOLS)
        self.pool, self.act = POOLS[pool](dim), activation(act)
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()
        self.hidden = nn.Linear(dim, hidden) if hidden else None
        self.classifiers = at_least("classifiers", classifiers, 1)
        self.scores = nn.Linear(hidden or dim, classifiers * classes)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B K"]:
        y = self.norm(self.pool(x, layout))
        scores = self.scores(y if self.hidden is None else self.act(self.hidden(y)))
        return scores.unflatten(-1, (self.classifiers, -1)).mean(-2)


__all__ = ["POOLS", "ClassHead", "LastPool", "MeanPool"]
