"""Answers on a source that is still growing: what a task's ``follow(model, fitted)`` returns, and what it is made with.

A follower is given bytes as they come, in pieces of any size, and keeps no more of them than its model looks back on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Follower(Protocol):
    """The same bytes give the same rows, however they are cut into pieces."""

    latency: str  # how far an answer lags behind what it is about, in words

    def push(self, content: bytes) -> Iterable[Mapping[str, Any]]:
        """JSON-able rows that can be given now. Raises BadInput."""
        ...


class Lines:
    """Bytes of a growing text file, cut into whole lines; what is not yet a line waits."""

    def __init__(self) -> None:
        self.rest = b""

    def push(self, content: bytes) -> list[bytes]:
        *whole, self.rest = (self.rest + content).split(b"\n")
        return [line.rstrip(b"\r") + b"\n" for line in whole if line.strip()]
