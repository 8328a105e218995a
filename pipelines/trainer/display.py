"""What a person sees while training: a bar on a terminal, one line per epoch elsewhere; ``log.txt`` gets the lines."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .checkpoint import Position


class _QuietFile(logging.FileHandler):
    """A log on a full disk must not hide the error that says so."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the library's name
        pass


@contextmanager
def shown(log_file: Path | None, epochs: int, quiet: bool) -> Iterator[Callable[[Position, int], None]]:
    """Set the log up; yields what the loop calls after every step. ``log_file``: None on all devices but the first."""
    log = logging.getLogger("cambium.train")
    log.setLevel(logging.INFO)
    log.propagate = False
    handlers: list[logging.Handler] = [logging.NullHandler()]
    if log_file is not None:
        handlers.append(_QuietFile(log_file, delay=True))
        handlers[-1].setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
    bar = log_file is not None and not quiet and sys.stderr.isatty()
    if log_file is not None and not quiet and not bar:
        handlers.append(logging.StreamHandler(sys.stderr))
    for handler in handlers:
        log.addHandler(handler)
    try:
        if bar:
            with _bar(log, epochs) as tick:
                yield tick
        else:
            yield lambda position, steps: None
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()


@contextmanager
def _bar(log: logging.Logger, epochs: int) -> Iterator[Callable[[Position, int], None]]:
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
