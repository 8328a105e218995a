"""Alarms that follow a growing table: each new row is judged by the first rows and the last ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from domains.following import Lines, counted
from shared_backbones.errors import BadInput, BadRequest

from ..grid import show
from .config import DetectOptions
from .data import parse_record, rows_of, time_column
from .judging import judged, views_of
from .leveling import Level
from .model import Watcher, errors_of
from .records import Record


class AlarmFollower:
    """Keeps the probation, ``probation_most`` rows, and as many of the last rows as a score looks back on.

    Equal to the scores of the whole file once it is so long that its probation is ``probation_most`` rows.
    """

    def __init__(self, model: Watcher, options: DetectOptions) -> None:
        self.model, self.lines = model, Lines()
        known = options.probation_most
        if known < options.lookback + 9:
            raise BadRequest(f"probation_most={known} is too short for lookback={options.lookback}")
        self.options = options.model_copy(update={"windows": None})
        self.latency = f"none during the first {known} rows, which say what is usual; then a row as soon as it is whole"
        self.keep = known + 2 * options.lookback + options.smooth + 2
        self.head: bytes | None = None
        self.waiting: list[bytes] = []  # rows of the probation, until it is whole
        self.first: Record | None = None
        self.errors = np.zeros((0, 0))  # of the probation's rows
        self.last: Record | None = None  # rows behind it, as many as are needed
        self.level: Level | None = None  # of the alarms, where it follows the scores
        self.newest = b""  # the last row as it came: the next one's clock must go on from it
        self.seen, self.alarm = 0, -(2**62)

    def push(self, content: bytes) -> Iterator[dict[str, Any]]:
        new = self.lines.push(content)
        if self.head is None and new:
            self.head, *new = new
        missing = max(0, self.options.probation_most - self.seen)
        self.waiting += new[:missing]
        self.seen += len(new[:missing])
        if self.first is None and len(self.waiting) == self.options.probation_most:
            self._learn()
        if new[missing:]:
            yield from self._told(new[missing:])

    def _learn(self) -> None:
        """What is usual, from the first rows; they are read once."""
        known = self.options.probation_most
        share = {"probation": (known + 0.5) / (known + 1), "back": "keep"}  # and one row more, which is judged
        raw, self.newest = (self.head or b"") + b"".join(self.waiting), self.waiting[-1]
        rows_of(raw, "the rows so far", self.options)  # their clock too
        raw += self.newest
        record = parse_record(raw, "followed", "the rows so far", self.options.model_copy(update=share), None)
        self.first = _rows(record, slice(0, record.known))
        self.last = _rows(record, slice(record.known, record.known))
        self.errors = errors_of(self.model, [self.first])[0]
        self.options = self.options.model_copy(update={"columns": record.channels})
        self.waiting = []

    def _told(self, lines: Sequence[bytes]) -> Iterator[dict[str, Any]]:
        """Rows for these lines; where one cannot be read, for those before it, and then the error."""
        try:
            with counted(self.seen - 1):  # the newest row stands before them
                raw = b"".join([self.head or b"", self.newest, *lines])
                times, values, _, frame = rows_of(raw, "the newest rows", self.options)
        except BadInput:
            if len(lines) == 1:
                raise
            half = len(lines) // 2
            yield from self._told(lines[:half])
            yield from self._told(lines[half:])
            return
        if time_column(frame, "the newest rows", self.options) is None:
            times = times + self.seen - 1
        self.newest = lines[-1]
        self.seen += len(lines)
        yield from self._judge(times[1:], values[1:])

    def _judge(self, times: Shaped[np.ndarray, "n"], values: Float[np.ndarray, "n V"]) -> Iterator[dict[str, Any]]:
        c, first, last, fresh = self.options, self.first, self.last, len(times)
        assert first is not None
        assert last is not None
        last = replace(last, times=np.concatenate([last.times, times]), values=np.concatenate([last.values, values]))
        record = replace(
            first, times=np.concatenate([first.times, last.times]), values=np.concatenate([first.values, last.values])
        )
        errors = errors_of(self.model, [record], "test")[0]
        errors[: len(first)] = self.errors
        (score,), _ = judged([views_of(record, errors, self.model.lookback)], [record], c.smooth, c.alarm_rate)
        threshold = float(self.model.threshold)
        if c.level == "following":
            self.level = self.level or Level(score[c.lookback : len(first)], threshold, c)
            score[-fresh:] = self.level.push(score[-fresh:])
        else:
            score = score / threshold
        for place in range(len(score) - fresh, len(score)):
            row = self.seen - len(score) + place
            flagged = bool(score[place] >= 1)
            alarm = flagged and row - self.alarm > c.hold
            self.alarm = row if alarm else self.alarm
            time = record.times[place]
            yield {
                "row": row, "time": int(time) if np.issubdtype(record.times.dtype, np.integer) else show(time),
                "score": round(float(score[place]), 6), "flagged": int(flagged), "alarm": int(alarm),
            }  # fmt: skip
        self.last = _rows(last, slice(max(0, len(last) - (self.keep - c.probation_most)), None))


def _rows(record: Record, rows: slice) -> Record:
    return replace(record, times=record.times[rows], values=record.values[rows])
