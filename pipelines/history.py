"""Who held which alias from when on, and why: an append-only file, since MLflow keeps no history of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HISTORY = "promotions.jsonl"


def rows(root: Path) -> list[dict[str, Any]]:
    """Every promotion below ``root``, oldest first; a line that a crash cut is left out."""
    path, found = root / HISTORY, []
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and {"model", "alias", "run"} <= set(row):
            found.append(row)
    return found


def append(root: Path, row: Mapping[str, Any]) -> None:
    """Add a promotion and wait until it is on disk."""
    with (root / HISTORY).open("ab") as f:
        f.write((json.dumps(row) + "\n").encode())
        f.flush()
        os.fsync(f.fileno())


def held_runs(root: Path) -> set[str]:
    """Runs that hold an alias or ever held one."""
    return {row["run"] for row in rows(root)}
