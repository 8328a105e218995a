"""The classifier: a closed-form ridge on fixed features, and a backbone's scores as far as validation speaks for them.

scores = ridge(fixed features) + gate * backbone(tokens). It carries its preprocessing.
Shapes: B objects, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from domains.options import model_options
from shared_backbones.backbone import build_backbone
from shared_backbones.heads import ClassHead
from shared_backbones.layout import Layout
from shared_backbones.presets import Preset

from ...task import Batch, Fitted
from .config import ClassifyOptions
from .convolutions import FixedBends, FixedConvolutions
from .stems import Bilinear, ObservationStem, StepStem, build_stem


class NetOptions(BaseModel):
    """The ``model:`` options of a preset for timeseries/classify."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    skip: Literal["none", "ridge"] = "none"  # what the backbone's scores are added to
    dropout: float = Field(0.1, ge=0, lt=1)  # of the tokens before and after the backbone
    bilinear: bool = False  # every regular series is normalised by itself, over time and over channels, before the stem


def net_options(given: Mapping[str, Any]) -> NetOptions:
    """Checked options; raises BadRequest naming the option, what is allowed and what was got."""
    return model_options(NetOptions, given, "timeseries/classify")


class SeriesClassifier(nn.Module):
    """A batch of :class:`~.items.ObjectItems` -> scores of the classes."""

    mean: Tensor
    std: Tensor
    feature_mean: Tensor
    feature_std: Tensor
    static_mean: Tensor
    static_std: Tensor
    skip_weight: Tensor
    skip_bias: Tensor
    gate: Tensor
    temperature: Tensor

    def __init__(self, fitted: Fitted, preset: Preset, options: ClassifyOptions) -> None:
        super().__init__()
        self.options = net_options(preset.model)
        self.regular, classes = bool(fitted["regular"]), len(fitted["classes"])
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(fitted[name], dtype=torch.float64))
            for table in ("feature", "static"):
                self.register_buffer(f"{table}_{name}", torch.tensor(fitted[f"{table}_{name}"], dtype=torch.float32))
        statics, columns = len(fitted["static_mean"]), len(fitted["feature_mean"]) + len(fitted["static_mean"])
        self.convolutions = self.bends = None
        if self.options.skip == "ridge":
            if self.regular:
                self.convolutions = FixedConvolutions(fitted["length"], len(fitted["channels"]), options.convolutions)
            self.bends = FixedBends(columns, options.expansions) if columns else None
        fixed = [m.features for m in (self.convolutions, self.bends) if m is not None]
        self.register_buffer("skip_weight", torch.zeros(sum(fixed), classes))
        self.register_buffer("skip_bias", torch.zeros(classes))
        self.register_buffer("gate", torch.ones(()))
        self.register_buffer("temperature", torch.ones(()))
        dim = preset.backbone.stages[0].dim
        self.stem: StepStem | ObservationStem = build_stem(preset.stem, fitted, statics, dim, preset.stem_options)
        own = self.options.bilinear and self.regular
        self.own = Bilinear(len(fitted["channels"]), int(fitted["length"])) if own else None
        causal = frozenset({0} if preset.causal else ())
        self.backbone = build_backbone(preset.backbone, replace(self.stem.tokens, causal_axes=causal))
        self.head = ClassHead(self.backbone.dim, classes, **preset.head)

    def _static(self, batch: Batch) -> Float[Tensor, "B S"]:
        return ((batch["static"] - self.static_mean) / self.static_std).nan_to_num(0.0).clamp(-20, 20)

    def fixed_features(self, batch: Batch) -> Float[Tensor, "B F"]:
        """What the ridge reads: convolutions of a regular series, statistics of a light curve with random bends."""
        found = []
        if self.convolutions is not None:
            found.append(self.convolutions(batch["x"], batch["length"]))
        if self.bends is not None:
            features = ((batch["features"] - self.feature_mean) / self.feature_std).nan_to_num(0.0).clamp(-20, 20)
            found.append(self.bends(torch.cat([features, self._static(batch)], 1)))
        return torch.cat(found, 1)

    def tokens(self, batch: Batch) -> tuple[Float[Tensor, "B M C"], Layout]:
        """Mixed tokens, and which are real."""
        if self.regular:
            x = ((batch["x"] - self.mean) / self.std).float().clamp(-50, 50)
            x = x if self.own is None else self.own(x, batch["seen"])
            x, layout = self.stem(x, batch["seen"], self._static(batch))
        else:
            x, layout = self.stem(batch, self._static(batch))
        x, layout = self.backbone(F.dropout(x, self.options.dropout, self.training), layout)
        return F.dropout(x, self.options.dropout, self.training), layout

    def correction(self, batch: Batch) -> Float[Tensor, "B K"]:
        """The backbone's scores."""
        return self.head(*self.tokens(batch)).float()

    def skip(self, batch: Batch) -> Float[Tensor, "B K"]:
        """The ridge's scores."""
        if self.options.skip == "none":
            return self.skip_bias.expand(len(batch["length"]), -1)
        return self.fixed_features(batch) @ self.skip_weight + self.skip_bias

    def forward(self, batch: Batch) -> Float[Tensor, "B K"]:
        """Scores; divided by ``temperature`` they are log-odds."""
        if self.options.skip == "ridge" and not self.training and float(self.gate) == 0.0:
            return self.skip(batch)
        return self.skip(batch) + self.gate * self.correction(batch)
