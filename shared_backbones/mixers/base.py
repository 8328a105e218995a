"""The Mixer contract: one signature and declared facts, checked when a model is built."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import BadRequest
from ..layout import Layout

Mode = Literal["parallel", "chunk", "recurrent"]
State = dict[str, Tensor]
ALL_RANKS = frozenset({1, 2, 3})


class Mixer(nn.Module):
    """Mixes the tokens of each item: ``forward(x, layout) -> x`` on (B, N, C), channel-last.

    Facts that a class declares, and that :func:`~shared_backbones.mixers.build_mixer` holds a request to:

    ranks: numbers of lattice axes that it accepts.
    causal_axes: axes along which it *can* be causal; what an instance *is* stands in ``self.causal``.
    sets: whether it accepts unordered tokens (a set or a graph), and is then permutation-equivariant.
    cross: whether it can read a second token set.
    needs: what the layout must carry ("positions", "edges").
    cost: time in N tokens, E edges and d channels, such as "O(N^2 d + N d^2)".
    exports_mask: whether torch.export can trace it with a mask (not where the mask's values decide shapes).
    """

    ranks: ClassVar[frozenset[int]] = ALL_RANKS
    causal_axes: ClassVar[frozenset[int]] = frozenset()
    sets: ClassVar[bool] = False
    cross: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    cost: ClassVar[str] = "O(N d^2)"
    exports_mask: ClassVar[bool] = True

    causal: frozenset[int] = frozenset()
    rank: int | None = None  # the one rank that the parameters were made for; None: they serve every rank

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        """Mixed tokens. What stands at masked tokens never reaches the real ones."""
        raise NotImplementedError

    def state_size(self, n: int) -> int:
        """Numbers kept per item after n tokens, to go on with token n + 1 (0: nothing is carried)."""
        return 0

    def check(self, layout: Layout) -> None:
        """Raise BadRequest where the layout lacks what this mixer needs."""
        name = type(self).__name__
        if layout.rank not in self.ranks:
            raise BadRequest(f"{name} accepts lattices of rank {sorted(self.ranks)}, got axes {layout.axes}")
        if self.rank is not None and layout.rank != self.rank:
            raise BadRequest(f"this {name} was built for rank {self.rank}, got axes {layout.axes}: build it with rank=")
        if not layout.ordered and not self.sets:
            raise BadRequest(f"{name} needs tokens on a lattice, got an unordered set (Layout.ordered is False)")
        for need in sorted(self.needs):
            if getattr(layout, need) is None:
                raise BadRequest(f"{name} needs Layout.{need}, got None")


class StateMixer(Mixer):
    """A mixer that carries a state of fixed size along the tokens, in three equal forms.

    ``forward(..., mode=)`` gives the same values as one dense product ("parallel"), block by block ("chunk")
    or token by token ("recurrent"). :meth:`stream` continues from a state, so that a long input may come in pieces.
    """

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout, mode: Mode = "chunk") -> Float[Tensor, "B N C"]:
        raise NotImplementedError

    def init_state(self, batch: int) -> State:
        """The state before the first token, for ``batch`` items."""
        raise NotImplementedError

    def step(self, x_t: Float[Tensor, "B C"], state: State) -> tuple[Float[Tensor, "B C"], State]:
        """One token in, one out, and the state after it."""
        raise NotImplementedError

    def stream(self, x: Float[Tensor, "B N C"], state: State) -> tuple[Float[Tensor, "B N C"], State]:
        """A piece of a longer input: equal to the same span of one whole forward pass."""
        outputs = []
        for x_t in x.unbind(1):
            y_t, state = self.step(x_t, state)
            outputs.append(y_t)
        return torch.stack(outputs, 1), state


def heads_of(dim: int, heads: int | None) -> int:
    """Number of heads: as asked, or by default the largest divisor of ``dim`` up to 4.

    Raises BadRequest when ``heads`` does not divide ``dim``.
    """
    if heads is None:
        return next(h for h in (4, 3, 2, 1) if dim % h == 0)
    if heads < 1 or dim % heads:
        raise BadRequest(f"heads must divide dim, got heads={heads} and dim={dim}")
    return heads


def split_heads(x: Float[Tensor, "*B N C"], heads: int) -> Float[Tensor, "*B H N D"]:
    """Channels cut into heads: (..., N, C) -> (..., H, N, C / H)."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def join_heads(x: Float[Tensor, "*B H N D"]) -> Float[Tensor, "*B N C"]:
    """The inverse of :func:`split_heads`. It joins by copying: a view would bind an exported graph to the memory
    order in which attention happened to return its result while it was traced."""
    return torch.cat(x.unbind(-3), -1)


def at_least(name: str, value: int, least: int) -> int:
    """``value`` of the option ``name``; raises BadRequest below ``least``."""
    if value < least:
        raise BadRequest(f"{name} must be at least {least}, got {value}")
    return value
