"""Tables that a task makes of its scores: a CSV file each in the run's folder, their first rows in the report."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .store import atomic_path, finite, write_json

FOLDER, INDEX = "tables", "tables.json"
SHOWN = 20  # rows of a table in the report


def save_tables(folder: Path, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Title -> rows of one kind, as ``tables/<title>.csv``; ``tables.json`` keeps titles, sizes and the first rows."""
    index = []
    for title, rows in tables.items():
        if not rows:
            continue
        name = f"{title.replace(' ', '_')}.csv"
        with atomic_path(folder / name) as aside, aside.open("w", newline="") as f:
            writer = csv.DictWriter(f, list(rows[0]))
            writer.writeheader()
            writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)
        index.append(
            {"title": title, "file": name, "rows": len(rows), "first": finite([dict(r) for r in rows[:SHOWN]])}
        )
    if index:
        write_json(folder / INDEX, index)


def shown_tables(run: Path) -> list[dict[str, Any]]:
    """What the report shows of a run's tables: title, file, number of rows, columns and the first rows."""
    path = run / FOLDER / INDEX
    found = json.loads(path.read_text()) if path.is_file() else []
    return [{**t, "columns": list(t["first"][0]), "link": f"{FOLDER}/{t['file']}"} for t in found]
