"""synthetic/recall: which value did this key come with? What attention does at once, and a fixed state cannot for long.

Multi-query associative recall of "Zoology: Measuring and Improving Recall in Efficient Language Models" (Arora et al.
2023).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from jaxtyping import Int

from .config import RecallConfig
from .data import NONE, Strings
from .diagnostic import Diagnostic

FILLER = 0


def distinct(random: np.random.Generator, n: int, take: int, low: int, end: int) -> Int[np.ndarray, "n take"]:
    """Rows of ``take`` different numbers from low to end - 1."""
    return low + np.argsort(random.random((n, end - low)), axis=1)[:, :take]


def make_recall(config: RecallConfig, n: int, random: np.random.Generator) -> Strings:
    """k1 v1 k2 v2 ... then fillers among which each key stands once more, and asks for its value."""
    half, pairs = config.vocab // 2, config.pairs
    keys = distinct(random, n, pairs, 1, half)
    values = random.integers(half, config.vocab, (n, pairs))
    tokens = np.full((n, config.length), FILLER)
    labels = np.full_like(tokens, NONE)
    tokens[:, 0 : 2 * pairs : 2], tokens[:, 1 : 2 * pairs : 2] = keys, values
    at = distinct(random, n, pairs, 2 * pairs, config.length)
    np.put_along_axis(tokens, at, keys, 1)
    np.put_along_axis(labels, at, values, 1)
    return Strings(tokens, labels, config.vocab, config.vocab, guess=1 / pairs)


class Recall(Diagnostic):
    """See domains.task.Task."""

    name: ClassVar[str] = "synthetic/recall"
    summary: ClassVar[str] = "Which value did this key come with? Several pairs, then several questions."
    Config: ClassVar[type[RecallConfig]] = RecallConfig

    config: RecallConfig

    @property
    def causal(self) -> bool:
        return self.config.causal

    def make(self, n: int, random: np.random.Generator) -> Strings:
        return make_recall(self.config, n, random)
