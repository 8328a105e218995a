"""What there is to read: folders with a folder per class, and manifests (CSV or JSONL) with one recording a row."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from shared_backbones.errors import BadInput

from .data import SUFFIXES

MANIFESTS = (".csv", ".jsonl", ".ndjson")
_OTHER = {"audio_filepath": "path", "file": "path", "class": "label", "group": "source", "source_group": "source"}


@dataclass(frozen=True)
class Entry:
    """One clip: a recording or a span of it, and what is said about it. Empty: not said."""

    path: Path
    where: str  # for messages: the manifest and its row, or the path
    start: float = 0.0  # seconds
    end: float | None = None
    label: str = ""
    text: str | None = None
    speaker: str = ""
    source: str = ""
    split: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)  # other columns of the manifest, as they stand there

    @property
    def group(self) -> str:
        """What must not stand on both sides of a split."""
        return self.speaker or self.source


COLUMNS = tuple(f.name for f in fields(Entry) if f.name not in ("where", "more"))


def entries_of(source: Path, pattern: str | None) -> list[Entry]:
    """The clips of a manifest, a folder or one file. ``pattern``: what file names say. Raises BadInput."""
    if source.is_dir():
        found = _folder(source)
    elif source.suffix.lower() in MANIFESTS:
        found = _manifest(source)
    elif source.is_file():
        found = [Entry(source, str(source))]
    else:
        raise BadInput(
            f"{source}: no such file or folder. Give a folder with a folder per class, a manifest "
            f"({', '.join(MANIFESTS)}) or an audio file"
        )
    return [named(e, pattern) for e in found] if pattern else found


def named(entry: Entry, pattern: str) -> Entry:
    """An entry with what its file's name says. Raises BadInput where the name does not match."""
    match = re.search(pattern, entry.path.name)
    if match is None:
        raise BadInput(f"{entry.path}: its name does not match name_pattern {pattern!r}")
    said = {k: v for k, v in match.groupdict().items() if v is not None}
    return Entry(**{**{f.name: getattr(entry, f.name) for f in fields(Entry)}, **said})


def _folder(folder: Path) -> list[Entry]:
    """Files below; the folder that holds a file is its class, where there are folders."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES)
    files = [p for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    if not files:
        raise BadInput(f"{folder}: no audio file ({', '.join(SUFFIXES)}) in this folder or below it")
    return [Entry(p, str(p), label=p.parent.name if p.parent != folder else "") for p in files]


def _manifest(path: Path) -> list[Entry]:
    return [_entry(path.parent, where, row) for where, row in manifest_rows(path)]


def manifest_rows(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """(where it stands, its cells by column) of every row of a manifest. Raises BadInput."""
    if not path.is_file():
        raise BadInput(f"{path}: no such manifest")
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not text in UTF-8 (byte {error.start}); write the manifest in UTF-8") from None
    rows = _csv(path, text) if path.suffix.lower() == ".csv" else _jsonl(path, text)
    if not rows:
        raise BadInput(f"{path}: the manifest holds no rows")
    return rows


def _csv(path: Path, text: str) -> list[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(text.splitlines(), strict=True)
    try:
        rows: list[tuple[str, Mapping[str, Any]]] = [(f"{path}, row {reader.line_num}", row) for row in reader]
    except csv.Error as error:
        raise BadInput(f"{path}, row {reader.line_num}: {error}") from None
    for where, row in rows:
        if None in row or None in row.values():
            raise BadInput(f"{where}: another number of cells than the header has ({len(reader.fieldnames or ())})")
    return rows


def _jsonl(path: Path, text: str) -> list[tuple[str, Mapping[str, Any]]]:
    rows: list[tuple[str, Mapping[str, Any]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInput(f"{where}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise BadInput(f"{where}: every line is one object such as {{'path': 'a.wav'}}, got {row!r}")
        rows.append((where, row))
    return rows


def _entry(folder: Path, where: str, given: Mapping[str, Any]) -> Entry:
    row = {_OTHER.get(k.strip().lower(), k.strip().lower()): v for k, v in given.items() if v is not None}
    if not row.get("path"):
        raise BadInput(f"{where}: no path. A manifest has the columns path and, where known, {', '.join(COLUMNS[1:])}")
    start = _seconds(where, "start", row.get("start", row.get("offset"))) or 0.0
    end = _seconds(where, "end", row.get("end"))
    if end is None and (length := _seconds(where, "duration", row.get("duration"))) is not None:
        end = start + length
    if start < 0 or (end is not None and end <= start):
        raise BadInput(
            f"{where}: the segment goes from {start:g} s to {end} s; times are 0 or later and end after start"
        )
    words = {k: str(row.get(k, "")).strip() for k in ("label", "speaker", "source", "split")}
    text = None if row.get("text") is None else str(row["text"])
    more = {k: v for k, v in row.items() if k not in (*COLUMNS, "duration", "offset")}
    return Entry(folder / str(row["path"]), where, start, end, text=text, more=more, **words)


def _seconds(where: str, name: str, value: Any) -> float | None:
    if value in (None, ""):
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = float("nan")
    if seconds != seconds or abs(seconds) == float("inf"):
        raise BadInput(f"{where}: {name} must be seconds, got {value!r}")
    return seconds
