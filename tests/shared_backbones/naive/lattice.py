"""Reference of neighbourhood attention: each token lists the keys that it sees, axis by axis."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from shared_backbones.layout import Layout

from .grouping import Pair, by_pairs, table_entry
from .tools import places


def near(place: int, n: int, window: int, dilation: int, stride: int, causal: bool) -> list[int]:
    """What a token at ``place`` of an axis of n places sees along it."""
    strand = list(range(place % dilation, n, dilation))
    i = strand.index(place)
    run = [j for j in range(len(strand)) if j // stride == i // stride]
    if causal:
        last = i // stride * stride + stride - 1  # where the run would end, were the strand longer
        return [strand[j] for j in range(max(0, last - window + 1), i + 1)]
    middle = run[0] + stride // 2
    start = middle - window // 2
    while start + window > len(strand):
        start -= 1
    start = max(start, 0)
    return strand[start : start + window]


def neighborhood(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    at = places(layout.axes)

    def visible(sizes: list[int]) -> Pair:
        seen = [
            [near(p, n, w, d, s, axis in mixer.causal) if p < n else [] for p in range(full)]
            for axis, (n, full, w, d, s) in enumerate(
                zip(sizes, layout.axes, mixer.window, mixer.dilation, mixer.stride, strict=True)
            )
        ]
        return lambda i, j: all(c in seen[axis][a] for axis, (a, c) in enumerate(zip(at[i], at[j], strict=True)))

    def bias(i: int, j: int) -> Any:
        apart = [(a - c) // d for a, c, d in zip(at[i], at[j], mixer.dilation, strict=True)]
        return table_entry(mixer.table, apart, mixer.window)

    return by_pairs(mixer, x, layout, visible, lambda sizes: bias)


REFERENCES = {"neighborhood": neighborhood}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "neighborhood": [
        {"window": 4},
        {"window": 3, "dilation": 2, "stride": 2, "tile": 2, "heads": 2, "bias": "none"},
    ],
}
