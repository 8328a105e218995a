"""Reading objects with a class each: ``.ts`` files of regular series, and tables of light curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from shared_backbones.errors import BadInput, BadRequest

from ..tables import ReadOptions, as_numbers, nearest, read_table
from .config import ClassifyOptions

USUAL = {
    "object": ("object", "object_id", "id", "unique_id"),
    "time": ("time", "mjd", "t", "hjd", "bjd", "jd"),
    "value": ("mag", "magnitude", "flux", "value", "y"),
    "error": ("magerr", "mag_err", "error", "err", "flux_err", "fluxerr", "sigma"),
    "band": ("band", "filter", "passband", "fid", "channel"),
}
MAGNITUDES = ("mag", "magnitude")
_NUMBER = "Leave the cell empty where nothing was measured, or name another column"
SENTINEL = 90.0  # magnitudes: nothing in the sky is that faint, catalogues write 99 or 100 for "none"


@dataclass
class Raw:
    """What was read of one object."""

    name: str
    values: Float[np.ndarray, "_ _"]
    label: str = ""
    part: str = ""
    static: tuple[float, ...] = ()
    period: float = float("nan")  # that is known of it
    move: float = float("nan")  # of the price, where that decides the class


@dataclass
class Read:
    """What was read of a source, and what the reader did to it."""

    regular: bool
    channels: tuple[str, ...]
    objects: list[Raw]
    found: dict[str, Any] = field(default_factory=dict)


def _text(raw: bytes, source: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{source}: no text file (byte {error.start}); a .ts file is UTF-8 text") from None


def _flag(header: dict[str, str], name: str) -> bool:
    return header.get(name, "false").split()[:1] == ["true"]


def parse_ts(raw: bytes, source: str, part: str = "") -> Read:
    """Series of a ``.ts`` file of the UCR/UEA archive: ``?`` is missing, lengths may differ. Raises BadInput."""
    header: dict[str, str] = {}
    objects: list[Raw] = []
    channels = 0
    lines = iter(enumerate(_text(raw, source).splitlines(), 1))
    for number, line in lines:
        line = line.strip()
        if line.lower() == "@data":
            break
        if line.startswith("@"):
            key, _, rest = line[1:].partition(" ")
            header[key.lower()] = rest.strip()
        elif line and not line.startswith(("#", "%")):
            raise BadInput(f"{source}, line {number}: before @data a line begins with @ or #, got {line[:40]!r}")
    else:
        raise BadInput(f"{source}: no line @data, so this is no .ts file")
    if _flag(header, "timestamps"):
        raise BadInput(
            f"{source}: series with time stamps of their own are read from tables here: give columns object, time, "
            "value, band"
        )
    labelled = _flag(header, "classlabel")
    allowed = header.get("classlabel", "").split()[1:]
    for number, line in lines:
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        cells = line.split(":")
        label = cells.pop().strip() if labelled else ""
        if labelled and allowed and label not in allowed:
            raise BadInput(f"{source}, line {number}: class {label!r} is none of @classLabel ({', '.join(allowed)})")
        channels = channels or len(cells)
        if len(cells) != channels or not cells:
            raise BadInput(f"{source}, line {number}: {len(cells)} channels, the lines before have {channels}")
        rows = [_numbers(cell, source, number) for cell in cells]
        values = np.full((max(map(len, rows)), channels), np.nan)
        for v, row in enumerate(rows):
            values[: len(row), v] = row
        if not np.isfinite(values).any():
            raise BadInput(f"{source}, line {number}: no observed value at all; leave the series out")
        objects.append(Raw(f"{part or 'series'}_{len(objects)}", values, label, part))
    if not objects:
        raise BadInput(f"{source}: no series after @data")
    return Read(True, tuple(f"channel_{v + 1}" for v in range(channels)), objects)


def _numbers(cell: str, source: str, line: int) -> list[float]:
    values = []
    for place, text in enumerate(cell.split(","), 1):
        text = text.strip()
        if text in ("?", "NaN", "nan", ""):
            values.append(np.nan)
            continue
        try:
            value = float(text)
        except ValueError:
            value = np.inf
        if not np.isfinite(value):
            raise BadInput(f"{source}, line {line}, value {place}: {text!r} is no finite number; write ? where missing")
        values.append(value)
    return values


def column(frame: pd.DataFrame, role: str, asked: str, source: str, *, needed: bool = True) -> str | None:
    """The column that plays a role. Raises BadInput where it is not there."""
    if asked == "none" and not needed:
        return None
    if asked != "auto":
        if asked not in frame.columns:
            raise BadInput(f"{source}: no column {asked!r} for {role}{nearest(asked, frame.columns)}")
        return asked
    lower = {str(c).lower(): str(c) for c in frame.columns}
    found = next((lower[name] for name in USUAL[role] if name in lower), None)
    if found is None and needed:
        raise BadInput(
            f"{source}: no column for {role}: none is called {', '.join(USUAL[role])} (there are: "
            f"{', '.join(map(str, frame.columns[:20]))}). Name it with --set {role}=COLUMN"
        )
    return found


def _limit(options: ClassifyOptions, value: str) -> float:
    if options.sentinel == "none":
        return float("inf")
    if options.sentinel == "auto":
        return SENTINEL if value.lower() in MAGNITUDES else float("inf")
    return float(options.sentinel)


def curves_of(
    frame: pd.DataFrame, source: str, options: ClassifyOptions, bands: dict[str, int], name: str | None
) -> tuple[list[tuple[str, Float[np.ndarray, "_ 4"], str]], dict[str, int]]:
    """Light curves of a table, (name, observations in time order, label) each, and counts of what was done to them.

    ``bands`` grows by the bands that are new. ``name``: of the object where the table holds one. Raises BadInput.
    """
    at, value = column(frame, "time", options.time, source), column(frame, "value", options.value, source)
    error = column(frame, "error", options.error, source, needed=False)
    band = column(frame, "band", options.band, source, needed=False)
    of = None if name is not None else column(frame, "object", options.object, source)
    assert at is not None
    assert value is not None
    times = as_numbers(frame[at], source, remedy=_NUMBER)
    if np.isnan(times).any():
        row = int(np.flatnonzero(np.isnan(times))[0]) + 2
        raise BadInput(f"{source}, row {row}: no time stamp in column {at!r}; fill it in, or leave the row out")
    values = as_numbers(frame[value], source, remedy=_NUMBER)
    errors = np.full(len(frame), np.nan) if error is None else as_numbers(frame[error], source, remedy=_NUMBER)
    words = np.full(len(frame), "all") if band is None else frame[band].astype(str).to_numpy()
    for word in pd.unique(words):
        bands.setdefault(str(word), len(bands))
    limit = _limit(options, value)
    sentinel = (np.abs(values) >= limit) | (np.abs(np.nan_to_num(errors)) >= limit)
    missing = np.isnan(values)
    errors = np.where(errors > 0, errors, np.nan)
    table = np.column_stack([times, values, errors, [bands[str(w)] for w in words]])
    keep = ~(sentinel | missing)
    ids = np.full(len(frame), name) if of is None else frame[of].astype(str).to_numpy()
    labels = frame[options.label].fillna("").astype(str).to_numpy() if options.label in frame.columns else None
    counts = {"sentinel_rows": int(sentinel.sum()), "missing_rows": int((missing & ~sentinel).sum())}
    counts["objects_with_sentinels"] = len(set(ids[sentinel]))
    found, unsorted, twice = [], 0, 0
    for key, rows in pd.Series(np.arange(len(ids))).groupby(ids, sort=False):
        places = rows.to_numpy()
        label = "" if labels is None else _one_label(labels[places], str(key), source)
        mine = table[places[keep[places]]]
        unsorted += int((np.diff(mine[:, 0]) < 0).any())
        mine = mine[np.lexsort((mine[:, 3], mine[:, 0]))]
        same = (np.diff(mine[:, [0, 3]], axis=0) == 0).all(1)
        twice += int(same.sum())
        found.append((str(key), mine, label))
    return found, {**counts, "unsorted_objects": unsorted, "repeated_stamps": twice}


def _one_label(labels: Any, name: str, source: str) -> str:
    kinds = sorted(set(labels) - {""})
    if len(kinds) > 1:
        raise BadInput(f"{source}: object {name!r} has several classes ({', '.join(kinds)}); it may have one")
    return kinds[0] if kinds else ""


def object_table(raw: bytes, source: str, options: ClassifyOptions) -> dict[str, Raw]:
    """Object -> class, part, static features and known period, without values. Raises BadInput."""
    frame = read_table(raw, source, ReadOptions(separator=options.separator))
    key = column(frame, "object", options.objects_id, source)
    for name in (options.label, *options.static, *filter(None, [options.known_period])):
        if name not in frame.columns and (name != options.label or not options.static):
            raise BadInput(
                f"{source}: no column {name!r}{nearest(name, frame.columns)}; name it with label=, static= or "
                "known_period="
            )
    ids = frame[key].astype(str)
    if ids.duplicated().any():
        raise BadInput(f"{source}: object {ids[ids.duplicated()].iloc[0]!r} stands in two rows of the objects' table")
    blank = pd.Series([""] * len(frame))
    labels = frame[options.label].fillna("").astype(str) if options.label in frame.columns else blank
    parts = frame[options.part].fillna("").astype(str) if options.part in frame.columns else blank
    static = np.column_stack(
        [as_numbers(frame[name], source) for name in options.static] or [np.zeros((len(frame), 0))]
    )
    periods = as_numbers(frame[options.known_period], source) if options.known_period else np.full(len(frame), np.nan)
    none = np.zeros((0, 0))
    return {
        i: Raw(i, none, a, p, tuple(s), period)
        for i, a, p, s, period in zip(ids, labels, parts, static.tolist(), periods.tolist(), strict=True)
    }


def parse_curves(tables: Sequence[tuple[str, str | None, bytes]], options: ClassifyOptions) -> Read:
    """Light curves from tables, each (source, object where it holds one, bytes). Raises BadInput."""
    bands: dict[str, int] = {}
    objects: list[Raw] = []
    totals: dict[str, int] = {}
    faint_up = False
    for source, name, raw in tables:
        frame = read_table(raw, source, ReadOptions(separator=options.separator))
        faint_up |= str(column(frame, "value", options.value, source)).lower() in MAGNITUDES
        curves, counts = curves_of(frame, source, options, bands, name)
        objects += [Raw(key, values, label) for key, values, label in curves]
        totals = {k: totals.get(k, 0) + n for k, n in counts.items()}
    seen: set[str] = set()
    for one in objects:
        if one.name in seen:
            raise BadInput(f"object {one.name!r} stands in two tables; give every object one name of its own")
        seen.add(one.name)
    order = sorted(bands)
    turn = np.array([order.index(name) for name in bands], float)
    for one in objects:
        one.values[:, 3] = turn[one.values[:, 3].astype(int)]
    return Read(False, tuple(order), objects, {**totals, "magnitudes": faint_up})


def with_table(read: Read, table: dict[str, Raw], source: str) -> Read:
    """Classes, parts, periods and static features from the table. Raises BadInput for an object without a row."""
    for one in read.objects:
        if one.name not in table:
            raise BadInput(f"{source}: no row for object {one.name!r}; every light curve needs one")
        said = table[one.name]
        one.label, one.part, one.static, one.period = said.label, said.part, said.static, said.period
    read.found["table_rows_without_curve"] = len(table) - len(read.objects)
    return read


def check_static(read: Read, names: Sequence[str]) -> None:
    """Raises BadRequest where static features are asked for and no objects' table gave them."""
    if names and any(len(one.static) != len(names) for one in read.objects):
        raise BadRequest(f"static={', '.join(names)} needs a table of objects: --set objects=PATH")
