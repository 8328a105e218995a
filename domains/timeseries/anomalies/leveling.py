"""A threshold that follows the scores: what was usual in the probation need not stay usual for weeks.

Before every block of steps the level is set once more, by the rule of the threshold, from the series' own scores so
far; it is never below the threshold. Flagged steps count up to the level at most, and the first few of a block alone,
so that an anomaly does not raise the level much ("Anomaly Detection in Streams with Extreme Value Theory", Siffer et
al. 2017, leaves them out; then more steps are flagged than promised). A step's level rests on earlier scores alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from .config import DetectOptions
from .records import Record
from .scores import threshold_of

REMEMBERED = 4096  # scores of the past that set the level


class Level:
    """The running level of one series; it holds REMEMBERED scores and one block."""

    def __init__(self, past: Float[np.ndarray, "n"], threshold: float, options: DetectOptions) -> None:
        """``past``: scores of the probation."""
        self.threshold, self.rate = threshold, options.alarm_rate
        self.block, self.few = options.lookback, options.smooth
        self.past, self.open = past[-REMEMBERED:], np.zeros(0)
        self.now = self._level()

    def _level(self) -> float:
        return max(self.threshold, threshold_of([self.past], self.rate)) if len(self.past) else self.threshold

    def push(self, scores: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """The next scores as multiples of the level of their moment."""
        found = []
        while len(scores):
            piece, scores = np.split(scores, [self.block - len(self.open)])
            found.append(piece / self.now)
            self.open = np.concatenate([self.open, piece])
            if len(self.open) == self.block:
                self._close()
        return np.concatenate(found) if found else scores

    def _close(self) -> None:
        over = self.open >= self.now
        late = over & (np.cumsum(over) > self.few)
        self.past = np.concatenate([self.past, np.minimum(self.open, self.now)[~late]])[-REMEMBERED:]
        self.open = np.zeros(0)
        self.now = self._level()


def leveled(
    scores: Sequence[Float[np.ndarray, "_"]], records: Sequence[Record], threshold: float, options: DetectOptions
) -> list[Float[np.ndarray, "_"]]:
    """Scores as multiples of what an alarm takes: of the running level, or with ``level=fixed`` of the threshold."""
    if options.level == "fixed":
        return [s / threshold for s in scores]
    found = []
    for s, r in zip(scores, records, strict=True):
        level = Level(s[options.lookback : r.known], threshold, options)
        found.append(np.concatenate([s[: r.known] / threshold, level.push(s[r.known :])]))
    return found
