"""The watcher: what the next step should be, by a closed-form window ridge and a backbone's correction.

Shapes: B windows, L look-back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from domains.options import model_options
from domains.task import Batch, Fitted, Part
from shared_backbones.backbone import build_backbone
from shared_backbones.errors import unknown
from shared_backbones.heads import POOLS
from shared_backbones.presets import Preset
from shared_backbones.stems import PatchStem

from ..gating import SHARES, smallest_share
from .records import Record
from .windows import LookBacks, look_backs

AT_ONCE = 8192  # windows
PENALTIES = tuple(float(p) for p in 10.0 ** np.arange(-2, 5))
STEMS = ("tokens", "patches")


class NetOptions(BaseModel):
    """The ``model:`` options of a preset for timeseries/detect."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    skip: bool = True  # a window ridge, to which the backbone is added as far as validation clearly speaks for it
    dropout: float = Field(0.1, ge=0, lt=1)


def net_options(given: Mapping[str, Any]) -> NetOptions:
    """Checked options; raises BadRequest."""
    return model_options(NetOptions, given, "timeseries/detect")


class Watcher(nn.Module):
    """Standardised look-backs -> the next value, standardised alike; ``threshold`` is what an alarm takes."""

    skip: Tensor
    gate: Tensor
    threshold: Tensor

    def __init__(self, fitted: Fitted, preset: Preset) -> None:
        super().__init__()
        if preset.stem not in STEMS:
            raise unknown("stem of timeseries/detect", preset.stem, STEMS)
        self.options = net_options(preset.model)
        self.lookback = int(fitted["lookback"])
        dim = preset.backbone.stages[0].dim
        spans = {k: v for k, v in preset.stem_options.items() if k != "features"}
        self.stem = PatchStem(2, dim, **(spans if preset.stem == "patches" else {"patch": 1, "stride": 1}))
        causal = frozenset({0} if preset.causal else ())
        self.backbone = build_backbone(preset.backbone, replace(PatchStem.tokens, causal_axes=causal))
        pool = str(preset.head.get("pool", "last"))
        if pool not in POOLS:
            raise unknown("pool", pool, POOLS)
        self.pool = POOLS[pool](self.backbone.dim)
        self.out = nn.Linear(self.backbone.dim, 1)
        self.register_buffer("skip", torch.zeros(self.lookback))
        self.register_buffer("gate", torch.ones(()))
        self.register_buffer("threshold", torch.full((), torch.inf))

    def parts(self, batch: Batch) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
        """What the forecast starts from (the window's mean and the ridge), and the backbone's correction."""
        seen = batch["seen"]
        count = seen.sum(1, keepdim=True).clamp_min(1)
        mean = batch["past"].masked_fill(~seen, 0.0).sum(1, keepdim=True) / count
        x = (batch["past"] - mean).masked_fill(~seen, 0.0)
        scale = ((x**2).sum(1, keepdim=True) / count + 1e-4).sqrt()
        z = torch.stack([x / scale, seen.to(x.dtype)], 2)
        tokens, layout = self.stem(z, seen)
        tokens, layout = self.backbone(F.dropout(tokens, self.options.dropout, self.training), layout)
        correction = self.out(self.pool(tokens, layout))[:, 0].float() * scale[:, 0]
        return mean[:, 0] + x @ self.skip, correction

    def forward(self, batch: Batch) -> Float[Tensor, "B"]:
        """The next value of each window."""
        start, correction = self.parts(batch)
        return start + self.gate * correction


def fit_skip(model: Watcher, train: LookBacks, val: LookBacks) -> None:
    """The ridge on training windows, its penalty chosen on validation."""

    def moments(items: LookBacks) -> tuple[np.ndarray, np.ndarray, float]:
        gram, cross, square = np.zeros((model.lookback,) * 2), np.zeros(model.lookback), 0.0
        for at in range(0, len(items), AT_ONCE):
            batch = items.batch(range(at, min(at + AT_ONCE, len(items))))
            seen, known = batch["seen"], batch["known"]
            mean = batch["past"].sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp_min(1)
            x = (batch["past"] - mean).masked_fill(~seen, 0.0)[known].double().numpy()
            y = (batch["next"] - mean[:, 0])[known].double().numpy()
            gram, cross, square = gram + x.T @ x, cross + x.T @ y, square + float(y @ y)
        return gram, cross, square

    gram, cross, _ = moments(train)
    val_gram, val_cross, val_square = moments(val)
    weights = [np.linalg.solve(gram + p * np.eye(len(gram)), cross) for p in PENALTIES]
    errors = [val_square - 2 * w @ val_cross + w @ val_gram @ w for w in weights]
    with torch.no_grad():
        model.skip.copy_(torch.from_numpy(weights[int(np.argmin(errors))]))


def choose_gate(model: Watcher, val: LookBacks) -> None:
    """The smallest share of the correction that validation cannot clearly tell from the best; a unit is a series."""
    records = val.places[:, 0]
    names, where = np.unique(records, return_inverse=True)
    losses = np.zeros((len(names), len(SHARES)))
    was = model.training
    model.eval()
    with torch.inference_mode():
        for at in range(0, len(val), AT_ONCE):
            rows = range(at, min(at + AT_ONCE, len(val)))
            batch = {k: v.to(model.gate.device) for k, v in val.batch(rows).items()}
            start, correction = model.parts(batch)
            for i, share in enumerate(SHARES):
                each = F.huber_loss(start + share * correction, batch["next"], reduction="none")
                np.add.at(losses[:, i], where[rows.start : rows.stop], (each * batch["known"]).double().cpu().numpy())
    with torch.no_grad():
        model.gate.fill_(smallest_share(losses))
    model.train(was)


def errors_of(model: Watcher, records: Sequence[Record], part: Part | None = None) -> list[Float[np.ndarray, "T V"]]:
    """|next - told| of every step (of a part) and channel, NaN where there is no look-back or no observation."""
    items = look_backs(records, model.lookback, part)
    found = [np.full(r.values.shape, np.nan) for r in records]
    was = model.training
    model.eval()
    with torch.inference_mode():
        for at in range(0, len(items), AT_ONCE):
            rows = range(at, min(at + AT_ONCE, len(items)))
            batch = {k: v.to(model.gate.device) for k, v in items.batch(rows).items()}
            error = (model(batch) - batch["next"]).abs().masked_fill(~batch["known"], torch.nan).double().cpu().numpy()
            places = items.places[rows.start : rows.stop]
            for i in np.unique(places[:, 0]):
                mine = places[:, 0] == i
                found[i][places[mine, 2], places[mine, 1]] = error[mine]
    model.train(was)
    return found
