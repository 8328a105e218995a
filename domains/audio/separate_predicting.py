"""Recordings of any length, separated in overlapping chunks: bounded memory, each speaker in one channel throughout."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float32, Int
from scipy.optimize import linear_sum_assignment

from shared_backbones.errors import BadInput

from ..task import Fitted, Sink
from .data import chunks
from .manifests import MANIFESTS, Entry
from .mixtures import MadeItems
from .predicting import Clock, heard, spanned
from .separate_config import SeparateOptions
from .separate_model import Separator
from .separate_source import items_of, mixture_rows, open_talk, split_talk
from .source import DATASETS, SIMULATED, found_entries

SHOWN = 3  # test mixtures of clips that are separated where a source holds single speakers
Chunk = Float32[np.ndarray, "S T"]
LARGEST = 2**32 - 1  # bytes that a WAV file can announce


class WavWriter:
    """A WAV file written piece by piece; its header is completed at the end.

    Samples beyond full scale are clipped in ``pcm16`` and counted in ``clipped``.
    """

    def __init__(self, path: Path, rate: int, form: str) -> None:
        self.rate, self.form, self.samples, self.clipped = rate, form, 0, 0
        self._file: BinaryIO = path.open("wb")

    def __enter__(self) -> WavWriter:
        self._head(0)
        return self

    def _head(self, n: int) -> None:
        tag, bits = (1, 16) if self.form == "pcm16" else (3, 32)
        size = n * bits // 8
        self._file.write(
            struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, tag, 1, self.rate,
                        self.rate * bits // 8, bits // 8, bits, b"data", size)
        )  # fmt: skip

    def write(self, x: Float32[np.ndarray, "T"]) -> None:
        """More samples. Raises BadInput where the file would grow beyond what WAV can say."""
        width = 2 if self.form == "pcm16" else 4
        if 36 + (self.samples + len(x)) * width > LARGEST:
            raise BadInput(f"{self._file.name}: longer than a WAV file can be (4 GB); cut the recording")
        self.samples += len(x)
        if self.form == "pcm16":
            self.clipped += int((np.abs(x) > 1).sum())
            self._file.write(np.clip(np.round(x * 32768.0), -32768, 32767).astype("<i2").tobytes())
        else:
            self._file.write(x.astype("<f4").tobytes())

    def flush(self) -> None:
        """What was written so far is a whole file to whoever reads it now."""
        end = self._file.tell()
        self._file.seek(0)
        self._head(self.samples)
        self._file.seek(end)
        self._file.flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.flush()
        self._file.close()


def matched(before: Chunk, after: Chunk) -> Int[np.ndarray, "S"]:
    """For each channel of the earlier chunk, which of the later one goes on with it, by what both heard.

    The sum of inner products decides, so that loud passages count and silent ones do not.
    """
    table = before.astype(np.float64) @ after.T.astype(np.float64)
    return linear_sum_assignment(-table)[1].astype(np.int64)


class Stitcher:
    """Chunks that come every ``step`` samples -> speakers in one order: overlaps are compared, then blended over.

    separate: samples (T,) -> speakers (S, T). Keeps what the next chunk hears again, and nothing else.
    """

    def __init__(self, separate: Any, step: int) -> None:
        self.separate, self.step = separate, step
        self.held: Chunk | None = None

    def push(self, wave: Float32[np.ndarray, "T"]) -> Float32[np.ndarray, "S t"]:
        """What no later chunk will change."""
        found, held = self.separate(wave), self.held
        if held is not None:
            n = min(held.shape[1], found.shape[1])
            found = found[matched(held[:, :n], found[:, :n])]
            rise = ((np.arange(n) + 0.5) / n).astype(np.float32)
            found[:, :n] = held[:, :n] * (1 - rise) + found[:, :n] * rise
        self.held = found[:, self.step :]
        return found[:, : self.step]


def stitched(
    pieces: Iterator[tuple[int, Float32[np.ndarray, "T"]]], separate: Any, step: int
) -> Iterator[Float32[np.ndarray, "S t"]]:
    """Speakers of a recording, stretch by stretch, in one order.

    pieces: (first sample, samples) every ``step`` samples; separate: samples (T,) -> speakers (S, T).
    """
    stitcher = Stitcher(separate, step)
    for _, wave in pieces:
        yield stitcher.push(wave)
    if stitcher.held is not None and stitcher.held.shape[1]:
        yield stitcher.held


def separator(model: Separator) -> Any:
    """samples (T,) -> speakers (S, T)."""

    def separate(wave: Float32[np.ndarray, "T"]) -> Chunk:
        x = torch.from_numpy(np.ascontiguousarray(wave))[None].to(model.mean.device)
        return model(x, torch.tensor([len(wave)], device=x.device))[0].cpu().numpy()

    return separate


def sizes(options: SeparateOptions, rate: int) -> tuple[int, int]:
    """Samples of a chunk, and from one to the next."""
    size = max(2, round(options.chunk_s * rate))
    return size, max(1, size - round(size * options.overlap))


def _recordings(
    options: SeparateOptions, fitted: Fitted, source: str
) -> Iterator[tuple[str, Iterator[tuple[int, Any]]]]:
    """(name, chunks) of every mixture of a source."""
    rate = int(fitted["rate"])
    size, step = sizes(options, rate)

    def of_file(entry: Entry) -> Iterator[tuple[int, Any]]:
        return chunks(spanned(entry, rate)[0], rate, options.channel, size, step)

    if source == SIMULATED or source in DATASETS:
        data = open_talk(source, options)
        if data.rate < rate:
            raise BadInput(f"{source}: at {data.rate} samples per second, and the model takes {rate}")
        items = items_of(data, split_talk(data, options), options, "test")
        assert isinstance(items, MadeItems)
        for i in range(min(SHOWN, len(items))):
            wave = items.one(i)[0]
            yield f"mixture_{i}", cut(wave, size, step)
    elif rows := mixture_rows(source):
        for where, cells in rows:
            name = next(str(v) for k, v in cells.items() if k.strip().lower() == "mixture")
            yield Path(name).stem, of_file(Entry(Path(source).parent / name, where))
    else:
        entries = [Entry(Path(source), source)]
        if Path(source).is_dir() or source.lower().endswith(MANIFESTS):
            entries = found_entries(source, options)[0]
        for entry in entries:
            yield entry.path.stem, of_file(entry)


def cut(wave: Float32[np.ndarray, "T"], size: int, step: int) -> Iterator[tuple[int, Float32[np.ndarray, "t"]]]:
    """(first sample, samples) of chunks of ``size`` every ``step`` samples, the last one shorter."""
    for first in range(0, max(1, len(wave) - (size - step)) if len(wave) > size else 1, step):
        yield first, wave[first : first + size]


def predict_source(
    options: SeparateOptions, model: Separator, fitted: Fitted, source: str, sink: Sink
) -> dict[str, Any]:
    """Writes NAME_speaker1.wav, NAME_speaker2.wav ... of every recording of a source, at the model's rate.

    Chunks are read from disk and written as they come. A name that comes twice gets a number. Raises BadInput.
    """
    model.eval()
    rate = int(fitted["rate"])
    step = sizes(options, rate)[1]
    samples, clipped, written, clock = 0, 0, [], Clock()
    with torch.inference_mode():
        for name, pieces in _recordings(options, fitted, source):
            name = next(n for k in count() if (n := f"{name}_{k}" if k else name) + "_speaker1.wav" not in written)
            names = [f"{name}_speaker{s + 1}.wav" for s in range(model.speakers)]
            with ExitStack() as stack:
                paths = [stack.enter_context(sink.file(n)) for n in names]
                files = [stack.enter_context(WavWriter(p, rate, options.form)) for p in paths]
                for block in stitched(heard(name, pieces), separator(model), step):
                    for file, x in zip(files, block, strict=True):
                        file.write(x)
            samples, clipped = samples + files[0].samples, clipped + sum(f.clipped for f in files)
            written += names
    return {
        "recordings": len(written) // model.speakers, "speakers": model.speakers, **clock.speed(samples / rate),
        "clipped_samples": clipped, "output": ", ".join(written[:6]) + (" ..." if len(written) > 6 else ""),
    }  # fmt: skip
