"""Answers on a source that is still growing: what a task's ``follow(model, fitted)`` returns, and what it is made with.

A follower is given bytes as they come, in pieces of any size, and keeps no more of them than its model looks back on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from shared_backbones.errors import BadInput

PACKED = {b"PAR1": "parquet", b"\x1f\x8b": "gzip"}  # how files that are no text begin


@runtime_checkable
class Follower(Protocol):
    """The same bytes give the same rows, however they are cut into pieces. One of lines has ``lines``, see below."""

    latency: str  # how far an answer lags behind what it is about, in words

    def push(self, content: bytes) -> Iterable[Mapping[str, Any]]:
        """JSON-able rows that can be given now. Raises BadInput."""
        ...


class Lines:
    """Bytes of a growing text file, cut into whole lines; what is not yet a line waits."""

    def __init__(self) -> None:
        self.rest, self.begun = b"", False

    def push(self, content: bytes) -> list[bytes]:
        """Raises BadInput for a source that begins like a packed file."""
        if not self.begun and len(self.rest + content) >= max(map(len, PACKED)):
            self.begun = True
            for start, kind in PACKED.items():
                if (self.rest + content).startswith(start):
                    raise BadInput(f"what is followed is a {kind} file; following reads plain text, row by row")
        *whole, self.rest = (self.rest + content).split(b"\n")
        return [line.rstrip(b"\r") + b"\n" for line in whole if line.strip()]


@contextmanager
def counted(before: int) -> Iterator[None]:
    """Rows that a reader's errors name are those of the whole source, which has ``before`` more than was read."""
    try:
        yield
    except BadInput as error:
        whole = re.sub(r"\b(row|line) (\d+)", lambda m: f"{m[1]} {int(m[2]) + before}", str(error), count=1)
        raise BadInput(whole) from None
