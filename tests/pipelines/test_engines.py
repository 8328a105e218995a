"""Engines: every item gets one outcome, whatever happens to the others."""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest

from pipelines import engines
from pipelines.store import DiskFull
from shared_backbones.errors import BadInput, BadRequest


def work(item: int, bad: int = -1, parent: int = 0) -> int:
    if item == bad:
        raise BadInput(f"item {item} is bad")
    if item == 98:
        raise DiskFull("cannot write x: no space left")
    if item == 99 and os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    return item * 2


def threads(item: int) -> str:
    return os.environ["OMP_NUM_THREADS"]


@pytest.mark.parametrize("workers", [1, 2])
def test_outcomes_of_good_and_bad_items(workers: int) -> None:
    outcomes = list(engines.map(partial(work, bad=3), [1, 2, 3, 98, 4], workers=workers))
    values = {o.item: o.value for o in outcomes if o.problem is None}
    problems = {o.item: (o.problem.kind, o.problem.message) for o in outcomes if o.problem}
    assert values == {1: 2, 2: 4, 4: 8}
    assert problems[3] == ("refused", "item 3 is bad")
    assert problems[98][0] == "no space"


def test_a_dying_worker_costs_its_own_item_only() -> None:
    outcomes = list(engines.map(partial(work, parent=os.getpid()), [1, 99, 2, 3, 4], workers=2))
    assert sorted(o.item for o in outcomes) == [1, 2, 3, 4, 99]
    problems = {o.item: o.problem for o in outcomes if o.problem}
    assert list(problems) == [99]
    assert "died" in problems[99].message
    assert {o.item: o.value for o in outcomes if not o.problem} == {1: 2, 2: 4, 3: 6, 4: 8}


def test_workers_share_the_cores() -> None:
    outcomes = list(engines.map(threads, [1, 2], workers=2))
    assert {o.value for o in outcomes} == {str(max(1, engines.cores() // 2))}


def test_impossible_requests_name_what_exists() -> None:
    with pytest.raises(BadRequest, match=r"unknown engine 'dask'.*allowed: local"):
        engines.map(work, [1], engine="dask")
    with pytest.raises(BadRequest, match="at least 1, got 0"):
        engines.map(work, [1], workers=0)


def test_nothing_to_do() -> None:
    assert list(engines.map(work, [], workers=2)) == []
