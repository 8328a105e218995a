"""References of heads that are not alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shared_backbones.layout import Layout

from .attention import position_bias, scored
from .convolution import depthwise, linear
from .tools import affine, clean, real, softmax_attention


class WithoutOut:
    """The mixer without its last map, for what happens between the heads and that map."""

    def __init__(self, mixer: Any) -> None:
        self.mixer, self.out = mixer, torch.nn.Identity()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.mixer, name)


def gated_heads(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    y, x, parts = scored(WithoutOut(mixer), x, layout), clean(x, layout), []
    d, e = x.shape[2] // mixer.heads, y.shape[2] // mixer.heads
    for h in range(mixer.heads):
        logit = x[..., h * d : (h + 1) * d] @ mixer.gate[h] + mixer.gate_bias[h]
        parts.append(y[..., h * e : (h + 1) * e] / (1 + torch.exp(-logit))[..., None])
    return affine(mixer.out, torch.cat(parts, -1))


def routed_heads(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    y, x, rows = scored(WithoutOut(mixer), x, layout), clean(x, layout), []
    for b in range(len(x)):
        for i in range(x.shape[1]):
            kinds = 2 * (mixer.kinds.weight @ x[b, i]).softmax(0) if mixer.shared else torch.ones(2).double()
            p = (mixer.router.weight @ x[b, i]).softmax(0)
            best = sorted((-value, e) for e, value in enumerate(p.tolist()))[: mixer.chosen]
            gates = [kinds[1] * p[e] * len(p) if e in [e for _, e in best] else 0 * p[e] for e in range(len(p))]
            if mixer.shared:
                always = torch.ones(1).double() if mixer.always is None else (mixer.always.weight @ x[b, i]).softmax(0)
                gates = [kinds[0] * a * mixer.shared for a in always] + gates
            parts = y[b, i].chunk(mixer.heads)
            rows.append(torch.cat([g * part for g, part in zip(gates, parts, strict=True)]))
    return affine(mixer.out, torch.stack(rows).reshape(*x.shape[:2], -1))


def cascaded(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    x, mask = clean(x, layout), real(x, layout)
    found: list[Tensor] = []
    for j, part in enumerate(x.chunk(mixer.heads, -1)):
        qkv = linear(mixer.qkv[j], part + found[-1] if found else part)
        d = mixer.key_dim
        q, k, v = clean(qkv[..., :d], layout), qkv[..., d : 2 * d], qkv[..., 2 * d :]
        q = depthwise(mixer.filters[j], q, layout)
        items = []
        for b in range(len(x)):
            bias = position_bias(mixer, layout, mask, b)
            one = (lambda bias: lambda i, j2: torch.as_tensor(bias(i, j2)).expand(mixer.heads)[j])(bias)
            items.append(softmax_attention(q[b], k[b], v[b], 1, lambda i, j2, b=b: mask[b][j2], one))  # type: ignore[misc]
        found.append(clean(torch.stack(items), layout))
    return linear(mixer.out, torch.cat(found, -1).clamp_min(0))


def single_head(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    x, mask, w, d = clean(x, layout), real(x, layout), mixer.width, mixer.key_dim
    items = []
    for b in range(len(x)):
        kept = [i for i in range(x.shape[1]) if mask[b][i]]
        values = x[b, kept, :w]
        centred = (values - values.mean()) / torch.sqrt(values.var(unbiased=False) + mixer.norm.eps)
        centred = centred * mixer.norm.weight + mixer.norm.bias
        q, k, v = linear(mixer.qkv, centred[None])[0].split([d, d, w], -1)
        y = softmax_attention(q, k, v, 1, lambda i, j: True, lambda i, j: 0.0)
        whole = x[b].clone()
        whole[kept, :w] = y
        items.append(whole)
    return linear(mixer.out, torch.stack(items).clamp_min(0))


REFERENCES = {
    "gated_heads": gated_heads,
    "routed_heads": routed_heads,
    "cascaded": cascaded,
    "single_head": single_head,
}
VARIANTS = {
    "gated_heads": [{"start": 0.2, "heads": 2, "head_dim": 3}],
    "routed_heads": [{}, {"shared": 0, "chosen": 2, "position": "alibi"}],
    "cascaded": [{"kernels": (5, 3), "heads": 2, "position": {"kind": "table", "size": 4, "symmetric": True}}],
    "single_head": [{}],
}
