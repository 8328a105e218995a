"""Posteriors of recordings of any length -> utterances with times, and the words in them.

Shapes: M tokens, K symbols with the blank at 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from .arpa import NGram, read_arpa, word_fusion
from .ctc import BLANK, aligned, greedy, prefix_beam
from .recognise_config import RecogniseOptions
from .text import Alphabet

FLOOR = math.log(1e-4)  # of a label's probability in a frame, to be tried by the beam
MOST = 3000  # tokens of an utterance without a pause; it is cut at its widest one


@dataclass(frozen=True)
class Decoder:
    """From posteriors to text, as the options ask."""

    alphabet: Alphabet
    options: RecogniseOptions
    model: NGram | None = None

    @classmethod
    def of(cls, alphabet: Alphabet, options: RecogniseOptions) -> Decoder:
        """With the language model that is asked for. Raises BadInput where it cannot be read."""
        return cls(alphabet, options, read_arpa(Path(options.lm)) if options.lm is not None else None)

    def labels(self, log_p: Float[np.ndarray, "M K"]) -> list[int]:
        """The best labels."""
        if self.options.decoder == "greedy":
            return greedy(log_p)
        o = self.options
        fusion = None if self.model is None else word_fusion(self.model, self.alphabet, o.lm_weight, o.word_bonus)
        return prefix_beam(log_p, o.beam, fusion, FLOOR)[0][0]

    def text(self, log_p: Float[np.ndarray, "M K"]) -> str:
        """The best text, with single spaces."""
        return " ".join(self.alphabet.decode(self.labels(log_p)).split())


@dataclass(frozen=True)
class Word:
    """A word and its tokens, the last one not among them; how sure its labels are."""

    word: str
    start: int
    end: int
    confidence: float


def words_of(log_p: Float[np.ndarray, "M K"], labels: list[int], alphabet: Alphabet) -> list[Word]:
    """The words that labels spell, each where the likeliest path says it; confidence is a geometric mean."""
    if not labels:
        return []
    spans = aligned(log_p, labels)
    sure = [float(log_p[a:b, c].max()) for (a, b), c in zip(spans, labels, strict=True)]
    return [
        Word(word, spans[a][0], spans[b - 1][1], float(np.exp(np.mean(sure[a:b]))))
        for word, a, b in alphabet.words(labels)
    ]


class Utterances:
    """Tokens in as they come, utterances out: what stands between pauses of ``pause`` tokens or more.

    An utterance keeps up to half a pause of blanks on each side, so it can be decoded by itself.
    """

    def __init__(self, pause: int, most: int = MOST) -> None:
        self.pause, self.most = max(1, pause), most
        self.edge = self.pause // 2
        self.held: Float[np.ndarray, "M K"] | None = None
        self.at = 0  # token of the recording at which ``held`` begins

    def push(self, log_p: Float[np.ndarray, "M K"]) -> Iterator[tuple[int, Float[np.ndarray, "m K"]]]:
        """(first token, posteriors) of what is complete."""
        self.held = log_p if self.held is None else np.concatenate([self.held, log_p])
        while True:
            said = np.flatnonzero(self.held.argmax(1) != BLANK)
            if not len(said):
                yield from self._drop(max(0, len(self.held) - self.edge))
                return
            stops = np.append(said[1:], len(self.held)) - said - 1  # blanks behind each spoken token
            wide = np.flatnonzero(stops >= self.pause)
            if len(wide):
                yield from self._out(int(said[0]), int(said[wide[0]]) + 1 + self.edge)
            elif len(self.held) > self.most:
                behind = int(np.argmax(stops[:-1])) if len(said) > 1 else 0
                yield from self._out(int(said[0]), int(said[behind]) + 1 + int(stops[behind]) // 2)
            else:
                yield from self._drop(max(0, int(said[0]) - self.edge))
                return

    def finish(self) -> Iterator[tuple[int, Float[np.ndarray, "m K"]]]:
        """What is left."""
        if self.held is not None:
            said = np.flatnonzero(self.held.argmax(1) != BLANK)
            if len(said):
                yield from self._out(int(said[0]), len(self.held))

    def _drop(self, n: int) -> Iterator[tuple[int, Float[np.ndarray, "m K"]]]:
        assert self.held is not None
        self.held, self.at = self.held[n:].copy(), self.at + n
        yield from ()

    def _out(self, first: int, stop: int) -> Iterator[tuple[int, Float[np.ndarray, "m K"]]]:
        assert self.held is not None
        begin = max(0, first - self.edge)
        found = (self.at + begin, self.held[begin:stop])
        yield from self._drop(stop)
        yield found
