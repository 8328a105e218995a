"""What a step takes of the machine: wall and CPU time, memory at its highest, on the accelerator too."""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from .events import tell

EVERY = 0.5  # seconds between two looks at memory


@dataclass(frozen=True)
class Usage:
    """What one step took. Times in seconds, memory in 10^6 bytes.

    cpu_s: of this process and of its children that ended within the step. peak_rss_mb: resident memory of this process
    and its children together, pages that they share counted for each; looked at twice a second, and exact where one
    process set its own record. gpu_mb: allocated by torch in this process; None without a CUDA device.
    """

    step: str
    wall_s: float
    cpu_s: float
    peak_rss_mb: float
    gpu_mb: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values, times to the millisecond."""
        return {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(self).items()}


_WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def _cpu() -> float:
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, _WHO))


def _records() -> list[int]:
    """The most that this process, and the largest child that ended, ever held; in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024  # kB on Linux, bytes on macOS
    return [resource.getrusage(who).ru_maxrss * unit for who in _WHO]


def resident() -> int:
    """Bytes of RAM that this process and its children hold now."""
    me, held = psutil.Process(), 0
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.Error):  # it ended meanwhile
            held += process.memory_info().rss
    return held


class _Watch(threading.Thread):
    """Keeps the largest value of :func:`resident` until it is ended."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.over = resident(), threading.Event()

    def run(self) -> None:
        while not self.over.wait(EVERY):
            self.peak = max(self.peak, resident())

    def end(self) -> int:
        self.over.set()
        self.join()
        return max(self.peak, resident())


def _cuda() -> Any:
    """torch's CUDA module where this process uses a device; nothing is imported or started for the question."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


@contextmanager
def measured(step: str, into: list[Usage], **fields: Any) -> Iterator[None]:
    """Measure the block and append what it took to ``into``, also where it fails; tells a ``step`` event.

    ``fields`` go with the event. Steps of one process follow each other: they are not nested.
    """
    before, records, watch = _cpu(), _records(), _Watch()
    if (cuda := _cuda()) is not None:
        cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    watch.start()
    try:
        yield
    finally:
        wall, cpu, peak = time.perf_counter() - start, _cpu() - before, watch.end()
        peak = max([peak, *(new for old, new in zip(records, _records(), strict=True) if new > old)])
        gpu = cuda.max_memory_allocated() / 1e6 if (cuda := _cuda()) is not None else None
        into.append(Usage(step, wall, cpu, peak / 1e6, gpu))
        told = into[-1].to_json()
        tell("step", f"{step} took {wall:.1f} s", quiet=True, **told, **fields)


def as_rows(used: Sequence[Usage]) -> list[dict[str, Any]]:
    """Plain rows, one a step, in the order in which the steps ended."""
    return [usage.to_json() for usage in used]
