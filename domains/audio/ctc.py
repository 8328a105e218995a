"""Connectionist temporal classification: what cannot be aligned is found before training; two ways of decoding.

Shapes: N frames, K labels with the blank at 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

BLANK = 0


def frames_needed(labels: Sequence[int]) -> int:
    """Fewest frames that can spell ``labels``: one each, and a blank between equal neighbours."""
    return len(labels) + sum(a == b for a, b in itertools.pairwise(labels))


@dataclass(frozen=True)
class Problem:
    """An utterance that CTC cannot learn, and why."""

    name: str
    kind: str  # "too few frames", "unknown symbols", "empty transcript"
    meaning: str


def preflight(
    names: Sequence[str], texts: Sequence[str], frames: Sequence[int], symbols: Sequence[str]
) -> list[Problem]:
    """Utterances whose loss would be infinite or meaningless; torch's loss says nothing of them."""
    known, found = {c: i + 1 for i, c in enumerate(symbols)}, []
    for name, text, n in zip(names, texts, frames, strict=True):
        strange = sorted(set(text) - set(known))
        if not text:
            found.append(Problem(name, "empty transcript", "there is nothing to say"))
        elif strange:
            found.append(Problem(name, "unknown symbols", f"{strange} in {text!r}"))
        elif (need := frames_needed([known[c] for c in text])) > n:
            found.append(Problem(name, "too few frames", f"{text!r} needs {need} frames and there are {n}"))
    return found


def greedy(log_p: Float[np.ndarray, "N K"]) -> list[int]:
    """The best label of every frame, repeats joined, blanks left out."""
    path = log_p.argmax(1)
    return [int(c) for i, c in enumerate(path) if c != BLANK and (i == 0 or path[i - 1] != c)]


def prefix_beam(log_p: Float[np.ndarray, "N K"], beam: int = 8) -> list[tuple[list[int], float]]:
    """The best label strings with the logarithm of their probability over all alignments, best first.

    Exact where ``beam`` holds every string that can arise. Of each prefix two numbers are kept: the probability of the
    alignments that end in a blank, and of those that end in its last label.
    """
    none = -np.inf
    kept: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, none)}
    for row in log_p:
        grown: dict[tuple[int, ...], list[float]] = {}
        for prefix, (blank, label) in kept.items():
            total = np.logaddexp(blank, label)
            _add(grown, prefix, 0, total + row[BLANK])
            if prefix:
                _add(grown, prefix, 1, label + row[prefix[-1]])
            for c in range(1, len(row)):
                _add(grown, (*prefix, c), 1, (blank if prefix and prefix[-1] == c else total) + row[c])
        best = sorted(grown.items(), key=lambda kv: -float(np.logaddexp(kv[1][0], kv[1][1])))[:beam]
        kept = {prefix: (b, c) for prefix, (b, c) in best}
    ranked = sorted(((list(p), float(np.logaddexp(v[0], v[1]))) for p, v in kept.items()), key=lambda found: -found[1])
    return ranked


def _add(grown: dict[tuple[int, ...], list[float]], prefix: tuple[int, ...], at: int, log_p: float) -> None:
    both = grown.setdefault(prefix, [-np.inf, -np.inf])
    both[at] = float(np.logaddexp(both[at], log_p))


def blank_rate(log_p: Float[np.ndarray, "N K"]) -> float:
    """Share of frames whose best label is the blank: near 1 for all utterances, training has collapsed."""
    return float((log_p.argmax(1) == BLANK).mean())
