"""Flows of what is left running: retrain, batch_predict, backfill, sweep, cleanup. One Prefect task each.

The work is that of the function of the same name in pipelines, which finds what is done already; a flow adds retries,
an artifact that says what happened, and an event where inputs drifted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.blocks.system import Secret
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.tasks import exponential_backoff

from pipelines.alerts import HOOK
from pipelines.seal import KEY

from .artifacts import key_of, of_inputs, progress, show_picture, show_usage
from .predict import SomeInputsFailedError
from .server import end_with_worker
from .tasks import RETRIES, _worth_a_retry

Answer = dict[str, Any]
BLOCKS = {KEY: "cambium-seal-key", HOOK: "cambium-alert-webhook"}  # variable of the environment -> Secret block
_TASK: dict[str, Any] = {
    "retries": RETRIES,
    "retry_delay_seconds": exponential_backoff(10),
    "retry_condition_fn": _worth_a_retry,
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "result_serializer": "json",
}
_FLOW: dict[str, Any] = {"persist_result": False, "result_serializer": "json"}


def begin() -> None:
    """What every flow does first."""
    end_with_worker()
    secrets()


def secrets() -> None:
    """Take the key of seals and the address of the alarm hook from the Prefect blocks ``cambium-seal-key`` and
    ``cambium-alert-webhook``, unless they are set already.

    They go into this flow run's environment only, where its pipelines look for them; nothing says them.
    """
    for name, block in BLOCKS.items():
        if not os.environ.get(name):
            with suppress(ValueError):  # there is no such block
                os.environ[name] = str(Secret.load(block).get())  # type: ignore[union-attr]


def _told(kind: str, name: str, text: str, more: str = "", usage: Sequence[Answer] = ()) -> None:
    """Say what happened: in the log, and as an artifact that keeps what it said before, with what each step took."""
    get_run_logger().info("%s: %s", name, text)
    create_markdown_artifact(f"# {kind} {name}\n\n{text}\n\n{more}", key=key_of(kind, name))
    show_usage(usage, f"{kind}-{name}")


def _place(out: str) -> str:
    return out if "://" in out else str(Path(out).resolve())


def _batch_told(kind: str, model: str, found: Answer) -> Answer:
    bad = [f"- `{row['input']}`: {row['reason']}" for row in (*found["refused"], *found["failed"])]
    bad += [f"- no input for {day}" for day in found.get("missing", ())]
    _told(kind, model, found["said"], "\n".join(bad), found["usage"])
    drift = found.get("drift") or {}
    if drift.get("alarm"):
        resource = {"prefect.resource.id": f"cambium.batch.{Path(found['out']).name}"}
        emit_event("cambium.drift.alarm", resource, payload={"model": model, "why": drift["why"], "out": found["out"]})
    if found["failed"]:
        raise SomeInputsFailedError(f"{len(found['failed'])} inputs failed; {found['ledger']} says why", found)
    return found


@task(**_TASK, name="retrain")
def _retrain(request: Answer, out: str, judge_on: str | None, terms: Answer, accept: bool) -> Answer:
    from pipelines.config import resolve, validated
    from pipelines.promotion import Terms
    from pipelines.retrain import retrain

    config = resolve(**request)
    judged = validated(Terms, terms, "terms.")
    with progress(f"retrain-{config.task}", f"training of a challenger for {config.task}") as share:
        found = retrain(config, Path(out), source=judge_on, terms=judged, accept_data=accept, share=share)
    show_picture(Path(found["directory"]), found["challenger"])
    return found


@flow(name="retrain", flow_run_name="retrain-{task}", **_FLOW)
def retrain(
    task: str,
    data: str | None = None,
    preset: str | None = None,
    config: str | None = None,
    sets: list[str] | None = None,
    seed: int | None = None,
    out: str = "runs",
    judge_on: str | None = None,
    margin: float = 0.0,
    accept_data: bool = False,
    terms: dict[str, Any] | None = None,
) -> Answer:
    """Check the data, train a challenger, and let it become champion where it is better, as ``cambium retrain`` does.

    terms: other fields of :class:`pipelines.promotion.Terms`, such as ``{"slower": 2}``. Returns what
    :func:`pipelines.retrain.retrain` does. Raises BadRequest and BadInput, the latter also where the data fail a check:
    then nothing is trained or promoted.
    """
    begin()
    request: Answer = {"task": task, "data": data, "preset": preset, "seed": seed, "sets": sets or []}
    request["file"] = None if config is None else Path(config)
    terms = {"margin": margin, **(terms or {})}
    found: Answer = _retrain(request, str(Path(out).resolve()), judge_on, terms, accept_data)
    verdict = "promoted" if found["promoted"] else "the champion stays"
    how = "found, not trained again" if found["reused_run"] else "trained"
    decided = ", decided before" if found["reused_decision"] else ""
    _told(
        "retrain",
        task,
        f"challenger {found['challenger']} {how}; {verdict}{decided}: {found['reason']}",
        usage=found["usage"],
    )
    return found


@task(**_TASK, name="batch_predict")
def _batch_predict(model: str, inbox: list[str], out: str, root: str, options: Answer) -> Answer:
    from pipelines.jobs import batch_predict

    with progress(f"batch-{model}", f"inputs predicted by {model}") as share:
        return batch_predict(model, inbox, out, root=Path(root), progress=of_inputs(share), **options)


@flow(name="batch_predict", flow_run_name="batch-{model}", **_FLOW)
def batch_predict(
    model: str,
    inbox: list[str],
    out: str,
    workers: int = 1,
    engine: str = "local",
    settle: float = 5.0,
    root: str = "runs",
) -> Answer:
    """Predict what is new in folders with a run or ``NAME@champion``, as ``cambium watch`` does, one task for all.

    Emits the event ``cambium.drift.alarm`` where the inputs are unlike the training data. Raises BadRequest, and
    SomeInputsFailedError where an input failed for reasons other than its content.
    """
    begin()
    options = {"workers": workers, "engine": engine, "settle": settle}
    return _batch_told("batch", model, _batch_predict(model, inbox, _place(out), root, options))


@task(**_TASK, name="backfill")
def _backfill(model: str, pattern: str, first: str, last: str, out: str, root: str, options: Answer) -> Answer:
    from pipelines.jobs import backfill

    with progress(f"backfill-{first}-{last}", f"inputs predicted by {model}") as share:
        return backfill(model, pattern, first, last, out, root=Path(root), progress=of_inputs(share), **options)


@flow(name="backfill", flow_run_name="backfill-{first}-{last}", **_FLOW)
def backfill(
    model: str,
    pattern: str,
    first: str,
    last: str,
    out: str,
    workers: int = 1,
    engine: str = "local",
    root: str = "runs",
) -> Answer:
    """Predict a range of days, ``pattern`` naming each day's input, as ``cambium backfill`` does."""
    begin()
    options = {"workers": workers, "engine": engine}
    found = _backfill(model, pattern, first, last, _place(out), root, options)
    return _batch_told("backfill", model, found)


