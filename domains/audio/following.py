"""Answers on a recording which is still being written: a row as soon as a window is full."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from shared_backbones.errors import BadInput

from .config import ClassifyOptions
from .data import AudioFile, mono, samples_of, wav_in
from .predicting import Row, usable
from .regress_config import RegressOptions

HEAD = 65_536  # bytes in which the header of a WAV file must end
ENDLESS = 2**62
Scored = Callable[[Iterator[tuple[int, Any]]], Iterator[Row]]


class WavStream:
    """Bytes of a WAV recording as they come -> its samples, at the model's rate, one channel or the mean of all."""

    def __init__(self, rate: int, channel: int | None) -> None:
        self.rate, self.channel = rate, channel
        self.file: AudioFile | None = None
        self.bytes, self.heard = b"", 0

    def push(self, content: bytes) -> Float32[np.ndarray, "_"]:
        """Samples that are whole now. Raises BadInput for what is no WAV, has another rate, or holds no numbers."""
        self.bytes += content
        if self.file is None:
            self.file = self._opened()
            if self.file is None:
                return np.zeros(0, np.float32)
            self.bytes = self.bytes[self.file.at :]
        whole = len(self.bytes) // self.file.block * self.file.block
        x = samples_of(self.bytes[:whole], self.file)
        if not np.isfinite(x).all():
            raise BadInput(f"the recording holds samples that are no numbers after {self.heard / self.rate:g} s")
        self.bytes, self.heard = self.bytes[whole:], self.heard + len(x)
        return mono(x, self.channel, self.file.path)

    def _opened(self) -> AudioFile | None:
        """What the header says; None while it is not whole."""
        try:
            file = wav_in(io.BytesIO(self.bytes), Path("the recording"), ENDLESS)
        except BadInput as error:
            if len(self.bytes) < 12 or ("truncated" in str(error) and len(self.bytes) < HEAD):
                return None
            raise
        usable(file, self.rate)
        if file.rate != self.rate:
            raise BadInput(
                f"the recording has {file.rate} samples per second; following takes {self.rate}, the model's"
            )
        return file


class WindowFollower:
    """Keeps one window of samples. Equal to the windows of the whole recording, but for the last, shorter one.

    scored: (first sample, samples) of windows -> a row of each, as a prediction has them.
    """

    def __init__(self, rate: int, options: ClassifyOptions | RegressOptions, scored: Scored) -> None:
        self.scored = scored
        self.size = max(1, round(options.chunk_s * rate))
        self.step = max(1, round(self.size * (1 - options.overlap)))
        self.latency = f"windows of {options.chunk_s:g} s, one every {self.step / rate:g} s, when they are full"
        self.stream, self.wave, self.first = WavStream(rate, options.channel), np.zeros(0, np.float32), 0

    def push(self, content: bytes) -> Iterator[dict[str, Any]]:
        self.wave = np.concatenate([self.wave, self.stream.push(content)])
        yield from self._rows()

    def _rows(self) -> Iterator[dict[str, Any]]:
        held = []
        while len(self.wave) >= self.size:
            held.append((self.first, self.wave[: self.size]))
            self.wave, self.first = self.wave[self.step :], self.first + self.step
        with torch.inference_mode():
            for row in self.scored(iter(held)):
                yield {k: v for k, v in row.items() if k != "file"}
