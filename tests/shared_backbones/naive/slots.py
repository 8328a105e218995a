"""References of the mixers with few representatives: loops over items, slots and tokens."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_backbones.layout import Layout

from .attention import REFERENCES as ATTENTION
from .dual import block_means, blocks_of
from .tools import affine, behind, clean, places, real


def attention(mixer: Any, z: Tensor, used: list[bool]) -> Tensor:
    """The reference of the attention among the slots (S, C) of one item."""
    layout = Layout((len(z),), ordered=False, mask=torch.tensor([used]))
    return ATTENTION["attention"](mixer, z[None], layout)[0]


def cell_means(x: Tensor, mask: list[bool], layout: Layout, grid: int) -> tuple[Tensor, list[bool]]:
    """Means over the cells of a regular grid on the true extent of one item, and which cells have tokens."""
    at = places(layout.axes)
    kept = [i for i in range(len(at)) if mask[i]]
    sizes = [max([1 + at[i][a] for i in kept], default=1) for a in range(layout.rank)]
    inside: list[list[int]] = [[] for _ in range(grid**layout.rank)]
    for i in kept:
        cell = 0
        for c, n in zip(at[i], sizes, strict=True):
            cell = cell * grid + c * grid // n
        inside[cell].append(i)
    return torch.stack([x[i].mean(0) if i else x.new_zeros(x.shape[1]) for i in inside]), [bool(i) for i in inside]


def semantic_slots(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, x, y = real(x, layout), clean(x, layout), []
    for b in range(x.shape[0]):
        seeds, used = cell_means(x[b], mask[b], layout, mixer.grid)
        kept = [i for i in range(x.shape[1]) if mask[b][i]]
        slots = [s for s in range(len(seeds)) if used[s]]
        cos = torch.stack([F.cosine_similarity(x[b], seeds[s][None], eps=1e-12) for s in slots])  # (slots, N)
        scores = mixer.log_scale.exp() * cos
        z = x.new_zeros(len(seeds), x.shape[2])
        z = z.index_copy(0, torch.tensor(slots), scores[:, kept].softmax(1) @ x[b, kept])
        y.append(scores.softmax(0).T @ attention(mixer.mix, z, used)[slots])
    return torch.stack(y)


def norm(layer: Any, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + layer.eps) * layer.weight + layer.bias


def lookup(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, x, y, d = real(x, layout), clean(x, layout), [], x.shape[2] // mixer.heads
    for b in range(x.shape[0]):
        z, used = cell_means(x[b], mask[b], layout, mixer.grid)
        kept = [i for i in range(x.shape[1]) if mask[b][i]]
        slots = [s for s in range(len(z)) if used[s]]
        q = affine(mixer.q, norm(mixer.norms[0], z))
        k, v = affine(mixer.kv, x[b]).chunk(2, -1)
        heads = [slice(h * d, (h + 1) * d) for h in range(mixer.heads)]
        scores = [q[:, h] @ k[:, h].T / math.sqrt(d) for h in heads]
        z = z + torch.cat([s[:, kept].softmax(1) @ v[kept][:, h] for s, h in zip(scores, heads, strict=True)], 1)
        z = z + attention(mixer.mix, norm(mixer.norms[1], z), used)
        up, _, down = mixer.mlp
        z = z + affine(down, F.gelu(affine(up, norm(mixer.norms[2], z))))
        out = affine(mixer.out, z)[slots]
        y.append(torch.cat([s[slots].softmax(0).T @ out[:, h] for s, h in zip(scores, heads, strict=True)], 1))
    return torch.stack(y)


def cross(q: Tensor, kv: Tensor, heads: int, seen: list[int]) -> Tensor:
    """Attention of queries (Q, C) to the seen rows of keys and values (K, 2 C); zeros where none is seen."""
    if not seen:
        return torch.zeros_like(q)
    k, v = kv[seen].chunk(2, -1)
    parts = zip(*(t.chunk(heads, -1) for t in (q, k, v)), strict=True)
    return torch.cat([(a @ c.T / math.sqrt(a.shape[1])).softmax(1) @ e for a, c, e in parts], 1)


def latents(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, x, y = real(x, layout), clean(x, layout), torch.zeros_like(x)
    blocks = blocks_of(layout, mixer.window)
    for b in range(x.shape[0]):
        z, used = [], []
        for block in blocks:
            seen = [n for n, i in enumerate(block) if mask[b][i]]
            q = affine(mixer.write_q, norm(mixer.norm, mixer.start))
            written = cross(q, affine(mixer.write_kv, x[b, block]), mixer.heads, seen)
            z.append(mixer.start + affine(mixer.write_out, written))
            used += [bool(seen)] * mixer.latents
        joined = torch.cat(z)
        joined = joined + attention(mixer.mix, norm(mixer.norm, joined), used)
        for own, block in zip(joined.split(mixer.latents), blocks, strict=True):
            read = cross(affine(mixer.read_q, x[b, block]), affine(mixer.read_kv, own), mixer.heads, [*range(len(own))])
            y = y.index_put((torch.tensor(b), torch.tensor(block)), affine(mixer.read_out, read))
    return y


def super_tokens(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, x, y = real(x, layout), clean(x, layout), torch.zeros_like(x)
    blocks = blocks_of(layout, mixer.window)
    where = places([-(-n // mixer.window) for n in layout.axes])
    for b in range(x.shape[0]):
        seeds, used = block_means(x[b], mask[b], blocks)
        weights: dict[tuple[int, int], Tensor] = {}
        for g, block in enumerate(blocks):
            near = [
                s
                for s in range(len(blocks))
                if used[s] and all(abs(p - q) <= 1 for p, q in zip(where[g], where[s], strict=True))
            ]
            for i in block:
                if mask[b][i]:
                    scores = (seeds[near] @ x[b, i]) / math.sqrt(x.shape[2])
                    weights |= {(i, s): w for s, w in zip(near, scores.softmax(0), strict=True)}
        z = []
        for s in range(len(blocks)):
            mine = [(i, w) for (i, other), w in weights.items() if other == s]
            total = sum((w * x[b, i] for i, w in mine), torch.zeros_like(x[b, 0]))
            z.append(total / sum(w for _, w in mine) if mine else total)
        mixed = attention(mixer.mix, torch.stack(z), used)
        for i in range(x.shape[1]):
            own = [w * mixed[s] for (token, s), w in weights.items() if token == i]
            if own:
                y = y.index_put((torch.tensor(b), torch.tensor(i)), torch.stack(own).sum(0))
    return y


def virtual_node(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    mask, x, y = real(x, layout), clean(x, layout), []
    for b in range(x.shape[0]):
        sent = [F.gelu(affine(mixer.gather, x[b, i])) for i in range(x.shape[1]) if mask[b][i]]
        node = F.gelu(affine(mixer.update, torch.stack(sent).mean(0)))
        y.append(affine(mixer.out, node).expand(x.shape[1], -1))
    return torch.stack(y)


def rms(x: Tensor) -> Tensor:
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-6)


def codebook(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    """Softmax attention over quantised keys. The nearest code's gradient is that of the softmax over the codes."""
    mask, x = real(x, layout), clean(x, layout)
    d, sees = x.shape[2] // mixer.heads, behind(layout.axes, mixer.causal)
    y = []
    for b in range(x.shape[0]):
        heads = []
        for h in range(mixer.heads):
            q, k, v = (t[:, h * d : (h + 1) * d] for t in affine(mixer.qkv, x[b]).chunk(3, -1))
            codes = rms(mixer.codes[h])
            to_codes = (rms(q) @ codes.T / math.sqrt(d)).exp()
            soft = (rms(k) @ codes.T / math.sqrt(d)).softmax(-1)
            choice = F.one_hot(soft.argmax(-1), len(codes)).to(x.dtype) + soft - soft.detach()
            rows = []
            for i in range(len(x[b])):
                keys = [j for j in range(len(x[b])) if mask[b][j] and sees(i, j)]
                weights = choice[keys] @ to_codes[i]
                rows.append((weights[:, None] * v[keys]).sum(0) / weights.sum() if keys else torch.zeros_like(v[i]))
            heads.append(torch.stack(rows))
        y.append(affine(mixer.out, torch.cat(heads, 1)))
    return torch.stack(y)


REFERENCES = {
    "semantic_slots": semantic_slots,
    "lookup": lookup,
    "latents": latents,
    "super_tokens": super_tokens,
    "virtual_node": virtual_node,
    "codebook": codebook,
}
VARIANTS = {
    "super_tokens": [{}, {"window": 2}],
    "latents": [{}, {"window": 3, "latents": 3}],
    "semantic_slots": [{}, {"grid": 2}],
    "codebook": [{}, {"codes": 5, "chunk": 8}],
}
