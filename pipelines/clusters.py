"""Engines beyond this machine's own pool: Dask and Ray, under the same contract as :mod:`.engines`.

Only names and small facts cross to the workers: an item names a file, and its outcome is a ledger row's worth. As many
items are in flight as there are workers, so a batch of a million costs no memory here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any, TypeVar

from shared_backbones.errors import BadRequest

from .engines import DIED, Outcome, Problem, attempt, threads_for

T = TypeVar("T")
R = TypeVar("R")


def _missing(engine: str) -> BadRequest:
    return BadRequest(f"--engine {engine} needs its package: pip install 'cambium[scale]'")


def _failed(item: T, text: str) -> Outcome[T, Any]:
    return Outcome(item, None, Problem("failed", text), 0.0)


def dask(fn: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[Outcome[T, R]]:
    """On the scheduler that DASK_SCHEDULER_ADDRESS names, or else on worker processes started here, on loopback."""
    try:
        from distributed import Client, LocalCluster, as_completed
    except ImportError:
        raise _missing("dask") from None
    import dask as settings
    from distributed.scheduler import KilledWorker

    queue, running = iter(items), dict[str, T]()
    with ExitStack() as stack:
        # a worker that dies costs the item it was at, which is not tried on another: it may kill that one too
        stack.enter_context(settings.config.set({"distributed.scheduler.allowed-failures": 0}))
        address = os.environ.get("DASK_SCHEDULER_ADDRESS")
        if address is None:
            address = stack.enter_context(
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    host="127.0.0.1",
                    dashboard_address=None,
                    env={"OMP_NUM_THREADS": str(threads_for(workers)), "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
                )
            )
        client = stack.enter_context(Client(address))
        waiting = as_completed()

        def submit() -> None:
            for item in queue:
                future = client.submit(attempt, fn, item, pure=False)
                running[future.key] = item
                waiting.add(future)
                return

        for _ in range(workers):
            submit()
        for future in waiting:
            item = running.pop(future.key)
            try:
                outcome: Outcome[T, R] = Outcome(item, *future.result())
            except KilledWorker:
                outcome = _failed(item, DIED)
            yield outcome
            submit()


def ray(fn: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[Outcome[T, R]]:
    """On the cluster that RAY_ADDRESS names, or else on a Ray of its own on this machine, on loopback."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray as cluster
        from ray.exceptions import RayError
    except ImportError:
        raise _missing("ray") from None
    address = os.environ.get("RAY_ADDRESS")
    own: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    paths = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
    environment = {"env_vars": {"OMP_NUM_THREADS": str(threads_for(workers)), **paths}}
    cluster.init(address=address, runtime_env=environment, log_to_driver=False, **({} if address else own))
    try:
        remote: Any = cluster.remote(max_retries=0)(attempt)
        queue, running = iter(items), dict[Any, T]()
        while True:
            while len(running) < workers:
                try:
                    item = next(queue)
                except StopIteration:
                    break
                running[remote.remote(fn, item)] = item
            if not running:
                return
            for done in cluster.wait(list(running), num_returns=1)[0]:
                item = running.pop(done)
                try:
                    outcome: Outcome[T, R] = Outcome(item, *cluster.get(done))
                except RayError:
                    outcome = _failed(item, DIED)
                yield outcome
    finally:
        cluster.shutdown()
