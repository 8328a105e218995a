"""Fan-out: ``map(fn, items)`` yields an outcome per item as it comes. One bad item never stops the rest."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any, Generic, Literal, TypeVar

from shared_backbones.errors import BadRequest, CambiumError, unknown

from .store import DiskFull

T = TypeVar("T")
R = TypeVar("R")
Kind = Literal["refused", "no space", "failed"]


@dataclass(frozen=True)
class Problem:
    """Why an item has no value: its own fault ("refused"), a full disk, or anything unexpected ("failed")."""

    kind: Kind
    message: str
    trace: str = ""


@dataclass(frozen=True)
class Outcome(Generic[T, R]):
    """An item with its value or its problem, and how long it took."""

    item: T
    value: R | None
    problem: Problem | None
    seconds: float


DIED = "its worker process died: out of memory, or a crash in a library. Try fewer workers"


def attempt(fn: Callable[[T], R], item: T) -> tuple[R | None, Problem | None, float]:
    """``fn(item)``, its problem, and its seconds. Exceptions become plain values here, in the worker, because not
    every exception survives pickling."""
    start = time.perf_counter()
    value, problem = None, None
    try:
        value = fn(item)
    except DiskFull as error:
        problem = Problem("no space", str(error))
    except CambiumError as error:
        problem = Problem("refused", str(error))
    except Exception as error:
        problem = Problem("failed", f"{type(error).__name__}: {error}", traceback.format_exc())
    return value, problem, time.perf_counter() - start


def _start_worker(threads: int) -> None:
    """Before the worker imports any numerics, which read these once."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent says nothing, and its workers hold each other's queue open: they would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _pool(workers: int, threads: int) -> ProcessPoolExecutor:
    # spawn: a forked child would inherit torch's thread pools in an undefined state
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(threads,))


def _alone(fn: Callable[[T], R], item: T, threads: int) -> Outcome[T, R]:
    """One item in a worker of its own, to find out which of several killed theirs."""
    with _pool(1, threads) as pool:
        try:
            return Outcome(item, *pool.submit(attempt, fn, item).result())
        except BrokenProcessPool:
            return Outcome(item, None, Problem("failed", DIED), 0.0)


def _in_process(fn: Callable[[T], R], items: Iterable[T]) -> Iterator[Outcome[T, R]]:
    for item in items:
        yield Outcome(item, *attempt(fn, item))


def _spawned(fn: Callable[[T], R], items: Iterable[T], workers: int, threads: int) -> Iterator[Outcome[T, R]]:
    queue = iter(items)
    pool = _pool(workers, threads)
    running: dict[Future[Any], T] = {}
    try:
        while True:
            suspects: list[T] = []
            while len(running) < workers and not suspects:  # no more in flight: a million inputs cost no memory
                try:
                    item = next(queue)
                except StopIteration:
                    break
                try:
                    running[pool.submit(attempt, fn, item)] = item
                except BrokenProcessPool:
                    suspects.append(item)
            if not running and not suspects:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                item = running.pop(future)
                try:
                    outcome: Outcome[T, R] = Outcome(item, *future.result())
                except BrokenProcessPool:
                    suspects.append(item)
                else:
                    yield outcome
            if suspects:  # one death breaks the whole pool: try everything that was in flight alone, then go on
                suspects += running.values()
                running.clear()
                pool.shutdown(wait=True, cancel_futures=True)
                for item in suspects:
                    yield _alone(fn, item, threads)
                pool = _pool(workers, threads)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_for(workers: int) -> int:
    """Numerical threads of each of so many workers that share this machine."""
    return max(1, cores() // workers)


def _local(fn: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[Outcome[T, R]]:
    if workers == 1:
        return _in_process(fn, items)
    return _spawned(fn, items, workers, threads_for(workers))


def _dask(fn: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[Outcome[T, R]]:
    from . import clusters

    return clusters.dask(fn, items, workers)


def _ray(fn: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[Outcome[T, R]]:
    from . import clusters

    return clusters.ray(fn, items, workers)


ENGINES: dict[str, Callable[..., Iterator[Outcome[Any, Any]]]] = {"local": _local, "dask": _dask, "ray": _ray}


def map(  # noqa: A001 - the word that every engine uses for it
    fn: Callable[[T], R], items: Iterable[T], *, workers: int = 1, engine: str = "local"
) -> Iterator[Outcome[T, R]]:
    """Outcomes of ``fn`` over ``items`` in the order in which they finish.

    local: one worker runs in this process, more are spawned processes that share the cores. dask and ray: see
    :mod:`.clusters`. ``fn`` and the items must pickle. Raises BadRequest for an unknown engine, one whose package is
    missing, or fewer than one worker.
    """
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    if workers < 1:
        raise BadRequest(f"--workers must be at least 1, got {workers}")
    return ENGINES[engine](fn, items, workers)
