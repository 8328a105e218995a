"""Segments of a series told one after the other, at several rates: any horizon by rolling out, no head per horizon.

Shapes: B series, L look-back, n segments of P steps, H horizon, V series of a window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from shared_backbones.backbone import Backbone, BackboneSpec, Tokens
from shared_backbones.errors import BadRequest
from shared_backbones.layout import Layout
from shared_backbones.presets import Preset

from .intervals import LEAST_SPREAD


def standardised(
    x: Float[Tensor, "B n"], seen: Bool[Tensor, "B n"], lookback: int
) -> tuple[Float[Tensor, "B n"], Float[Tensor, "B 1"], Float[Tensor, "B 1"]]:
    """Windows less the mean of their look-back over its deviation, 0 where missing; mean and deviation.

    The deviation is taken as LEAST_SPREAD at least: the step after a still look-back (a pegged rate) would else be
    hundreds of deviations away and be all that the loss sees.
    """
    back, known = x[:, :lookback], seen[:, :lookback]
    count = known.sum(1, keepdim=True).clamp_min(1)
    mean = back.masked_fill(~known, 0.0).sum(1, keepdim=True) / count
    variance = ((back - mean).masked_fill(~known, 0.0) ** 2).sum(1, keepdim=True) / count
    scale = variance.clamp_min(LEAST_SPREAD**2).sqrt()  # in this order: the root of 0 has no gradient
    return ((x - mean) / scale).masked_fill(~seen, 0.0), mean, scale


class Hierarchy(nn.Module):
    """The next segment of every segment. Each stage of the sentence reads at its own rate what the ones before left.

    Stage i takes means of ``pools[i]`` steps, mixes the segments causally and tells each one's successor; that is
    subtracted from the successor before the next stage reads it, and the answers of all stages add up: "Generative
    Pretrained Hierarchical Transformer for Time Series Forecasting" (Liu et al. 2024).
    """

    def __init__(self, preset: Preset, segment: int = 24, pools: Sequence[int] = (4, 2, 1)) -> None:
        super().__init__()
        stages = preset.backbone.stages
        if len(pools) != len(stages) or any(segment % p for p in pools):
            raise BadRequest(
                f"stem_options.pools of preset {preset.name!r} gives each of its {len(stages)} stages a divisor of the "
                f"segment ({segment} steps), got {list(pools)}"
            )
        self.segment, self.pools = segment, tuple(pools)
        tokens = Tokens(rank=1, causal_axes=frozenset({0}))
        single = [BackboneSpec((replace(s, stride=1),), preset.backbone.layer_scale) for s in stages]
        self.backbones = nn.ModuleList(Backbone(s, tokens) for s in single)
        self.embeds = nn.ModuleList(nn.Linear(segment // p, s.dim) for p, s in zip(pools, stages, strict=True))
        self.heads = nn.ModuleList(nn.Linear(s.dim, segment // p) for p, s in zip(pools, stages, strict=True))

    def following(self, x: Float[Tensor, "B L"]) -> Float[Tensor, "B n P"]:
        """Standardised series of whole segments -> what follows each of them."""
        left = x.unflatten(1, (-1, self.segment))
        told = torch.zeros_like(left)
        layout = Layout((left.shape[1],))
        for pool, backbone, embed, head in zip(self.pools, self.backbones, self.embeds, self.heads, strict=True):
            mixed, _ = backbone(embed(left.unflatten(2, (-1, pool)).mean(3)), layout)
            mine = head(mixed).repeat_interleave(pool, 2)
            told = told + mine
            left = left - torch.cat([torch.zeros_like(mine[:, :1]), mine[:, :-1]], 1)
        return told

    def rollout(self, x: Float[Tensor, "B L"], seen: Bool[Tensor, "B L"], steps: int) -> Float[Tensor, "B H"]:
        """The next ``steps`` steps: the last segment's successor, again and again, the look-back moving along.

        Every look-back is standardised by itself, as those of training were: with the scale of the first one, answers
        lead away from what was ever seen, and grow.
        """
        lookback = x.shape[1]
        first = lookback % self.segment  # of the whole segments
        found: list[Tensor] = []
        for _ in range(math.ceil(steps / self.segment)):
            z, mean, scale = standardised(x[:, -lookback:], seen[:, -lookback:], lookback)
            found.append(self.following(z[:, first:])[:, -1] * scale + mean)
            x = torch.cat([x, found[-1]], 1)
            seen = F.pad(seen, (0, self.segment), value=True)
        return torch.cat(found, 1)[:, :steps]

    def start_at_zero(self) -> None:
        """Nothing told before training."""
        for head in self.heads:
            assert isinstance(head, nn.Linear)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)


def no_covariates(preset: Preset, context: int, ahead: int, static: int) -> None:
    """Raises BadRequest where a preset that reads the series alone is given more."""
    if context or ahead or static:
        raise BadRequest(
            f"preset {preset.name!r} reads the series alone: it takes no covariates and no calendar. Leave them out, "
            "or take a preset with stem 'patches' or 'variates'"
        )


class SegmentResidual(Hierarchy):
    """Look-backs, 0 where missing -> corrections (B, H, V), series by series, by rolling out."""

    def __init__(
        self, preset: Preset, lookback: int, horizon: int, *, context: int = 0, ahead: int = 0, static: int = 0,
        dropout: float = 0.0, from_zero: bool = False,
    ) -> None:  # fmt: skip
        no_covariates(preset, context, ahead, static)
        options: dict[str, Any] = dict(preset.stem_options)
        try:
            super().__init__(preset, **options)
        except TypeError as error:
            raise BadRequest(f"stem_options of preset {preset.name!r}: {error}") from None
        if lookback < self.segment:
            raise BadRequest(f"lookback {lookback} is shorter than a segment of {self.segment} steps")
        self.horizon = horizon
        if from_zero:
            self.start_at_zero()

    def forward(self, x: Float[Tensor, "B L V"], mask: Bool[Tensor, "B L V"], *rest: Any) -> Float[Tensor, "B H V"]:
        items, _, series = x.shape
        each, seen = (t.mT.flatten(0, 1) for t in (x, mask))
        return self.rollout(each, seen, self.horizon).unflatten(0, (items, series)).mT
