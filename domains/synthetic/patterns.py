"""synthetic/patterns: self or cross, causal or not: the four ways in which tokens may read tokens.

The patterns of "CAB: Comprehensive Attention Benchmarking on Long Sequence Modeling" (Zhang et al. 2023), each as a
small task that cannot be solved without it:

self          questions first, the pairs of key and value after them: an answer lies in the future of its question.
causal_self   the pairs first, then the questions; a token sees no later one.
cross         the questions are one set of tokens, the pairs another that is read as a context.
causal_cross  as cross, but the questions come one by one: asked for a key the first time, its value; asked again,
              the answer is the class "again". That takes the context and the earlier questions, not the later ones.

The two sets of a cross pattern stand on one lattice, marked by an embedding of their own, which any mixer can read.
Noncausal: questions, then context. Causal: the context, then the questions; so the context is causal in itself too.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .config import PatternsConfig
from .data import NONE, Strings
from .diagnostic import Diagnostic
from .recall import distinct


def make_patterns(config: PatternsConfig, n: int, random: np.random.Generator) -> Strings:
    """Pairs and questions in the order that the pattern wants; keys are asked for with repetition."""
    half, pairs, questions = config.vocab // 2, config.pairs, config.questions
    keys = distinct(random, n, pairs, 0, half)
    values = random.integers(half, config.vocab, (n, pairs))
    context = np.stack([keys, values], 2).reshape(n, -1)
    which = random.integers(0, pairs, (n, questions))
    asked, answers = np.take_along_axis(keys, which, 1), np.take_along_axis(values, which, 1)
    if config.pattern == "causal_cross":
        earlier = np.tril(np.ones((questions, questions), bool), -1)
        again = ((asked[:, :, None] == asked[:, None, :]) & earlier).any(2)
        answers = np.where(again, config.vocab, answers)
    unasked = np.full_like(context, NONE)
    parts = [(context, unasked), (asked, answers)]
    if config.pattern in ("self", "cross"):
        parts.reverse()
    tokens, labels = (np.concatenate(p, 1) for p in zip(*parts, strict=True))
    return Strings(tokens, labels, config.vocab, config.vocab + 1, guess=1 / pairs)


class Patterns(Diagnostic):
    """See domains.task.Task."""

    name: ClassVar[str] = "synthetic/patterns"
    summary: ClassVar[str] = "Self or cross, causal or not: which of the four ways of reading a mixer can do."
    Config: ClassVar[type[PatternsConfig]] = PatternsConfig
    each: ClassVar[dict[str, tuple[Any, ...]]] = {"pattern": ("self", "causal_self", "cross", "causal_cross")}

    config: PatternsConfig

    @property
    def causal(self) -> bool:
        return self.config.pattern.startswith("causal")

    @property
    def future(self) -> bool:
        return not self.causal

    @property
    def segments(self) -> tuple[int, ...]:
        sizes = (2 * self.config.pairs, self.config.questions)
        return (sizes if self.causal else sizes[::-1]) if self.config.pattern.endswith("cross") else ()

    def make(self, n: int, random: np.random.Generator) -> Strings:
        return make_patterns(self.config, n, random)
