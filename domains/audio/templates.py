"""Words by their looks: recordings of training words laid along an utterance, as many as fit best, in any order.

One-stage dynamic time warping over connected templates, after "The use of a one-stage dynamic programming algorithm for
connected word recognition" (Ney 1984). Every frame of an utterance costs its distance to the frame of a template that
it is laid upon; from frame to frame a template is stayed at, followed, or followed by two.

Shapes: N frames, F features, T frames of all templates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from .clips import Clips
from .config import FrontEndOptions
from .frontend import FrontEnd
from .items import collate
from .text import edits

FEATURES = FrontEndOptions(kind="mfcc", coefficients=13, mels=26, hop_ms=15.0, floor_db=40.0)
MOST_WORDS = 100  # of a vocabulary that templates are kept of
TUNED_ON = 60  # validation utterances
PENALTIES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)  # of entering a word, in mean distances of two frames
SPOKEN = tuple((level, pause) for level in (0.35, 0.25, 0.45, 0.55, 0.15) for pause in (2, 4, 1, 8))


def frames_of(wave: Any, rate: int) -> tuple[Float[np.ndarray, "N F"], Float[np.ndarray, "N"]]:
    """(cepstra less their mean over the utterance, with their slopes; logarithmic energy in dB) of each frame."""
    front = FrontEnd(rate, FEATURES if rate >= 4000 else FEATURES.model_copy(update={"mels": 13}))
    batch = collate([wave])
    with torch.no_grad():
        x = front(batch["wave"], batch["length"])[0][0].double().numpy()
    energy = x[:, 0].copy()
    x -= x.mean(0)
    padded = np.pad(x, ((2, 2), (0, 0)), mode="edge")
    n = len(x)
    slope = (2 * (padded[4:] - padded[:n]) + padded[3 : n + 3] - padded[1 : n + 1]) / 10
    return np.concatenate([x, 3 * slope], 1), energy


def spoken(energy: Float[np.ndarray, "N"], level: float, pause: int) -> list[tuple[int, int]]:
    """Runs of frames above ``level`` of the way from the quietest to the loudest, joined over shorter pauses."""
    low, high = np.percentile(energy, [5, 98])
    loud = energy > low + level * (high - low)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], loud, [False]]).astype(int)))
    runs: list[tuple[int, int]] = []
    for a, b in edges.reshape(-1, 2):
        if runs and a - runs[-1][1] < pause:
            runs[-1] = (runs[-1][0], int(b))
        else:
            runs.append((int(a), int(b)))
    return [(a, b) for a, b in runs if b - a >= 3]


def cut(energy: Float[np.ndarray, "N"], words: int) -> list[tuple[int, int]] | None:
    """Where so many words stand, judged by pauses alone; None where no threshold gives as many."""
    for level, pause in SPOKEN:
        runs = spoken(energy, level, pause)
        if len(runs) == words:
            return runs
    return None


@dataclass(frozen=True)
class Templates:
    """Words by their frames, and one frame of silence at the end."""

    words: tuple[str, ...]  # of each template
    frames: Float[np.ndarray, "T F"]
    first: Int[np.ndarray, "W1"]  # frame at which each template begins; the last one is silence
    penalty: float = 0.0  # of entering a word

    def heard(self, x: Float[np.ndarray, "N F"]) -> list[str]:
        """The words that are laid along an utterance at least cost."""
        return one_stage(distances(x, self.frames), self.first, self.words, self.penalty)


def distances(x: Float[np.ndarray, "N F"], frames: Float[np.ndarray, "T F"]) -> Float[np.ndarray, "N T"]:
    """Between all frames of both."""
    squared = (x**2).sum(1)[:, None] + (frames**2).sum(1) - 2 * x @ frames.T
    return np.sqrt(np.maximum(squared, 0.0))


def one_stage(
    cost: Float[np.ndarray, "N T"], first: Int[np.ndarray, "W1"], words: Sequence[str], penalty: float
) -> list[str]:
    """Least-cost words. The last template is silence: one frame, entered without a penalty, and no word."""
    n, total = cost.shape
    last = np.append(first[1:], total) - 1
    enter = np.full(len(first), penalty)
    enter[-1] = 0.0
    starts, seconds = np.zeros(total, bool), np.zeros(total, bool)
    starts[first] = True
    seconds[first[:-1] + 1] = last[:-1] > first[:-1]
    score, since = np.full(total, np.inf), np.zeros(total, int)
    score[first] = enter + cost[0, first]
    ends: list[tuple[float, int, int]] = [_end(score, since, last)]
    for i in range(1, n):
        one, two = np.full(total, np.inf), np.full(total, np.inf)
        one[1:], two[2:] = score[:-1], score[:-2]
        one[starts] = np.inf
        two[starts | seconds] = np.inf
        choice = np.argmin([score, one, two], axis=0)
        moved = np.where(choice == 1, np.roll(since, 1), np.where(choice == 2, np.roll(since, 2), since))
        score = np.minimum(np.minimum(score, one), two)
        fresh = ends[-1][0] + enter
        new = fresh < score[first]
        score[first[new]], moved[first[new]] = fresh[new], i
        score, since = score + cost[i], moved
        ends.append(_end(score, since, last))
    found: list[str] = []
    i = n - 1
    while i >= 0:
        _, template, began = ends[i]
        if template < len(words):
            found.append(words[template])
        i = began - 1
    return found[::-1]


def _end(score: Any, since: Any, last: Any) -> tuple[float, int, int]:
    """(cost, template, first frame) of the best word that is complete here."""
    best = int(np.argmin(score[last]))
    return float(score[last[best]]), best, int(since[last[best]])


def find_templates(data: Clips, rows: Int[np.ndarray, "n"], each: int) -> Templates | None:
    """Up to ``each`` recordings of every word by every speaker, cut out at pauses; None where a word has none."""
    vocabulary = {w for i in rows for w in (data.texts[int(i)] or "").split()}
    if not vocabulary or len(vocabulary) > MOST_WORDS:
        return None
    pool: dict[tuple[str, str], list[Any]] = defaultdict(list)
    quiet: list[Any] = []
    for i in rows:
        said = (data.texts[int(i)] or "").split()
        open_places = [w for w in said if len(pool[w, data.groups[int(i)]]) < each]
        if not open_places:
            continue
        x, energy = frames_of(data.waves[int(i)], data.rate)
        runs = cut(energy, len(said))
        if runs is None:
            continue
        for word, (a, b) in zip(said, runs, strict=True):
            if len(pool[word, data.groups[int(i)]]) < each:
                pool[word, data.groups[int(i)]].append(x[a:b])
        quiet.append(x[np.argsort(energy)[: max(1, len(x) // 20)]])
    found = [(w, x) for (w, _), taken in sorted(pool.items()) for x in taken]
    if {w for w, _ in found} != vocabulary:
        return None
    parts = [*(x for _, x in found), np.concatenate(quiet).mean(0, keepdims=True)]
    first = np.cumsum([0, *map(len, parts[:-1])])
    return Templates(tuple(w for w, _ in found), np.concatenate(parts), first)


def tuned(templates: Templates, data: Clips, rows: Int[np.ndarray, "n"]) -> Templates:
    """The penalty with the fewest word errors on validation utterances."""
    chosen = rows[:: max(1, len(rows) // TUNED_ON)][:TUNED_ON]
    heard = [(frames_of(data.waves[int(i)], data.rate)[0], (data.texts[int(i)] or "").split()) for i in chosen]
    unit = float(np.mean([distances(x, templates.frames).mean() for x, _ in heard]))
    tried = [Templates(templates.words, templates.frames, templates.first, unit * p) for p in PENALTIES]
    wrong = [sum(edits(said, t.heard(x)) for x, said in heard) for t in tried]
    return tried[int(np.argmin(wrong))]


def recognised(data: Clips, train: Any, val: Any, rows: Any, each: int) -> list[str] | None:
    """What templates of the training part hear in ``rows``; None where the vocabulary has no templates."""
    found = find_templates(data, train, each)
    if found is None:
        return None
    best = tuned(found, data, val)
    return [" ".join(best.heard(frames_of(data.waves[int(i)], data.rate)[0])) for i in rows]
