"""References of pooling, gating, spectral and message passing mixers, and of no mixing."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from shared_backbones.layout import Layout

from .tools import affine, clean, places, real


def identity(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    return torch.zeros_like(x)


def _around(
    place: tuple[int, ...], width: int, causal: frozenset[int]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(offset in the window, place on the lattice) of every place that a window of ``width`` reaches."""
    first = [width - 1 if a in causal else (width - 1) // 2 for a in range(len(place))]
    offsets = itertools.product(range(width), repeat=len(place))
    return [(o, tuple(p + k - f for p, k, f in zip(place, o, first, strict=True))) for o in offsets]


def pooling(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, at = real(x, layout), places(layout.axes)
    number = {place: i for i, place in enumerate(at)}
    rows = []
    for b in range(x.shape[0]):
        for i, place in enumerate(at):
            near = [number[p] for _, p in _around(place, mixer.window, mixer.causal) if p in number]
            near = [j for j in near if mask[b][j]]
            rows.append(x[b, near].mean(0) - x[b, i] if near else torch.zeros_like(x[b, i]))
    return torch.stack(rows).reshape(x.shape)


def depthwise(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, at, c = real(x, layout), places(layout.axes), x.shape[2]
    number = {place: i for i, place in enumerate(at)}
    both = affine(mixer.both, clean(x, layout))
    rows = []
    for b in range(x.shape[0]):
        for i, place in enumerate(at):
            context = mixer.conv.bias
            for offset, p in _around(place, mixer.kernel, mixer.causal):
                if p in number and mask[b][number[p]]:
                    context = context + mixer.conv.weight[(slice(None), 0, *offset)] * both[b, number[p], :c]
            rows.append(context * both[b, i, c:])
    return affine(mixer.out, torch.stack(rows).reshape(x.shape))


def message(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    flags = [flag for item in real(x, layout) for flag in item]
    flat = clean(x, layout).flatten(0, 1)
    sent, edges = affine(mixer.other, flat), layout.edges
    assert edges is not None
    inbox: list[list[Tensor]] = [[] for _ in flags]
    for e, (source, target) in enumerate(edges.T.tolist()):
        if flags[source] and flags[target]:
            gate = 1.0 if mixer.gate is None else torch.sigmoid(affine(mixer.gate, layout.edge_attr[e]))  # type: ignore[index]
            inbox[target].append(gate * sent[source])
    means = [torch.stack(got).mean(0) if got else torch.zeros_like(flat[0]) for got in inbox]
    return affine(mixer.own, x) + torch.stack(means).reshape(x.shape)


def _stored(mixer: Any, axis: int, last: int, k: int, n: int) -> list[tuple[int, float]]:
    """Stored bins, with weights, that bin k of n is read from by linear interpolation over frequency."""
    at = k * mixer.size / n
    low, share = math.floor(at + 1e-12), at - math.floor(at + 1e-12)
    if axis == last:
        top = mixer.size // 2
        return [(min(low, top), 1 - share), (min(low + 1, top), share)]
    return [(low % mixer.size, 1 - share), ((low + 1) % mixer.size, share)]


def _circular(mixer: Any, x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """One item (n, C): every bin of the discrete Fourier transform times the filter, and back, by definition."""
    at, last = places(axes), len(axes) - 1
    stored = torch.complex(mixer.filter[..., 0], mixer.filter[..., 1])
    y = torch.zeros_like(x)
    for k in places((*axes[:-1], axes[-1] // 2 + 1)):
        turns = [sum(a * b / n for a, b, n in zip(k, p, axes, strict=True)) for p in at]
        phase = 2 * math.pi * torch.tensor(turns, dtype=torch.float64)
        wave = torch.complex(torch.cos(phase), -torch.sin(phase))
        gate = torch.zeros_like(stored[(0,) * len(axes)])
        for parts in itertools.product(*(_stored(mixer, a, last, k[a], axes[a]) for a in range(len(axes)))):
            gate = gate + stored[tuple(p for p, _ in parts)] * math.prod(w for _, w in parts)
        bin_k = (wave[:, None] * x).sum(0) * gate
        twice = 1 if 2 * k[-1] in (0, axes[-1]) else 2  # a real output: the other half is the conjugate
        y = y + twice * (wave.conj()[:, None] * bin_k).real / len(at)
    return y


def fourier(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, at = real(x, layout), places(layout.axes)
    x, out = clean(x, layout), []
    for b in range(x.shape[0]):
        seen = [p for p, flag in zip(at, mask[b], strict=True) if flag] or [(0,) * layout.rank]
        extent = tuple(max(p[a] for p in seen) + 1 for a in range(layout.rank))
        inside = [i for i, p in enumerate(at) if all(c < n for c, n in zip(p, extent, strict=True))]
        out.append(torch.zeros_like(x[b]).index_copy(0, torch.tensor(inside), _circular(mixer, x[b, inside], extent)))
    return torch.stack(out)


REFERENCES = {
    "identity": identity,
    "pooling": pooling,
    "depthwise": depthwise,
    "message": message,
    "fourier": fourier,
}
VARIANTS = {
    "pooling": [{}, {"window": 4}],
    "depthwise": [{"kernel": 3}, {"kernel": 4}],
    "message": [{}, {"edge_features": 3}],
    "fourier": [{}, {"size": 7}],
}
