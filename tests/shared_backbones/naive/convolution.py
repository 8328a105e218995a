"""References of convolutions, gates made of them, and the small words of sentences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shared_backbones.layout import Layout

from .combine import part
from .tools import affine, clean, places, real


def tap_of(
    place: tuple[int, ...],
    other: tuple[int, ...],
    kernel: tuple[int, ...],
    causal: frozenset[int],
    dilation: int = 1,
) -> int | None:
    """Index of the filter tap that ``other`` meets when the filter stands at ``place``; None where it meets none."""
    index = 0
    for axis, (a, c, k) in enumerate(zip(place, other, kernel, strict=True)):
        width = (k - 1) * dilation + 1
        step = c - a + (width - 1 if axis in causal else (width - 1) // 2)
        if step % dilation or not 0 <= step // dilation < k:
            return None
        index = index * k + step // dilation
    return index


def normed(norm: Any, x: Tensor) -> Tensor:
    """A norm as it is evaluated."""
    kind = type(norm).__name__
    if kind == "Identity":
        return x
    if kind == "BatchNorm":
        return (x - norm.mean) / torch.sqrt(norm.variance + norm.eps) * norm.weight + norm.bias
    assert kind == "LayerNorm"
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + norm.eps) * norm.weight + norm.bias


def depthwise(module: Any, x: Tensor, layout: Layout) -> Tensor:
    """norm of the sum over taps, zeros outside."""
    at, x = places(layout.axes), clean(x, layout)
    taps, dilation = module.conv.weight[:, 0].flatten(1), module.conv.dilation[0]
    rows = []
    for i in range(len(at)):
        total = torch.zeros_like(x[:, i]) if module.conv.bias is None else module.conv.bias.expand(x.shape[0], -1)
        for j in range(len(at)):
            tap = tap_of(at[i], at[j], module.conv.kernel_size, module.causal, dilation)
            if tap is not None:
                total = total + taps[:, tap] * x[:, j]
        rows.append(total)
    return normed(module.norm, torch.stack(rows, 1))


def linear(module: Any, x: Tensor) -> Tensor:
    return normed(module.norm, affine(module.linear, x))


def mean_of(x: Tensor, layout: Layout) -> Tensor:
    """Mean over the real tokens, (B, 1, C); zeros where there are none."""
    kept = [[i for i, flag in enumerate(item) if flag] for item in real(x, layout)]
    return torch.stack([x[b, at].mean(0) if at else torch.zeros_like(x[b, 0]) for b, at in enumerate(kept)])[:, None]


def convolution(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    return mixer.act(depthwise(mixer.conv, x, layout))


def full_convolution(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    at, x = places(layout.axes), clean(x, layout)
    conv, taps = mixer.conv.conv, mixer.conv.conv.weight.flatten(2)
    rows = []
    for i in range(len(at)):
        total = torch.zeros_like(x[:, i]) if conv.bias is None else conv.bias.expand(x.shape[0], -1)
        for j in range(len(at)):
            tap = tap_of(at[i], at[j], conv.kernel_size, mixer.causal, conv.dilation[0])
            if tap is not None:
                total = total + x[:, j] @ taps[..., tap].mT
        rows.append(total)
    return mixer.act(normed(mixer.conv.norm, torch.stack(rows, 1)))


def separable(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    return affine(mixer.down, depthwise(mixer.conv, mixer.act(affine(mixer.up, clean(x, layout))), layout))


def max_pooling(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    at, mask = places(layout.axes), real(x, layout)
    rows = []
    for b in range(x.shape[0]):
        for i in range(len(at)):
            near = [j for j in range(len(at)) if mask[b][j]]
            near = [j for j in near if tap_of(at[i], at[j], (mixer.window,) * layout.rank, mixer.causal) is not None]
            rows.append(x[b, near].amax(0) if near and mask[b][i] else torch.zeros_like(x[b, i]))
    return torch.stack(rows).reshape(x.shape)


def pointwise(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    return mixer.act(linear(mixer.linear, clean(x, layout)))


def norm(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    return mixer.act(normed(mixer.norm, clean(x, layout)))


def mlp(layer: Any, x: Tensor) -> Tensor:
    return affine(layer.down, gelu(affine(layer.up, x)))


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def feed_forward(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    assert type(mixer.inner).__name__ == "MLP"
    return mlp(mixer.inner, clean(x, layout))


def residual(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    x = clean(x, layout)
    return x + part(mixer.inner, normed(mixer.norm, x), layout)


def product(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    y = torch.ones_like(x)
    for inner in mixer.inner:
        y = y * part(inner, x, layout)
    return y


def squeezed(module: Any, x: Tensor, layout: Layout) -> Tensor:
    first, second = module.gate[0], module.gate[2]
    hidden = affine(first, mean_of(x, layout))
    return x * torch.sigmoid(affine(second, hidden * torch.sigmoid(hidden)))


def squeeze_excite(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    return squeezed(mixer.gate, clean(x, layout), layout)


def mbconv(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    hidden = gelu(linear(mixer.up, clean(x, layout)))
    hidden = gelu(depthwise(mixer.conv, hidden, layout))
    return affine(mixer.down, hidden if mixer.squeeze is None else squeezed(mixer.squeeze, hidden, layout))


def ghost_features(module: Any, x: Tensor, layout: Layout) -> Tensor:
    first = module.act(linear(module.main, x))
    return torch.cat([first, module.act2(depthwise(module.cheap, first, layout))], -1)[..., : module.width]


def ghost(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    at, mask, x = places(layout.axes), real(x, layout), clean(x, layout)
    axes = tuple(-(-n // 2) for n in layout.axes)
    blocks = places(axes)
    home = [blocks.index(tuple(c // 2 for c in place)) for place in at]
    gates = []
    for b in range(x.shape[0]):
        inside = [[i for i in range(len(at)) if home[i] == g and mask[b][i]] for g in range(len(blocks))]
        means = torch.stack([x[b, i].mean(0) if i else torch.zeros_like(x[b, 0]) for i in inside])
        some = [bool(i) for i in inside]
        y = linear(mixer.enter, means)
        for conv in mixer.along:
            y = depthwise(conv, y[None], Layout(axes, mask=torch.tensor([some])))[0]
        gates.append(torch.sigmoid(y[home]))
    return ghost_features(mixer.reduce, torch.stack(gates) * ghost_features(mixer.expand, x, layout), layout)


def recursive_gated(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    both = affine(mixer.into, clean(x, layout))
    p, q = both[..., : mixer.widths[0]], both[..., mixer.widths[0] :]
    context, start = part(mixer.context, q, layout), 0
    for k, width in enumerate(mixer.widths):
        p = (p if k == 0 else affine(mixer.widen[k - 1], p)) * context[..., start : start + width] * mixer.scale
        start += width
    return affine(mixer.out, p)


def large_kernel(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    x = clean(x, layout)
    u = gelu(affine(mixer.into, x))
    far = depthwise(mixer.far, depthwise(mixer.near, u, layout), layout)
    return x + affine(mixer.out, affine(mixer.gate, far) * u)


def additive(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    q, k, v = affine(mixer.qkv, clean(x, layout)).split(x.shape[-1], -1)
    total = torch.zeros_like(q)
    for u, phi in ((q, mixer.phi_q), (k, mixer.phi_k)):
        u = u * torch.sigmoid(affine(phi.token, torch.relu(depthwise(phi.conv, u, layout))))
        total = total + u * torch.sigmoid(affine(phi.channel, mean_of(u, layout)))
    return depthwise(mixer.out, depthwise(mixer.context, total, layout) * v, layout)


def polarised(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, x, out = real(x, layout), clean(x, layout), []
    for b in range(x.shape[0]):
        kept = [i for i in range(x.shape[1]) if mask[b][i]]

        def token_gate(z: Tensor, b: int = b, kept: list[int] = kept) -> Tensor:
            weights = torch.exp(affine(mixer.query, z[kept].mean(0)))
            return torch.sigmoid((affine(mixer.key, z) * weights / weights.sum()).sum(-1, keepdim=True))

        shares = torch.exp(affine(mixer.weight, x[b, kept]))
        pooled = (shares * affine(mixer.value, x[b, kept])).sum(0) / shares.sum()
        z = x[b] * torch.sigmoid(normed(mixer.norm, affine(mixer.raise_, pooled)))
        out.append(z + x[b] * token_gate(x[b]) if mixer.parallel else z * token_gate(z))
    return torch.stack(out)


def _hashed(x: int, rounds: int = 3) -> int:
    p = 2**31 - 1
    for constant in (1_779_033_703, 1_013_904_242, 1_359_893_119)[:rounds]:
        x = pow(x + constant, 5, p)
    return x


def random(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    at, mask, p = places(layout.axes), real(x, layout), 2**31 - 1
    names = []
    for place in at:
        name = 0
        for c in place:
            name = _hashed((name + c) % p)
        names.append(name)
    seed, x, rows = int(mixer.seed), clean(x, layout), []
    for b in range(x.shape[0]):
        for i in range(len(at)):
            keys = [j for j in range(len(at)) if mask[b][j] and all(at[j][a] <= at[i][a] for a in mixer.causal)]
            if not keys:
                rows.append(torch.zeros_like(x[b, i]))
                continue
            scores = [_hashed((names[i] + _hashed((names[j] + seed) % p)) % p, 1) / p for j in keys]
            rows.append(torch.softmax(torch.tensor(scores, dtype=x.dtype), 0) @ x[b, keys])
    return torch.stack(rows).reshape(x.shape)


REFERENCES = {
    "convolution": convolution,
    "full_convolution": full_convolution,
    "separable": separable,
    "max_pooling": max_pooling,
    "pointwise": pointwise,
    "norm": norm,
    "feed_forward": feed_forward,
    "residual": residual,
    "product": product,
    "squeeze_excite": squeeze_excite,
    "mbconv": mbconv,
    "ghost": ghost,
    "recursive_gated": recursive_gated,
    "large_kernel": large_kernel,
    "additive": additive,
    "polarised": polarised,
    "random": random,
}
VARIANTS = {
    "separable": [{"kernel": 4, "ratio": 2.0, "act": "gelu"}],
    "convolution": [{}, {"kernel": 2, "dilation": 3, "norm": "batch", "act": "relu"}],
    "full_convolution": [{}, {"kernel": 2, "dilation": 3, "norm": "batch", "act": "relu"}],
    "pointwise": [{}, {"norm": "layer", "act": "silu"}],
    "residual": [{"inner": "pooling", "norm": "layer"}],
    "product": [{"inner": ["pooling", "pointwise"]}],
    "mbconv": [{}, {"squeeze": 0.5, "norm": "layer"}],
    "ghost": [{}, {"ratio": 1.4, "reach": 3}],
    "recursive_gated": [{"order": 2, "kernel": 3}, {"order": 1, "context": "pooling"}],
    "large_kernel": [{}, {"near": 3, "far": 2, "dilation": 2}],
    "polarised": [{}, {"arrangement": "sequential"}],
}
