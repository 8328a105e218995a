"""References of attention on graphs and of orders by content, token by token."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_backbones.layout import Layout

from .combine import part
from .graph import near
from .tools import affine, clean, real


def _norm(layer: Any, x: Tensor) -> Tensor:
    return (x - x.mean()) / (x.var(unbiased=False) + layer.eps).sqrt() * layer.weight + layer.bias


def edge_stream(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    x, around = clean(x, layout), near(x, layout)
    h, edges = list(x.flatten(0, 1)), [e for n in around for e, _ in n]
    first = hasattr(mixer.start, "weight")
    state = {e: affine(mixer.start, layout.edge_attr[e]) if first else mixer.start for e in edges}  # type: ignore[index]
    for layer in mixer.layers:
        heads, qkv = layer.heads, [affine(layer.qkv, _norm(layer.norm, r)).chunk(3) for r in h]
        following, next_state = [], dict(state)
        for i, n in enumerate(around):
            total = torch.zeros_like(h[i])
            products = {}
            for e, j in n:
                bond = affine(layer.e, _norm(layer.edge_norm, state[e]))
                products[e] = qkv[i][0] * qkv[j][1] * (len(bond) // heads) ** -0.5 * bond
                if layer.edge_out is not None:
                    next_state[e] = state[e] + affine(layer.edge_out, products[e])
            if n:
                scores = torch.stack([products[e].unflatten(0, (heads, -1)).sum(-1) for e, _ in n])
                weight = torch.exp(scores - scores.amax(0))
                weight = weight / weight.sum(0)
                values = torch.stack([qkv[j][2].unflatten(0, (heads, -1)) for _, j in n])
                total = (weight[..., None] * values).sum(0).flatten()
            following.append(h[i] + affine(layer.out, total))
        h, state = following, next_state
    return torch.stack(h).reshape(x.shape) - x


def top_attention(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    x, around, flags = clean(x, layout), near(x, layout), real(x, layout)
    flat, n = x.flatten(0, 1), x.shape[1]
    score = [F.cosine_similarity(affine(mixer.relate, r), mixer.vector, dim=0) for r in flat]
    q, k, v = zip(*[affine(mixer.qkv, r).chunk(3) for r in flat], strict=True)
    rows = []
    for b in range(x.shape[0]):
        line = sorted((i for i in range(b * n, (b + 1) * n) if flags[b][i - b * n]), key=lambda i: score[i].item())
        for i in range(b * n, (b + 1) * n):
            related = torch.zeros_like(flat[i])
            if i in line:
                p = line.index(i)
                window = line[max(0, p - mixer.m) : p] + line[p + 1 : p + 1 + mixer.m]
                window = sorted(window, key=lambda j: abs((score[i] - score[j]).item()))[: mixer.m]
                if window:
                    scale = len(flat[i]) ** -0.5
                    logits = [q[i] @ k[j] * scale - mixer.distance * (score[i] - score[j]).abs() for j in window]
                    weight = torch.stack(logits).softmax(0)
                    related = sum((w * v[j] for w, j in zip(weight, window, strict=True)), related)
            mean = torch.stack([flat[j] for _, j in around[i]]).mean(0) if around[i] else torch.zeros_like(flat[i])
            rows.append(affine(mixer.out, torch.cat([flat[i], mean, related])))
    return torch.stack(rows).reshape(x.shape)


def _clusters(rows: Tensor, tokens: list[int], around: Any, score: list[float], levels: int) -> list[dict[int, float]]:
    """Per level, token -> the lowest score in its cluster."""
    home, found = {i: i for i in tokens}, []
    for _ in range(levels):
        groups = {c: [i for i in tokens if home[i] == c] for c in set(home.values())}
        mean = {c: F.normalize(rows[g].mean(0), dim=0) for c, g in groups.items()}
        choice: dict[int, int] = {}
        for c, group in groups.items():
            others = {home[j] for i in group for _, j in around[i]} - {c}
            choice[c] = max(others, key=lambda o: (mean[c] @ mean[o]).item()) if others else c
        root: dict[int, int] = {}
        for c in groups:
            at, seen = c, [c]
            while choice[at] not in seen:
                at = choice[at]
                seen.append(at)
            ring = {at, choice[at]}
            root[c] = min(ring, key=lambda r: score[r])
        home = {i: root[c] for i, c in home.items()}
        low = {c: min(score[i] for i in tokens if home[i] == c) for c in set(home.values())}
        found.append({i: low[home[i]] for i in tokens})
    return found


def ordered(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    x, around, flags = clean(x, layout), near(x, layout), real(x, layout)
    n, y = x.shape[1], torch.zeros_like(x)
    score = [affine(mixer.score, r).item() for r in x.flatten(0, 1)]
    for b in range(x.shape[0]):
        tokens = [b * n + i for i in range(n) if flags[b][i]]
        if mixer.by == "hierarchy":
            levels = _clusters(x.flatten(0, 1).detach(), tokens, around, score, mixer.levels)
            line = sorted(tokens, key=lambda i: (*(level[i] for level in levels[::-1]), score[i]))
        else:
            line = sorted(tokens, key=lambda i: ((len(around[i]) if mixer.by == "degree" else 0), score[i]))
        at = [i - b * n for i in line]
        weight = 1 + torch.tanh(affine(mixer.score, x[b, at]))
        mixed = part(mixer.inner, (x[b, at] * weight)[None], Layout((len(at),)))[0]
        y = y.index_put((torch.tensor(b), torch.tensor(at)), mixed)
    return y


def neighbor_tokens(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    x, around = clean(x, layout), near(x, layout)
    rows = [list(x.flatten(0, 1))]
    for _ in range(mixer.hops):
        last = rows[-1]
        rows.append([torch.stack([last[j] for _, j in n]).mean(0) if n else torch.zeros_like(last[0]) for n in around])
    tokens = torch.stack([torch.stack(r) for r in rows[::-1]], 1) + mixer.place
    return part(mixer.inner, tokens, Layout((mixer.hops + 1,)))[:, -1].reshape(x.shape)


REFERENCES = {
    "edge_stream": edge_stream,
    "top_attention": top_attention,
    "ordered": ordered,
    "neighbor_tokens": neighbor_tokens,
}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "edge_stream": [{}, {"edge_features": 3, "layers": 3}],
    "top_attention": [{}, {"m": 3}],
    "ordered": [{}, {"by": "hierarchy"}, {"by": "score"}],
}
