"""Reference of any mixer inside windows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shared_backbones.layout import Layout

from .combine import part
from .tools import clean, places, real


def within(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    at, mask, x, w = places(layout.axes), real(x, layout), clean(x, layout), mixer.window
    local = places((w,) * layout.rank)
    groups: dict[tuple[int, ...], dict[int, int]] = {}
    for i, place in enumerate(at):
        home = tuple((c - mixer.shift) // w for c in place)
        groups.setdefault(home, {})[local.index(tuple((c - mixer.shift) % w for c in place))] = i
    y = torch.zeros_like(x)
    for members in groups.values():
        inside, tokens = list(members), list(members.values())
        real_here = torch.zeros(len(x), len(local), dtype=torch.bool)
        real_here[:, inside] = torch.tensor([[row[i] for i in tokens] for row in mask])
        where = None
        if layout.positions is not None:
            where = x.new_zeros(len(x), len(local), layout.positions.shape[2])
            where[:, inside] = clean(layout.positions, layout)[:, tokens]
        window = x.new_zeros(len(x), len(local), x.shape[2]).index_copy(1, torch.tensor(inside), x[:, tokens])
        inner = part(mixer.inner, window, Layout((w,) * layout.rank, mask=real_here, positions=where))
        y = y.index_copy(1, torch.tensor(tokens), inner[:, inside])
    return y


REFERENCES = {"within": within}
VARIANTS = {"within": [{"window": 3}, {"window": 4, "shift": 1, "inner": "pooling"}]}
