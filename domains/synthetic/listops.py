"""synthetic/listops: the value of a nested expression over digits, read off at the bracket that closes it.

In the manner of "ListOps: A Diagnostic Dataset for Latent Tree Learning" (Nangia and Bowman 2018) as used in "Long
Range Arena" (Tay et al. 2021), with a generator of our own: every part of the string may decide the answer, so it
must be carried over any distance. Unlike there, the value of every inner expression is asked for as well, at its own
closing bracket: an answer for the whole alone takes many thousand steps before any mixer learns anything. The score is
the last question: the whole expression.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np

from domains.task import MetricFact

from .config import ListopsConfig
from .data import NONE, Strings
from .diagnostic import Diagnostic

OPERATIONS: dict[str, Callable[[Sequence[int]], int]] = {
    "max": max,
    "min": min,
    "median": lambda values: sorted(values)[(len(values) - 1) // 2],  # the lower of two
    "sum": lambda values: sum(values) % 10,
}
OPEN = {name: 10 + i for i, name in enumerate(OPERATIONS)}  # tokens 0 .. 9 are the digits
CLOSE, PAD = 10 + len(OPERATIONS), 11 + len(OPERATIONS)
VOCAB = 12 + len(OPERATIONS)
NAMES = tuple(OPERATIONS)


def expression(room: int, depth: int, arguments: int, random: np.random.Generator) -> tuple[list[int], list[int], int]:
    """Tokens of an expression of at most ``room`` tokens and ``depth`` levels, the value at each (NONE but at closing
    brackets), and its own value."""
    count = int(random.integers(2, arguments + 1))
    if depth < 1 or room < count + 2:
        digit = int(random.integers(10))
        return [digit], [NONE], digit
    name = NAMES[int(random.integers(len(NAMES)))]
    tokens, asked, values = [OPEN[name]], [NONE], []
    left = room - 2
    for i in range(count):
        share = (left - (count - i - 1)) if i == count - 1 else int(random.integers(1, max(2, left - (count - i) + 2)))
        part, inner, value = expression(share, depth - 1, arguments, random)
        tokens += part
        asked += inner
        values.append(value)
        left -= len(part)
    value = OPERATIONS[name](values)
    return [*tokens, CLOSE], [*asked, value], value


def make_listops(config: ListopsConfig, n: int, random: np.random.Generator) -> Strings:
    """Expressions of a quarter of the length to all of it; the value is asked for at every closing bracket."""
    tokens = np.full((n, config.length), PAD)
    labels = np.full_like(tokens, NONE)
    for row in range(n):
        room = int(random.integers(config.length // 4, config.length + 1))
        while True:
            said, asked, _ = expression(room, config.depth, config.arguments, random)
            if len(said) >= config.length // 4:
                break
        tokens[row, : len(said)], labels[row, : len(said)] = said, asked
    return Strings(tokens, labels, VOCAB, 10, mask=tokens != PAD)


class Listops(Diagnostic):
    """See domains.task.Task."""

    name: ClassVar[str] = "synthetic/listops"
    summary: ClassVar[str] = "The value of a nested expression over digits: every part of a long string may decide it."
    Config: ClassVar[type[ListopsConfig]] = ListopsConfig
    default_preset: ClassVar[str] = "listops"  # with channel layers: a maximum is no weighted mean
    metric_facts: ClassVar[Mapping[str, MetricFact]] = {
        "last_question": Diagnostic.metric_facts["last_question"],
        **Diagnostic.metric_facts,
    }

    config: ListopsConfig

    @property
    def causal(self) -> bool:
        return self.config.causal

    def make(self, n: int, random: np.random.Generator) -> Strings:
        return make_listops(self.config, n, random)
