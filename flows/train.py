"""The train flow: ingest, train, evaluate, report, for any task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefect import flow

from . import tasks
from .server import HOME, end_with_worker


@flow(name="train", flow_run_name="train-{task}", persist_result=False, result_serializer="json")
def train(
    task: str,
    data: str | None = None,
    preset: str | None = None,
    config: str | None = None,
    sets: list[str] | None = None,
    seed: int | None = None,
    out: str = "runs",
    evaluate_on: str | None = None,
) -> dict[str, Any]:
    """Train ``task`` as ``cambium train`` does, and publish scores and report as Prefect artifacts.

    config: path of a YAML file; sets: ``["train.lr=1e-3", ...]``; evaluate_on: another source to score the run on.
    Returns run, metrics, baselines, cost, directory, report, the registered model, and whether the run was reused.
    Raises BadRequest and BadInput.
    """
    end_with_worker()
    from pipelines.config import resolve, to_yaml
    from pipelines.runs import code_version
    from pipelines.usage import Usage, as_rows, measured

    request = resolve(task, data=data, preset=preset, file=Path(config) if config else None, sets=sets or (), seed=seed)
    root = Path(out).resolve()
    kept = root / HOME / "kept"
    asked = tasks.keep(kept, to_yaml(request), "request", ".yaml")
    used: list[Usage] = []
    with measured("ingest", used):
        content = tasks.ingest(asked)
    with measured("fit", used):
        run, reused = tasks.fresh(tasks.fit, asked, content, code_version(request.task), str(root))
    with measured("register", used):
        registered = tasks.register(run, str(root))
    with measured("evaluate", used):
        metrics = tasks.evaluate(run, evaluate_on, str(kept))
    with measured("report", used):
        page = tasks.report(run)
    tasks.publish_scores(run, metrics, page, reused, as_rows(used))
    scores = json.loads(Path(metrics.uri).read_text())
    shown = {name: scores.get(name) for name in ("metrics", "baselines", "ablation", "cost")}
    return {
        "task": task,
        "run": Path(run.uri).name,
        **shown,
        "directory": run.uri,
        "report": page.uri,
        "reused": reused,
        "usage": as_rows(used),
        **registered,
    }
