"""Answers on a file, or a pipe, that is still growing: a row on disk as soon as the task can give it.

Memory stays the same however long the source grows. A run that was stopped reads the source again from its start and
goes on behind the rows that are there: none is lost and none is written twice.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, cast

from shared_backbones.errors import BadInput, BadRequest

from .inputs import read_as_trained
from .ledger import owned
from .store import write_json

PIECE = 2**18  # bytes given to the task at once
ROWS, FACTS = "follow.jsonl", "follow.json"
STDIN = "-"


def pieces(source: str, every: float, idle: float | None) -> Iterator[bytes]:
    """Bytes as they come; ends where a pipe ends, or where a file has not grown for ``idle`` seconds (None: never)."""
    if source == STDIN:
        while content := os.read(sys.stdin.fileno(), PIECE):
            yield content
        return
    path = Path(source)
    with path.open("rb") as file:
        grown = time.monotonic()
        while True:
            content = file.read(PIECE)
            if content:
                grown = time.monotonic()
                yield content
            elif path.stat().st_size < file.tell():
                raise BadInput(
                    f"{source}: became shorter while it was followed; follow the new file into another --out"
                )
            elif idle is not None and time.monotonic() - grown >= idle:
                return
            else:
                time.sleep(every)


def _behind(path: Path) -> int:
    """How many whole rows are there; half a row, of a run that was killed, is cut off."""
    if not path.is_file():
        return 0
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
    return content.count(b"\n")


def _files(follower: Any, out: Path) -> AbstractContextManager[Any]:
    """Files that the task writes beside its rows, from their start, since the source is read from its start too."""
    into = getattr(follower, "into", None)
    return nullcontext() if into is None else cast("AbstractContextManager[Any]", into(out))


def _write(file: BinaryIO, rows: list[Any]) -> None:
    file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
    file.flush()
    os.fsync(file.fileno())


def follow(
    model: str | Path,
    source: str,
    out: Path,
    *,
    root: Path = Path("runs"),
    every: float = 0.5,
    idle: float | None = None,
) -> dict[str, Any]:
    """Write ``out/follow.jsonl``, a row per answer, until the source ends; returns facts.

    ``every``: seconds between looks at the file; ``idle``: seconds without growth after which it counts as whole.
    Raises BadRequest where the task cannot follow or ``out`` holds the rows of another model or source, BadInput for
    what it cannot read.
    """
    from .predict import find_model, model_digest
    from .runs import load_run

    if source != STDIN and not Path(source).is_file():
        raise BadInput(f"{source}: no such file to follow. Give a file that grows, or - for a pipe")
    run = find_model(model, root)
    trained, sha256 = load_run(run), model_digest(run)
    task = trained.task
    if not hasattr(task, "follow"):
        raise BadRequest(f"{task.name} has no streaming form; predict whole files with `cambium predict`")
    trained.model.eval()
    follower = task.follow(trained.model, trained.fitted)
    asked = {"model": sha256, "source": source if source == STDIN else str(Path(source).resolve())}
    with owned(out):
        facts = out / FACTS
        if facts.is_file() and json.loads(facts.read_text()) != asked:
            raise BadRequest(f"{out} holds the rows of another model or source; choose another --out")
        write_json(facts, asked)
        there = _behind(out / ROWS)
        if source == STDIN and there:
            raise BadRequest(
                f"{out} holds the rows of an earlier pipe, which cannot be read again; choose another --out"
            )
        count, stopped = 0, False
        with (out / ROWS).open("ab") as file, _files(follower, out):
            try:
                for content in pieces(source, every, idle):
                    rows: list[Any] = []
                    try:
                        with read_as_trained():
                            for row in follower.push(content):
                                rows.append(row)
                    finally:  # rows before one that is refused are told all the same
                        new = rows[max(0, there - count) :]
                        count += len(rows)
                        if new:
                            _write(file, new)
            except KeyboardInterrupt:
                stopped = True
    return {
        "out": str(out / ROWS), "rows": max(count, there), "new": max(0, count - there), "latency": follower.latency,
        "stopped": stopped, **_torn(follower),
    }  # fmt: skip


def _torn(follower: Any) -> dict[str, str]:
    """Of a source of lines whose last one has no end: that it is not told."""
    rest = follower.lines.rest if hasattr(follower, "lines") else b""
    return {"waiting": "the last line has no end yet, and is not told"} if rest.strip() else {}
