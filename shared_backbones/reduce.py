"""Fewer tokens for the costly part, and back: merging of similar tokens, pruning of unimportant ones.

Both choose a share of each item's *real* tokens, so that an item is reduced alone as it is in a batch. What is left
stands at the front, in the old order, with masked places behind.

Shapes: B items, N tokens before, M after, C channels, K channels of what tokens are compared by.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .errors import BadRequest
from .layout import Layout


@dataclass(frozen=True)
class Reduction:
    """Fewer tokens, and the way back.

    x: (B, M, C); layout: of those, a sequence where it was one and a set otherwise; target: the place among the M of
    every one of the N tokens, -1 where it was pruned or masked; sizes: how many tokens each of the M stands for.
    """

    x: Float[Tensor, "B M C"]
    layout: Layout
    target: Int[Tensor, "B N"]
    sizes: Float[Tensor, "B M 1"]

    def restore(self, y: Float[Tensor, "B M K"], fill: Float[Tensor, "B N K"] | None = None) -> Float[Tensor, "B N K"]:
        """Every token gets what its place in ``y`` holds; those without a place get ``fill``, or zeros."""
        back = y.gather(1, self.target.clamp_min(0)[..., None].expand(-1, -1, y.shape[-1]))
        kept = (self.target >= 0)[..., None]
        return torch.where(kept, back, torch.zeros_like(back) if fill is None else fill)


def percent(share: float, most: float) -> int:
    """A share as whole per cent, whose counts are exact; raises BadRequest outside 0 .. most."""
    if not 0 <= share <= most:
        raise BadRequest(f"share must lie in 0 .. {most}, got {share}")
    return round(100 * share)


def collected(
    x: Float[Tensor, "B N C"], layout: Layout, target: Int[Tensor, "B N"], sizes: Float[Tensor, "B N 1"], room: int
) -> Reduction:
    """Means of the tokens that share a place among ``room``, weighted by their sizes; positions likewise."""
    home = torch.where(target >= 0, target, room)[..., None]  # one place more for those without any

    def total(values: Tensor) -> Tensor:
        out = values.new_zeros(values.shape[0], room + 1, values.shape[2])
        return out.scatter_add(1, home.expand(-1, -1, values.shape[2]), values)[:, :room]

    count = total(sizes)

    def mean(values: Tensor) -> Tensor:
        weight = sizes.to(values.dtype)
        return total(layout.clean(values) * weight) / count.to(values.dtype).clamp_min(1e-12)

    real = count[..., 0] > 0
    fewer = Layout(
        axes=(room,),
        ordered=layout.ordered and layout.rank == 1,
        mask=None if layout.mask is None else real,
        positions=None if layout.positions is None else mean(layout.positions),
        source=layout.source,
    )
    return Reduction(mean(x), fewer, target, count)


def real_of(x: Float[Tensor, "B N C"], layout: Layout) -> Bool[Tensor, "B N"]:
    """The mask, all True where there is none."""
    return x.new_ones(x.shape[:2], dtype=torch.bool) if layout.mask is None else layout.mask


def places_of(kept: Bool[Tensor, "B N"]) -> Int[Tensor, "B N"]:
    """0, 1, 2 ... at the kept tokens in order, -1 at the others."""
    return torch.where(kept, kept.cumsum(1) - 1, -1)


def ranking(scores: Float[Tensor, "B N"]) -> Int[Tensor, "B N"]:
    """0 for the highest score of each item, 1 for the next; of equal ones the first comes first."""
    return torch.argsort(torch.argsort(scores, dim=1, descending=True, stable=True), dim=1)


def merge(
    x: Float[Tensor, "B N C"],
    layout: Layout,
    share: float = 0.25,
    by: Float[Tensor, "B N K"] | None = None,
    sizes: Float[Tensor, "B N 1"] | None = None,
) -> Reduction:
    """Merges the share of tokens that most resemble another one into that one.

    "Token Merging: Your ViT But Faster" (Bolya et al. 2023): every second real token is joined to its most similar one
    (cosine) among the others, and of these pairs the most similar are merged, at most half of all tokens. ``by`` is
    what is compared (default x; the paper takes the keys of attention), ``sizes`` how many tokens each stands for from
    merging before.
    """
    cut, n = percent(share, 0.5), x.shape[1]
    real = real_of(x, layout)
    sizes = x.new_ones(*x.shape[:2], 1) if sizes is None else sizes
    sizes = sizes * real[..., None].to(x.dtype)
    if n < 2:  # nobody to join
        return collected(x, layout, places_of(real), sizes, n)
    order = torch.argsort((~real).to(torch.int8), dim=1, stable=True)  # real tokens first, in their order
    joins = 2 * torch.arange((n + 1) // 2, device=x.device)  # every second token may join one of the others
    takes = 2 * torch.arange(n // 2, device=x.device) + 1
    front = real.gather(1, order)
    with torch.autocast(x.device.type, enabled=False):  # a choice must not hang on rounding
        unit = F.normalize(layout.clean(x if by is None else by).detach(), dim=-1)
        unit = unit.gather(1, order[..., None].expand(-1, -1, unit.shape[-1]))
        scores = unit.index_select(1, joins) @ unit.index_select(1, takes).mT
    scores = scores.masked_fill(~front.index_select(1, takes)[:, None], -torch.inf)
    best, receiver = scores.max(-1)
    able = front.index_select(1, joins)
    rank = ranking(best.masked_fill(~able, -torch.inf))
    gone = able & (rank < real.sum(1, keepdim=True) * cut // 100)
    kept = front & ~torch.zeros_like(front).index_copy(1, joins, gone)
    place = places_of(kept)
    moved = place.index_select(1, takes).gather(1, receiver)  # where each joined token would go
    place = place.index_copy(1, joins, torch.where(gone, moved, place.index_select(1, joins)))
    target = torch.empty_like(place).scatter(1, order, place)
    return collected(x, layout, target, sizes, n - n * cut // 100)


def prune(x: Float[Tensor, "B N C"], layout: Layout, scores: Float[Tensor, "B N"], share: float = 0.25) -> Reduction:
    """Leaves out the share of tokens with the lowest scores; at least one real token of an item stays.

    As in "DynamicViT" (Rao et al. 2021); give the tokens of before as ``fill`` to ``restore``, and those left out pass
    the reduced part unchanged.
    """
    cut, n = percent(share, 0.99), x.shape[1]
    real = real_of(x, layout)
    count = real.sum(1, keepdim=True)
    kept = real & (ranking(scores.detach().masked_fill(~real, -torch.inf)) < count - count * cut // 100)
    return collected(x, layout, places_of(kept), kept[..., None].to(x.dtype), n - n * cut // 100)


__all__ = ["Reduction", "merge", "prune"]
