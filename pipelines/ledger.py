"""The ledger of a batch: one row per attempt at an input, appended as JSON lines and never rewritten.

The newest row of an input is its state. A line that a crash cut short is no row: the input counts as not done.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from shared_backbones.errors import BadRequest

State = Literal["done", "refused", "failed"]
LEDGER = "ledger.jsonl"


@dataclass(frozen=True)
class Row:
    """What became of one input. ``outputs``: path below the output folder -> sha256."""

    input: str
    state: State
    folder: str  # below the output folder, this input's own
    model: str  # sha256 of the model that did it
    sha256: str | None = None  # of the input's bytes; None where it could not be read
    outputs: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    seconds: float = 0.0
    at: str = ""  # UTC, ISO 8601
    run: str = ""  # id of the run that the model is of
    directory: str = ""  # where that run was
    data: str = ""  # sha256 of what it was trained on
    code: str = ""  # digest of the code that predicted


_FIELDS = {f.name for f in fields(Row)}


def _row(line: bytes) -> Row | None:
    try:
        return Row(**{k: v for k, v in json.loads(line).items() if k in _FIELDS})
    except (ValueError, TypeError, AttributeError):
        return None


def read(path: Path) -> dict[str, Row]:
    """Input -> its newest row; empty where there is no ledger yet."""
    if not path.is_file():
        return {}
    rows = (_row(line) for line in path.read_bytes().split(b"\n"))
    return {row.input: row for row in rows if row is not None}


def append(path: Path, row: Row) -> None:
    """Add a row and wait until it is on disk. Raises OSError, leaving at worst a cut line that no reader takes."""
    line = json.dumps(asdict(row)) + "\n"  # ASCII: a file name may hold any bytes
    with path.open("ab+") as f:
        f.seek(0, os.SEEK_END)
        if f.tell():
            f.seek(-1, os.SEEK_END)
            if f.read(1) != b"\n":  # a crash cut the last line: leave it, and start a line of our own
                line = "\n" + line
        f.write(line.encode())
        f.flush()
        os.fsync(f.fileno())


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold an output folder for one batch; the kernel lets go when the process ends, however it ends.

    Raises BadRequest where another batch is writing there, or nothing can be written. Creates the folder, and
    removes it again if it stays empty.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadRequest(f"cannot write to the output folder {folder}: {error.strerror}. Give another --out") from None
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)  # locked itself, so that no lock file is left behind
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise BadRequest(f"another batch is writing to {folder}: wait for it, or give another --out") from None
    try:
        yield
    finally:
        with suppress(OSError):  # not empty: the usual case
            folder.rmdir()
        os.close(handle)
