"""One static site of all runs: an index that compares them, their reports, and who is champion and why."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from shared_backbones.errors import BadRequest

from . import history
from .report import write_index, write_report
from .store import atomic_path


def _finished(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.glob("*/*/metrics.json") if not path.parent.name.startswith("."))


def _champions(root: Path) -> list[str]:
    """A sentence per alias: who holds it, since when, and why."""
    newest = {(row["model"], row["alias"]): row for row in history.rows(root)}
    return [
        f"{model}@{alias} is run {row['run']} since {row.get('at', 'an unknown time')}: {row.get('why', 'no reason')}."
        for (model, alias), row in sorted(newest.items())
    ]


def site(root: Path, out: Path) -> dict[str, Any]:
    """Write ``out/index.html`` and a copy of every run's report; the folder needs nothing else and can be moved.

    Raises BadRequest where there is no finished run. A second time the pages are written anew; those of runs that are
    gone are removed.
    """
    runs = _finished(root)
    if not runs:
        raise BadRequest(f"no finished run in {root}: train one, or name the place with --runs")
    pages: dict[Path, Path] = {}
    for run in runs:
        page = run / "report.html" if (run / "report.html").is_file() else write_report(run)
        copy = out.resolve() / "runs" / run.parent.name / f"{run.name}.html"
        with atomic_path(copy) as aside:
            shutil.copyfile(page, aside)
        pages[run.resolve()] = copy
    for old in (out.resolve() / "runs").glob("*/*.html"):
        if old not in pages.values():
            old.unlink()
    index = write_index(runs, out / "index.html", title="Runs", intro=_champions(root), reports=pages, pictures=True)
    return {"index": str(index), "runs": len(runs), "pages": [str(page) for page in pages.values()]}
