"""The likeliest next partners after the end of a file of interactions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from shared_backbones.errors import BadInput

from ..task import Fitted, Sink
from .data.events import Events
from .patches import joined, past_block
from .temporal_items import Stream
from .temporal_model import FutureNet

if TYPE_CHECKING:
    from .temporal import Temporal

POPULAR = 50  # targets most met in the past that are candidates for everyone
SOURCES_AT_ONCE = 256


def held_to(data: Events, fitted: Fitted, source: str) -> None:
    """Raises BadInput where the features are not those of the training."""
    if list(data.columns) != fitted["columns"]:
        raise BadInput(
            f"{source}: its features {list(data.columns)[:8]} are not those of the training, {fitted['columns'][:8]}"
        )


def next_partners(task: Temporal, model: FutureNet, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
    """For each source of the newest past, its ``top`` partners among those it met and those met most: partners.csv with
    source, target, score (a logit: of one source the higher the likelier). Raises BadInput where features differ.
    """
    data = task.open(source)
    held_to(data, fitted, source)
    stream = Stream(data, fitted, len(data.time))
    instant = float(np.nextafter(data.time[-1], np.inf))
    newest = slice(max(0, len(data.time) - int(fitted["history"])), len(data.time))
    sources = np.unique(data.source[newest])
    count = np.bincount(data.target[newest], minlength=data.nodes)
    popular = np.argsort(-count, kind="stable")[: min(POPULAR, int((count > 0).sum()))]
    met = np.unique(np.stack([data.source, data.target], 1), axis=0)
    met = met[np.isin(met[:, 0], sources)]
    pairs = np.unique(np.concatenate([met, np.stack(np.meshgrid(sources, popular), -1).reshape(-1, 2)]), axis=0)
    rows = []
    model.eval()
    with torch.inference_mode():
        block = past_block(data, instant, stream.options, stream.features)
        for at in range(0, len(pairs), SOURCES_AT_ONCE * POPULAR):
            some = pairs[at : at + SOURCES_AT_ONCE * POPULAR]
            batch = dict(joined([block], [some]))
            time = np.full(len(some), instant)
            history = stream.past.inputs(some[:, 0], some[:, 1:], time, stream.options.scale)
            batch["history"] = torch.from_numpy(history.astype(np.float32))
            z = model({k: v.to(model.gate.device) for k, v in batch.items()})[:, 0].double().cpu().numpy()
            rows.append(pd.DataFrame({"source": some[:, 0], "target": some[:, 1], "score": z}))
    table = pd.concat(rows).sort_values(["source", "score"], ascending=[True, False], kind="stable")
    table = table.groupby("source").head(task.config.top)
    for end in ("source", "target"):
        table[end] = np.array(data.names, dtype=object)[table[end].to_numpy()]
    with sink.file("partners.csv") as path:
        table.to_csv(path, index=False, float_format="%.6g")
    return {"sources": len(sources), "pairs_scored": len(pairs), "rows": len(table), "output": "partners.csv"}
