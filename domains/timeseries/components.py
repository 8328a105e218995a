"""Trend, season and remainder of a look-back, each told with prompts from a pool, over one shared backbone.

Shapes: B windows, L look-back, V series, H horizon, n patches, M prompts of J tokens, C width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from shared_backbones.backbone import Backbone, Tokens
from shared_backbones.errors import BadRequest
from shared_backbones.layout import Layout
from shared_backbones.presets import Preset
from shared_backbones.stems import PatchStem

from .segments import no_covariates

PARTS = ("trend", "season", "remainder")


def decomposed(x: Float[Tensor, "B L"], trend: int, period: int) -> Float[Tensor, "3 B L"]:
    """Trend (moving mean over ``trend`` steps, ends repeated), season (mean of the rest at each place of the period)
    and remainder; they add up to x. A look-back shorter than two periods has no season.
    """
    width = min(trend, x.shape[1]) // 2
    padded = F.pad(x[:, None], (width, width), mode="replicate")
    slow = F.avg_pool1d(padded, 2 * width + 1, 1)[:, 0]
    rest = x - slow
    length = x.shape[1]
    if period < 2 or length < 2 * period:
        return torch.stack([slow, torch.zeros_like(x), rest])
    place = torch.arange(length, device=x.device) % period
    hot = F.one_hot(place, period).to(x.dtype)
    profile = rest @ hot / hot.sum(0)
    season = (profile - profile.mean(1, keepdim=True))[:, place]
    return torch.stack([slow, season, rest - season])


class PromptPool(nn.Module):
    """Some of ``count`` learned prompts, those whose keys lie nearest to a summary of the patches by their angle.

    As in "Learning to Prompt for Continual Learning" (Wang et al. 2022); the chosen ones are weighed by a softmax of
    their similarities, so that keys are learned with all else.
    """

    def __init__(self, dim: int, count: int = 30, length: int = 2, chosen: int = 3) -> None:
        super().__init__()
        if not 0 < chosen <= count:
            raise BadRequest(f"prompts: chosen must be 1 to count={count}, got {chosen}")
        self.chosen = chosen
        self.keys = nn.Parameter(torch.randn(count, dim) * dim**-0.5)
        self.values = nn.Parameter(torch.randn(count, length, dim) * 0.02)

    def forward(self, tokens: Float[Tensor, "B n C"]) -> Float[Tensor, "B k C"]:
        """Prompts for each item, the nearest first."""
        near = F.normalize(tokens.mean(1), dim=-1) @ F.normalize(self.keys, dim=-1).mT
        best = near.topk(self.chosen, 1)
        weight = best.values.softmax(1) * self.chosen
        return (self.values[best.indices] * weight[..., None, None]).flatten(1, 2)


class ComponentResidual(nn.Module):
    """Normalised look-backs -> corrections (B, H, V), series by series.

    "TEMPO: Prompt-based Generative Pre-trained Transformer for Time Series Forecasting" (Cao et al. 2024): patches of
    each component with prompts before them stand in one sequence, which the backbone mixes; each component has its own
    embedding and its own flat head, and the three answers add up. The decomposition is not learned here. The backbone
    can be that of another run (``train.start``), and stay as it is there (``model.freeze``).
    """

    def __init__(
        self, preset: Preset, lookback: int, horizon: int, *, context: int = 0, ahead: int = 0, static: int = 0,
        dropout: float = 0.0, from_zero: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        no_covariates(preset, context, ahead, static)
        options: dict[str, Any] = dict(preset.stem_options)
        self.trend, self.period = int(options.pop("trend", 25)), int(options.pop("period", 24))
        prompts = options.pop("prompts", {})
        causal = frozenset({0} if preset.causal else ())
        self.backbones = nn.ModuleList([Backbone(preset.backbone, Tokens(rank=1, causal_axes=causal))])
        dim = preset.backbone.stages[0].dim
        try:
            self.stems = nn.ModuleList(PatchStem(1, dim, **options) for _ in PARTS)
            self.pool = PromptPool(dim, **prompts)
        except TypeError as error:
            raise BadRequest(f"stem_options of preset {preset.name!r}: {error}") from None
        stem = self.stems[0]
        assert isinstance(stem, PatchStem)
        if lookback < stem.patch:
            raise BadRequest(f"lookback {lookback} is shorter than a patch of {stem.patch} steps (stem_options.patch)")
        self.heads = nn.ModuleList(nn.Linear(stem.count(lookback) * dim, horizon) for _ in PARTS)
        self.dropout = nn.Dropout(dropout)
        for head in self.heads if from_zero else ():
            assert isinstance(head, nn.Linear)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, x: Float[Tensor, "B L V"], mask: Bool[Tensor, "B L V"], *rest: Any) -> Float[Tensor, "B H V"]:
        items, _, series = x.shape
        rows = []
        for part, stem in zip(decomposed(x.mT.flatten(0, 1), self.trend, self.period), self.stems, strict=True):
            tokens, _ = stem(part[..., None])
            rows += [self.pool(tokens), tokens]
        sizes = [row.shape[1] for row in rows]
        joined = self.dropout(torch.cat(rows, 1))
        mixed, _ = self.backbones[0](joined, Layout((joined.shape[1],)))
        parts = self.dropout(mixed).split(sizes, 1)[1::2]
        told = sum(head(part.flatten(1)) for head, part in zip(self.heads, parts, strict=True))
        assert isinstance(told, Tensor)
        return told.unflatten(0, (items, series)).mT


def freeze(residual: nn.Module) -> None:
    """All of the backbone but its norms keeps the values that it has. Raises BadRequest where there is none."""
    parts = [p for p in (getattr(residual, name, None) for name in ("backbone", "backbones")) if p is not None]
    if not parts:
        raise BadRequest("model.freeze=true, and this preset's network has no backbone of its own to keep as it is")
    for part in parts:
        for module in part.modules():
            norm = "norm" in type(module).__name__.lower()
            for p in module.parameters(recurse=False):
                p.requires_grad_(norm)
