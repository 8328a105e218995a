"""References of mixing over the places of blocks, of filters that tokens make, and of the inception split."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shared_backbones.layout import Layout

from .convolution import depthwise, gelu, linear, mlp, normed
from .tools import affine, clean, places, real, softmax_attention


def _blocks(mixer: Any, layout: Layout) -> list[list[int | None]]:
    """Tokens of every block, in the order of its places; None beyond the lattice."""
    at = places(layout.axes)
    number, size = {place: i for i, place in enumerate(at)}, mixer.window * mixer.dilation
    found = []
    for corner in places([-(-n // size) for n in layout.axes]):
        for first in places([mixer.dilation] * layout.rank):
            starts = [c * size + f for c, f in zip(corner, first, strict=True)]
            steps = places([mixer.window] * layout.rank)
            ends = [tuple(o + s * mixer.dilation for o, s in zip(starts, step, strict=True)) for step in steps]
            found.append([number.get(end) for end in ends])
    return found


def _over_blocks(mixer: Any, x: Tensor, layout: Layout, f: Any) -> Tensor:
    x = clean(x, layout)
    y = torch.zeros_like(x)
    for block in _blocks(mixer, layout):
        zero = torch.zeros_like(x[:, 0])
        mixed = f(torch.stack([zero if i is None else x[:, i] for i in block], 1))  # (B, P, C)
        for p, i in enumerate(block):
            if i is not None:
                y = y.index_copy(1, torch.tensor([i]), mixed[:, p : p + 1])
    return y


def token_mlp(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    def f(rows: Tensor) -> Tensor:
        rows, layer = rows.transpose(1, 2), mixer.layer
        if type(layer).__name__ == "MLP":
            return mlp(layer, rows).transpose(1, 2)
        gate = affine(layer.gate, rows)
        return affine(layer.down, gate * torch.sigmoid(gate) * affine(layer.up, rows)).transpose(1, 2)

    return _over_blocks(mixer, x, layout, f)


def spatial_gating(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    both = gelu(affine(mixer.into, clean(x, layout)))
    half = both.shape[-1] // 2
    v = normed(mixer.norm, both[..., half:])
    mixed = _over_blocks(mixer, v, layout, lambda rows: torch.einsum("pq,bqc->bpc", mixer.weight, rows) + mixer.bias)
    return affine(mixer.out, both[..., :half] * mixed)


def _filtered(x: Tensor, w: Tensor, layout: Layout, kernel: int, causal: frozenset[int]) -> Tensor:
    at, c = places(layout.axes), x.shape[2]
    number, x, rows = {place: i for i, place in enumerate(at)}, clean(x, layout), []
    for i, place in enumerate(at):
        total = torch.zeros_like(x[:, 0])
        for t, tap in enumerate(places([kernel] * layout.rank)):
            ahead = [s - (kernel - 1 if a in causal else (kernel - 1) // 2) for a, s in enumerate(tap)]
            j = number.get(tuple(p + s for p, s in zip(place, ahead, strict=True)))
            if j is not None:
                total = total + w[:, i, :, t].repeat_interleave(c // w.shape[2], -1) * x[:, j]
        rows.append(total)
    return torch.stack(rows, 1)


def large_small(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    x = clean(x, layout)
    hidden = linear(mixer.three, depthwise(mixer.two, torch.relu(linear(mixer.one, x)), layout))
    w = affine(mixer.four, torch.relu(hidden)).unflatten(-1, (mixer.groups, -1))
    scaled = []
    for b, flags in enumerate(real(x, layout)):
        kept = [i for i, flag in enumerate(flags) if flag]
        groups = []
        for g in range(mixer.groups):
            own = w[b, kept, g]
            mean = own.mean()
            deviation = torch.sqrt(((own - mean) ** 2).mean() + 1e-5)
            taps = slice(g * w.shape[-1], (g + 1) * w.shape[-1])
            groups.append((w[b, :, g] - mean) / deviation * mixer.scale[taps] + mixer.shift[taps])
        scaled.append(torch.stack(groups, 1))
    return normed(mixer.norm, _filtered(x, torch.stack(scaled), layout, mixer.kernel, frozenset()))


def dynamic_local(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    v, u = affine(mixer.both, clean(x, layout)).split(x.shape[-1], -1)
    w = affine(mixer.weigh, torch.relu(depthwise(mixer.near, u, layout))).unflatten(-1, (mixer.heads, -1))
    return affine(mixer.out, _filtered(v, w, layout, mixer.kernel, mixer.causal))


def inception(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    at, mask, factor = places(layout.axes), real(x, layout), mixer.factor
    near, far, low = clean(x, layout).split(mixer.widths, -1)
    near = gelu(depthwise(mixer.conv, affine(mixer.near, near), layout))
    blocks = places([-(-n // factor) for n in layout.axes])
    home = [blocks.index(tuple(c // factor for c in place)) for place in at]
    highest, lows = [], []
    for b in range(x.shape[0]):
        for i, place in enumerate(at):
            around = [j for j, other in enumerate(at) if mask[b][j] and all(
                abs(p - q) <= 1 for p, q in zip(place, other, strict=True))]  # fmt: skip
            highest.append(far[b, around].amax(0) if around and mask[b][i] else torch.zeros_like(far[b, i]))
        inside = [[i for i in range(len(at)) if home[i] == g and mask[b][i]] for g in range(len(blocks))]
        means = torch.stack([low[b, i].mean(0) if i else torch.zeros_like(low[b, 0]) for i in inside])
        q, k, v = affine(mixer.qkv, means).chunk(3, -1)
        y = softmax_attention(q, k, v, mixer.low, lambda i, j, some=inside: bool(some[j]), lambda i, j: 0.0)  # type: ignore[misc]
        lows.append(y[home])
    far = gelu(affine(mixer.far, torch.stack(highest).reshape(far.shape)))
    z = torch.cat([near, far, torch.stack(lows)], -1)
    return affine(mixer.out, z + depthwise(mixer.fuse, z, layout))


REFERENCES = {
    "token_mlp": token_mlp,
    "spatial_gating": spatial_gating,
    "large_small": large_small,
    "dynamic_local": dynamic_local,
    "inception": inception,
}
VARIANTS = {
    "token_mlp": [{}, {"window": 2, "dilation": 2, "layer": "glu"}],
    "spatial_gating": [{}, {"window": 2, "dilation": 2, "ratio": 3.0}],
    "large_small": [{}, {"wide": 3, "kernel": 2, "share": 2}],
    "dynamic_local": [{}, {"kernel": 2, "heads": 2}],
    "inception": [{}, {"low": 1, "factor": 3}],
}
