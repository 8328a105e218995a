"""Baselines' evidence, kept beside the runs: what rests on neither preset nor seed is computed once for all of them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from domains.task import Evidence, Split, to_json_digest

from .config import RunConfig
from .runs import code_version, versions
from .store import atomic_path

FOLDER = ".baselines"  # beside the runs of a task
_INDEX = "index"  # of the file's arrays: what belongs to which baseline, as JSON in bytes


def rivals_key(config: RunConfig, data: Any, split: Split, fitted: Mapping[str, Any]) -> str:
    """All that a task's ``baselines(data, split, fitted)`` can rest on, but for random numbers: 16 hex digits."""
    parts = {
        "task": config.task,
        "options": config.options.model_dump(mode="json"),
        "data": data.manifest.sha256,
        "split": split.digest,
        "fitted": fitted,
        "code": code_version(config.task),
        "versions": versions(),
    }
    return to_json_digest(parts)[:16]


def once(path: Path, make: Callable[[], Mapping[str, Evidence]]) -> Mapping[str, Evidence]:
    """What ``path`` holds, bit for bit as ``make()`` once gave it; else that, and it is kept there.

    A file that cannot be read is made again.
    """
    if path.is_file():
        try:
            return _read(path)
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            path.unlink(missing_ok=True)
    found = make()
    _write(path, found)
    return found


def _write(path: Path, found: Mapping[str, Evidence]) -> None:
    arrays: dict[str, np.ndarray] = {}
    index = []
    for number, (name, evidence) in enumerate(found.items()):
        index.append({"name": name, "scope": evidence.scope, "columns": list(evidence.columns)})
        arrays[f"{number} unit"] = evidence.unit
        if evidence.weight is not None:
            arrays[f"{number} weight"] = evidence.weight
        arrays |= {f"{number} column {i}": column for i, column in enumerate(evidence.columns.values())}
    arrays[_INDEX] = np.frombuffer(json.dumps(index).encode(), np.uint8)
    with atomic_path(path) as aside, aside.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _read(path: Path) -> dict[str, Evidence]:
    found = {}
    with np.load(path, allow_pickle=False) as held:
        for number, row in enumerate(json.loads(held[_INDEX].tobytes())):
            columns = {name: held[f"{number} column {i}"] for i, name in enumerate(row["columns"])}
            found[row["name"]] = Evidence(held[f"{number} unit"], columns, held.get(f"{number} weight"), row["scope"])
    return found
