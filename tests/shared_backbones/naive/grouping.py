"""References of attention within windows and grids: which keys a query sees, pair by pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from shared_backbones.layout import Layout

from .attention import extent
from .tools import affine, behind, clean, places, real, softmax_attention

Pair = Callable[[int, int], Any]


def by_pairs(
    mixer: Any, x: Tensor, layout: Layout, visible: Callable[[list[int]], Pair], bias: Callable[[list[int]], Pair]
) -> Tensor:
    """Attention with one map for q, k and v and one behind: ``visible`` and ``bias`` of pairs, given the true extents
    of an item."""
    qkv, mask, out = affine(mixer.qkv, clean(x, layout)), real(x, layout), []
    for b in range(x.shape[0]):
        q, k, v = qkv[b].chunk(3, -1)
        sizes = [extent(layout, mask[b], axis) for axis in range(layout.rank)]
        sees = visible(sizes)

        def seen(i: int, j: int, b: int = b, sees: Pair = sees) -> bool:
            return mask[b][i] and mask[b][j] and sees(i, j)

        out.append(softmax_attention(q, k, v, mixer.heads, seen, bias(sizes)))
    return affine(mixer.out, torch.stack(out))


def table_entry(table: Any, apart: Sequence[int], reach: Sequence[int]) -> Tensor | float:
    """The numbers of a relative bias at an offset of so many places per axis."""
    if table is None:
        return 0.0
    if isinstance(table, torch.nn.Module):  # small networks of the offset
        return table.layers(torch.tensor(apart, dtype=table.offsets.dtype))
    entry = 0
    for step, r in zip(apart, reach, strict=True):
        entry = entry * (2 * r - 1) + step + r - 1
    return table[entry]


def window(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    at, before = places(layout.axes), behind(layout.axes, mixer.causal)
    reach = [w + h for w, h in zip(mixer.window, mixer.halo, strict=True)]

    def sees(i: int, j: int) -> bool:
        inside = []
        for a, c, w, s, h in zip(at[i], at[j], mixer.window, mixer.shift, mixer.halo, strict=True):
            start = (a - s) // w * w + s
            inside.append(start - h <= c < start + w + h)
        return all(inside) and before(i, j)

    def bias(i: int, j: int) -> Any:
        return table_entry(mixer.table, [a - c for a, c in zip(at[i], at[j], strict=True)], reach)

    return by_pairs(mixer, x, layout, lambda sizes: sees, lambda sizes: bias)


def grid(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    at, before = places(layout.axes), behind(layout.axes, mixer.causal)

    def steps(sizes: list[int]) -> list[int]:
        return [-(-n // g) for n, g in zip(sizes, mixer.window, strict=True)]

    def visible(sizes: list[int]) -> Pair:
        apart = steps(sizes)
        return lambda i, j: all((a - c) % s == 0 for a, c, s in zip(at[i], at[j], apart, strict=True)) and before(i, j)

    def bias(sizes: list[int]) -> Pair:
        apart = steps(sizes)

        def of_pair(i: int, j: int) -> Any:
            between = [a // s - c // s for a, c, s in zip(at[i], at[j], apart, strict=True)]
            return table_entry(mixer.table, between, mixer.window)

        return of_pair

    return by_pairs(mixer, x, layout, visible, bias)


REFERENCES = {"window": window, "grid": grid}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "window": [{}, {"window": 4, "shift": 1, "heads": 2, "halo": 2}, {"window": 3, "shift": 2, "bias": "dynamic"}],
    "grid": [{}, {"size": 2, "heads": 2, "bias": "none"}],
}
