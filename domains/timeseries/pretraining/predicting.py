"""The future of every series of a new table, whether its series were in the mixture or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from domains.task import Fitted, Sink
from shared_backbones.errors import BadInput

from ..data import parse_panel
from ..grid import future, show
from ..opening import load
from .mixture import PretrainConfig
from .model import Pretrained, told_by


def predict_table(config: PretrainConfig, model: Pretrained, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
    """Writes forecast.csv: unique_id, ds, forecast, in the units of the file; ``horizon`` steps after its last row.

    Raises BadInput for a series that is shorter than the look-back, or that was not observed in it.
    """
    raw, reading, _ = load(source, config.reading())
    panel = parse_panel(raw, source, reading)
    lookback, end = model.lookback, panel.observed_end
    if end < lookback:
        raise BadInput(f"{source}: {end} steps up to the newest observation, the model looks back on {lookback}")
    values, mask = panel.values[end - lookback : end].T, panel.mask[end - lookback : end].T
    if not mask.any(1).all():
        name = panel.names[int(np.flatnonzero(~mask.any(1))[0])]
        raise BadInput(f"{source}: series {name!r} has no observed value in the last {lookback} steps")
    filled = np.where(mask, values, 0.0)
    count = mask.sum(1, keepdims=True)
    middle = filled.sum(1, keepdims=True) / count
    spread = np.sqrt((np.where(mask, values - middle, 0.0) ** 2).sum(1, keepdims=True) / count)
    spread = np.where(spread > 0, spread, 1.0)  # single precision, whatever the unit
    batch = {"x": torch.from_numpy((filled - middle) / spread).float(), "seen": torch.from_numpy(mask)}
    ahead = told_by(model, batch, model.horizon).double().numpy() * spread + middle
    stamps = future(panel.times[end - 1], panel.freq, model.horizon)
    table = pd.DataFrame({
        "unique_id": np.repeat(panel.names, model.horizon), "ds": np.tile(stamps, len(panel.names)),
        "forecast": ahead.ravel(),
    })  # fmt: skip
    with sink.file("forecast.csv") as path:
        table.to_csv(path, index=False)
    known = {name for t in fitted["tables"].values() for name in t["names"]}
    return {
        "series": len(panel.names), "horizon": model.horizon, "last_observed": show(panel.times[end - 1]),
        "series_not_in_training": sum(name not in known for name in panel.names), "output": "forecast.csv",
    }  # fmt: skip
