"""Classes over time for recordings of any length: overlapping windows, bounded memory, rows as they come."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from shared_backbones.errors import BadInput

from ..task import Fitted, Sink
from .clips import QUIET
from .config import ClassifyOptions, SourceOptions
from .data import AudioFile, chunks, open_audio, read_mono
from .items import collate
from .manifests import MANIFESTS, Entry
from .model import AudioClassifier
from .pretrain_config import PretrainOptions
from .regress_config import RegressOptions
from .simulate import RATE, simulated
from .source import DATASETS, SIMULATED, found_entries

WINDOWS = 16  # scored at once
Row = dict[str, Any]


def predict_source(
    options: ClassifyOptions, model: AudioClassifier, fitted: Fitted, source: str, sink: Sink
) -> dict[str, Any]:
    """Every clip of a source, one row per clip, or per window where a recording is longer than ``whole_s``.

    Writes predictions.csv (.parquet, .jsonl): file, start, end (s), prediction, confidence, a probability per class;
    for one long recording also events.csv, where neighbouring windows of one class are joined. Raises BadInput.
    """
    model.eval()
    name, events = f"predictions.{options.table}", Events()
    counted = Counted()
    with sink.file(name) as path, torch.inference_mode():
        rows = events.watched(counted.watched(_rows(options, model, fitted, source)))
        write_rows(path, rows, options.table)
    outputs = [name]
    if counted.windows > counted.clips:
        with sink.file("events.csv") as path:
            write_rows(path, iter(events.finished()), "csv")
        outputs.append("events.csv")
    return {
        "clips": counted.clips,
        "windows": counted.windows,
        **counted.speed(),
        "events": len(events.done),
        "output": ", ".join(outputs),
    }


def _rows(options: ClassifyOptions, model: AudioClassifier, fitted: Fitted, source: str) -> Iterator[Row]:
    rate = int(fitted["rate"])
    if source == SIMULATED:
        for name, wave in simulated_pieces(options.simulated, rate):
            yield from scored_windows(model, fitted, name, iter([(0, wave)]))
        return
    for entry in entries_to_hear(source, options):
        pieces = pieces_of(options, entry, rate)
        yield from scored_windows(model, fitted, str(entry.path), heard(entry.where, pieces), entry.start)


def simulated_pieces(given: Mapping[str, int], rate: int) -> Iterator[tuple[str, Any]]:
    """(name, samples) of every made clip. Raises BadInput for a model of another rate."""
    if rate != RATE:
        raise BadInput(f"{SIMULATED}: at {RATE} samples per second, and the model takes {rate}")
    for entry, _, wave in simulated(given):
        yield str(entry.path), wave


def entries_to_hear(source: str, options: SourceOptions) -> list[Entry]:
    """What a data set's name, a folder, a manifest or one file stands for. Raises BadInput."""
    if source in DATASETS or Path(source).is_dir() or source.lower().endswith(MANIFESTS):
        return found_entries(source, options)[0]
    return [Entry(Path(source), source)]


def usable(file: AudioFile, rate: int) -> AudioFile:
    """Raises BadInput for a recording with less of the spectrum than the model was trained on."""
    if file.rate < rate:
        raise BadInput(
            f"{file.path}: {file.rate} samples per second, and the model needs at least {rate}. Record it at a higher "
            f"rate, or train with rate={file.rate}"
        )
    return file


def spanned(entry: Entry, rate: int) -> tuple[AudioFile, float]:
    """The span of a usable recording that an entry names, and how long that is (s). Raises BadInput."""
    file = usable(open_audio(entry.path), rate)
    end = file.seconds if entry.end is None else entry.end
    if end > file.seconds + 1e-3 or entry.start >= end:
        raise BadInput(f"{entry.where}: {entry.start:g} to {end:g} s, and {file.path} is {file.seconds:.3f} s long")
    first, last = round(entry.start * file.rate), min(file.length, round(end * file.rate))
    return replace(file, begin=file.begin + first, length=last - first), end - entry.start


def pieces_of(
    options: ClassifyOptions | PretrainOptions | RegressOptions, entry: Entry, rate: int
) -> Iterator[tuple[int, Any]]:
    """(first sample, samples) of an entry: windows where it is longer than ``whole_s``. Raises BadInput."""
    part, seconds = spanned(entry, rate)
    if seconds <= options.whole_s:
        return iter([(0, read_mono(part, rate, options.channel))])
    size = max(1, round(options.chunk_s * rate))
    step = max(1, round(size * (1 - options.overlap)))
    return chunks(part, rate, options.channel, size, step)


