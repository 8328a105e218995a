"""References of cosine, wavelet and long convolution mixers: sums by definition."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from shared_backbones.layout import Layout

from .convolution import depthwise, gelu
from .tools import affine, clean, places, real


def stretched(place: float, size: int) -> list[tuple[int, float]]:
    """Entries of a table of ``size``, with weights, that a real place reads by linear interpolation."""
    place = min(max(place, 0.0), size - 1.0)
    low = min(int(place), size - 1)
    share = place - low
    return [(low, 1 - share), (min(low + 1, size - 1), share)]


def extent_of(at: list[tuple[int, ...]], flags: list[bool], rank: int) -> tuple[int, ...]:
    """Places from the origin to the last real token along each axis."""
    seen = [p for p, flag in zip(at, flags, strict=True) if flag] or [(0,) * rank]
    return tuple(max(p[a] for p in seen) + 1 for a in range(rank))


def cosine(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    at, mask, rank = places(layout.axes), real(x, layout), layout.rank
    x, out = clean(x, layout), []
    values = clean(affine(mixer.into, x), layout)
    for b in range(x.shape[0]):
        kept = [i for i, flag in enumerate(mask[b]) if flag]
        g = torch.sigmoid(affine(mixer.weigh, gelu(affine(mixer.read, x[b, kept].mean(0)))))
        g = g.reshape(rank, mixer.bands, mixer.groups)
        axes = extent_of(at, mask[b], rank)
        inside = [i for i, p in enumerate(at) if all(c < n for c, n in zip(p, axes, strict=True))]
        y = torch.zeros(len(inside), x.shape[2], dtype=x.dtype)
        for k in places(axes):
            wave = torch.tensor(
                [math.prod(math.cos(math.pi * (at[i][a] + 0.5) * k[a] / axes[a]) for a in range(rank)) for i in inside],
                dtype=x.dtype,
            )
            size = (wave**2).sum()
            gate = torch.ones(mixer.groups, dtype=x.dtype)
            for a in range(rank):
                gate = gate * sum(w * g[a, m] for m, w in stretched(k[a] / axes[a] * (mixer.bands - 1), mixer.bands))
            weight = gate.repeat_interleave(x.shape[2] // mixer.groups)
            y = y + wave[:, None] * (wave @ values[b, inside]) / size * weight  # projections on orthogonal waves
        out.append(torch.zeros_like(x[b]).index_copy(0, torch.tensor(inside), y))
    return affine(mixer.out, torch.stack(out))


def wavelet(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    at, mask = places(layout.axes), real(x, layout)
    x = clean(x, layout)
    return torch.stack([_level(mixer, x[b], layout.axes, mask[b], at, mixer.levels) for b in range(x.shape[0])])


def _level(mixer: Any, x: Tensor, axes: tuple[int, ...], flags: list[bool], at: Any, levels: int) -> Tensor:
    rank = len(axes)
    if levels == 0:
        extent, rows = extent_of(at, flags, rank), []
        for i, place in enumerate(at):
            ends = [stretched((c + 0.5) * mixer.table.shape[0] / n - 0.5, mixer.table.shape[0]) for c, n in
                    zip(place, extent, strict=True)]  # fmt: skip
            entry = sum(
                math.prod(w for _, w in parts) * mixer.table[tuple(p for p, _ in parts)]
                for parts in itertools.product(*ends)
            )
            rows.append(x[i] * entry)
        return torch.stack(rows)
    number = {place: i for i, place in enumerate(at)}
    coarse = tuple(-(-n // 2) for n in axes)
    corners = list(itertools.product((0, 1), repeat=rank))
    blocks = places(coarse)
    zero = torch.zeros(x.shape[1], dtype=x.dtype)

    def sign(band: tuple[int, ...], corner: tuple[int, ...]) -> float:
        return (-1.0) ** sum(p * q for p, q in zip(band, corner, strict=True)) / 2 ** (rank / 2)

    bands: dict[Any, Tensor] = {}
    some = []
    for g, block in enumerate(blocks):
        inside = [number.get(tuple(2 * c + d for c, d in zip(block, corner, strict=True))) for corner in corners]
        some.append(any(i is not None and flags[i] for i in inside))
        for band in corners:
            terms = [sign(band, q) * (zero if i is None else x[i]) for q, i in zip(corners, inside, strict=True)]
            bands[g, band] = torch.stack(terms).sum(0)
    low = torch.stack([bands[g, corners[0]] for g in range(len(blocks))])
    low = _level(mixer, low, coarse, some, blocks, levels - 1)
    for g in range(len(blocks)):
        bands[g, corners[0]] = low[g]
        for band in corners[1:]:
            parts = bands[g, band].chunk(mixer.groups)
            new = []
            for k, h in enumerate(parts):
                h = torch.relu(h @ mixer.weight1[k] + mixer.bias1[k])
                new.append(h @ mixer.weight2[k] + mixer.bias2[k])
            bands[g, band] = torch.cat(new)
    rows = []
    for place in at:
        g, corner = blocks.index(tuple(c // 2 for c in place)), tuple(c % 2 for c in place)
        rows.append(torch.stack([sign(band, corner) * bands[g, band] for band in corners]).sum(0))
    return torch.stack(rows)


def _filter(module: Any, offset: tuple[int, ...]) -> Tensor:
    turns = []
    for o in offset:
        turns += [2 * math.pi * o / (4 * 1024 ** (w / (module.waves - 1))) for w in range(module.waves)]
    y = torch.tensor([math.sin(t) for t in turns] + [math.cos(t) for t in turns], dtype=torch.float64)
    for layer in module.mlp:
        y = torch.sin(affine(layer, y))
    return affine(module.out, y) * torch.exp(-torch.exp(module.rate) * sum(abs(o) for o in offset))


def hyena(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    at, c = places(layout.axes), x.shape[2]
    projected = depthwise(mixer.short, affine(mixer.into, clean(x, layout)), layout)
    z, *gates = projected.split(c, -1)
    for k in range(mixer.order - 1):
        z, rows = clean(z, layout), []
        found: dict[tuple[int, ...], Tensor] = {}
        for i in at:
            total = torch.zeros_like(z[:, 0])
            for j, other in enumerate(at):
                offset = tuple(p - q for p, q in zip(i, other, strict=True))
                if any(offset[a] < 0 for a in mixer.causal):
                    continue
                if offset not in found:
                    parts = [offset] if len(mixer.filters) == 1 else [(o,) for o in offset]
                    h = torch.stack([_filter(f, o) for f, o in zip(mixer.filters, parts, strict=True)]).prod(0)
                    found[offset] = h[k * c : (k + 1) * c]
                total = total + found[offset] * z[:, j]
            rows.append(total)
        z = gates[k] * (torch.stack(rows, 1) + mixer.skip[k] * z)
    return affine(mixer.out, gates[-1] * z)


REFERENCES = {"cosine": cosine, "wavelet": wavelet, "hyena": hyena}
VARIANTS = {
    "cosine": [{}, {"bands": 3, "groups": 2}],
    "wavelet": [{"size": 3}, {"levels": 2}],
    "hyena": [{"waves": 3, "hidden": 4}, {"joint": False, "order": 3}],
}
