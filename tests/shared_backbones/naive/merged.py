"""Reference of the mixer on merged tokens: pairs are found and joined one by one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shared_backbones.layout import Layout

from .combine import part
from .tools import clean, real


def groups_of(x: Tensor, share: float) -> list[list[int]]:
    """Tokens of one item (N, C) that are merged into one, in the order of the token that receives the others."""
    n = len(x)
    unit = (x / x.norm(dim=1, keepdim=True)).detach()
    pairs = []
    for i in range(0, n, 2):
        others = [(float(unit[i] @ unit[j]), -j) for j in range(1, n, 2)]
        if others:
            pairs.append((*max(others), i))
    joined = {i: -j for _, j, i in sorted(pairs, key=lambda p: -p[0])[: int(n * share + 1e-9)]}
    return [[j, *(i for i, to in joined.items() if to == j)] for j in range(n) if j not in joined]


def merged(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, x, y = real(x, layout), clean(x, layout), torch.zeros_like(x)
    for b in range(x.shape[0]):
        kept = [i for i in range(x.shape[1]) if mask[b][i]]
        groups = groups_of(x[b, kept], mixer.share)
        means = torch.stack([x[b, kept][g].mean(0) for g in groups])
        where = None
        if layout.positions is not None:
            where = torch.stack([layout.positions[b, kept][g].mean(0) for g in groups])[None]
        fewer = Layout((len(groups),), layout.ordered and layout.rank == 1, None, where)
        out = part(mixer.inner, means[None], fewer)[0]
        for row, group in zip(out, groups, strict=True):
            at = torch.tensor([kept[i] for i in group])
            y = y.index_put((torch.tensor(b), at), row.expand(len(group), -1))
    return y


REFERENCES = {"merged": merged}
VARIANTS = {"merged": [{}, {"share": 0.3}]}
