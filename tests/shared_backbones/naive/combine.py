"""References of combinations: their parts' own references, put together by loops."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shared_backbones.layout import Layout
from shared_backbones.mixers import MIXERS

from .tools import affine, clean, places, real


def part(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    """The reference of whatever mixer this is."""
    from . import NAIVE

    return NAIVE[next(name for name, cls in MIXERS.items() if type(mixer) is cls)](mixer, x, layout)


def over(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    at, kept = places(layout.axes), mixer.axes
    rows: dict[tuple[int, ...], list[int]] = {}
    for i, place in enumerate(at):
        rows.setdefault(tuple(c for a, c in enumerate(place) if a not in kept), []).append(i)
    y = torch.zeros_like(x)
    for row in rows.values():
        inner = Layout(
            tuple(layout.axes[a] for a in kept),
            layout.ordered,
            None if layout.mask is None else layout.mask[:, row],
            None if layout.positions is None else layout.positions[:, row][..., list(kept)],
        )
        y = y.index_copy(1, torch.tensor(row), part(mixer.inner, x[:, row], inner))
    return y


def serial(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    for inner in mixer.inner:
        x = part(inner, x, layout)
    return x


def parallel(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    y = torch.zeros_like(x)
    for inner in mixer.inner:
        y = y + part(inner, x, layout)
    return y


def split(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    parts, start = [], 0
    for inner, width in zip(mixer.inner, mixer.widths, strict=True):
        parts.append(part(inner, x[..., start : start + width], layout))
        start += width
    return torch.cat(parts, -1)


def dense(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    known = [clean(x, layout)]
    for i, inner in enumerate(mixer.inner):
        h = torch.cat(known, -1)
        centred = h - h.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + mixer.norms[i].eps).sqrt()
        new = affine(mixer.adjust[i], h + part(inner, scaled * mixer.norms[i].weight + mixer.norms[i].bias, layout))
        known.append(torch.where(new > 0, new, 0.2 * new) if i + 1 < len(mixer.inner) else mixer.scale * new)
    return known[-1]


def coarse(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    at, mask, x = places(layout.axes), real(x, layout), clean(x, layout)
    blocks = places([-(-n // mixer.factor) for n in layout.axes])
    home = [blocks.index(tuple(c // mixer.factor for c in place)) for place in at]
    means = x.new_zeros(x.shape[0], len(blocks), x.shape[2])
    some = torch.zeros(x.shape[0], len(blocks), dtype=torch.bool)
    where = None if layout.positions is None else x.new_zeros(x.shape[0], len(blocks), layout.positions.shape[2])
    for b in range(x.shape[0]):
        for g in range(len(blocks)):
            inside = [i for i in range(len(at)) if home[i] == g and mask[b][i]]
            if inside:
                some[b, g] = True
                means = means.index_put((torch.tensor(b), torch.tensor(g)), x[b, inside].mean(0))
                if where is not None and layout.positions is not None:
                    where[b, g] = layout.positions[b, inside].mean(0)
    axes = tuple(-(-n // mixer.factor) for n in layout.axes)
    y = part(mixer.inner, means, Layout(axes, True, None if layout.mask is None else some, where))
    return y[:, home]


REFERENCES = {
    "over": over,
    "serial": serial,
    "parallel": parallel,
    "dense": dense,
    "split": split,
    "coarse": coarse,
}
VARIANTS = {
    "over": [{}, {"axis": 1, "inner": {"mixer": "pooling"}}, {"axis": (0, 1), "inner": "pooling"}],
    "coarse": [{}, {"factor": 3, "inner": "pooling"}],
    "serial": [{"inner": ["pooling", "depthwise"]}],
    "parallel": [{"inner": ["message", "attention"]}],
    "dense": [{}, {"inner": ["depthwise", "pooling", "attention"], "growth": 4, "scale": 1.0}],
    "split": [{"inner": ["pooling", "identity"]}, {"inner": ["pooling", "attention"], "shares": (1, 3)}],
}
