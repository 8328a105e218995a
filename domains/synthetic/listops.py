"""synthetic/listops: the value of a nested expression over digits, read off at its end.

In the manner of "ListOps: A Diagnostic Dataset for Latent Tree Learning" (Nangia and Bowman 2018) as used in "Long
Range Arena" (Tay et al. 2021), with a generator of our own: every part of the string may decide the answer, so it
must be carried over any distance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

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
CLOSE, ANSWER, PAD = 10 + len(OPERATIONS), 11 + len(OPERATIONS), 12 + len(OPERATIONS)
VOCAB = 13 + len(OPERATIONS)
NAMES = tuple(OPERATIONS)


def expression(room: int, depth: int, arguments: int, random: np.random.Generator) -> tuple[list[int], int]:
    """Tokens and value of an expression of at most ``room`` tokens and ``depth`` levels."""
    count = int(random.integers(2, arguments + 1))
    if depth < 1 or room < count + 2:
        digit = int(random.integers(10))
        return [digit], digit
    name = NAMES[int(random.integers(len(NAMES)))]
    tokens, values = [OPEN[name]], []
    left = room - 2
    for i in range(count):
        share = (left - (count - i - 1)) if i == count - 1 else int(random.integers(1, max(2, left - (count - i) + 2)))
        part, value = expression(share, depth - 1, arguments, random)
        tokens += part
        values.append(value)
        left -= len(part)
    return [*tokens, CLOSE], OPERATIONS[name](values)


def make_listops(config: ListopsConfig, n: int, random: np.random.Generator) -> Strings:
    """Expressions of a quarter of the length to all of it, then the token at which the value is asked for."""
    tokens = np.full((n, config.length), PAD)
    labels = np.full_like(tokens, NONE)
    for row in range(n):
        room = int(random.integers(config.length // 4, config.length))
        while True:
            said, value = expression(room, config.depth, config.arguments, random)
            if len(said) >= config.length // 4:
                break
        tokens[row, : len(said)], tokens[row, len(said)] = said, ANSWER
        labels[row, len(said)] = value
    return Strings(tokens, labels, VOCAB, 10, mask=tokens != PAD)


class Listops(Diagnostic):
    """See domains.task.Task."""

    name: ClassVar[str] = "synthetic/listops"
    summary: ClassVar[str] = "The value of a nested expression over digits: every part of a long string may decide it."
    Config: ClassVar[type[ListopsConfig]] = ListopsConfig

    config: ListopsConfig

    @property
    def causal(self) -> bool:
        return self.config.causal

    def make(self, n: int, random: np.random.Generator) -> Strings:
        return make_listops(self.config, n, random)
