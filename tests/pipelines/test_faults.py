"""A small run of the fault experiment; the full one is ``python -m tests.benchmarks.faults``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.store import Lock, sweep_leftovers, write_text
from tests.benchmarks.faults import faults

from .made import rows_task  # noqa: F401 - a fixture
from .test_registry import empty_database  # noqa: F401 - a fixture


@pytest.mark.slow
def test_killed_at_random_and_whole_at_the_end(rows_task: str, tmp_path: Path, empty_database: Path) -> None:  # noqa: F811
    small = {"kills": 2, "inputs": 30, "corrupt": 2, "nap": 0.02, "workers": 1}
    found = faults(tmp_path, dict(os.environ), **small, seed=1, database=empty_database)
    assert (found["done"], found["refused"], found["versions"]) == (28, 2, 2)
    assert sum(found["killed"].values()) == 2


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    living = Lock(tmp_path / ".lock-living")
    assert living.try_acquire()
    write_text(
        tmp_path / ".lock-elsewhere", '{"host": "", "pid": 0, "started": 0, "token": ""}'.replace('""', '"h"', 1)
    )
    (tmp_path / ".lock-torn").touch()
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.store._host", lambda: "here")
        for pid in (os.getpid(), 4_000_000):
            (tmp_path / f".writing-here-{pid}-x").touch()
            (tmp_path / f".writing-there-{pid}-x").touch()
        sweep_leftovers(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted([
        ".lock-living", ".lock-elsewhere", f".writing-here-{os.getpid()}-x",
        f".writing-there-{os.getpid()}-x", ".writing-there-4000000-x",
    ])  # fmt: skip
    living.release()
