"""Layout: what the tokens of a (B, N, C) tensor stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """What an (B, N, C) token tensor stands for.

    axes: lattice sizes, product N: a sequence is ``(T,)``, an image ``(H, W)``, a cube ``(bands, H, W)``.
    ordered: False for a set or a graph, whose ``axes`` is ``(N,)`` and whose token order means nothing.
    mask: True where a token is real; None when all are.
    positions: real coordinates of the tokens (seconds, nm, metres), k of them per token.
    edges: (source, target) pairs of indices into the flattened B*N tokens; ``edge_attr`` one row per edge.
    """

    axes: tuple[int, ...]
    ordered: bool = True
    mask: Bool[Tensor, "B N"] | None = None
    positions: Float[Tensor, "B N k"] | None = None
    edges: Int[Tensor, "2 E"] | None = None
    edge_attr: Float[Tensor, "E F"] | None = None

    @property
    def rank(self) -> int:
        """Number of lattice axes."""
        return len(self.axes)

    @property
    def size(self) -> int:
        """Number of tokens N per item."""
        return math.prod(self.axes)

    def fold(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B *axes C"]:
        """Tokens back on their lattice: (B, N, C) -> (B, *axes, C)."""
        return x.reshape(x.shape[0], *self.axes, x.shape[-1])

    def unfold(self, x: Float[Tensor, "B *axes C"]) -> Float[Tensor, "B N C"]:
        """The inverse of :meth:`fold`."""
        return x.reshape(x.shape[0], -1, x.shape[-1])

    def clean(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        """``x`` with zeros at masked tokens, whatever stood there (NaN included)."""
        return x if self.mask is None else x.masked_fill(~self.mask[..., None], 0.0)

    def key_mask(self) -> Bool[Tensor, "B 1 1 N"] | None:
        """The mask as attention wants it, never expanded to N x N."""
        return None if self.mask is None else self.mask[:, None, None, :]

    def counts(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B 1 1"]:
        """Real tokens per item, at least 1, in the type of ``x``: the denominator of every average over tokens."""
        if self.mask is None:
            return x.new_full((x.shape[0], 1, 1), float(x.shape[1]))
        return self.mask.sum(1).clamp_min(1).to(x.dtype)[:, None, None]

    def over(self, axis: int) -> AxisView:
        """The lattice as many sequences along one axis; see :class:`AxisView`."""
        return AxisView(self, axis)

    def to(self, device: torch.device | str) -> Layout:
        """The same layout with its tensors on another device."""

        def moved(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device)

        return replace(
            self,
            mask=moved(self.mask),
            positions=moved(self.positions),
            edges=moved(self.edges),
            edge_attr=moved(self.edge_attr),
        )


@dataclass(frozen=True)
class AxisView:
    """A lattice seen as independent sequences along ``axis``: split, mix each, merge."""

    parent: Layout
    axis: int

    def _rows(self, x: Tensor) -> Tensor:
        """(B, N, ...) -> (B * N/n, n, ...) with the chosen axis second."""
        axes = self.parent.axes
        lattice = x.reshape(x.shape[0], *axes, *x.shape[2:]).movedim(1 + self.axis, len(axes))
        return lattice.reshape(-1, axes[self.axis], *x.shape[2:])

    def split(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "R n C"]:
        """(B, N, C) -> (R, n, C): one row per line of the lattice along the axis, R = B N / n."""
        return self._rows(x)

    def merge(self, rows: Float[Tensor, "R n C"]) -> Float[Tensor, "B N C"]:
        """The inverse of :meth:`split`."""
        axes = self.parent.axes
        rest = [n for i, n in enumerate(axes) if i != self.axis]
        lattice = rows.reshape(-1, *rest, axes[self.axis], rows.shape[-1]).movedim(len(axes), 1 + self.axis)
        return lattice.reshape(lattice.shape[0], -1, rows.shape[-1])

    @property
    def layout(self) -> Layout:
        """The layout of the rows, with their share of the mask and of the positions (edges do not carry over)."""
        mask, positions = self.parent.mask, self.parent.positions
        return Layout(
            axes=(self.parent.axes[self.axis],),
            ordered=self.parent.ordered,
            mask=None if mask is None else self._rows(mask),
            positions=None if positions is None else self._rows(positions),
        )
