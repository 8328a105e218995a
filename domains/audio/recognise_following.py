"""Words of a recording that is still being written, utterance by utterance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..task import Fitted
from .decoding import Decoder, Utterances
from .following import WavStream
from .recognise_config import RecogniseOptions
from .recognise_items import alphabet_of
from .recognise_model import AudioRecogniser
from .recognise_predicting import Window, loudness, posteriors, utterance, window_tokens


class SpeechFollower:
    """Keeps one window of samples and the utterance under way.

    Windows are those of the whole recording, so utterances are the same up to the last, shorter window; what counts as
    silent is judged by the loudest window so far.
    """

    def __init__(self, model: AudioRecogniser, fitted: Fitted, options: RecogniseOptions) -> None:
        self.model, self.options = model.eval(), options
        self.decoder = Decoder.of(alphabet_of(fitted), options)
        self.margin, self.core = window_tokens(options, model, fitted)
        self.seconds = model.step / model.front_end.rate
        behind = (self.core + self.margin) * self.seconds + options.pause_s
        self.latency = f"an utterance at most {behind:g} s after its end: a window, its margin and a pause"
        self.stream, self.wave = WavStream(model.front_end.rate, options.channel), np.zeros(0, np.float32)
        self.joined, self.begun, self.loudest = Utterances(round(options.pause_s / self.seconds)), False, 0.0

    def push(self, content: bytes) -> Iterator[dict[str, Any]]:
        self.wave = np.concatenate([self.wave, self.stream.push(content)])
        size = (self.core + 2 * self.margin) * self.model.step
        while len(self.wave) > size:
            yield from self._window(self.wave[:size])
            self.wave = self.wave[self.core * self.model.step :]

    def _window(self, x: Any) -> Iterator[dict[str, Any]]:
        level = loudness(x)
        self.loudest = max(self.loudest, level)
        silent = level <= self.loudest * 10 ** (-self.options.silence_db / 20)
        first = self.margin if self.begun else 0
        self.begun = True
        with torch.inference_mode():
            [log_p] = posteriors(self.model, [Window(x, first, self.margin + self.core, silent)])
        for at, part in self.joined.push(log_p):
            found = utterance(self.decoder, at, part, self.seconds, 0.0)
            if found is not None:
                yield found[0]
