"""References of messages along the edges of a graph, edge by edge."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shared_backbones.layout import Layout

from .tools import affine, clean, real


def near(x: Tensor, layout: Layout) -> list[list[tuple[int, int]]]:
    """Per flattened token: (edge, source) of the edges that end there and touch no masked token."""
    flags = [flag for item in real(x, layout) for flag in item]
    found: list[list[tuple[int, int]]] = [[] for _ in flags]
    for e, (s, t) in enumerate(layout.edges.T.tolist()):  # type: ignore[union-attr]
        if flags[s] and flags[t]:
            found[t].append((e, s))
    return found


def _kipf(rows: list[Tensor], around: list[list[tuple[int, int]]], loops: bool = True) -> list[Tensor]:
    d = [len(n) + 1 if loops else max(1, len(n)) for n in around]
    return [
        (rows[i] / d[i] if loops else 0 * rows[i])
        + sum((rows[j] / (d[i] * d[j]) ** 0.5 for _, j in n), torch.zeros_like(rows[i]))
        for i, n in enumerate(around)
    ]


def graph_sum(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    rows, around = list(clean(x, layout).flatten(0, 1)), near(x, layout)
    found = []
    for i, n in enumerate(around):
        total = (1 + mixer.eps) * rows[i]
        for e, j in n:
            total = total + (
                rows[j] if mixer.edge is None else (rows[j] + affine(mixer.edge, layout.edge_attr[e])).relu()
            )  # type: ignore[index]
        h = affine(mixer.up, total)
        h = (h - h.mean()) / (h.var(unbiased=False) + mixer.norm.eps).sqrt() * mixer.norm.weight + mixer.norm.bias
        found.append(affine(mixer.down, h.clamp_min(0)))
    return torch.stack(found).reshape(x.shape)


def graph_convolution(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    x = clean(x, layout)
    x = x.clamp_min(0) if mixer.activation == "relu" else x
    rows = [affine(mixer.project, r) for r in x.flatten(0, 1)]
    return torch.stack(_kipf(rows, near(x, layout))).reshape(x.shape)


def propagate(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    x, around = clean(x, layout), near(x, layout)
    rows = list(x.flatten(0, 1))
    total = [mixer.share[0] * r for r in rows]
    for g in mixer.share[1:]:
        rows = _kipf(rows, around, mixer.loops)
        total = [t + g * r for t, r in zip(total, rows, strict=True)]
    return torch.stack(total).reshape(x.shape) - x


def initial_residual(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    x, around = clean(x, layout), near(x, layout)
    first = list(x.flatten(0, 1))
    rows = first
    for b, w in zip(mixer.shares, mixer.weights, strict=True):
        m = [(1 - mixer.alpha) * p + mixer.alpha * f for p, f in zip(_kipf(rows, around), first, strict=True)]
        rows = [((1 - b) * r + b * (r @ w)).clamp_min(0) for r in m]
    return torch.stack(rows).reshape(x.shape) - x


def hops(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    x, around = clean(x, layout), near(x, layout)
    x = x.clamp_min(0) if mixer.activation == "relu" else x
    rows = [list(x.flatten(0, 1))]
    for _ in range(mixer.hops):
        last = rows[-1]
        rows.append([torch.stack([last[j] for _, j in n]).mean(0) if n else torch.zeros_like(last[0]) for n in around])
    return torch.stack([affine(mixer.project, torch.cat(parts)) for parts in zip(*rows, strict=True)]).reshape(x.shape)


REFERENCES = {
    "graph_sum": graph_sum,
    "graph_convolution": graph_convolution,
    "propagate": propagate,
    "initial_residual": initial_residual,
    "hops": hops,
}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "graph_sum": [{}, {"edge_features": 3}],
    "graph_convolution": [{}, {"activation": "relu"}],
    "propagate": [{}, {"learn": True, "hops": 3, "alpha": 0.4, "loops": False}],
}
