"""Stem, backbone and head of the forecaster: normalised look-backs (B, L, V) -> corrections (B, H, V).

Each kind is named by its stem. With ``from_zero`` the head starts at zero, so that the forecast starts as the skip's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from shared_backbones.backbone import Backbone
from shared_backbones.errors import BadRequest
from shared_backbones.presets import Preset
from shared_backbones.stems import PatchStem, VariateStem

from .components import ComponentResidual
from .dropping import QuickDropout, quick, unmasked
from .oneshot import OneShotResidual
from .segments import SegmentResidual
from .sensors.lattice import LatticeResidual

S = TypeVar("S", bound=nn.Module)
_RANK = 8  # of the product between a series' token and the features of a step ahead


class AheadHead(nn.Module):
    """A correction per step ahead from what is known of that step: <A token, g(features)>; starts at zero."""

    def __init__(self, dim: int, features: int) -> None:
        super().__init__()
        self.of_token = nn.Linear(dim, _RANK)
        self.of_step = nn.Sequential(nn.Linear(features, 32), nn.GELU(), nn.Linear(32, _RANK))
        nn.init.zeros_(self.of_token.weight)
        nn.init.zeros_(self.of_token.bias)

    def forward(self, tokens: Float[Tensor, "B V C"], ahead: Float[Tensor, "B H W F"]) -> Float[Tensor, "B H V"]:
        steps = self.of_step(ahead)
        steps = steps.expand(-1, -1, tokens.shape[1], -1) if steps.shape[2] == 1 else steps
        return torch.einsum("bvr,bhvr->bhv", self.of_token(tokens), steps)


class _Common(nn.Module):
    """The parts that both kinds share."""

    def __init__(
        self, dim: int, dim_out: int, wide: int, horizon: int, ahead: int, static: int, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = QuickDropout(dropout)
        self.static = nn.Linear(static, dim, bias=False) if static else None
        self.head = nn.Linear(wide, horizon)
        self.ahead = AheadHead(dim_out, ahead) if ahead else None

    def start_at_zero(self) -> None:
        """No correction before training."""
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


class VariateResidual(_Common):
    """Each series' look-back is a token, tokens attend to each other: "iTransformer" (Liu et al. 2024).

    Covariates over the look-back are further tokens, without a forecast of their own.
    """

    def __init__(
        self, preset: Preset, lookback: int, horizon: int, *, context: int, ahead: int, static: int, dropout: float,
        from_zero: bool,
    ) -> None:  # fmt: skip
        backbone = quick(Backbone(preset.backbone, VariateStem.tokens))
        super().__init__(backbone.dim_in, backbone.dim, backbone.dim, horizon, ahead, static, dropout)
        self.stem = _stem(VariateStem, preset, lookback, backbone.dim_in)
        self.backbone = backbone
        if from_zero:
            self.start_at_zero()

    def forward(
        self, x: Float[Tensor, "B L V"], mask: Bool[Tensor, "B L V"], context: Float[Tensor, "B L W K"],
        context_mask: Bool[Tensor, "B L W K"], ahead: Float[Tensor, "B H W2 F"], static: Float[Tensor, "V S"],
    ) -> Float[Tensor, "B H V"]:  # fmt: skip
        series = x.shape[2]
        tokens, layout = self.stem(torch.cat([x, context.flatten(2)], 2), torch.cat([mask, context_mask.flatten(2)], 2))
        if self.static is not None:
            tokens = tokens + F.pad(self.static(static), (0, 0, 0, tokens.shape[1] - series))
        tokens, _ = self.backbone(self.dropout(tokens), unmasked(layout))
        tokens = self.dropout(tokens[:, :series])
        out = self.head(tokens).mT
        return out if self.ahead is None else out + self.ahead(tokens, ahead)


class PatchResidual(_Common):
    """Spans of each series are tokens, series by series with shared weights: PatchTST (Nie et al. 2023).

    Covariates over the look-back are further channels of the spans.
    """

    def __init__(
        self, preset: Preset, lookback: int, horizon: int, *, context: int, ahead: int, static: int, dropout: float,
        from_zero: bool,
    ) -> None:  # fmt: skip
        backbone = quick(Backbone(preset.backbone, PatchStem.tokens))
        stem = _stem(PatchStem, preset, 1 + context, backbone.dim_in)
        if lookback < stem.patch:
            raise BadRequest(f"lookback {lookback} is shorter than a patch of {stem.patch} steps (stem_options.patch)")
        first = last = stem.count(lookback)
        for stage in preset.backbone.stages:
            last = -(-last // stage.stride)
        super().__init__(backbone.dim_in, backbone.dim, last * backbone.dim, horizon, ahead, static, dropout)
        self.stem, self.backbone = stem, backbone
        self.place = nn.Parameter(torch.randn(first, backbone.dim_in) * 0.02)
        if from_zero:
            self.start_at_zero()

    def forward(
        self, x: Float[Tensor, "B L V"], mask: Bool[Tensor, "B L V"], context: Float[Tensor, "B L W K"],
        context_mask: Bool[Tensor, "B L W K"], ahead: Float[Tensor, "B H W2 F"], static: Float[Tensor, "V S"],
    ) -> Float[Tensor, "B H V"]:  # fmt: skip
        items, _, series = x.shape
        spread = context.expand(-1, -1, series, -1) if context.shape[2] == 1 else context
        features = torch.cat([x[..., None], spread], 3).transpose(1, 2).flatten(0, 1)  # (B V, L, 1 + K)
        tokens, layout = self.stem(features, mask.mT.flatten(0, 1))
        tokens = tokens + self.place
        if self.static is not None:
            tokens = tokens + self.static(static).repeat(items, 1)[:, None]
        tokens, layout = self.backbone(self.dropout(tokens), unmasked(layout))
        tokens = self.dropout(layout.clean(tokens))
        out = self.head(tokens.flatten(1)).reshape(items, series, -1).mT
        if self.ahead is None:
            return out
        summary = (tokens.sum(1, keepdim=True) / layout.counts(tokens)).reshape(items, series, -1)
        return out + self.ahead(summary, ahead)


def _stem(kind: Callable[..., S], preset: Preset, first: int, dim: int) -> S:
    try:
        return kind(first, dim, **preset.stem_options)
    except TypeError as error:
        raise BadRequest(f"stem_options of preset {preset.name!r}: {error}") from None


RESIDUALS: dict[str, Callable[..., nn.Module]] = {
    "variates": VariateResidual, "patches": PatchResidual, "image": OneShotResidual, "tokens": LatticeResidual,
    "segments": SegmentResidual, "components": ComponentResidual,
}  # fmt: skip
