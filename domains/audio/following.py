"""Classes that follow a recording which is still being written: a row as soon as a window is full."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shared_backbones.errors import BadInput

from ..task import Fitted
from .config import ClassifyOptions
from .data import AudioFile, mono, samples_of, wav_in
from .model import AudioClassifier
from .predicting import scored_windows, usable

HEAD = 65_536  # bytes in which the header of a WAV file must end
ENDLESS = 2**62


class WindowFollower:
    """Keeps one window of samples. Equal to the windows of the whole recording, but for the last, shorter one."""

    def __init__(self, model: AudioClassifier, fitted: Fitted, options: ClassifyOptions) -> None:
        self.model, self.fitted, self.options = model.eval(), fitted, options
        self.rate = int(fitted["rate"])
        self.size = max(1, round(options.chunk_s * self.rate))
        self.step = max(1, round(self.size * (1 - options.overlap)))
        self.latency = f"windows of {options.chunk_s:g} s, one every {self.step / self.rate:g} s, when they are full"
        self.file: AudioFile | None = None
        self.bytes, self.wave, self.first = b"", np.zeros(0, np.float32), 0

    def push(self, content: bytes) -> Iterator[dict[str, Any]]:
        self.bytes += content
        if self.file is None:
            self.file = self._opened()
            if self.file is None:
                return
            self.bytes = self.bytes[self.file.at :]
        whole = len(self.bytes) // self.file.block * self.file.block
        x = samples_of(self.bytes[:whole], self.file)
        if not np.isfinite(x).all():
            raise BadInput(f"the recording holds samples that are no numbers after {self.first / self.rate:g} s")
        self.bytes = self.bytes[whole:]
        self.wave = np.concatenate([self.wave, mono(x, self.options.channel, self.file.path)])
        yield from self._rows()

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

    def _rows(self) -> Iterator[dict[str, Any]]:
        held = []
        while len(self.wave) >= self.size:
            held.append((self.first, self.wave[: self.size]))
            self.wave, self.first = self.wave[self.step :], self.first + self.step
        with torch.inference_mode():
            for row in scored_windows(self.model, self.fitted, "", iter(held)):
                yield {k: v for k, v in row.items() if k != "file"}
