"""Text of recordings of any length: overlapping windows, posteriors stitched, bounded memory, rows as they come."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32

from shared_backbones.errors import BadInput

from ..task import Fitted, Sink
from .clips import QUIET, Read
from .data import chunks
from .decoding import Decoder, Utterances, words_of
from .items import collate
from .manifests import MANIFESTS, Entry
from .predicting import Clock, Row, silence, spanned, write_rows
from .recognise_config import RecogniseOptions
from .recognise_items import alphabet_of
from .recognise_model import AudioRecogniser
from .simulate import RATE
from .source import DATASETS, SIMULATED, found_entries
from .utterances import CONNECTED, connected_digits, simulated_utterances

WINDOWS = 4  # heard at once
WHOLE = 10**9  # tokens: no pause ends an utterance
WORDS = ("file", "start", "end", "word", "confidence")


@dataclass(frozen=True)
class Window:
    """Samples, and which of their tokens count: those outside are another window's."""

    wave: Float32[np.ndarray, "T"]
    first: int
    stop: int | None  # None: to the end
    silent: bool = False


@dataclass(frozen=True)
class Recording:
    """Windows over one recording, and where it begins in its file (s). One window: it is one utterance."""

    name: str
    shift: float
    windows: Iterator[Window]
    whole: bool = True


def predict_utterances(
    options: RecogniseOptions, model: AudioRecogniser, fitted: Fitted, source: str, sink: Sink
) -> dict[str, Any]:
    """Utterances of every recording of a source as predictions.csv (.parquet, .jsonl): file, start, end (s), text,
    confidence; and words.csv: file, start, end, word, confidence. Raises BadInput.
    """
    model.eval()
    decoder, counted, clock = Decoder.of(alphabet_of(fitted), options), Counted(), Clock()
    name = f"predictions.{options.table}"
    with (
        sink.file(name) as path,
        sink.file("words.csv") as words,
        words.open("w", newline="", encoding="utf-8") as f,
        torch.inference_mode(),
    ):
        table = csv.writer(f)
        table.writerow(WORDS)
        rows = (
            row
            for recording in _recordings(options, model, fitted, source)
            for row in _rows(model, recording, decoder, table, counted, options)
        )
        write_rows(path, rows, options.table)
    return {
        "recordings": counted.recordings,
        "windows": counted.windows,
        "utterances": counted.utterances,
        "words": counted.words,
        "blank_rate": round(counted.blanks / max(1, counted.tokens), 4),
        **clock.speed(counted.samples / int(fitted["rate"])),
        "output": f"{name}, words.csv",
    }


@dataclass
class Counted:
    """How much went by."""

    recordings: int = 0
    windows: int = 0
    utterances: int = 0
    words: int = 0
    blanks: int = 0
    tokens: int = 0
    samples: int = 0


def _recordings(options: RecogniseOptions, model: AudioRecogniser, fitted: Fitted, source: str) -> Iterator[Recording]:
    rate = int(fitted["rate"])
    made = made_utterances(options, source, rate)
    if made is not None:
        for read in made:
            yield Recording(str(read.entry.path), 0.0, iter([Window(read.wave, 0, None)]))
        return
    if source in DATASETS or Path(source).is_dir() or source.lower().endswith(MANIFESTS):
        entries = found_entries(source, options)[0]
    else:
        entries = [Entry(Path(source), source)]
    for entry in entries:
        yield _recording(options, model, fitted, entry)


def made_utterances(options: RecogniseOptions, source: str, rate: int | None) -> list[Read] | None:
    """Utterances that stand in no file, by the name of what makes them; None where ``source`` is something else."""
    if source == SIMULATED:
        if rate not in (None, RATE):
            raise BadInput(f"{SIMULATED}: at {RATE} samples per second, and {rate} are asked for")
        return simulated_utterances(options.simulated, options.join)
    return connected_digits(options.digits, options.join, rate or RATE) if source == CONNECTED else None


