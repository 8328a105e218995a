"""Engines: every item gets one outcome, whatever happens to the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from pipelines import engines
from pipelines.store import DiskFull
from shared_backbones.errors import BadInput, BadRequest

THREADS = 77  # the item that asks how many threads its worker may use


def work(item: int, bad: int = -1, parent: int = 0) -> int:
    if item == THREADS:
        return int(os.environ["OMP_NUM_THREADS"])
    if item == bad:
        raise BadInput(f"item {item} is bad")
    if item == 98:
        raise DiskFull("cannot write x: no space left")
    if item == 99 and os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    return item * 2


CLUSTERS = {"dask": "distributed", "ray": "ray"}


@pytest.fixture(params=["local", "dask", "ray"])
def engine(request: pytest.FixtureRequest) -> str:
    if request.param in CLUSTERS:
        pytest.importorskip(CLUSTERS[request.param], reason="the scale extra is not installed")
    return str(request.param)


@pytest.mark.parametrize("workers", [1, 2])
def test_outcomes_of_good_and_bad_items(workers: int) -> None:
    outcomes = list(engines.map(partial(work, bad=3), [1, 2, 3, 98, 4], workers=workers))
    values = {o.item: o.value for o in outcomes if o.problem is None}
    problems = {o.item: (o.problem.kind, o.problem.message) for o in outcomes if o.problem}
    assert values == {1: 2, 2: 4, 4: 8}
    assert problems[3] == ("refused", "item 3 is bad")
    assert problems[98][0] == "no space"


@pytest.mark.filterwarnings("ignore")  # of the clusters' own, about a worker that the test kills
def test_a_dying_worker_costs_its_own_item_and_the_others_share_the_cores(engine: str) -> None:
    function = partial(work, bad=3, parent=os.getpid())
    outcomes = list(engines.map(function, [1, 99, 2, 3, 98, 4, THREADS], workers=2, engine=engine))
    assert sorted(o.item for o in outcomes) == [1, 2, 3, 4, THREADS, 98, 99]
    kinds = {o.item: o.problem.kind for o in outcomes if o.problem}
    assert (kinds.pop(3), kinds.pop(98)) == ("refused", "no space")
    assert kinds == {99: "failed"}
    assert {o.item: o.value for o in outcomes if not o.problem} == {
        1: 2,
        2: 4,
        4: 8,
        THREADS: max(1, engines.cores() // 2),
    }


def test_impossible_requests_name_what_exists() -> None:
    with pytest.raises(BadRequest, match=r"unknown engine 'dusk'; did you mean 'dask'"):
        engines.map(work, [1], engine="dusk")
    with pytest.raises(BadRequest, match="at least 1, got 0"):
        engines.map(work, [1], workers=0)


@pytest.mark.parametrize("name", list(CLUSTERS))
def test_an_engine_without_its_package_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, CLUSTERS[name], None)
    with pytest.raises(BadRequest, match=r"pip install 'cambium\[scale\]'"):
        list(engines.map(work, [1], engine=name))


def test_nothing_to_do() -> None:
    assert list(engines.map(work, [], workers=2)) == []


ORPHANS = """
import os, sys, time
from pathlib import Path
from pipelines import engines

def stay(item):
    Path(sys.argv[1], str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    list(engines.map(stay, [1, 2, 3, 4], workers=2))
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script, seen = tmp_path / "orphans.py", tmp_path / "seen"
    script.write_text(ORPHANS)
    seen.mkdir()
    parent = subprocess.Popen([sys.executable, str(script), str(seen)])
    while len(pids := [int(f.name) for f in seen.iterdir()]) < 2:
        assert parent.poll() is None
        time.sleep(0.1)
    workers = [psutil.Process(pid) for pid in pids]
    parent.kill()
    parent.wait()
    gone, alive = psutil.wait_procs(workers, timeout=60)
    for left in alive:
        left.kill()
    assert len(gone) == 2