def heard(where: str, pieces: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """The same pieces; raises BadInput at the end where none of them held a sound."""
    peak = 0.0
    for first, wave in pieces:
        peak = max(peak, float(np.abs(wave).max(initial=0.0)))
        yield first, wave
    if peak < QUIET:
        raise silence(where)


def silence(where: str) -> BadInput:
    """What is said of a recording without a sound."""
    return BadInput(f"{where}: all silence (never above {QUIET:g} of full scale). Check the recording")


def scored_windows(
    model: AudioClassifier, fitted: Fitted, name: str, pieces: Iterator[tuple[int, Any]], shift: float = 0.0
) -> Iterator[Row]:
    """A row per piece, ``WINDOWS`` of them at once."""
    held: list[tuple[int, Any]] = []
    for piece in pieces:
        held.append(piece)
        if len(held) == WINDOWS:
            yield from _batch(model, fitted, name, held, shift)
            held = []
    if held:
        yield from _batch(model, fitted, name, held, shift)


def _batch(model: AudioClassifier, fitted: Fitted, name: str, held: list[Any], shift: float) -> Iterator[Row]:
    batch = {k: v.to(model.mean.device) for k, v in collate([wave for _, wave in held]).items()}
    z = model(batch["wave"], batch["length"]) / model.temperature
    shares: Float[np.ndarray, "n K"] = z.double().softmax(1).cpu().numpy()
    rate, classes = int(fitted["rate"]), fitted["classes"]
    for (first, wave), p in zip(held, shares, strict=True):
        best = int(p.argmax())
        yield {
            "file": name,
            "start": round(shift + first / rate, 4),
            "end": round(shift + (first + len(wave)) / rate, 4),
            "prediction": classes[best],
            "confidence": float(p[best]),
            **{f"p_{c}": float(v) for c, v in zip(classes, p, strict=True)},
        }


class Clock:
    """How fast sound goes by."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def speed(self, seconds: float) -> dict[str, float]:
        """``seconds`` of sound, seconds by the clock for each of them, and on how many threads."""
        factor = (time.perf_counter() - self._began) / max(seconds, 1e-9)
        return {"seconds": round(seconds, 3), "real_time_factor": round(factor, 5), "threads": torch.get_num_threads()}


class Counted:
    """How much went by, and how fast."""

    def __init__(self) -> None:
        self._clock = Clock()
        self.clips, self.windows, self.seconds = 0, 0, 0.0
        self._last, self._end = ("", 0.0), 0.0

    def speed(self) -> dict[str, float]:
        """See :meth:`Clock.speed`."""
        return self._clock.speed(self.seconds)

    def watched(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            new = row["file"] != self._last[0] or row["start"] <= self._last[1]
            self.clips, self.windows = self.clips + new, self.windows + 1
            before = row["start"] if new else self._end
            self.seconds, self._end = self.seconds + row["end"] - before, row["end"]
            self._last = (row["file"], row["start"])
            yield row


class Events:
    """Neighbouring windows of one class of one recording, joined."""

    def __init__(self) -> None:
        self.done: list[Row] = []

    def watched(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            last = self.done[-1] if self.done else None
            same = last is not None and (last["file"], last["label"]) == (row["file"], row["prediction"])
            if last is not None and same and last["start"] <= row["start"] <= last["end"]:
                last["end"], last["confidence"] = row["end"], max(last["confidence"], row["confidence"])
            else:
                said = {"start": row["start"], "end": row["end"], "label": row["prediction"]}
                self.done.append({"file": row["file"], **said, "confidence": row["confidence"]})
            yield row

    def finished(self) -> list[Row]:
        return self.done


def write_rows(path: Path, rows: Iterator[Row], form: str) -> None:
    """Rows as they come, never all at once."""
    if form == "parquet":
        _write_parquet(path, rows)
        return
    with path.open("w", newline="", encoding="utf-8") as f:
        if form == "jsonl":
            f.writelines(json.dumps(row) + "\n" for row in rows)
            return
        table: Any = None
        for row in rows:
            if table is None:
                table = csv.DictWriter(f, list(row))
                table.writeheader()
            table.writerow({k: _short(v) if isinstance(v, float) else v for k, v in row.items()})


def _short(value: float) -> str:
    """Six digits; of times in long recordings as many as they have."""
    return f"{value:.6g}" if abs(value) < 10 else f"{value:.10g}"


def _write_parquet(path: Path, rows: Iterator[Row], group: int = 10_000) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    held: list[Row] = []
    writer: Any = None
    try:
        for row in rows:
            held.append(row)
            if len(held) == group:
                table = pa.Table.from_pylist(held)
                writer = writer or pq.ParquetWriter(path, table.schema)
                writer.write_table(table)
                held = []
        if held:
            table = pa.Table.from_pylist(held)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
