"""Layout: what the tokens of a (B, N, C) tensor stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """What an (B, N, C) token tensor stands for.

    axes: lattice sizes, product N: a sequence is ``(T,)``, an image ``(H, W)``, a cube ``(bands, H, W)``.
    ordered: False for a set or a graph, whose ``axes`` is ``(N,)`` and whose token order means nothing.
    mask: True where a token is real; None when all are.
    positions: real coordinates of the tokens (seconds, nm, metres), k of them per token.
    edges: (source, target) pairs of indices into the flattened B*N tokens; ``edge_attr`` one row per edge.
    source: which task, domain or sensor each item comes from, counted from 0; what experts are chosen by.
    """

    axes: tuple[int, ...]
    ordered: bool = True
    mask: Bool[Tensor, "B N"] | None = None
    positions: Float[Tensor, "B N k"] | None = None
    edges: Int[Tensor, "2 E"] | None = None
    edge_attr: Float[Tensor, "E F"] | None = None
    source: Int[Tensor, "B"] | None = None

    @property
    def rank(self) -> int:
        """Number of lattice axes."""
        return len(self.axes)

    @property
    def size(self) -> int:
        """Number of tokens N per item."""
        return math.prod(self.axes)

    def fold(self, x: Shaped[Tensor, "B N C"]) -> Shaped[Tensor, "B *axes C"]:
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
            return x.new_ones(x.shape[0], 1, 1) * x.shape[1]  # not new_full: an exported graph would fix the number
        return self.mask.sum(1).clamp_min(1).to(x.dtype)[:, None, None]

    def over(self, *axes: int) -> AxisView:
        """The lattice as many smaller ones along some of its axes (one: sequences); see :class:`AxisView`."""
        return AxisView(self, axes)

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
            source=moved(self.source),
        )


def extents(layout: Layout, mask: Tensor) -> Int[Tensor, "B rank"]:
    """Places from the origin to the last real token along each axis, at least 1: the true size of each item."""
    real = mask.reshape(-1, *layout.axes)
    sizes = []
    for axis, n in enumerate(layout.axes):
        others = [1 + other for other in range(layout.rank) if other != axis]
        seen = real.any(dim=others) if others else real
        sizes.append((torch.arange(1, n + 1, device=mask.device) * seen).amax(1))
    return torch.stack(sizes, 1).clamp_min(1)


@dataclass(frozen=True)
class AxisView:
    """A lattice seen as independent smaller lattices along ``axes``, one per place of the rest: split, mix, merge."""

    parent: Layout
    axes: tuple[int, ...]

    @property
    def rest(self) -> tuple[int, ...]:
        """The axes of the parent that the rows stand along, in order."""
        return tuple(i for i in range(self.parent.rank) if i not in self.axes)

    @property
    def size(self) -> int:
        """Tokens of one row."""
        return math.prod(self.parent.axes[i] for i in self.axes)

    def _rows(self, x: Tensor) -> Tensor:
        """(B, N, ...) -> (B * N/n, n, ...) with the places along the chosen axes second."""
        lattice = x.reshape(x.shape[0], *self.parent.axes, *x.shape[2:])
        lattice = lattice.permute(
            0, *(1 + i for i in self.rest + self.axes), *range(1 + self.parent.rank, lattice.ndim)
        )
        return lattice.reshape(-1, self.size, *x.shape[2:])

    def split(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "R n C"]:
        """(B, N, C) -> (R, n, C): one row per place of the other axes, R = B N / n."""
        return self._rows(x)

    def merge(self, rows: Float[Tensor, "R n C"]) -> Float[Tensor, "B N C"]:
        """The inverse of :meth:`split`."""
        order = self.rest + self.axes
        lattice = rows.reshape(-1, *(self.parent.axes[i] for i in order), rows.shape[-1])
        lattice = lattice.permute(0, *(1 + order.index(i) for i in range(len(order))), 1 + len(order))
        return lattice.reshape(lattice.shape[0], -1, rows.shape[-1])

    @property
    def layout(self) -> Layout:
        """The layout of the rows, with their share of the mask and of the positions (edges do not carry over).

        Where the parent has one coordinate per axis, those of the chosen axes come first.
        """
        mask, positions, source = self.parent.mask, self.parent.positions, self.parent.source
        if positions is not None and positions.shape[-1] == self.parent.rank:
            positions = positions[..., list(self.axes + self.rest)]
        return Layout(
            axes=tuple(self.parent.axes[i] for i in self.axes),
            ordered=self.parent.ordered,
            mask=None if mask is None else self._rows(mask),
            positions=None if positions is None else self._rows(positions),
            source=None
            if source is None
            else source.repeat_interleave(math.prod(self.parent.axes[i] for i in self.rest)),
        )
