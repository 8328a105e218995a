"""References of attention routed by stripes, by regions and by content."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shared_backbones.layout import Layout

from .convolution import depthwise
from .dual import block_means, blocks_of
from .tools import affine, behind, clean, places, real, softmax_attention


def near(mixer: Any, qkv: Tensor, layout: Layout) -> Tensor | float:
    """The convolution of the values."""
    return 0.0 if mixer.near is None else depthwise(mixer.near, qkv.chunk(3, -1)[2], layout)


def stripes(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    at, before, mask = places(layout.axes), behind(layout.axes, mixer.causal), real(x, layout)
    qkv, d = affine(mixer.qkv, clean(x, layout)), x.shape[2] // mixer.heads
    y, done = [], 0
    for axis, heads in enumerate(mixer.shares):
        if heads == 0:
            continue
        part = slice(done * d, (done + heads) * d)
        done += heads

        def seen(i: int, j: int, axis: int = axis) -> bool:
            others = (a for a in range(len(layout.axes)) if a != axis)
            return before(i, j) and all(at[i][a] // mixer.width == at[j][a] // mixer.width for a in others)

        rows = []
        for b in range(x.shape[0]):
            q, k, v = (t[:, part] for t in qkv[b].chunk(3, -1))
            rows.append(
                softmax_attention(q, k, v, heads, lambda i, j, b=b, s=seen: mask[b][j] and s(i, j), lambda i, j: 0.0)
            )
        y.append(torch.stack(rows))
    return affine(mixer.out, torch.cat(y, -1) + near(mixer, qkv, layout))


def regions(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, qkv, blocks = real(x, layout), affine(mixer.qkv, clean(x, layout)), blocks_of(layout, mixer.window)
    home, y = {i: g for g, block in enumerate(blocks) for i in block}, []
    for b in range(x.shape[0]):
        q, k, v = qkv[b].chunk(3, -1)
        mean_q, _ = block_means(q, mask[b], blocks)
        mean_k, some = block_means(k, mask[b], blocks)
        chosen = []
        for query in mean_q:
            best = sorted((g for g in range(len(blocks)) if some[g]), key=lambda g: -(query @ mean_k[g]).item())
            chosen.append(best[: mixer.top])

        def seen(i: int, j: int, b: int = b, chosen: list[list[int]] = chosen) -> bool:
            return mask[b][i] and mask[b][j] and home[j] in chosen[home[i]]

        y.append(softmax_attention(q, k, v, mixer.heads, seen, lambda i, j: 0.0))
    return affine(mixer.out, torch.stack(y) + near(mixer, qkv, layout))


def unit(t: Tensor) -> Tensor:
    """Mean 0 and variance 1 per token."""
    t = t - t.mean(-1, keepdim=True)
    return t / torch.sqrt((t**2).mean(-1, keepdim=True) + 1e-5)


def routing(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, qkv, d = real(x, layout), affine(mixer.qkv, clean(x, layout)), x.shape[2] // mixer.heads
    out = []
    for b in range(x.shape[0]):
        kept, heads = [i for i in range(x.shape[1]) if mask[b][i]], []
        width = -(-len(kept) // mixer.clusters)
        for h in range(mixer.heads):
            q, k, v = (t[:, h * d : (h + 1) * d] for t in qkv[b].chunk(3, -1))
            q, k = unit(q), unit(k)
            found: dict[int, list[Tensor]] = {i: [] for i in range(x.shape[1])}
            for centroid in mixer.centroids[h]:
                near_q = sorted(kept, key=lambda i: -(q[i] @ centroid).item())[:width]
                near_k = sorted(kept, key=lambda i: -(k[i] @ centroid).item())[:width]
                for i in near_q:
                    found[i].append((k[near_k] @ q[i] / d**0.5).softmax(0) @ v[near_k])
            heads.append(torch.stack([torch.stack(r).mean(0) if r else v.new_zeros(d) for r in found.values()]))
        out.append(torch.cat(heads, -1))
    return affine(mixer.out, torch.stack(out))


def sorted_groups(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, qkv, at, out = real(x, layout), affine(mixer.qkv, clean(x, layout)), layout.positions, []
    assert at is not None
    for b in range(x.shape[0]):

        def key(i: int, b: int = b) -> tuple[float, ...]:
            place = at[b, i].tolist()
            place = place[mixer.axis :] + place[: mixer.axis]
            return *((c / mixer.window + mixer.shift) // 1 for c in place), *place

        row = sorted((i for i in range(x.shape[1]) if mask[b][i]), key=key)
        group = {i: n // mixer.size for n, i in enumerate(row)}
        q, k, v = qkv[b].chunk(3, -1)
        out.append(
            softmax_attention(
                q,
                k,
                v,
                mixer.heads,
                lambda i, j, g=group: i in g and j in g and g[i] == g[j],  # type: ignore[misc]
                lambda i, j: 0.0,
            )
        )
    return affine(mixer.out, torch.stack(out))


def factored(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, at, d = real(x, layout), places(layout.axes), x.shape[2] // mixer.heads
    before, blocks = behind(layout.axes, mixer.causal), blocks_of(layout, mixer.window)
    home, qkv, out = {i: g for g, block in enumerate(blocks) for i in block}, affine(mixer.qkv, clean(x, layout)), []
    for b in range(x.shape[0]):
        kept, heads = [[i for i in block if mask[b][i]] for block in blocks], []
        for h in range(mixer.heads):
            q, k, v = (t[:, h * d : (h + 1) * d] for t in qkv[b].chunk(3, -1))
            top = {g: (q[i].amax(0), k[i].amax(0)) for g, i in enumerate(kept) if i}
            mean = {g: (k[kept[g]] @ top[g][0] / d**0.5).softmax(0) @ v[kept[g]] for g in top}
            rows = []
            for i in range(len(q)):
                own = [j for j in kept[home[i]] if before(i, j)] if mask[b][i] else []
                others = [g for g in top if g != home[i]]
                if mixer.causal:
                    others = [g for g in others if at[blocks[g][0]][0] < at[blocks[home[i]][0]][0]]
                keys = [k[j] for j in own] + [top[g][1] for g in others]
                values = [v[j] for j in own] + [mean[g] for g in others]
                scores = torch.stack(keys) @ q[i] / d**0.5 if own else None
                rows.append(v.new_zeros(d) if scores is None else scores.softmax(0) @ torch.stack(values))
            heads.append(torch.stack(rows))
        out.append(torch.cat(heads, -1))
    return affine(mixer.out, torch.stack(out))


def shift(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    at, x = places(layout.axes), clean(x, layout)
    number = {place: i for i, place in enumerate(at)}
    rows = []
    for place in at:
        source = tuple(c - mixer.steps if axis == mixer.axis else c for axis, c in enumerate(place))
        rows.append(x[:, number[source]] if source in number else torch.zeros_like(x[:, 0]))
    return torch.stack(rows, 1)


REFERENCES = {
    "stripes": stripes,
    "regions": regions,
    "routing": routing,
    "sorted": sorted_groups,
    "factored": factored,
    "shift": shift,
}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "stripes": [{}, {"width": 2, "kernel": 0, "heads": 2}],
    "regions": [{}, {"window": 2, "top": 2, "kernel": 0, "heads": 2}],
    "routing": [{"clusters": 3, "heads": 2}],
    "sorted": [{"size": 5, "window": 2.5, "shift": 0.5}],
    "factored": [{"window": 3}],
    "shift": [{}, {"steps": -2, "causal_axes": ()}],
}