@task(**_TASK, name="sweep")
def _sweep(task: str, grid: list[str], out: str, options: Answer) -> Answer:
    from pipelines.sweep import sweep

    with progress(f"sweep-{task}", f"trials of {task}") as share:
        return sweep(task, grid, Path(out), share=share, **options)


@flow(name="sweep", flow_run_name="sweep-{task}", **_FLOW)
def sweep(
    task: str,
    grid: list[str] | None = None,
    search: list[str] | None = None,
    trials: int = 20,
    data: str | None = None,
    preset: str | None = None,
    config: str | None = None,
    sets: list[str] | None = None,
    seed: int | None = None,
    out: str = "runs",
) -> Answer:
    """Train every point of a grid, or those a search proposes, and choose by validation alone: ``cambium sweep``."""
    begin()
    options: Answer = {
        "search": search or [],
        "trials": trials,
        "data": data,
        "preset": preset,
        "file": None if config is None else Path(config),
        "sets": sets or [],
        "seed": seed,
    }
    found: Answer = _sweep(task, grid or [], str(Path(out).resolve()), options)
    _told("sweep", task, f"{found['said']}; best {found['best']}: {found['options']}", usage=found["usage"])
    return found


@task(**_TASK, name="cleanup")
def _cleanup(root: str, days: float, dry: bool) -> Answer:
    from pipelines.jobs import cleanup

    return cleanup(Path(root), days_kept=days, dry=dry)


@flow(name="cleanup", **_FLOW)
def cleanup(root: str = "runs", days: float = 90.0, dry: bool = False) -> Answer:
    """Remove old unfinished trainings and old runs that never held an alias, as ``cambium cleanup`` does."""
    begin()
    found: Answer = _cleanup(root, days, dry)
    _told("cleanup", root, found["said"], "\n".join(f"- `{path}`" for path in found["removed"]))
    return found
