"""Mixing that learns nothing: fixed random weights between tokens.

Shapes: B items, N tokens, C channels.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..layout import Layout
from .attention import causal_mask
from .base import Mixer

PRIME = 2**31 - 1  # products of two residues fit into int64; x -> x^5 is one-to-one modulo it
ROUNDS = (1_779_033_703, 1_013_904_242, 1_359_893_119)


def scrambled(x: Int[Tensor, "*any"], rounds: int = len(ROUNDS)) -> Int[Tensor, "*any"]:
    """Residues modulo PRIME that look random: x <- (x + c)^5 for a few constants c."""
    for constant in ROUNDS[:rounds]:
        x = (x + constant) % PRIME
        square = x * x % PRIME
        x = square * square % PRIME * x % PRIME
    return x


class RandomMixing(Mixer):
    """y_i = sum_j softmax_j(r_ij) x_j over the real tokens, with frozen random r_ij in [0, 1).

    The random mixing of "MetaFormer Baselines for Vision" (Yu et al. 2022). r_ij is a hash of the places of i and j on
    the lattice and of a number drawn when the layer is built, so it exists for every size and no padding moves it.
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    cost: ClassVar[str] = "O(N^2 d)"
    seed: Tensor

    def __init__(self, dim: int, causal_axes: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.causal, self.dim = frozenset(causal_axes), dim
        self.register_buffer("seed", torch.randint(PRIME, ()))
        self.kept: tuple[object, Tensor] | None = None

    def made(self, layout: Layout, dtype: torch.dtype) -> Float[Tensor, "N N"]:
        """r_ij, the same for all items."""
        places = self.seed.new_zeros(())
        for n in layout.axes:
            places = scrambled((places[..., None] + torch.arange(n, device=self.seed.device)) % PRIME)
        rows = places.flatten()
        keys = scrambled((rows + self.seed) % PRIME)
        return scrambled((rows[:, None] + keys) % PRIME, rounds=1).to(dtype) / PRIME  # both are scrambled already

    def scores(self, layout: Layout, dtype: torch.dtype) -> Float[Tensor, "N N"]:
        """r_ij; those of the last lattice are kept, since nothing about them changes."""
        if torch.compiler.is_compiling():
            return self.made(layout, dtype)
        known = (tuple(layout.axes), dtype, self.seed.device, self.seed._version)  # loading weights raises the version
        if self.kept is None or self.kept[0] != known:
            self.kept = known, self.made(layout, dtype)
        return self.kept[1]

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        scores = self.scores(layout, torch.promote_types(x.dtype, torch.float32))
        allowed = causal_mask(layout.axes, self.causal, x.device)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -torch.inf)
        if layout.mask is not None:
            scores = scores.masked_fill(~layout.mask[:, None], torch.finfo(scores.dtype).min)
        return scores.softmax(-1).to(x.dtype) @ layout.clean(x)

    def state_size(self, n: int) -> int:
        return n * self.dim if self.causal else 0
