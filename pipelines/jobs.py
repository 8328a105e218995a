"""What one leaves running: predict what is new in a folder, catch up on a range of days, throw away what is old.

Each is safe to run again: what is done is found, and the answer says so.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from shared_backbones.errors import BadRequest

from . import ledger
from .alerts import keep
from .ledger import Row
from .predict import Summary, find_model, predict
from .remote import is_remote, listing

DAY = 86400.0


def _told(summary: Summary, **more: Any) -> dict[str, Any]:
    found = {**summary.to_json(), "exit_code": summary.exit_code, **more}
    alert(summary)
    new = found["done"] - found["reused"]
    found["said"] = (
        f"{new} predicted, {found['reused']} were done before" if new else f"all {found['done']} done before"
    )
    return found


def alert(summary: Summary) -> None:
    """Keep a drift alarm beside the outputs, once for the same finding on the same model (see :mod:`.alerts`)."""
    drift = summary.drift
    if drift is not None and drift["alarm"]:
        keep(summary.out, {"run": drift["run"], "inputs": drift["inputs"], "rows": drift["rows"], "why": drift["why"]})


def _settled(inputs: Iterable[str], seconds: float) -> tuple[list[str], int]:
    """Files of the watched folders that nobody has written to for a while, and how many were; other inputs as given."""
    now, ready, waiting = time.time(), [], 0
    for text in inputs:
        if is_remote(text):  # objects appear whole: nothing to wait for
            there = listing(text)
            ready += [text] if there is None else there
            continue
        if not Path(text).is_dir():
            ready.append(text)
            continue
        for path in sorted(Path(text).iterdir()):
            if not path.is_file() or path.name.startswith("."):
                continue
            late = now - path.stat().st_mtime < seconds
            waiting += late
            ready += [] if late else [str(path)]
    return ready, waiting


def batch_predict(
    model: str,
    inbox: Sequence[str],
    out: Path | str,
    *,
    workers: int = 1,
    engine: str = "local",
    root: Path = Path("runs"),
    settle: float = 5.0,
    progress: Callable[[Row, int, int], None] | None = None,
) -> dict[str, Any]:
    """Predict what is new in the watched folders (other inputs, such as ``simulated``, are taken as they are).

    A file that was written to in the last ``settle`` seconds waits for the next time: it may still be arriving.
    ``progress(row, finished, total)`` is called after each input. Returns plain facts; ``said`` tells in words what was
    new. Raises BadRequest where there is no such model.
    """
    run = find_model(model, root)
    inputs, waiting = _settled(inbox, settle)
    suffixes = _suffixes(run)
    files = [i for i in inputs if Path(i).is_file() or is_remote(i)]
    inputs = [i for i in inputs if i not in set(files) or not suffixes or i.lower().endswith(suffixes)]
    if not inputs:
        nothing = {
            "done": 0,
            "reused": 0,
            "refused": [],
            "failed": [],
            "outputs": {},
            "exit_code": 0,
            "waiting": waiting,
            "usage": [],
        }
        return {**nothing, "out": str(out), "ledger": f"{out}/{ledger.LEDGER}", "said": "nothing to predict yet"}
    summary = predict(run, inputs, out, workers=workers, engine=engine, root=root, lone=False, progress=progress)
    return _told(summary, waiting=waiting)


def _suffixes(run: Path) -> tuple[str, ...]:
    from domains import load_task

    meta = json.loads((run / "model.json").read_bytes())
    return tuple(getattr(load_task(meta["task"]), "suffixes", ()))


def days(first: str, last: str) -> list[date]:
    """Every day of a range, ISO dates, both ends in it. Raises BadRequest."""
    try:
        start, end = date.fromisoformat(first), date.fromisoformat(last)
    except ValueError as error:
        raise BadRequest(f"a backfill takes ISO dates such as 2026-01-31: {error}") from None
    if end < start:
        raise BadRequest(f"the range {first} to {last} ends before it begins")
    return [start + timedelta(n) for n in range((end - start).days + 1)]


def backfill(
    model: str,
    pattern: str,
    first: str,
    last: str,
    out: Path | str,
    *,
    workers: int = 1,
    engine: str = "local",
    root: Path = Path("runs"),
    progress: Callable[[Row, int, int], None] | None = None,
) -> dict[str, Any]:
    """Predict the inputs of a range of days: ``pattern`` names one a day, such as ``in/%Y-%m-%d.csv``.

    Days without an input are listed under ``missing``. Raises BadRequest for a bad range, or a pattern without a date.
    """
    wanted = {day: day.strftime(pattern) for day in days(first, last)}
    if len(wanted) > 1 and len(set(wanted.values())) < len(wanted):
        raise BadRequest(f"the pattern {pattern!r} must name every day's own input, as %Y-%m-%d does")
    there = [name for name in wanted.values() if Path(name).is_file()]
    missing = [day.isoformat() for day, name in wanted.items() if name not in set(there)]
    if not there:
        raise BadRequest(f"none of {len(wanted)} days from {first} to {last} has an input {pattern}")
    run = find_model(model, root)
    summary = predict(run, there, out, workers=workers, engine=engine, root=root, lone=False, progress=progress)
    return _told(summary, missing=missing)


def _old(path: Path, before: float) -> bool:
    try:
        return path.stat().st_mtime < before
    except FileNotFoundError:
        return False


def cleanup(root: Path = Path("runs"), *, days_kept: float = 90.0, dry: bool = False) -> dict[str, Any]:
    """Remove what is older than ``days_kept`` days: unfinished trainings and runs that were never champion of anything.

    Runs that hold or ever held an alias stay, so that a rollback finds them, and so do runs whose lock is held. Files
    that a killed process was writing go after a day. ``dry``: only tell. Raises BadRequest for a negative number.
    """
    from .history import held_runs
    from .store import Lock
    from .train import STAGING, finished

    if days_kept < 0:
        raise BadRequest(f"--days must be at least 0, got {days_kept:g}")
    before = time.time() - days_kept * DAY
    kept, gone = held_runs(root), []
    for folder in sorted(path for path in root.glob("*/*") if path.is_dir()):
        run = folder.name.removeprefix(STAGING)
        staging = folder.name.startswith(STAGING)
        if not staging and (run in kept or not finished(folder)):
            continue
        if not _old(folder / ("config.yaml" if staging else "metrics.json"), before):
            continue
        lock = Lock(folder.parent / f".lock-{run}")
        if dry or lock.try_acquire():
            gone.append(str(folder))
            if not dry:
                shutil.rmtree(folder)
                lock.release()
    for path in sorted(root.rglob(".writing-*")):
        if _old(path, time.time() - max(DAY, 0.0)):
            gone.append(str(path))
            if not dry:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    said = f"{len(gone)} {'would be ' if dry else ''}removed" if gone else "nothing is old enough to remove"
    return {"removed": gone, "kept": sorted(kept), "dry": dry, "said": said}
