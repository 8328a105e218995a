"""A mixer of sequences on a lattice of any rank: along paths that visit every token, there and back.

Shapes: B items, N tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..errors import BadRequest
from ..layout import Layout
from .base import ALL_RANKS
from .combine import Combined, Sentence


class Directions(Combined):
    """y = sum over paths p of P_p^-1 m_p(P_p x): each path puts the tokens in another order, with a mixer of its own.

    A path is the raster order in which one axis runs fastest; with ``back`` also reversed. Two paths serve a sequence
    (bidirectional), four an image: the cross-scan of "VMamba: Visual State Space Model" (Liu et al. 2024). On a path
    the real tokens stand first, so that a masked one costs no step and padding changes nothing.

    back: each path in reverse too. cross: paths for every axis, else only the last one runs fastest.
    tied: one mixer for all paths, as the weight-tied passes of "Bio-xLSTM" (Schmidinger et al. 2024).
    """

    ranks: ClassVar[frozenset[int]] = ALL_RANKS
    causal_axes: ClassVar[frozenset[int]] = frozenset()
    sets: ClassVar[bool] = False
    cost: ClassVar[str] = "O(N d^2)"

    def __init__(
        self,
        dim: int,
        inner: Sentence = "scan",
        back: bool = True,
        cross: bool = True,
        tied: bool = False,
        rank: int = 1,
        provides: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        fastest = range(rank) if cross else [rank - 1]
        self.paths = [(axis, way) for axis in fastest for way in ((False, True) if back else (False,))]
        known = None if provides is None else set(provides) - {"edges"} - (set() if rank == 1 else {"positions"})
        self.inner = nn.ModuleList(
            self.part(inner, dim, rank=1, ordered=True, causal_axes=(), provides=known)
            for _ in range(1 if tied else len(self.paths))
        )
        parts = list(self.inner)
        if any("edges" in part.needs for part in parts):  # type: ignore[operator]
            raise BadRequest("a part of 'directions' sees a path of tokens, and edges do not carry over to it")
        self.derive(parts, ranks=ALL_RANKS, sets=False, causal_axes=frozenset(), rank=rank)  # type: ignore[arg-type]

    def order(self, layout: Layout, axis: int, back: bool, device: torch.device) -> Int[Tensor, "#B N"]:
        """Which token stands at each step of a path, masked ones last."""
        places = torch.arange(layout.size, device=device).reshape(layout.axes).movedim(axis, -1).flatten()
        order = (places.flip(0) if back else places)[None]
        if layout.mask is None:
            return order
        gone = ~layout.mask[:, order[0]]
        return order.expand(gone.shape[0], -1).gather(1, torch.argsort(gone.to(torch.uint8), dim=1, stable=True))

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        total = torch.zeros_like(x)
        for i, (axis, back) in enumerate(self.paths):
            order = self.order(layout, axis, back, x.device).expand(x.shape[0], -1)
            mask = None if layout.mask is None else layout.mask.gather(1, order)
            at = layout.positions if layout.rank == 1 else None  # on a path through a grid there is no one time
            if at is not None:
                at = (-at if back else at).gather(1, order[..., None].expand_as(at))
            wide = order[..., None].expand_as(x)
            y = self.inner[i % len(self.inner)](x.gather(1, wide), Layout((layout.size,), mask=mask, positions=at))
            total = total + y.gather(1, torch.argsort(order, dim=1)[..., None].expand_as(x))
        return total
