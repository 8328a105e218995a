"""The whole horizon in one pass of a decoder: Informer (Zhou et al. 2021), series by series.

Encoder: any backbone over the steps of a look-back (with ``prob_sparse`` and strided stages: attention for few queries,
half the length after each layer). Decoder: the newest part of the look-back as start tokens, then a token per step
ahead that holds no value, only its place and what is known ahead; masked ProbSparse attention among them, attention to
the encoder's tokens, a feed-forward layer. No decoder token reads one of a later step.

Shapes: B windows, L look-back, H horizon, V series, S start tokens, N = S + H, M encoder tokens, C width.
"""

from __future__ import annotations

import math

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
_HEADS = 8
_AT_ONCE = 32  # items x heads whose scores are held at a time


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
    """M of each query: the greatest of its sampled scores less their mean. All scores are made, as products of whole
    matrices, and the sampled ones taken: far quicker than taking a key for every query and sample."""
    score = (q @ k.mT).gather(2, keys.expand(len(q), -1, -1))
    return score.masked_fill(~valid, -torch.inf).amax(-1) - score.masked_fill(~valid, 0.0).sum(-1) / valid.sum(-1)


def active_queries(worth: Float[Tensor, "P N"], valid: Bool[Tensor, "N S"]) -> Bool[Tensor, "P N"]:
    """Whether fewer of the queries up to this one are worth more than it looks at keys: the best S so far are held."""
    held = worth.new_full((len(worth), valid.shape[1]), -torch.inf)
    found = []
    for now, few in zip(worth.unbind(1), valid.sum(1).tolist(), strict=True):
        found.append((held > now[:, None]).sum(1) < few)
        least, place = held.min(1)
        held.scatter_(1, place[:, None], torch.maximum(least, now)[:, None])
    return torch.stack(found, 1)


def masked_prob_sparse(
    q: Float[Tensor, "B A N D"], k: Float[Tensor, "B A N D"], v: Float[Tensor, "B A N D"]
) -> Float[Tensor, "B A N D"]:
    """Causal attention for the queries that are far from indifferent; the others read the mean of the values so far.

    A query is active where fewer than ceil(c ln(i + 1)) of the queries up to it exceed its M = max s - mean s over its
    sampled keys. The paper ranks it among all queries, by which a token would learn of later ones; ranked among those
    before it, none does.
    """
    n = q.shape[2]
    keys, valid = sampled_keys(n, q.device)
    with torch.no_grad():
        pieces = zip(q.flatten(0, 1).split(_AT_ONCE), k.flatten(0, 1).split(_AT_ONCE), strict=True)
        active = active_queries(torch.cat([worth_of(a, b, keys, valid) for a, b in pieces]), valid).view(q.shape[:3])
    count = torch.arange(1, n + 1, device=v.device, dtype=v.dtype)[:, None]
    read = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return torch.where(active[..., None], read, v.cumsum(2) / count)


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
        self, x: Float[Tensor, "B N C"], memory: Float[Tensor, "B M K"], seen: Bool[Tensor, "B 1 1 M"] | None
    ) -> Float[Tensor, "B N C"]:
        q, k, v = (split_heads(t, self.heads) for t in self.qkv(x).chunk(3, -1))
        x = self.norms[0](x + self.dropout(self.own(join_heads(masked_prob_sparse(q, k, v)))))
        q = split_heads(self.query(x), self.heads)
        k, v = (split_heads(t, self.heads) for t in self.keys(memory).chunk(2, -1))
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = self.norms[1](x + self.dropout(self.cross(join_heads(read))))
        return self.norms[2](x + self.dropout(self.feed(x)))


class OneShotResidual(nn.Module):
    """Normalised look-backs -> corrections (B, H, V), all steps at once."""

    def __init__(
        self, preset: Preset, lookback: int, horizon: int, *, context: int, ahead: int, static: int, dropout: float,
        from_zero: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.horizon, self.start = horizon, max(1, math.ceil(START * lookback))
        self.backbone = quick(Backbone(preset.backbone, Tokens(rank=1)))
        dim, wide = self.backbone.dim_in, self.backbone.dim
        try:
            self.stem = ImageStem(2 + context, dim, **{**preset.stem_options, "rank": 1})
        except TypeError as error:
            raise BadRequest(f"stem_options of preset {preset.name!r}: {error}") from None
        self.embed = nn.Linear(2 + ahead, wide)
        self.static = nn.ModuleList(nn.Linear(static, d, bias=False) for d in (dim, wide)) if static else None
        self.layers = nn.ModuleList(DecoderLayer(wide, wide, dropout) for _ in range(LAYERS))
        self.dropout = QuickDropout(dropout)
        self.head = nn.Linear(wide, 1)
        if from_zero:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(
        self, x: Float[Tensor, "B L V"], mask: Bool[Tensor, "B L V"], context: Float[Tensor, "B L W K"],
        context_mask: Bool[Tensor, "B L W K"], ahead: Float[Tensor, "B H W2 F"], static: Float[Tensor, "V S2"],
    ) -> Float[Tensor, "B H V"]:  # fmt: skip
        items, _, series = x.shape
        flat = lambda t: t.expand(-1, -1, series, -1).transpose(1, 2).flatten(0, 1)  # noqa: E731 - (B V, n, K)
        values = flat(torch.stack([x, mask.to(x.dtype)], -1))
        tokens, layout = self.stem(torch.cat([values, flat(context)], -1).mT)
        tokens = tokens + _places(0, tokens)
        newest = F.pad(values[:, -self.start :], (0, ahead.shape[-1]))
        coming = F.pad(flat(ahead), (2, 0))  # no value, and a mask that says so
        asked = self.embed(torch.cat([newest, coming], 1))
        asked = asked + _places(values.shape[1] - self.start, asked)
        if self.static is not None:
            tokens, asked = (
                t + of(static).repeat(items, 1)[:, None] for t, of in zip((tokens, asked), self.static, strict=True)
            )
        memory, layout = self.backbone(self.dropout(tokens), layout)
        asked = self.dropout(asked)
        for layer in self.layers:
            asked = layer(asked, memory, layout.key_mask())
        return self.head(asked[:, self.start :])[..., 0].reshape(items, series, self.horizon).mT


def _places(first: int, tokens: Float[Tensor, "B N C"]) -> Float[Tensor, "1 N C"]:
    """Sinusoids of the steps from ``first`` on, counted from the start of the look-back."""
    at = first + torch.arange(tokens.shape[1], device=tokens.device, dtype=tokens.dtype)
    return sinusoidal(at[None], tokens.shape[2], 2 * math.pi, 2e4 * math.pi)
