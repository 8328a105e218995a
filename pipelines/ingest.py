"""Opening data: what it is, whether it can be used, and why not."""

from __future__ import annotations

from typing import Any

from threadpoolctl import threadpool_limits

from domains.task import Split

from .config import RunConfig, build_task


def ingest(config: RunConfig) -> tuple[Any, Any, Split]:
    """(task, data, split) of a configuration. Raises BadInput with the reason; nothing is written.

    ``train.threads`` holds here too: the process that asks for a training opens the data before the one that trains.
    """
    task = build_task(config)
    with threadpool_limits(config.train.threads):  # None: no limit
        data = task.open(config.data)
        return task, data, task.split(data)


def check(config: RunConfig) -> dict[str, Any]:
    """What a source holds and how it would be split and audited; raises BadInput where it cannot be used.

    This is ``cambium data check``: no statistics are fitted and nothing is trained.
    """
    task, data, split = ingest(config)
    audits = task.audit(data, split)
    return {
        "task": task.name,
        "data": data.manifest.to_json(),
        "split": split.to_json(),
        "audits": [{"name": a.name, "value": a.value, "passed": a.passed, "meaning": a.meaning} for a in audits],
    }
