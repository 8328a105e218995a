"""A graph from two tables: nodes (id, features, target) and edges (source, target, optional time, weight, features)."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from shared_backbones.errors import BadInput

from .assemble import Rules, assemble
from .graph import Given, Graph

Kind = Literal["number", "category", "ignore"]
_READERS = (".csv", ".csv.gz", ".tsv", ".parquet")


@dataclass(frozen=True)
class Schema:
    """How the tables are read. ``kinds``: what a column is, where it is not a plain number."""

    id: str = "id"
    target: str | None = None  # None: a column called target, label or y
    target_kind: Literal["auto", "class", "value"] = "auto"
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    split: str = "split"  # a column of train, val, test; it need not be there
    ends: tuple[str, str] = ("source", "target")
    time: str = "time"
    weight: str = "weight"
    levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of a finished model: known categories
    classes: tuple[str, ...] = ()  # of a finished model


def table_beside(path: Path, stem: str) -> Path | None:
    """The file ``stem.csv``, ``.tsv``, ``.csv.gz`` or ``.parquet`` in a folder."""
    return next((path / f"{stem}{end}" for end in _READERS if (path / f"{stem}{end}").is_file()), None)


def read_frame(path: Path) -> pd.DataFrame:
    """A table from CSV (plain or gzip), TSV or parquet. Raises BadInput where it is none or has no rows."""
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", low_memory=False)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except (OSError, ValueError, UnicodeDecodeError) as error:  # pandas' own parser errors are ValueErrors
        raise BadInput(f"{path}: not a table: {' '.join(str(error).split())[:300]}") from None
    frame.columns = pd.Index([str(c).strip() for c in frame.columns])
    return frame


def _column(frame: pd.DataFrame, name: str, path: Path, what: str, option: str) -> pd.Series[Any]:
    if name not in frame.columns:
        near = difflib.get_close_matches(name, list(frame.columns), n=2, cutoff=0.5)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise BadInput(
            f"{path}: no column {name!r} for the {what}{hint} (there are: {', '.join(frame.columns[:20])}). "
            f"Name it with --set {option}=COLUMN"
        )
    return frame[name]


def _cell(path: Path, series: pd.Series[Any], row: int) -> str:
    value: Any = series.iloc[row]
    said = "an empty cell" if pd.isna(value) else repr(value.item() if isinstance(value, np.generic) else value)
    return f"{path}, row {row + 2}, column {series.name!r}: {said}"


def numbers(path: Path, series: pd.Series[Any], *, allow_missing: bool = False) -> Any:
    """A column as float64; raises BadInput at the first cell that is no finite number."""
    found = pd.to_numeric(series, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    bad = ~np.isfinite(found)
    if allow_missing:
        bad &= series.notna().to_numpy()
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise BadInput(
            f"{_cell(path, series, row)} is no finite number ({int(bad.sum())} such cells). Fill it, or state what the "
            f"column is: --set columns.{series.name}=category (or ignore)"
        )
    return found


def _features(frame: pd.DataFrame, path: Path, skip: set[str], schema: Schema) -> tuple[Any, tuple[str, ...]]:
    """Columns in the order of the table: numbers as they are, categories one-hot in the order of their names."""
    parts, names = [], []
    for name in frame.columns:
        kind = schema.kinds.get(name, "number")
        if name in skip or kind == "ignore":
            continue
        if kind == "number":
            if frame[name].dtype == object and pd.to_numeric(frame[name], errors="coerce").isna().all():
                other = f", or, if it is the target, --set target={name}" if "" in skip else ""
                raise BadInput(
                    f"{path}: column {name!r} holds text ({frame[name].iloc[0]!r}), and no schema says what it is. "
                    f"State it: --set columns.{name}=category, or --set columns.{name}=ignore{other}"
                )
            parts.append(numbers(path, frame[name])[:, None].astype(np.float32))
            names.append(name)
            continue
        text = frame[name].astype(str)
        levels = schema.levels.get(name) or tuple(sorted(text.unique()))
        place = pd.Categorical(text, categories=list(levels)).codes
        if (place < 0).any():
            row = int(np.flatnonzero(place < 0)[0])
            raise BadInput(f"{_cell(path, frame[name], row)} is a category that the model never saw: {levels[:20]}")
        parts.append(np.eye(len(levels), dtype=np.float32)[place])
        names += [f"{name}={level}" for level in levels]
    width = np.concatenate(parts, 1) if parts else np.ones((len(frame), 1), np.float32)
    return width, tuple(names) or ("constant",)


def target_of(path: Path, series: pd.Series[Any], schema: Schema) -> tuple[Any, tuple[str, ...]]:
    """Class positions (-1 where the cell is empty) and class names, or real values (NaN where empty).

    "auto": text, truth values and whole numbers are classes, other numbers are values. None where all cells are empty.
    """
    known = series.notna().to_numpy()
    if not known.any():
        return None, ()
    as_number = pd.to_numeric(series, errors="coerce")
    whole = bool(as_number[known].notna().all() and (as_number[known] % 1 == 0).all())
    numeric = bool(as_number[known].notna().all()) and series.dtype != bool
    kind = schema.target_kind if schema.target_kind != "auto" else "value" if numeric and not whole else "class"
    if kind == "class" and numeric and not whole:
        raise BadInput(
            f"{path}: the target {series.name!r} holds real values, and classes are asked for. For regression: --set "
            "target_kind=value"
        )
    if kind == "value":
        return numbers(path, series, allow_missing=True), ()
    text = np.where(
        known, as_number.fillna(0).astype(np.int64).astype(str) if whole and numeric else series.astype(str), ""
    )
    names = schema.classes or tuple(
        sorted(set(text[known]), key=lambda v: (0, int(v), "") if whole and numeric else (1, 0, v))
    )
    position = np.array(
        [names.index(t) if k and t in names else -1 for t, k in zip(text, known, strict=True)], np.int64
    )
    lost = known & (position < 0)
    if lost.any():
        row = int(np.flatnonzero(lost)[0])
        raise BadInput(f"{_cell(path, series, row)} is a class that the model never saw: {', '.join(names[:20])}")
    return position, names


def _given(frame: pd.DataFrame, path: Path, schema: Schema) -> Given | None:
    if schema.split not in frame.columns:
        return None
    text = frame[schema.split].astype(str).str.strip().str.lower().replace({"valid": "val", "validation": "val"})
    known = text.isin(["train", "val", "test", "nan", "", "none"])
    if not known.all():
        row = int(np.flatnonzero(~known.to_numpy())[0])
        raise BadInput(f"{_cell(path, frame[schema.split], row)}: a part is train, val, test or empty")
    parts = {p: np.flatnonzero((text == p).to_numpy()) for p in ("train", "val", "test")}
    return Given(f"the column {schema.split!r}", (parts,))


def _ends(frame: pd.DataFrame, path: Path, ids: pd.Index[Any], schema: Schema) -> Any:
    """Node numbers of both ends. Raises BadInput naming the first unknown node, and how many edges have one."""
    found, series = [], []
    for place, name in enumerate(schema.ends):
        column = _column(frame, name, path, ("start", "end")[place] + " of an edge", f"ends.{place}")
        values = column.astype(str) if ids.dtype == object else column
        if ids.dtype != object and not pd.api.types.is_integer_dtype(column):
            raise BadInput(f"{path}: column {name!r} is {column.dtype} and the node ids are whole numbers")
        found.append(ids.get_indexer(pd.Index(values)))
        series.append(column)
    pairs = np.stack(found).astype(np.int64)
    lost: Any = (pairs < 0).any(0)
    if lost.any():
        row = int(np.flatnonzero(lost)[0])
        which = 0 if pairs[0, row] < 0 else 1
        raise BadInput(
            f"{_cell(path, series[which], row)} is no node of the node table ({int(lost.sum())} of {len(lost)} edges "
            "name an unknown node). Add the nodes, or leave the edges out"
        )
    return pairs


def read_tables(nodes: Path, edges: Path, schema: Schema, rules: Rules) -> Graph:
    """A graph from a node and an edge table. Raises BadInput naming file, row and column."""
    frame, links = read_frame(nodes), read_frame(edges)
    if not len(frame):
        raise BadInput(f"{nodes}: the table has no rows")
    raw = _column(frame, schema.id, nodes, "node ids", "id")
    ids = pd.Index(raw if pd.api.types.is_integer_dtype(raw) else raw.astype(str).astype(object))
    if raw.isna().any() or not ids.is_unique:
        row = int(np.flatnonzero(raw.isna() | ids.duplicated())[0])
        raise BadInput(f"{_cell(nodes, raw, row)}: every node needs an id of its own")
    for name in schema.kinds:
        if name not in frame.columns and name not in links.columns:
            raise BadInput(f"{nodes}: the schema speaks of a column {name!r}, and neither table has it")
    usual = next((c for c in ("target", "label", "y") if c in frame.columns), None)
    goal = schema.target or usual
    target: Any = None
    classes: tuple[str, ...] = ()
    if goal is not None and (schema.target is None or goal in frame.columns or not schema.classes):
        target, classes = target_of(nodes, _column(frame, goal, nodes, "target", "target"), schema)
    features, columns = _features(frame, nodes, {schema.id, schema.split, goal or ""}, schema)
    pairs = _ends(links, edges, ids, schema)
    weight = numbers(edges, links[schema.weight]).astype(np.float32) if schema.weight in links.columns else None
    if weight is not None and (weight < 0).any():
        raise BadInput(f"{_cell(edges, links[schema.weight], int(np.flatnonzero(weight < 0)[0]))}: weights are >= 0")
    attr: Any = None
    edge_columns: tuple[str, ...] = ()
    skip = {*schema.ends, schema.time, schema.weight}
    if set(links.columns) - skip - {c for c, k in schema.kinds.items() if k == "ignore"}:
        attr, edge_columns = _features(links, edges, skip, schema)
    return assemble(
        str(nodes),
        features,
        pairs,
        rules,
        edge_attr=attr,
        edge_columns=edge_columns,
        weight=weight,
        time=_times(edges, links[schema.time]) if schema.time in links.columns else None,
        ids=np.asarray(ids),
        columns=columns,
        target=target,
        classes=classes,
        given=_given(frame, nodes, schema),
    )


def _times(path: Path, series: pd.Series[Any]) -> Any:
    """Times as float64: numbers as they are, ISO 8601 stamps in seconds since 1970 (UTC)."""
    if pd.api.types.is_numeric_dtype(series):
        return numbers(path, series)
    stamps = pd.DatetimeIndex(pd.to_datetime(series, format="ISO8601", errors="coerce", utc=True))
    bad = np.flatnonzero(stamps.isna())
    if len(bad):
        row = int(bad[0])
        raise BadInput(f"{_cell(path, series, row)} is neither a number nor an ISO 8601 time stamp")
    return stamps.to_numpy("datetime64[ns]").astype(np.int64) / 1e9
