"""``cambium demo``: a task of every domain (or all) on its simulator, from raw input to a report and predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from domains import all_tasks, load_task

from .config import resolve
from .events import tell
from .findings import Run
from .lineage import predictions
from .predict import predict
from .registry import record
from .report import write_index
from .train import train

EPOCHS = 24  # at most: enough for a simulator
INTRO = (
    "Each task below was trained on data from its own simulator, scored on a part that was set aside, compared with "
    "simple methods, and then used on new input. Nothing was downloaded.",
    "Open a run to see its report: scores with intervals, pictures, how leaks were ruled out, and its cost.",
)


def _settings(task: str) -> list[str]:
    epochs = load_task(task).train_defaults.get("epochs")
    return [f"train.epochs={min(epochs, EPOCHS)}"] if epochs else []


def _one(task: str, out: Path, quiet: bool) -> tuple[Path, list[dict[str, Any]]]:
    """Train, register and use one task; the run's folder and what its batch came to."""
    folder = train(resolve(task, data="simulated", sets=_settings(task)), out, quiet=quiet)
    record(folder, out)
    summary = predict(folder, ["simulated"], out / "predictions" / task.replace("/", "-"))
    rows = [
        {
            "input": r.input,
            "state": r.state,
            "outputs": [summary.out / name for name in predictions(r.outputs)],
            "reason": r.reason,
        }
        for r in summary.rows
    ]
    return folder, rows


def shown_tasks(every: bool) -> list[str]:
    """The first task of each domain, or every one; those that test mixers on made strings are left out."""
    found: dict[str, list[str]] = {}
    for name in all_tasks():
        if not getattr(load_task(name), "diagnostic", False):
            found.setdefault(name.partition("/")[0], []).append(name)
    return [name for names in found.values() for name in (names if every else names[:1])]


def demo(out: Path = Path("runs/demo"), *, every: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Run the demo below ``out``; a second time it finds what it did. Returns plain facts with the page's path.

    every: all tasks, not one of each domain.
    """
    runs, shown = [], {}
    tasks = shown_tasks(every)
    for number, task in enumerate(tasks, 1):
        tell("task", f"[{number}/{len(tasks)}] {task}: {load_task(task).summary}", quiet=quiet, task=task)
        folder, rows = _one(task, out, quiet)
        runs.append(folder)
        shown[folder] = rows
    index = write_index(
        runs,
        out / "index.html",
        title="Cambium demo",
        intro=INTRO,
        predictions=shown,
        pictures=True,
        commands=[
            {
                "text": "See which public data sets and backbones there are:",
                "line": "cambium data list\ncambium backbones list",
            },
            *(
                {"text": f"Train {task} on your own data:", "line": f"cambium train {task} --data YOUR_FILE"}
                for task in tasks
            ),
        ],
    )
    found = [Run(folder) for folder in runs]
    return {
        "index": str(index),
        "runs": [
            {
                "task": run.metrics["task"],
                "run": str(run.folder),
                "report": str(run.folder / "report.html"),
                "verdict": run.verdict(),
                "metrics": run.metrics["metrics"],
                "predictions": [str(o) for row in shown[folder] for o in row["outputs"]],
            }
            for folder, run in zip(runs, found, strict=True)
        ],
    }
