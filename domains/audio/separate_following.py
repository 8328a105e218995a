"""Speakers of a recording that is still being written: WAV files that grow with it, and a row per stretch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from ..task import Fitted
from .following import WavStream
from .separate_config import SeparateOptions
from .separate_model import Separator
from .separate_predicting import Stitcher, WavWriter, separator, sizes

SILENT_DB = -120.0  # the least level that is told


class SpeakerFollower:
    """Keeps one chunk of samples. Files hold what a prediction of the whole recording writes, sample by sample.

    A row tells where a stretch starts and ends (s) and how loud each speaker is in it (dB of full scale).
    """

    def __init__(self, model: Separator, fitted: Fitted, options: SeparateOptions) -> None:
        rate = int(fitted["rate"])
        self.model, self.rate, self.form = model.eval(), rate, options.form
        self.size, self.step = sizes(options, rate)
        self.latency = (
            f"{(self.size - self.step) / rate:g} to {self.size / rate:g} s: a stretch of {self.step / rate:g} s when "
            f"its chunk of {self.size / rate:g} s is full"
        )
        self.stream, self.wave, self.done = WavStream(rate, options.channel), np.zeros(0, np.float32), 0
        self.stitcher = Stitcher(separator(model), self.step)
        self.files: list[WavWriter] = []

    @contextmanager
    def into(self, out: Path) -> Iterator[None]:
        """``out/speaker1.wav`` ... are written while this is open; what is left when the source ends comes last."""
        with ExitStack() as stack:
            names = (out / f"speaker{s + 1}.wav" for s in range(self.model.speakers))
            self.files = [stack.enter_context(WavWriter(p, self.rate, self.form)) for p in names]
            yield
            self._end()

    def push(self, content: bytes) -> Iterator[dict[str, Any]]:
        self.wave = np.concatenate([self.wave, self.stream.push(content)])
        while len(self.wave) >= self.size:
            block = self._separated()
            self.wave = self.wave[self.step :]
            yield self._row(block)

    def _separated(self) -> Float32[np.ndarray, "S t"]:
        with torch.inference_mode():
            block = self.stitcher.push(self.wave[: self.size])
        self._write(block)
        return block

    def _end(self) -> None:
        """The last, shorter chunk, and what waited for a next one."""
        if len(self.wave) > (self.size - self.step if self.done else 0):
            self._separated()
        if self.stitcher.held is not None:
            self._write(self.stitcher.held)

    def _write(self, block: Float32[np.ndarray, "S t"]) -> None:
        for file, x in zip(self.files, block, strict=len(self.files) > 0):
            file.write(x)
            file.flush()

    def _row(self, block: Float32[np.ndarray, "S t"]) -> dict[str, Any]:
        start, self.done = self.done, self.done + block.shape[1]
        power = (block.astype(np.float64) ** 2).mean(1)
        level = 10 * np.log10(np.maximum(power, 10 ** (SILENT_DB / 10)))
        told = {f"speaker{s + 1}_db": round(float(x), 1) for s, x in enumerate(level)}
        return {"start": round(start / self.rate, 3), "end": round(self.done / self.rate, 3), **told}
