"""Predictions of `medical/signal`: a row per beat, and per stretch of a rhythm, in bounded memory."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Float64

from shared_backbones.errors import BadInput

from ..task import Fitted, Sink
from .beats import REFRACTORY, peaks
from .data.signals import Record, read_span, records_of
from .signal_data import SIGNAL_SETS, SIMULATED, at_rate, locate
from .signal_model import BeatNet
from .signal_rhythms import Told, smoothed, spans_told
from .signal_simulate import RATE, simulated

if TYPE_CHECKING:
    from .signal import Signal

STRETCH_S = 600.0  # read at once
OVERLAP_S = 5.0  # of stretches, so that a beat at a seam is heard whole


@dataclass(frozen=True)
class Piece:
    """A stretch at the model's rate: where it starts, and from when to when its beats count (s)."""

    wave: Float32[np.ndarray, "T"]
    start: float
    first: float
    last: float


def pieces(record: Record, lead: int, rate: float) -> Iterator[Piece]:
    """A record in overlapping stretches. Raises BadInput."""
    if lead >= len(record.leads):
        raise BadInput(f"{record.source}: lead {lead} is asked for; it has {len(record.leads)}, counted from 0")
    hop, over = STRETCH_S, OVERLAP_S
    total = record.length / record.rate
    for k in range(max(1, int(np.ceil(total / hop)))):
        a = max(0, round((k * hop - over) * record.rate))
        b = min(record.length, round(((k + 1) * hop + over) * record.rate))
        wave = at_rate(read_span(record, lead, a, b), record.rate, rate)
        yield Piece(wave, a / record.rate, k * hop, (k + 1) * hop if b < record.length else np.inf)


def predict_source(task: Signal, model: BeatNet, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
    """Writes beats.csv: record, time (s), probability, kind (AAMI, where the model tells it), interval before (s).

    Where the model tells rhythms also rhythms.csv: record, start (s), end (s), rhythm. A DICOM waveform is called
    "waveform", since its file name may name a patient. Raises BadInput.
    """
    model.eval()
    count, seconds, rates = 0, 0.0, []
    rhythms: list[tuple[str, float, float, str]] = []
    with sink.file("beats.csv") as path, path.open("w", newline="", encoding="utf-8") as f:
        table = csv.writer(f)
        table.writerow(["record", "time_s", "probability", "kind", "interval_s"])
        for name, length, parts in _records(task, fitted, source):
            times, rows, told = _heard(task, model, fitted, parts)
            rhythms += [(name, a, min(b, length), r) for a, b, r in spans_told(told, fitted.get("rhythms", []))]
            intervals = np.diff(times, prepend=np.nan)
            for (time, p, kind), gap in zip(rows, intervals, strict=True):
                table.writerow([name, f"{time:.4f}", f"{p:.4f}", kind, "" if np.isnan(gap) else f"{gap:.4f}"])
            count, seconds = count + len(rows), seconds + length
            if len(times) > 1:
                rates.append(60 / float(np.median(np.diff(times))))
    if fitted.get("rhythms"):
        with sink.file("rhythms.csv") as path, path.open("w", newline="", encoding="utf-8") as f:
            table = csv.writer(f)
            table.writerow(["record", "start_s", "end_s", "rhythm"])
            table.writerows([name, f"{a:.2f}", f"{b:.2f}", r] for name, a, b, r in rhythms)
    return {
        "beats": count, "seconds": round(seconds, 3), "output": "beats.csv", "use": "for research use",
        "beats_per_minute": round(float(np.median(rates)), 1) if rates else None,
    }  # fmt: skip


def _records(task: Signal, fitted: Fitted, source: str) -> Iterator[tuple[str, float, Iterator[Piece]]]:
    rate = float(fitted["rate"])
    if source == SIMULATED:
        for made in simulated(task.config.simulated):
            wave = at_rate(made.wave, RATE, rate)
            yield made.name, len(made.wave) / RATE, iter([Piece(wave, 0.0, 0.0, np.inf)])
        return
    path = Path(source)
    if source in SIGNAL_SETS:
        path = next(p for n, p in locate(SIGNAL_SETS[source]).items() if n.endswith(".hea"))
    for record in records_of(path):
        name = record.name if record.form == "WFDB" else "waveform"
        yield name, record.length / record.rate, pieces(record, task.config.lead, rate)


def _heard(
    task: Signal, model: BeatNet, fitted: Fitted, parts: Iterator[Piece]
) -> tuple[Float64[np.ndarray, "n"], list[tuple[float, float, str]], list[Told]]:
    from .signal import listen

    rows: list[tuple[float, float, str]] = []
    rhythms: list[Told] = []
    for part in parts:
        p, kind, step, rhythm = listen(model, part.wave, int(fitted["size"]), round(task.config.margin_s * model.rate))
        times, places = peaks(p, step, float(model.threshold))
        times = part.start + 0.5 * step + times
        for time, place in zip(times, places, strict=True):
            told = fitted["kinds"][int(kind[place])] if fitted["kinds"] else ""
            near = bool(rows) and time - rows[-1][0] < REFRACTORY
            if part.first <= time < part.last and not near:
                rows.append((float(time), float(p[place]), told))
        if fitted.get("rhythms"):
            low, high = (
                round((min(t, part.start + len(p) * step) - part.start) / step) for t in (part.first, part.last)
            )
            rhythms.append((part.start + low * step, step, smoothed(rhythm, step)[low:high]))
    return np.array([r[0] for r in rows]), rows, rhythms
