"""What is seen while training: a bar on a terminal, one line per epoch elsewhere; ``log.txt`` gets the lines.

With ``CAMBIUM_LOG=json`` the lines are events (see :mod:`pipelines.events`).
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..events import JsonLines, json_lines
from .checkpoint import Position
from .loop import Tick

Share = Callable[[float], None]  # of the training that is done, 0 to 1


class _QuietFile(logging.FileHandler):
    """A log on a full disk must not hide the error that says so."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the library's name
        pass


@contextmanager
def shown(log_file: Path | None, epochs: int, quiet: bool, share: Share | None = None, **always: Any) -> Iterator[Tick]:
    """Set the log up; yields what the loop calls after every step.

    log_file: None on all devices but the first. share: called about once a second. always: fields of every event.
    """
    log = logging.getLogger("cambium.train")
    log.setLevel(logging.INFO)
    log.propagate = False
    handlers: list[logging.Handler] = [logging.NullHandler()]
    first, events = log_file is not None, json_lines()
    if log_file is not None:
        handlers.append(_QuietFile(log_file, delay=True))
        handlers[-1].setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
    bar = first and not quiet and not events and sys.stderr.isatty()
    if first and (events or not quiet) and not bar:
        handlers.append(logging.StreamHandler(sys.stderr))
        handlers[-1].setFormatter(JsonLines(**always) if events else None)
    for handler in handlers:
        log.addHandler(handler)
    tell = _sharing(share if first else None, epochs)
    try:
        if bar:
            with _bar(log, epochs) as draw:

                def both(position: Position, steps: int) -> None:
                    tell(position, steps)
                    draw(position, steps)

                yield both
        else:
            yield tell
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()


def _sharing(share: Share | None, epochs: int) -> Tick:
    """Tells ``share`` where training is, at most once a second."""
    told = -1.0

    def tick(position: Position, steps: int) -> None:
        nonlocal told
        now = time.monotonic()
        if share is not None and now - told >= 1:
            told = now
            share((position.epoch * steps + position.step) / max(1, epochs * steps))

    return tick


@contextmanager
def _bar(log: logging.Logger, epochs: int) -> Iterator[Tick]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("training", total=None)

        class Above(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                progress.console.print(self.format(record), highlight=False, markup=False)

        above = Above()
        log.addHandler(above)

        def tick(position: Position, steps: int) -> None:
            best = f"  best val {position.best_loss:.4g}" if position.best else ""
            done = position.epoch * steps + position.step
            text = f"epoch {position.epoch + 1}/{epochs}{best}"
            progress.update(bar, completed=done, total=epochs * steps, description=text)

        try:
            yield tick
        finally:
            log.removeHandler(above)
