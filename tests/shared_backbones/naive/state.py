"""References of the state mixers: one token after the other, from the recurrence of the paper."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shared_backbones.layout import Layout

from .tools import affine, clean, real


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def softplus(x: Tensor) -> Tensor:
    return torch.log1p(torch.exp(x))


def rms(x: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean() + 1e-6)


def unit(x: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).sum())


def short_conv(layer: Any, x: Tensor) -> Tensor:
    """One item (N, C): the last ``width`` tokens, weighted per channel."""
    weight, rows = layer.conv.weight[:, 0], []
    for t in range(len(x)):
        row = layer.conv.bias
        for lag in range(min(layer.width, t + 1)):
            row = row + weight[:, layer.width - 1 - lag] * x[t - lag]
        rows.append(row)
    return torch.stack(rows)


def by_item(run: Any, mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    """``run(mixer, x, mask, times)`` for every item alone."""
    mask = real(x, layout)
    times = [None] * len(x) if layout.positions is None else list(layout.positions[..., 0])
    return torch.stack([run(mixer, item, m, t) for item, m, t in zip(clean(x, layout), mask, times, strict=True)])


def _delta(mixer: Any, x: Tensor, mask: list[bool], times: Any) -> Tensor:
    c, flags = x.shape[1], torch.tensor(mask)[:, None]
    d = c // mixer.heads
    qkv = silu(short_conv(mixer.conv, affine(mixer.qkv, x) * flags))
    beta = 1 / (1 + torch.exp(-affine(mixer.beta, x)))
    alpha = torch.ones_like(beta) if mixer.alpha is None else torch.exp(-softplus(affine(mixer.alpha, x)))
    heads = []
    for h in range(mixer.heads):
        s = slice(h * d, (h + 1) * d)
        state, rows = torch.zeros(d, d).double(), []
        for t in range(len(x)):
            q, k, v = unit(qkv[t, :c][s]), unit(qkv[t, c : 2 * c][s]), qkv[t, 2 * c :][s]
            if mask[t]:
                state = alpha[t, h] * (state - beta[t, h] * torch.outer(k, k @ state)) + beta[t, h] * torch.outer(k, v)
            rows.append(rms(q @ state))
        heads.append(torch.stack(rows))
    y = torch.cat(heads, 1)
    return affine(mixer.out, y if mixer.gate is None else y * silu(affine(mixer.gate, x)))


def _rotated(x: Tensor, t: int) -> Tensor:
    pairs = len(x) // 2
    for f in range(pairs):
        angle = torch.tensor(t * 10000.0 ** (-f / pairs)).double()
        a, b = x[f].clone(), x[f + pairs].clone()
        x = x.clone()
        x[f], x[f + pairs] = a * torch.cos(angle) - b * torch.sin(angle), a * torch.sin(angle) + b * torch.cos(angle)
    return x


def _retention(mixer: Any, x: Tensor, mask: list[bool], times: Any) -> Tensor:
    c, qkv = x.shape[1], affine(mixer.qkv, x)
    d = c // mixer.heads
    heads = []
    for h in range(mixer.heads):
        s, rows = slice(h * d, (h + 1) * d), []
        keep, state = 1 - 2.0 ** (-5 - h), torch.zeros(d, d).double()
        for t in range(len(x)):
            q, k, v = _rotated(qkv[t, :c][s], t), _rotated(qkv[t, c : 2 * c][s], t), qkv[t, 2 * c :][s]
            state = keep * state + (torch.outer(k, v) / d**0.5 if mask[t] else 0.0)
            rows.append(rms(q @ state))
        heads.append(torch.stack(rows))
    y = torch.cat(heads, 1)
    return affine(mixer.out, y if mixer.gate is None else silu(affine(mixer.gate, x)) * y)


def _mlstm(mixer: Any, x: Tensor, mask: list[bool], times: Any) -> Tensor:
    c, qkv, gates = x.shape[1], affine(mixer.qkv, x), affine(mixer.gates, x)
    d, heads = c // mixer.heads, []
    for h in range(mixer.heads):
        s, rows = slice(h * d, (h + 1) * d), []
        memory, total = torch.zeros(d, d).double(), torch.zeros(d).double()
        for t in range(len(x)):
            q, k, v = qkv[t, :c][s], qkv[t, c : 2 * c][s] / d**0.5, qkv[t, 2 * c :][s]
            if mask[t]:
                forget, write = torch.sigmoid(gates[t, h]), torch.exp(gates[t, mixer.heads + h])
                memory, total = forget * memory + write * torch.outer(k, v), forget * total + write * k
            rows.append(rms(q @ memory / torch.clamp((q @ total).abs(), min=1.0)))
        heads.append(torch.stack(rows))
    return affine(mixer.out, torch.cat(heads, 1) * torch.sigmoid(affine(mixer.gate, x)))


def _clock(mixer: Any, mask: list[bool], times: Any) -> list[Any]:
    """Step lengths: real time since the last real token, in units; 1 for the first; 0 at masked tokens."""
    steps: list[Any] = []
    last = None
    for t, flag in enumerate(mask):
        steps.append(0.0 if not flag else 1.0 if mixer.unit is None or last is None else (times[t] - last) / mixer.unit)
        last = times[t] if flag and times is not None else last
    return steps


def _scan(mixer: Any, x: Tensor, mask: list[bool], times: Any) -> Tensor:
    inner, both = len(mixer.skip), affine(mixer.both, x)
    flags = torch.tensor(mask)[:, None]
    v = silu(short_conv(mixer.conv, both[:, :inner] * flags))
    picked, rate = affine(mixer.select, v), torch.exp(mixer.log_rate)
    state, rows = torch.zeros_like(rate), []
    for t, step in enumerate(_clock(mixer, mask, times)):
        narrow, b, c = picked[t].split([mixer.narrow, mixer.count, mixer.count])
        dt = softplus(affine(mixer.dt, narrow)) * step
        state = torch.exp(-dt * rate) * state + torch.outer(b, dt * v[t])
        rows.append((c @ state + mixer.skip * v[t]) * silu(both[t, inner:]))
    return affine(mixer.out, torch.stack(rows))


def _ssd(mixer: Any, x: Tensor, mask: list[bool], times: Any) -> Tensor:
    flags = torch.tensor(mask)[:, None]
    xbc, (inner, states, _) = silu(short_conv(mixer.conv, affine(mixer.xbc, x) * flags)), mixer.parts
    d, z = inner // mixer.heads, silu(affine(mixer.gate, x))
    memory: list[Any] = [torch.zeros(states, d).double() for _ in range(mixer.heads)]
    rows = []
    for t, step in enumerate(_clock(mixer, mask, times)):
        v, b, c = xbc[t, :inner], xbc[t, inner : inner + states], xbc[t, inner + states :]
        parts = []
        for h in range(mixer.heads):
            dt, part = softplus(affine(mixer.dt, x[t]))[h] * step, v[h * d : (h + 1) * d]
            memory[h] = torch.exp(-dt * torch.exp(mixer.log_rate[h])) * memory[h] + dt * torch.outer(b, part)
            parts.append(c @ memory[h] + mixer.skip[h] * part)
        rows.append(rms(torch.cat(parts) * z[t]) * mixer.norm.weight)
    return affine(mixer.out, torch.stack(rows))


def _legendre(mixer: Any, x: Tensor, mask: list[bool], times: Any) -> Tensor:
    order, window = mixer.order, 128.0
    a, b = torch.zeros(order, order).double(), torch.zeros(order).double()
    for i in range(order):
        b[i] = (2 * i + 1) * (-1) ** i / window
        for j in range(order):
            a[i, j] = (2 * i + 1) / window * (-1 if i < j else (-1) ** (i - j + 1))
    both = torch.zeros(order + 1, order + 1).double()  # the hold: one matrix exponential of [[A, B], [0, 0]]
    both[:order, :order], both[:order, order] = a, b
    step = torch.matrix_exp(both)
    u, rows = affine(mixer.signal, x), []
    m = torch.zeros(mixer.inputs, order).double()
    for t in range(len(x)):
        m = m @ step[:order, :order].T + torch.outer(u[t], step[:order, order])
        z = affine(mixer.memory, m.flatten()) + affine(mixer.own, x[t])
        rows.append(0.5 * z * (1 + torch.erf(z / 2**0.5)))
    return affine(mixer.out, torch.stack(rows))


def _memory(mixer: Any, x: Tensor, mask: list[bool], times: Any) -> Tensor:
    """Plain gradient descent by autograd, one token at a time."""
    c, qkv, gates = x.shape[1], affine(mixer.qkv, x), torch.sigmoid(affine(mixer.gates, x))
    d, heads = c // mixer.heads, []
    for h in range(mixer.heads):
        s = slice(h * d, (h + 1) * d)
        now = [mixer.w1[h] * 1.0, mixer.w2[h] * 1.0]
        speed: list[Tensor] = [torch.zeros_like(w) for w in now]
        rows = []
        for t in range(len(x)):
            if t % mixer.chunk == 0:
                anchor = [w * 1.0 for w in now]
            q, k, v = unit(qkv[t, :c][s]), unit(qkv[t, c : 2 * c][s]), qkv[t, 2 * c :][s]
            if mask[t]:
                keep, rate, forget = gates[t].reshape(3, -1)[:, h]
                loss = ((k + anchor[1] @ silu(anchor[0] @ k) - v) ** 2).sum() / 2
                grads = torch.autograd.grad(loss, anchor, create_graph=True)
                speed = [keep * old - rate * g for old, g in zip(speed, grads, strict=True)]
                now = [(1 - forget) * w + fast for w, fast in zip(now, speed, strict=True)]
            rows.append(rms(q + now[1] @ silu(now[0] @ q)))
        heads.append(torch.stack(rows))
    return affine(mixer.out, torch.cat(heads, 1))


def _leaky(mixer: Any, x: Tensor, mask: list[bool], times: Any) -> Tensor:
    leak = torch.exp(-1 / torch.exp(mixer.branch_time))
    tau = torch.exp(mixer.memory_time)
    b, m, rows = torch.zeros(mixer.branches).double(), torch.zeros(mixer.memories).double(), []
    for t in range(len(x)):
        if mask[t]:
            b = leak * b + (softplus(mixer.synapse) * x[t]).reshape(mixer.branches, -1).sum(1)
            z = torch.exp(-1 / tau) * m
            change = torch.tanh(affine(mixer.inner, silu(affine(mixer.inward, torch.cat([b, z])))))
            m = z + (1 - torch.exp(-5 / tau)) * change
        rows.append(m)
    return affine(mixer.out, torch.stack(rows))


def _spiking(mixer: Any, x: Tensor, mask: list[bool], times: Any) -> Tensor:
    keep, gain = 1 / (1 + torch.exp(-mixer.leak)), torch.exp(mixer.gain)
    v, rows = torch.zeros(x.shape[1]).double(), []
    for t in range(len(x)):
        now = keep * v + (1 - keep) * gain * x[t]
        soft = torch.atan(torch.pi * (now - 1)) / torch.pi  # the slope backward; forward it is a step
        fired = torch.tensor([1.0 if c > 1 else 0.0 for c in now.tolist()]).double()
        rows.append(fired + soft - soft.detach())
        if mask[t]:
            v = now - fired
    return affine(mixer.out, torch.stack(rows))


def conv_ssm(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    conv = torch.nn.functional.conv1d if mixer.rank == 2 else torch.nn.functional.conv2d
    x, rate = clean(x, layout), torch.exp(mixer.log_rate)
    frames = layout.fold(x).movedim(-1, 2).unbind(1)  # (B, C, *space) each
    mask = torch.tensor(real(x, layout)).reshape(len(x), *layout.axes).unbind(1)
    state, rows = 0.0, []
    for frame, flags in zip(frames, mask, strict=True):
        drive = conv(frame, mixer.write.weight, padding=mixer.kernel // 2) * flags[:, None]
        shape = (1, -1) + (1,) * (mixer.rank - 1)
        state = torch.exp(-rate).reshape(shape) * state + ((1 - torch.exp(-rate)) / rate).reshape(shape) * drive
        rows.append(conv(state, mixer.read.weight, mixer.read.bias, padding=mixer.kernel // 2))
    return layout.unfold(torch.stack(rows, 1).movedim(2, -1)) + mixer.skip * x


def directions(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    """Every path by itself: the real tokens of one item in its order, through the inner mixer, and back."""
    mask, places = real(x, layout), torch.arange(layout.size).reshape(layout.axes)
    items = []
    for b in range(len(x)):
        total = torch.zeros_like(x[b])
        for i, (axis, back) in enumerate(mixer.paths):
            order = [j for j in places.movedim(axis, -1).flatten().tolist() if mask[b][j]]
            order = order[::-1] if back else order
            if order:
                y = mixer.inner[i % len(mixer.inner)](x[b, order][None], Layout((len(order),)), mode="recurrent")[0]
                total = total.index_add(0, torch.tensor(order), y)
        items.append(total)
    return torch.stack(items)


def of(run: Any) -> Any:
    return lambda mixer, x, layout: by_item(run, mixer, x, layout)


REFERENCES = {
    "delta": of(_delta),
    "retention": of(_retention),
    "mlstm": of(_mlstm),
    "scan": of(_scan),
    "ssd": of(_ssd),
    "legendre": of(_legendre),
    "memory": of(_memory),
    "leaky": of(_leaky),
    "spiking": of(_spiking),
    "conv_ssm": conv_ssm,
    "directions": directions,
}
VARIANTS = {
    "delta": [{"chunk": 16}, {"decay": True, "gate": True, "kernel": 1}],
    "retention": [{"chunk": 16}, {"gate": False}],
    "mlstm": [{"chunk": 16}],
    "scan": [{"chunk": 16}, {"unit": 0.5, "kernel": 2, "expand": 1}],
    "ssd": [{"states": 6, "chunk": 16}, {"unit": 0.5, "kernel": 2, "expand": 1}],
    "legendre": [{"order": 6, "inputs": 2}],
    "memory": [{"batch": 10}],
    "leaky": [{"memories": 5}],
    "spiking": [{"window": 4.0}],
    "conv_ssm": [{"states": 3}],
    "directions": [{"inner": "delta"}, {"inner": {"mixer": "retention"}, "tied": True, "back": False}],
}
