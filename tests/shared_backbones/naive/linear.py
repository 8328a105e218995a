"""Reference of linear attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shared_backbones.layout import Layout

from .tools import affine, clean, places, real


def phi(x: Tensor) -> Tensor:
    """elu(x) + 1."""
    return torch.where(x > 0, x + 1, torch.exp(x))


def linear(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, c, at = real(x, layout), x.shape[2], places(layout.axes)
    qkv, d = affine(mixer.qkv, clean(x, layout)), c // mixer.heads
    rate = torch.zeros(mixer.heads).double() if mixer.log_rate is None else torch.exp(mixer.log_rate)
    f = phi if mixer.feature == "elu" else lambda z: torch.clamp(z, min=0)
    rows = []
    for b in range(x.shape[0]):
        for i in range(x.shape[1]):
            keys = [j for j in range(x.shape[1]) if mask[b][j] and (not mixer.causal or at[j][0] <= at[i][0])]
            frames = torch.tensor([float(at[i][0] - at[j][0]) for j in keys]).double()
            for h in range(mixer.heads):
                s = slice(h * d, (h + 1) * d)
                q, k, v = f(qkv[b, i, :c][s]), f(qkv[b, :, c : 2 * c][keys][:, s]), qkv[b, :, 2 * c :][keys][:, s]
                weight = (k @ q) * torch.exp(-rate[h] * frames)
                top = weight @ v
                under = torch.sqrt((top * top).mean() + 1e-6) if mixer.norm == "rms" else weight.sum() + mixer.eps
                rows.append(top / under)
    return affine(mixer.out, torch.cat(rows).reshape(x.shape))


REFERENCES = {"linear": linear}
VARIANTS = {"linear": [{}, {"decay": True, "chunk": 16, "causal_axes": (0,)}, {"feature": "relu", "norm": "rms"}]}
