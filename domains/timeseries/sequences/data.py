"""Reading tables of events: an entity, a time stamp, words, numbers and a class in each row."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64

from domains.task import Manifest
from shared_backbones.errors import BadInput

from ..tables import ReadOptions, as_numbers, as_stamps, nearest, read_table
from .config import EventOptions

USUAL = {
    "entity": ("entity", "person", "person_id", "host", "device", "id", "unique_id"),
    "time": ("time", "timestamp", "date", "start", "datetime", "ds"),
}
DAY_NS = 86_400_000_000_000


_EMPTY = "Leave unknown numbers empty; words go into a column of `categories`"


@dataclass(frozen=True)
class Events:
    """Events ordered by entity and time, N in all, and examples: stretches [first, last] of one entity's events.

    ``words`` are places in ``vocabulary`` (sorted words of each category column), ``numbers`` are NaN where empty,
    ``time`` is in days, or in the column's own numbers.
    """

    manifest: Manifest
    categories: tuple[str, ...]
    vocabulary: tuple[tuple[str, ...], ...]
    words: Int64[np.ndarray, "N c"]
    number_names: tuple[str, ...]
    numbers: Float[np.ndarray, "N m"]
    time: Float[np.ndarray, "N"]
    entity: Int64[np.ndarray, "N"]
    names: tuple[str, ...]  # of the entities
    examples: Int64[np.ndarray, "n 2"]
    labels: Int64[np.ndarray, "n"]  # places in classes; -1: none said
    classes: tuple[str, ...]
    unit: str

    def __len__(self) -> int:
        return len(self.examples)


def _column(frame: pd.DataFrame, role: str, asked: str, source: str) -> str:
    if asked != "auto":
        if asked not in frame.columns:
            raise BadInput(f"{source}: no column {asked!r} for {role}{nearest(asked, frame.columns)}")
        return asked
    lower = {str(c).lower(): str(c) for c in frame.columns}
    found = next((lower[name] for name in USUAL[role] if name in lower), None)
    if found is None:
        raise BadInput(
            f"{source}: no column for {role}: none is called {', '.join(USUAL[role])} (there are: "
            f"{', '.join(map(str, frame.columns[:20]))}). Name it with --set {role}=COLUMN"
        )
    return found


def parse_events(raw: bytes, source: str, options: EventOptions) -> Events:
    """Events of a CSV or parquet table; rows may stand in any order. Raises BadInput."""
    return from_frame(read_table(raw, source, ReadOptions(separator=options.separator)), source, options)


def from_frame(frame: pd.DataFrame, source: str, options: EventOptions) -> Events:
    """The same from a frame."""
    whose, when = (_column(frame, role, getattr(options, role), source) for role in ("entity", "time"))
    time = _days(frame, when, source, options)
    ids = frame[whose].astype(str).to_numpy()
    order = np.lexsort((np.arange(len(frame)), time, ids))
    frame, ids, time = frame.iloc[order], ids[order], time[order]
    taken = {whose, when, options.label}
    text = [c for c in frame.columns if c not in taken and not pd.api.types.is_numeric_dtype(frame[c])]
    numeric = [c for c in frame.columns if c not in taken and pd.api.types.is_numeric_dtype(frame[c])]
    categories = options.categories or tuple(c for c in text if c not in options.numbers)
    numbers = options.numbers or tuple(c for c in numeric if c not in options.categories)
    for name in (*categories, *numbers):
        if name not in frame.columns:
            raise BadInput(f"{source}: no column {name!r}{nearest(name, frame.columns)}")
    if not categories and not numbers:
        raise BadInput(f"{source}: no column says what happened, beside {', '.join(sorted(taken))}")
    coded = [pd.Categorical(frame[c].fillna("").astype(str)) for c in categories]
    names, entity = np.unique(ids, return_inverse=True)
    data = Events(
        Manifest(source, ""), tuple(categories), tuple(tuple(map(str, c.categories)) for c in coded),
        np.column_stack([c.codes for c in coded]).astype(np.int64) if coded else np.zeros((len(frame), 0), np.int64),
        tuple(numbers), np.column_stack([as_numbers(frame[c], source, remedy=_EMPTY) for c in numbers]) if numbers else
        np.zeros((len(frame), 0)), time, entity.astype(np.int64), tuple(map(str, names)),
        *_examples(frame, entity, names, source, options), unit=options.unit,
    )  # fmt: skip
    return replace(data, manifest=Manifest(source, digest(data), facts=card(data)))


def _days(frame: pd.DataFrame, column: str, source: str, options: EventOptions) -> Float[np.ndarray, "N"]:
    if pd.api.types.is_numeric_dtype(frame[column]) and options.time_format is None:
        found = as_numbers(frame[column], source, remedy="Mend it, or leave the row out")
        if np.isnan(found).any():
            row = int(np.flatnonzero(np.isnan(found))[0]) + 2
            raise BadInput(f"{source}, row {row}: no time in column {column!r}; fill it in, or leave the row out")
        return found
    return as_stamps(frame[column], source, options.time_format).astype(np.int64) / DAY_NS


def _examples(
    frame: pd.DataFrame, entity: np.ndarray, names: np.ndarray, source: str, options: EventOptions
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """(first and last event, label, classes) of every example: an entity, or an event with those before it."""
    starts = np.searchsorted(entity, np.arange(len(names)))
    ends = np.append(starts[1:], len(entity)) - 1
    if options.label in frame.columns:
        said = frame[options.label].fillna("").astype(str).to_numpy()
    else:
        said = np.full(len(frame), "")
    if options.unit == "record":
        last = np.arange(len(entity))
        spans = np.column_stack([np.maximum(starts[entity], last - options.window + 1), last])
        words = said
    else:
        spans = np.column_stack([np.maximum(starts, ends - options.window + 1), ends])
        words = np.array([_one(said[a : b + 1], str(n), source) for a, b, n in zip(starts, ends, names, strict=True)])
    classes = tuple(sorted(set(words) - {""}))
    place = {name: i for i, name in enumerate(classes)}
    return spans.astype(np.int64), np.array([place.get(w, -1) for w in words], np.int64), classes


def _one(words: np.ndarray, name: str, source: str) -> str:
    kinds = sorted(set(words) - {""})
    if len(kinds) > 1:
        raise BadInput(
            f"{source}: entity {name!r} has several classes ({', '.join(kinds[:5])}); for one class per event set "
            "unit=record"
        )
    return kinds[0] if kinds else ""


def digest(data: Events) -> str:
    """sha256 of everything that was read."""
    h = hashlib.sha256(repr((data.categories, data.vocabulary, data.number_names, data.names, data.classes)).encode())
    for array in (data.words, data.numbers, data.time, data.entity, data.examples, data.labels):
        h.update(np.ascontiguousarray(array).tobytes())
    return h.hexdigest()


def card(data: Events) -> dict[str, Any]:
    """The data card."""
    lengths = np.bincount(data.entity)
    counts = np.bincount(data.labels[data.labels >= 0], minlength=len(data.classes)).tolist()
    return {
        "events": len(data.time), "entities": len(data.names), "examples": len(data), "unit": data.unit,
        "events_of_an_entity": {"least": int(lengths.min()), "median": float(np.median(lengths)),
                                "most": int(lengths.max())},
        "categories": {c: len(v) for c, v in zip(data.categories, data.vocabulary, strict=True)},
        "numbers": list(data.number_names), "labels": dict(zip(data.classes, counts, strict=True)),
        "empty_numbers": int(np.isnan(data.numbers).sum()),
    }  # fmt: skip
