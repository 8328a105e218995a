"""The gaps of a new file filled, window by window, and what was filled listed with its intervals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from domains.task import Fitted, Sink
from domains.tiling import Slices, stream
from shared_backbones.errors import BadInput

from ..data import Panel
from ..grid import phase
from ..predicting import check_units, known_panel
from .model import LEVELS, Filler


def filled(model: Filler, fitted: Fitted, panel: Panel, length: int) -> Float[np.ndarray, "T K V"]:
    """Values, then half widths per level (K = 1 + Q), z-scored; windows of ``length`` overlap by half, blended."""
    places = torch.from_numpy(phase(panel.times, panel.freq, int(fitted["cycle"])))
    values = torch.from_numpy(np.where(panel.mask, panel.values, 0.0))
    seen = torch.from_numpy(panel.mask)
    device, out = model.mean.device, np.empty((len(places), 1 + len(LEVELS), len(panel.names)))

    def read(at: Slices) -> Tensor:
        return torch.arange(at[0].start, at[0].stop)[None]

    def apply(steps: Tensor) -> Float[Tensor, "K n"]:
        rows = steps[0]
        batch = {"values": values[rows][None], "seen": seen[rows][None], "phase": places[rows][None]}
        batch = {name: value.to(device) for name, value in batch.items()}
        found = torch.cat([model(batch), model.half_width(batch["seen"])[:, 0]])
        return found.transpose(1, 2).flatten(0, 1).cpu()

    def write(at: Slices, slab: Tensor) -> None:
        out[at[0]] = slab.reshape(1 + len(LEVELS), len(panel.names), -1).permute(2, 0, 1).numpy()

    stream(read, apply, write, shape=(len(places),), tile=length, stride=max(1, length // 2), blend="hann")
    return out


def fill_file(model: Filler, fitted: Fitted, source: str, sink: Sink, length: int) -> dict[str, Any]:
    """Write ``filled.csv`` (the table, whole) and ``gaps.csv`` (unique_id, ds, value and intervals of what was filled).

    Parquet for a parquet file. What was observed stays as it was. Raises BadInput where series, frequency or units are
    not those that the model was trained on.
    """
    raw, panel = known_panel(source, fitted)
    check_units(panel, fitted, len(panel.times))
    if len(panel.times) < 2:
        raise BadInput(f"{source}: one step only; there is nothing to fill from")
    was = model.training
    model.eval()
    with torch.inference_mode():
        found = filled(model, fitted, panel, length)
    model.train(was)
    std, mean = np.asarray(fitted["std"]), np.asarray(fitted["mean"])
    value = np.where(panel.mask, panel.values, found[:, 0] * std + mean)
    half = found[:, 1:] * std
    ending = "parquet" if raw[:4] == b"PAR1" else "csv"
    whole = pd.DataFrame(value, columns=list(panel.names))
    whole.insert(0, "ds", panel.times)
    for name, table in (("filled", whole), ("gaps", pd.concat(list(_gaps(panel, value, half))))):
        with sink.file(f"{name}.{ending}") as path:
            table.to_parquet(path, index=False) if ending == "parquet" else table.to_csv(path, index=False)
    return {
        "steps": len(panel.times),
        "series": len(panel.names),
        "filled": int((~panel.mask).sum()),
        "filled_percent": round(100 * float((~panel.mask).mean()), 4),
        "outputs": [f"filled.{ending}", f"gaps.{ending}"],
    }


def _gaps(panel: Panel, value: Float[np.ndarray, "T V"], half: Float[np.ndarray, "T Q V"]) -> Iterator[pd.DataFrame]:
    """One row per filled value, series by series."""
    for v, name in enumerate(panel.names):
        at = np.flatnonzero(~panel.mask[:, v])
        columns = {"unique_id": [name] * len(at), "ds": panel.times[at], "value": value[at, v]}
        for q, level in enumerate(LEVELS):
            columns[f"lo_{level}"] = value[at, v] - half[at, q, v]
            columns[f"hi_{level}"] = value[at, v] + half[at, q, v]
        yield pd.DataFrame(columns)
