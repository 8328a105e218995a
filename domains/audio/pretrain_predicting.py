"""Predictions of `audio/pretrain`: features of recordings of any length, a row per clip or window."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from ..task import Fitted, Sink
from .items import collate
from .predicting import WINDOWS, Counted, Row, entries_to_hear, heard, pieces_of, simulated_pieces, write_rows
from .pretrain_config import PretrainOptions
from .pretrain_model import MaskedFrames
from .source import SIMULATED


def predict_source(
    options: PretrainOptions, model: MaskedFrames, fitted: Fitted, source: str, sink: Sink
) -> dict[str, Any]:
    """Writes features.csv (.parquet, .jsonl): file, start, end (s), then f0, f1 ... Raises BadInput."""
    model.eval()
    name, counted = f"features.{options.table}", Counted()
    with sink.file(name) as path, torch.inference_mode():
        write_rows(path, counted.watched(_rows(options, model, fitted, source)), options.table)
    return {
        "clips": counted.clips, "windows": counted.windows, **counted.speed(),
        "features": model.backbone.dim, "output": name,
    }  # fmt: skip


def _rows(options: PretrainOptions, model: MaskedFrames, fitted: Fitted, source: str) -> Iterator[Row]:
    rate = int(fitted["rate"])
    if source == SIMULATED:
        for name, wave in simulated_pieces(options.simulated, rate):
            yield from _featured(model, name, iter([(0, wave)]), 0.0)
        return
    for entry in entries_to_hear(source, options):
        yield from _featured(model, str(entry.path), heard(entry.where, pieces_of(options, entry, rate)), entry.start)


def _featured(model: MaskedFrames, name: str, pieces: Iterator[tuple[int, Any]], shift: float) -> Iterator[Row]:
    rate = model.front_end.rate
    while held := list(islice(pieces, WINDOWS)):
        batch = collate([wave for _, wave in held])
        features = model.features(*(batch[k].to(model.mean.device) for k in ("wave", "length"))).cpu().tolist()
        for (first, wave), row in zip(held, features, strict=True):
            times = {"start": round(shift + first / rate, 4), "end": round(shift + (first + len(wave)) / rate, 4)}
            yield {"file": name, **times, **{f"f{i}": value for i, value in enumerate(row)}}
