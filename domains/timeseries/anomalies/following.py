"""Alarms that follow a growing table: each new row is judged by the first rows and the last ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from domains.following import Lines
from shared_backbones.errors import BadRequest

from .config import DetectOptions
from .data import parse_record
from .judging import judged, views_of
from .model import Watcher, errors_of


class AlarmFollower:
    """Keeps the probation, ``probation_most`` rows, and as many of the last rows as a score looks back on.

    Equal to the scores of the whole file once it is so long that its probation is ``probation_most`` rows.
    """

    def __init__(self, model: Watcher, options: DetectOptions) -> None:
        self.model, self.lines = model, Lines()
        known = options.probation_most
        if known < options.lookback + 9:
            raise BadRequest(f"probation_most={known} is too short for lookback={options.lookback}")
        self.options = options.model_copy(update={"label": "", "windows": None})
        self.latency = f"none during the first {known} rows, which say what is usual; then a row as soon as it is whole"
        self.keep = known + 2 * options.lookback + options.smooth + 2
        self.head: bytes | None = None
        self.first: list[bytes] = []
        self.last: list[bytes] = []
        self.seen, self.alarm = 0, -(2**62)

    def push(self, content: bytes) -> Iterator[dict[str, Any]]:
        new = self.lines.push(content)
        if self.head is None and new:
            self.head, *new = new
        known, before = self.options.probation_most, self.seen
        for line in new:
            (self.first if self.seen < known else self.last).append(line)
            self.seen += 1
        fresh = self.seen - max(before, known)
        if fresh > 0:
            yield from self._judge(fresh)
            self.last = self.last[-(self.keep - known) :]

    def _judge(self, fresh: int) -> Iterator[dict[str, Any]]:
        c, known = self.options, self.options.probation_most
        raw = (self.head or b"") + b"".join(self.first) + b"".join(self.last)
        share = {"probation": (known + 0.5) / (known + len(self.last))}  # so that the first ``known`` rows are it
        record = parse_record(raw, "followed", "the rows so far", c.model_copy(update=share | {"back": "keep"}), None)
        views = views_of(record, errors_of(self.model, [record])[0], self.model.lookback)
        (score,), _ = judged([views], [record], c.smooth, c.alarm_rate)
        level = float(self.model.threshold)
        for place in range(len(score) - fresh, len(score)):
            row = self.seen - len(score) + place
            flagged = bool(score[place] >= level)
            alarm = flagged and row - self.alarm > c.hold
            self.alarm = row if alarm else self.alarm
            time = record.times[place]
            yield {
                "row": row, "time": int(time) if np.issubdtype(record.times.dtype, np.integer) else str(time),
                "score": round(float(score[place] / level), 6), "flagged": int(flagged), "alarm": int(alarm),
            }  # fmt: skip