def _recording(options: RecogniseOptions, model: AudioRecogniser, fitted: Fitted, entry: Entry) -> Recording:
    """A recording, heard whole or in windows that overlap. Raises BadInput."""
    rate = int(fitted["rate"])
    part, seconds = spanned(entry, rate)
    whole = seconds <= options.whole_s
    margin, core = window_tokens(options, model, fitted)
    size, step = (core + 2 * margin) * model.step, core * model.step
    if whole:
        size = step = -(-part.length * rate // part.rate) + 1
    pieces = (part, rate, options.channel, size, step)
    loud = [(loudness(x), float(np.abs(x).max(initial=0.0))) for _, x in chunks(*pieces)]
    if max(peak for _, peak in loud) < QUIET:
        raise silence(entry.where)
    gate = max(rms for rms, _ in loud) * 10 ** (-options.silence_db / 20)

    def windows() -> Iterator[Window]:
        for k, (_, x) in enumerate(chunks(*pieces)):
            begins, ends = k == 0, k == len(loud) - 1
            yield Window(x, 0 if begins else margin, None if ends else margin + core, loud[k][0] < gate)

    return Recording(str(entry.path), entry.start, windows(), whole)


def window_tokens(options: RecogniseOptions, model: AudioRecogniser, fitted: Fitted) -> tuple[int, int]:
    """(tokens that a window hears besides on each side, tokens that it answers for)."""
    seconds = model.step / model.front_end.rate
    margin = max(1, round(options.margin_s / seconds)) if options.margin_s else 0
    return margin, max(1, round((options.chunk_s or fitted["median_s"]) / seconds))


def loudness(x: Any) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(x.astype(np.float64) ** 2))) if len(x) else 0.0


def posteriors(model: AudioRecogniser, windows: list[Window]) -> list[Float[np.ndarray, "M K"]]:
    """Log-probabilities of the tokens that count of each window; blanks where it is silent."""
    batch = {k: v.to(model.mean.device) for k, v in collate([w.wave for w in windows]).items()}
    log_p, count = model(batch["wave"], batch["length"])
    found = []
    for window, rows, n in zip(windows, log_p.cpu().double().numpy(), count.tolist(), strict=True):
        stop = n if window.stop is None else min(n, window.stop)
        own = rows[window.first : stop]
        if window.silent:
            own = np.full_like(own, -30.0)
            own[:, 0] = 0.0
        found.append(own)
    return found


def utterance(
    decoder: Decoder, at: int, log_p: Float[np.ndarray, "M K"], seconds: float, shift: float
) -> tuple[Row, list[tuple[str, float, float, float]]] | None:
    """An utterance and its words with times, from token ``at`` on, tokens so many seconds apart; None: no words."""
    words = words_of(log_p, decoder.labels(log_p), decoder.alphabet)
    if not words:
        return None
    timed = [(w.word, shift + (at + w.start) * seconds, shift + (at + w.end) * seconds, w.confidence) for w in words]
    row = {
        "start": round(timed[0][1], 4),
        "end": round(timed[-1][2], 4),
        "text": " ".join(w.word for w in words),
        "confidence": float(np.exp(np.mean([np.log(w.confidence) for w in words]))),
    }
    return row, timed


def _rows(
    model: AudioRecogniser,
    recording: Recording,
    decoder: Decoder,
    table: Any,
    counted: Counted,
    options: RecogniseOptions,
) -> Iterator[Row]:
    """A row per utterance; its words go to ``table``."""
    rate = model.front_end.rate
    seconds = model.step / rate  # of a token
    joined = Utterances(WHOLE, WHOLE) if recording.whole else Utterances(round(options.pause_s / seconds))
    before = counted.utterances
    counted.recordings += 1

    def said(at: int, log_p: Any) -> Iterator[Row]:
        found = utterance(decoder, at, log_p, seconds, recording.shift)
        if found is not None:
            row, words = found
            counted.utterances, counted.words = counted.utterances + 1, counted.words + len(words)
            table.writerows([recording.name, f"{a:.3f}", f"{b:.3f}", word, f"{sure:.4g}"] for word, a, b, sure in words)
            yield {"file": recording.name, **row}

    for windows in _grouped(recording.windows):
        for window, log_p in zip(windows, posteriors(model, windows), strict=True):
            counted.windows, counted.tokens = counted.windows + 1, counted.tokens + len(log_p)
            counted.blanks += int((log_p.argmax(1) == 0).sum())
            inner = len(window.wave) if window.stop is None else window.stop * model.step
            counted.samples += inner - window.first * model.step
            for at, part in joined.push(log_p):
                yield from said(at, part)
    for at, part in joined.finish():
        yield from said(at, part)
    if counted.utterances == before:  # heard, and nothing was said
        yield {"file": recording.name, "start": recording.shift, "end": recording.shift, "text": "", "confidence": 0.0}


def _grouped(windows: Iterator[Window]) -> Iterator[list[Window]]:
    held: list[Window] = []
    for window in windows:
        held.append(window)
        if len(held) == WINDOWS:
            yield held
            held = []
    if held:
        yield held
