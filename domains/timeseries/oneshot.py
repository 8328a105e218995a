"""The whole horizon in one pass of a decoder: Informer (Zhou et al. 2021), all series of a step in one token.

Encoder: any backbone over the steps of a look-back (with ``prob_sparse`` and strided stages: attention for few queries,
half the length after each layer). Decoder: the newest part of the look-back as start tokens, then a token per step
ahead that holds no value, only its place and what is known ahead; masked ProbSparse attention among them, attention to
the encoder's tokens, a feed-forward layer. No decoder token reads one of a later step.

Shapes: B windows, L look-back, H horizon, V series, S start tokens, N = S + H, M encoder tokens, C width.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared_backbones.backbone import Backbone, Tokens
from shared_backbones.errors import BadRequest
from shared_backbones.mixers.base import heads_of, join_heads, split_heads
from shared_backbones.presets import Preset
from shared_backbones.stems import ImageStem, sinusoidal

from .dropping import QuickDropout, quick

FACTOR = 5.0  # c of u = ceil(c ln n)
START = 0.5  # of the look-back that the decoder starts from
LAYERS = 1
CALENDAR = 8  # numbers that tell a step's place in the calendar, which all series share
_HEADS = 8
_HELD = 1 << 19  # scores in a piece of the work: 2 MiB, what a core's cache holds
_ROWS = 128  # queries whose scores are made together, with the keys up to the last of them
_STEPS = 32  # queries ranked together
_FEW = 3  # queries for an active one, from which those alone are quicker than the fused causal kernel on all


def sampled_keys(n: int, device: torch.device) -> tuple[Int[Tensor, "N S"], Bool[Tensor, "N S"]]:
    """Which keys query i looks at to tell whether it is active: few(i + 1) of 0 .. i, at even steps back from i."""
    seen = torch.arange(1, n + 1, device=device)
    few = (FACTOR * seen.double().log()).ceil().long().clamp_min(1).minimum(seen)
    slot = torch.arange(int(few.max()), device=device)
    keys = (seen[:, None] - 1 - slot * seen[:, None] // few[:, None]).clamp_min(0)
    return keys, slot < few[:, None]


def worth_of(
    q: Float[Tensor, "P N D"], k: Float[Tensor, "P N D"], keys: Int[Tensor, "N S"], valid: Bool[Tensor, "N S"]
) -> Float[Tensor, "P N"]:
    """M of each query: the greatest of its sampled scores less their mean. All scores of the keys so far are made, as
    products of whole matrices, and the sampled ones taken: far quicker than taking a key for every query and sample.
    In pieces that stay in the cache: in fresh memory the same products take several times as long."""
    n, rows = len(keys), min(len(keys), _ROWS)
    worth = q.new_empty(q.shape[:2])
    step = max(1, _HELD // (rows * n))
    for a, b, out in zip(q.split(step), k.split(step), worth.split(step), strict=True):
        for r in range(0, n, rows):
            at, no = keys[r : r + rows].mT, ~valid[r : r + rows].mT  # queries last: sums over samples are then quick
            score = (b[:, : r + rows] @ a[:, r : r + rows].mT).gather(1, at.expand(len(a), -1, -1))
            best = score.masked_fill_(no, -torch.inf).amax(1)
            out[:, r : r + rows] = best - score.masked_fill_(no, 0.0).sum(1) / (~no).sum(0)
    return worth


def active_queries(worth: Float[Tensor, "P N"], valid: Bool[Tensor, "N S"]) -> Bool[Tensor, "P N"]:
    """Whether fewer of the queries up to this one are worth more than it looks at keys.

    Some steps at a time: the best S of those before them are held, which is as many as ever count.
    """
    few, most = valid.sum(1).to(torch.uint8), valid.shape[1]
    held, found = worth.new_empty(0, len(worth)), []
    for now, enough in zip(worth.mT.contiguous().split(_STEPS), few.split(_STEPS), strict=True):
        better = torch.zeros_like(now, dtype=torch.uint8)  # at most S + _STEPS
        for d in range(1, len(now)):
            better[d:] += (now[:-d] > now[d:]).view(torch.uint8)
        for one in held:
            better += (one > now).view(torch.uint8)
        found.append(better < enough[:, None])
        held = torch.cat([held, now])
        held = held.topk(min(most, len(held)), 0, sorted=False).values
    return torch.cat(found).mT


def read_active(
    q: Float[Tensor, "P R D"], k: Float[Tensor, "P N D"], v: Float[Tensor, "P N D"], active: Bool[Tensor, "P R"],
    mean: Float[Tensor, "P R D"], bias: Float[Tensor, "R N"],
) -> Float[Tensor, "P R D"]:  # fmt: skip
    """Causal attention of the active ones of the last R queries; the others keep the ``mean``.

    ``bias`` is what each of the R adds to its scores. Every item computes as many queries as the one that has most; an
    item with fewer fills up with inactive ones.
    """
    chosen, at = active.to(q.dtype).topk(int(active.sum(1).max()), 1)
    place = at[..., None].expand(-1, -1, q.shape[2])
    read, k, v = (t[:, None] for t in (q.gather(1, place), k, v))  # fused on CPU with four axes only
    read = F.scaled_dot_product_attention(read, k, v, attn_mask=bias[at][:, None])[:, 0]
    return mean.scatter(1, place, torch.where(chosen[..., None] > 0, read, mean.gather(1, place)))


def masked_prob_sparse(
    q: Float[Tensor, "B A N D"], k: Float[Tensor, "B A N D"], v: Float[Tensor, "B A N D"], first: int = 0
) -> Float[Tensor, "B A R D"]:
    """Causal attention for the queries that are far from indifferent; the others read the mean of the values so far.

    A query is active where fewer than ceil(c ln(i + 1)) of the queries up to it exceed its M = max s - mean s over its
    sampled keys. The paper ranks it among all queries, by which a token would learn of later ones; ranked among those
    before it, none does. The R = N - ``first`` last queries are answered; those before them only count in the ranks.
    """
    n = q.shape[2]
    keys, valid = sampled_keys(n, q.device)
    with torch.no_grad():
        active = active_queries(worth_of(q.flatten(0, 1), k.flatten(0, 1), keys, valid), valid)[:, first:]
    count = torch.arange(1, n + 1, device=v.device, dtype=v.dtype)[:, None]
    mean = (v.cumsum(2) / count)[:, :, first:]
    at = torch.arange(n, device=q.device)
    bias = torch.zeros(n - first, n, dtype=q.dtype, device=q.device).masked_fill(at[first:, None] < at, -torch.inf)
    if torch.compiler.is_exporting() or _FEW * int(active.sum(1).max()) > n - first:
        if 4 * first > n:  # skipping these rows saves more than the fused kernel's skipping of what lies ahead
            read = F.scaled_dot_product_attention(q[:, :, first:], k, v, attn_mask=bias)
        else:
            read = F.scaled_dot_product_attention(q, k, v, is_causal=True)[:, :, first:]
        return torch.where(active.view(mean.shape[:3])[..., None], read, mean)
    asked, k, v, mean = (t.flatten(0, 1) for t in (q[:, :, first:], k, v, mean))
    return read_active(asked, k, v, active, mean, bias).view(*q.shape[:2], n - first, -1)


class DecoderLayer(nn.Module):
    """x + self, x + cross, x + feed-forward, each normalised behind the sum, as in the paper."""

    def __init__(self, dim: int, memory: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads_of(dim, _HEADS if dim % _HEADS == 0 else None)
        self.qkv, self.own = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.query, self.keys, self.cross = nn.Linear(dim, dim), nn.Linear(memory, 2 * dim), nn.Linear(dim, dim)
        self.feed = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.dropout = QuickDropout(dropout)

    def forward(
        self, x: Float[Tensor, "B N C"], memory: Float[Tensor, "B M K"], seen: Bool[Tensor, "B 1 1 M"] | None,
        first: int,
    ) -> Float[Tensor, "B R C"]:  # fmt: skip
        """The tokens from ``first`` on; those before them are read, and not answered."""
        q, k, v = (split_heads(t, self.heads) for t in self.qkv(x).chunk(3, -1))
        x = self.norms[0](x[:, first:] + self.dropout(self.own(join_heads(masked_prob_sparse(q, k, v, first)))))
        q = split_heads(self.query(x), self.heads)
        k, v = (split_heads(t, self.heads) for t in self.keys(memory).chunk(2, -1))
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = self.norms[1](x + self.dropout(self.cross(join_heads(read))))
        return self.norms[2](x + self.dropout(self.feed(x)))


class OneShotResidual(nn.Module):
    """Normalised look-backs -> corrections (B, H, V), all steps and all series at once.

    A token holds the values of all V series at a step, with their masks, as in the paper: the network knows the series
    that it was made for, and no other.
    """

    any_series: ClassVar[bool] = False

    def __init__(
        self, preset: Preset, lookback: int, horizon: int, *, context: int, ahead: int, static: int, dropout: float,
        from_zero: bool, series: int, each: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        if static or (each and (context or ahead > CALENDAR)):
            raise BadRequest(
                f"preset {preset.name!r} reads all series of a step in one token: it takes covariates of a wide table, "
                "none of a long frame, where each series has its own. Leave them out, or take a preset with stem "
                "'patches' or 'variates'"
            )
        self.horizon, self.start = horizon, max(1, math.ceil(START * lookback))
        self.backbone = quick(Backbone(preset.backbone, Tokens(rank=1)))
        dim, wide = self.backbone.dim_in, self.backbone.dim
        try:
            self.stem = ImageStem(2 * series + context, dim, **{**preset.stem_options, "rank": 1})
        except TypeError as error:
            raise BadRequest(f"stem_options of preset {preset.name!r}: {error}") from None
        self.embed = nn.Linear(2 * series + ahead, wide)
        self.layers = nn.ModuleList(DecoderLayer(wide, wide, dropout) for _ in range(LAYERS))
        self.dropout = QuickDropout(dropout)
        self.head = nn.Linear(wide, series)
        if from_zero:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(
        self, x: Float[Tensor, "B L V"], mask: Bool[Tensor, "B L V"], context: Float[Tensor, "B L W K"],
        context_mask: Bool[Tensor, "B L W K"], ahead: Float[Tensor, "B H W2 F"], static: Float[Tensor, "V 0"],
    ) -> Float[Tensor, "B H V"]:  # fmt: skip
        values = torch.cat([x, mask.to(x.dtype)], -1)
        tokens, layout = self.stem(torch.cat([values, context[:, :, 0]], -1).mT)
        tokens = tokens + _places(0, tokens)
        ahead = ahead[:, :, 0]  # the same for all series
        newest = F.pad(values[:, -self.start :], (0, ahead.shape[-1]))
        coming = F.pad(ahead, (values.shape[-1], 0))  # no value, and a mask that says so
        asked = self.embed(torch.cat([newest, coming], 1))
        asked = self.dropout(asked + _places(values.shape[1] - self.start, asked))
        memory, layout = self.backbone(self.dropout(tokens), layout)
        for i, layer in enumerate(self.layers, 1):  # no layer follows the last that would read its start tokens
            asked = layer(asked, memory, layout.key_mask(), self.start if i == len(self.layers) else 0)
        return self.head(asked)


def _places(first: int, tokens: Float[Tensor, "B N C"]) -> Float[Tensor, "1 N C"]:
    """Sinusoids of the steps from ``first`` on, counted from the start of the look-back."""
    at = first + torch.arange(tokens.shape[1], device=tokens.device, dtype=tokens.dtype)
    return sinusoidal(at[None], tokens.shape[2], 2 * math.pi, 2e4 * math.pi)
