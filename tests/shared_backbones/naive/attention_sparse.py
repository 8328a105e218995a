"""References of attention for some queries or to some keys."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from shared_backbones.layout import Layout

from .attention import attention
from .tools import affine, clean, real, softmax


def prob_sparse(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, items = real(x, layout), []
    for b, qkv in enumerate(affine(mixer.qkv, clean(x, layout)).unbind()):
        tokens = [i for i in range(len(qkv)) if mask[b][i]]
        n = len(tokens)
        few = min(n, max(1, math.ceil(mixer.factor * math.log(n))))
        parts = []
        for q, k, v in zip(*(t.chunk(mixer.heads, -1) for t in qkv.split(mixer.widths, -1)), strict=True):
            y = v[tokens].mean(0).expand(len(v), -1).clone()
            measure = []
            for r, i in enumerate(tokens):
                sample = [tokens[(r + t * n // few) % n] for t in range(few)]
                scores = (k[sample] @ q[i]).detach()
                measure.append((float(scores.max() - scores.mean()), i))
            for _, i in sorted(measure)[n - few :]:
                y[i] = softmax(k[tokens] @ q[i] / q.shape[1] ** 0.5) @ v[tokens]
            parts.append(y)
        items.append(torch.cat(parts, -1))
    return affine(mixer.out, torch.stack(items))


REFERENCES = {"subsampled": attention, "prob_sparse": prob_sparse}
VARIANTS = {"prob_sparse": [{"factor": 2.0}]}
