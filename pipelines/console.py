"""How commands answer: one JSON object for machines, or text for people; and what an exit code means."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

DONE, FAILED, BAD, PARTLY = 0, 1, 2, 3  # exit codes

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, everything else on stderr.")]
Root = Annotated[Path, typer.Option("--runs", help="Where the runs are.", metavar="DIR")]


@dataclass(frozen=True)
class Answer:
    """What a command came to: plain values for ``--json``, and what a person is shown instead."""

    values: dict[str, Any]
    show: Callable[[Console], None]
    code: int = DONE


def problem_log() -> Path:
    """Where the traceback of an unexpected failure is kept."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "cambium" / time.strftime("problem-%Y%m%d-%H%M%S.txt")


def keep_traceback(argv: list[str]) -> Path | None:
    """Write the traceback of the exception at hand where it can be found; None where that is impossible too."""
    with suppress(OSError):
        path = problem_log()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"cambium {' '.join(argv)}\n\n{traceback.format_exc()}")
        return path
    return None


@contextmanager
def only_answer_on_stdout(active: bool) -> Iterator[int]:
    """While a command works, whatever it, its libraries and its children print goes to stderr.

    Yields the file descriptor of the real stdout.
    """
    if not active:
        yield 1
        return
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield real
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)


def write_json_line(handle: int, values: dict[str, Any]) -> None:
    """One strict JSON object on a line: NaN and infinities as null, paths as text."""
    from .store import finite

    text = json.dumps(finite(json.loads(json.dumps(values, default=str))), allow_nan=False) + "\n"
    with open(handle, "w", closefd=False) as stream:
        stream.write(text)
