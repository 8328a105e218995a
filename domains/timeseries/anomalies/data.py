"""Reading watched series: tables of a time column and values, labels beside each step or as windows by file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64, Shaped

from shared_backbones.errors import BadInput

from ..tables import TIME_NAMES, ReadOptions, as_numbers, as_stamps, nearest, read_table
from .config import DetectOptions
from .records import Record, borders

Windows = Mapping[str, list[tuple[str, str]]]


def parse_windows(raw: bytes, source: str) -> Windows:
    """File name -> first and last stamp of each anomaly, as the NAB writes them. Raises BadInput."""
    try:
        found: Any = json.loads(raw)
        return {str(k): [(str(a), str(b)) for a, b in rows] for k, rows in found.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise BadInput(
            f"{source}: no JSON of windows by file, {{'a.csv': [['first', 'last'], ...]}} ({error})"
        ) from None


def rows_of(
    raw: bytes, source: str, options: DetectOptions
) -> tuple[Shaped[np.ndarray, "T"], Float[np.ndarray, "T V"], tuple[str, ...], pd.DataFrame]:
    """Stamps, values and names of the watched columns of a table, and the table. Raises BadInput."""
    frame = read_table(raw, source, ReadOptions(separator=options.separator))
    times = _times(frame, source, options)
    at = time_column(frame, source, options)
    columns = options.columns or tuple(
        c for c in frame.columns if c not in (at, options.label) and pd.api.types.is_numeric_dtype(frame[c])
    )
    for c in columns:
        if c not in frame.columns:
            raise BadInput(f"{source}: no column {c!r}{nearest(c, frame.columns)}")
    if not columns:
        raise BadInput(f"{source}: no numeric column to watch (there are: {', '.join(frame.columns[:20])})")
    values = np.column_stack([as_numbers(frame[c], source, options.missing_values) for c in columns])
    return times, values, tuple(columns), frame


def parse_record(raw: bytes, name: str, source: str, options: DetectOptions, windows: Windows | None) -> Record:
    """A series from a table. Raises BadInput."""
    times, values, columns, frame = rows_of(raw, source, options)
    dead = [c for c, seen in zip(columns, np.isfinite(values).any(0), strict=True) if not seen]
    if dead:
        raise BadInput(f"{source}: column {dead[0]!r} holds no observed value; leave it out with columns=")
    train, known = borders(len(values), options.probation, options.probation_most, options.val)
    if train < options.lookback + 8:
        raise BadInput(
            f"{source}: {len(values)} steps, of which {train} train: needs more than lookback + 8 = "
            f"{options.lookback + 8}. Give more, shorten lookback=, or raise probation="
        )
    if windows is not None:
        found = _by_stamp(windows[name], times, source) if name in windows else np.zeros((0, 2), np.int64)
    else:
        found = _by_column(frame, source, options.label)
    return Record(name, times, values, columns, found, train, known)


def time_column(frame: pd.DataFrame, source: str, options: DetectOptions) -> str | None:
    if options.time == "none":
        return None
    if options.time != "auto":
        if options.time not in frame.columns:
            raise BadInput(f"{source}: no column {options.time!r}{nearest(options.time, frame.columns)}")
        return options.time
    return next((str(c) for c in frame.columns if str(c).lower() in TIME_NAMES), None)


def _times(frame: pd.DataFrame, source: str, options: DetectOptions) -> Shaped[np.ndarray, "T"]:
    """Stamps that never go back; steps are numbered where there is no time column."""
    column = time_column(frame, source, options)
    if column is None:
        return np.arange(len(frame))
    times = as_stamps(frame[column], source, options.time_format)
    back = np.flatnonzero(np.diff(times) < np.zeros(1, np.diff(times).dtype))
    if len(back) and options.back == "refuse":
        raise BadInput(
            f"{source}, row {int(back[0]) + 3}: time goes back in column {column!r} ({frame[column].iloc[back[0]]} "
            f"then {frame[column].iloc[back[0] + 1]}); sort the rows by time, or keep their order with --set back=keep"
        )
    twice = np.flatnonzero(times[1:] == times[:-1])
    if len(twice) and options.back == "refuse":
        raise BadInput(
            f"{source}, row {int(twice[0]) + 3}: time stamp {frame[column].iloc[twice[0]]} stands twice in column "
            f"{column!r} ({len(twice)} such rows); leave one out, or keep all with --set back=keep"
        )
    return times


def _by_stamp(rows: list[tuple[str, str]], times: Shaped[np.ndarray, "T"], source: str) -> Int64[np.ndarray, "W 2"]:
    found = []
    for first, last in rows:
        try:
            ends = np.array([np.datetime64(pd.Timestamp(first)), np.datetime64(pd.Timestamp(last))]).astype(times.dtype)
        except ValueError:
            raise BadInput(f"{source}: window {first!r} to {last!r} is no pair of time stamps") from None
        inside = np.flatnonzero((times >= ends[0]) & (times <= ends[1]))
        if not len(inside):
            raise BadInput(f"{source}: no step lies in the window {first} to {last}; does it belong to another file?")
        found.append((int(inside[0]), int(inside[-1])))
    return np.array(sorted(found), np.int64).reshape(-1, 2)


def _by_column(frame: pd.DataFrame, source: str, label: str) -> Int64[np.ndarray, "W 2"]:
    if label not in frame.columns:
        return np.zeros((0, 2), np.int64)
    marks = as_numbers(frame[label], source)
    strange = np.flatnonzero(~np.isin(marks, (0, 1)))
    if len(strange):
        raise BadInput(
            f"{source}, row {int(strange[0]) + 2}, column {label!r}: {marks[strange[0]]:g}; labels are 0 or 1"
        )
    return runs(marks > 0)


def runs(marks: Any) -> Int64[np.ndarray, "W 2"]:
    """First and last step of every stretch of True."""
    edges = np.diff(np.concatenate([[0], np.asarray(marks, np.int8), [0]]))
    return np.column_stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1]).astype(np.int64)
