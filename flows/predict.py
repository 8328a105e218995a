"""The predict flow: a batch of inputs through a finished run, as one Prefect task over one ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefect import flow

from . import tasks
from .server import HOME, end_with_worker


class SomeInputsFailedError(RuntimeError):
    """The batch came to its end, but some inputs failed for reasons other than their content."""

    def __init__(self, message: str, summary: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.summary = summary or {}


@flow(name="predict", flow_run_name="predict-{model}", persist_result=False, result_serializer="json")
def predict(
    model: str,
    inputs: list[str],
    out: str,
    workers: int = 1,
    engine: str = "local",
    root: str = "runs",
) -> dict[str, Any]:
    """Predict ``inputs`` (files, folders, globs) with a run's folder or ``NAME@champion``, as ``cambium predict`` does.

    Returns the batch's summary with its ``exit_code`` (0 all done, 3 some refused). What the ledger in ``out`` knows
    as done is not done again. Raises BadRequest, BadInput, and SomeInputsFailedError where an input failed.
    """
    end_with_worker()
    from pipelines.predict import find_model

    kept = Path(root).resolve() / HOME / "kept"
    run = tasks.run_ref(find_model(model, Path(root)))
    asked = {"inputs": list(inputs), "out": str(Path(out).resolve()), "workers": workers, "engine": engine}
    request = tasks.keep(kept, json.dumps(asked), "request")
    result = tasks.predict(run, request, str(kept))
    tasks.publish_batch(result)
    summary: dict[str, Any] = json.loads(Path(result.uri).read_text())
    if summary["failed"]:
        raise SomeInputsFailedError(f"{len(summary['failed'])} inputs failed; {summary['ledger']} says why", summary)
    return summary
