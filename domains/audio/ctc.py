"""Connectionist temporal classification: what cannot be aligned is found before training; decoding and alignment.

Shapes: N frames, K labels with the blank at 0, U labels of a string.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from .text import Alphabet

BLANK = 0
NEVER = -math.inf
Fusion = Callable[[tuple[int, ...], bool], float]  # (labels, whether they are all) -> what a language model adds


def frames_needed(labels: Sequence[int]) -> int:
    """Fewest frames that can spell ``labels``: one each, and a blank between equal neighbours."""
    return len(labels) + sum(a == b for a, b in itertools.pairwise(labels))


@dataclass(frozen=True)
class Problem:
    """An utterance that CTC cannot learn, and why."""

    name: str
    kind: str  # "too few frames", "unknown symbols", "empty transcript"
    meaning: str


def preflight(names: Sequence[str], texts: Sequence[str], frames: Sequence[int], alphabet: Alphabet) -> list[Problem]:
    """Utterances whose loss would be infinite or meaningless; torch's loss says nothing of them."""
    found = []
    for name, text, n in zip(names, texts, frames, strict=True):
        strange = alphabet.strange(text)
        if not text:
            found.append(Problem(name, "empty transcript", "there is nothing to say"))
        elif strange:
            found.append(Problem(name, "unknown symbols", f"{strange} in {text!r}"))
        elif (need := frames_needed(alphabet.encode(text))) > n:
            found.append(Problem(name, "too few frames", f"{text!r} needs {need} frames and there are {n}"))
    return found


def greedy(log_p: Float[np.ndarray, "N K"]) -> list[int]:
    """The best label of every frame, repeats joined, blanks left out."""
    path = log_p.argmax(1)
    keep = (path != BLANK) & np.concatenate([[True], path[1:] != path[:-1]])
    return [int(c) for c in path[keep]]


def log_add(a: float, b: float) -> float:
    """log(exp a + exp b)."""
    if a < b:
        a, b = b, a
    return a if b == NEVER else a + math.log1p(math.exp(b - a))


def prefix_beam(
    log_p: Float[np.ndarray, "N K"], beam: int = 8, fusion: Fusion | None = None, floor: float = NEVER
) -> list[tuple[list[int], float]]:
    """The best label strings with the logarithm of their probability over all alignments, best first.

    Exact where ``beam`` holds every string that can arise. Of each prefix two numbers are kept: the probability of the
    alignments that end in a blank, and of those that end in its last label. ``fusion`` adds to a string's score what a
    language model says of it; ``floor``: labels below it (natural logarithm) are not tried in a frame.
    """
    kept: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, NEVER)}
    extra: Fusion = fusion or (lambda labels, whole: 0.0)
    for row in np.asarray(log_p, np.float64):
        likely = [(int(c), float(row[c])) for c in np.flatnonzero(row > floor) if c != BLANK]
        grown: dict[tuple[int, ...], list[float]] = {}
        for prefix, (blank, label) in kept.items():
            total = log_add(blank, label)
            _add(grown, prefix, 0, total + row[BLANK])
            last = prefix[-1] if prefix else BLANK
            if prefix:
                _add(grown, prefix, 1, label + row[last])
            for c, p in likely:
                _add(grown, (*prefix, c), 1, (blank if c == last else total) + p)
        ranked = sorted(grown.items(), key=lambda kv: -(log_add(*kv[1]) + extra(kv[0], False)))
        kept = {prefix: (b, c) for prefix, (b, c) in ranked[:beam]}
    found = [(list(p), log_add(*v) + extra(p, True)) for p, v in kept.items()]
    return sorted(found, key=lambda f: -f[1])


def _add(grown: dict[tuple[int, ...], list[float]], prefix: tuple[int, ...], at: int, log_p: float) -> None:
    both = grown.setdefault(prefix, [NEVER, NEVER])
    both[at] = log_add(both[at], log_p)


def aligned(log_p: Float[np.ndarray, "N K"], labels: Sequence[int]) -> list[tuple[int, int]]:
    """(first frame, the one after the last) of each label on the likeliest path that spells ``labels``.

    Raises ValueError where there are too few frames.
    """
    if frames_needed(labels) > len(log_p):
        raise ValueError(f"{len(labels)} labels need {frames_needed(labels)} frames and there are {len(log_p)}")
    states = np.zeros(2 * len(labels) + 1, int)  # blank, label, blank, ... blank
    states[1::2] = labels
    skips = np.zeros(len(states), bool)  # whether the blank before a state may be left out
    skips[3::2] = states[3::2] != states[1:-2:2]
    score = np.full(len(states), NEVER)
    score[:2] = log_p[0, states[:2]]
    came = np.zeros((len(log_p), len(states)), np.int8)
    for n in range(1, len(log_p)):
        one, two = np.full_like(score, NEVER), np.full_like(score, NEVER)
        one[1:], two[2:] = score[:-1], score[:-2]
        two[~skips] = NEVER
        came[n] = np.argmax([score, one, two], axis=0)
        score = np.max([score, one, two], axis=0) + log_p[n, states]
    at = len(states) - 1 if len(states) == 1 or score[-1] >= score[-2] else len(states) - 2
    path = np.zeros(len(log_p), int)
    for n in range(len(log_p) - 1, -1, -1):
        path[n] = at
        at -= int(came[n, at])  # not as int8, which a long path leaves
    return [(int(n[0]), int(n[-1]) + 1) for n in (np.flatnonzero(path == 2 * u + 1) for u in range(len(labels)))]


def blank_rate(log_p: Float[np.ndarray, "N K"]) -> float:
    """Share of frames whose best label is the blank: near 1 for all utterances, training has collapsed."""
    return float((log_p.argmax(1) == BLANK).mean())
