"""Watched series with the windows in which something was wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64, Shaped

from domains.task import Manifest


@dataclass(frozen=True)
class Record:
    """One source of observations: T steps, V channels, NaN where nothing was observed.

    ``windows``: first and last step of each anomaly, in order; ``train``, ``known``: steps [0, train) train and
    [train, known) validate, the rest is the test part.
    """

    name: str
    times: Shaped[np.ndarray, "T"]
    values: Float[np.ndarray, "T V"]
    channels: tuple[str, ...]
    windows: Int64[np.ndarray, "W 2"]
    train: int
    known: int

    def __len__(self) -> int:
        return len(self.values)

    @property
    def labels(self) -> Bool[np.ndarray, "T"]:
        out = np.zeros(len(self), bool)
        for first, last in self.windows:
            out[first : last + 1] = True
        return out


@dataclass(frozen=True)
class Records:
    """All series of one source; a step's place is its series' first place plus its own step."""

    manifest: Manifest
    items: tuple[Record, ...]

    @property
    def starts(self) -> Int64[np.ndarray, "n"]:
        return np.concatenate([[0], np.cumsum([len(r) for r in self.items])[:-1]]).astype(np.int64)


def borders(steps: int, probation: float, most: int, val: float) -> tuple[int, int]:
    """(training steps, training and validation steps)."""
    known = min(int(probation * steps), most)
    return known - max(1, round(val * known)), known


def digest(items: Sequence[Record]) -> str:
    """sha256 of names, times, values and windows."""
    h = hashlib.sha256()
    for r in items:
        h.update(f"{r.name}|{r.channels}|{r.values.shape}".encode())
        for array in (r.times, r.values, r.windows):
            h.update(np.ascontiguousarray(array).tobytes())
    return h.hexdigest()


def card(items: Sequence[Record]) -> dict[str, Any]:
    """The data card."""
    lengths = [len(r) for r in items]
    early = sum(int((r.windows[:, 0] < r.known).sum()) for r in items)
    return {
        "series": len(items),
        "steps": {"least": min(lengths), "median": float(np.median(lengths)), "most": max(lengths)},
        "all_steps": sum(lengths),
        "channels": sorted({c for r in items for c in r.channels})[:50],
        "anomaly_windows": sum(len(r.windows) for r in items),
        "windows_that_begin_in_the_probation": early,
        "anomalous_percent": round(100 * sum(int(r.labels.sum()) for r in items) / sum(lengths), 3),
        "missing_percent": round(100 * sum(int(np.isnan(r.values).sum()) for r in items)
                                 / sum(r.values.size for r in items), 4),
    }  # fmt: skip


def poisoned(data: Records) -> Records:
    """1e9 in every test step, and no window there."""
    found = []
    for r in data.items:
        values = r.values.copy()
        values[r.known :] = 1e9
        found.append(replace(r, values=values, windows=r.windows[r.windows[:, 0] < r.known]))
    return replace(data, items=tuple(found))


def probation_of(record: Record) -> Record:
    """The series as it was known before anything is judged."""
    end = record.known
    return replace(record, times=record.times[:end], values=record.values[:end], windows=record.windows[:0])
