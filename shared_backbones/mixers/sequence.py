"""What the causal mixers of a sequence have in common: one method gives every mode, a stream and an exported graph.

Shapes: B items, N tokens, C channels.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..layout import Layout
from .base import Mode, State, StateMixer
from .scans import loop


class Sequence(StateMixer):
    """A state mixer of rank 1, causal by nature; a subclass writes ``run`` and ``init_state``.

    On a grid it runs along lines or paths of the lattice: see ``directions``.

    chunk: tokens that the subclass takes at once.
    """

    ranks: ClassVar[frozenset[int]] = frozenset({1})
    causal_axes: ClassVar[frozenset[int]] = frozenset({0})
    causal: frozenset[int] = frozenset({0})
    chunk: int
    out: nn.Linear

    def run(
        self, x: Float[Tensor, "B N C"], layout: Layout, state: State, block: int
    ) -> tuple[Float[Tensor, "B N C"], State]:
        """The tokens after ``state``, ``block`` of them at a time, and the state after the last."""
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout, mode: Mode = "chunk") -> Float[Tensor, "B N C"]:
        """The three modes differ in how many tokens are taken at once."""
        self.check(layout)
        state, n = self.init_state(x.shape[0]), x.shape[1]
        if torch.compiler.is_exporting():
            return self._exported(layout.clean(x), layout, state)
        block = {"parallel": n, "chunk": min(self.chunk, n), "recurrent": 1}[mode]
        return self.run(layout.clean(x), layout, state, block)[0]

    def stream(self, x: Float[Tensor, "B N C"], state: State) -> tuple[Float[Tensor, "B N C"], State]:
        return self.run(x, Layout((x.shape[1],)), state, min(self.chunk, x.shape[1]))

    def step(self, x_t: Float[Tensor, "B C"], state: State) -> tuple[Float[Tensor, "B C"], State]:
        y, state = self.run(x_t[:, None], Layout((1,)), state, 1)
        return y[:, 0], state

    def state_size(self, n: int) -> int:
        return sum(t.numel() for t in self.init_state(1).values())

    def _exported(self, x: Tensor, layout: Layout, state: State) -> Tensor:
        """Token by token."""
        names = sorted(state)
        inputs = {"x": x, "mask": layout.mask, "positions": layout.positions}
        given = {name: t.movedim(1, 0) for name, t in inputs.items() if t is not None}

        def body(carry: list[Tensor], tokens: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            token = {name: t[:, None] for name, t in zip(given, tokens, strict=True)}
            here = Layout((1,), mask=token.get("mask"), positions=token.get("positions"))
            y, after = self.run(token["x"], here, dict(zip(names, carry, strict=True)), 1)
            return [after[name].clone() for name in names], [y[:, 0].clone()]

        return loop(body, [state[name] for name in names], list(given.values()))[1][0].movedim(0, 1)


class ShortConv(nn.Module):
    """A causal depthwise convolution over the last ``width`` tokens; its state is the ``width - 1`` before."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.conv = nn.Conv1d(dim, dim, width, groups=dim)

    def init_state(self, batch: int) -> Float[Tensor, "B W C"]:
        return self.conv.weight.new_zeros(batch, self.width - 1, self.conv.in_channels)

    def forward(
        self, x: Float[Tensor, "B N C"], before: Float[Tensor, "B W C"]
    ) -> tuple[Float[Tensor, "B N C"], Float[Tensor, "B W C"]]:
        seen = torch.cat([before.to(x.dtype), x], 1)
        y = self.conv(seen.mT).mT
        return y, seen[:, seen.shape[1] - self.width + 1 :]


def split_heads(x: Float[Tensor, "B N C"], heads: int) -> Float[Tensor, "B H N D"]:
    """(B, N, H D) -> (B, H, N, D)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Float[Tensor, "B H N D"]) -> Float[Tensor, "B N C"]:
    """The inverse of :func:`split_heads`."""
    return x.transpose(1, 2).flatten(2)


def masked_heads(x: Float[Tensor, "B H N"], layout: Layout) -> Float[Tensor, "B H N"]:
    """Zeros at masked tokens of a gate per head: a decay of 1, nothing written."""
    return x if layout.mask is None else x.masked_fill(~layout.mask[:, None], 0.0)


def head_norm(y: Float[Tensor, "B H N D"]) -> Float[Tensor, "B H N D"]:
    """Every head of every token to a root mean square of 1."""
    return F.rms_norm(y, y.shape[-1:], eps=1e-6)


def elu1(x: Tensor) -> Tensor:
    """elu(x) + 1 > 0."""
    return F.elu(x) + 1
