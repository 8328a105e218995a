"""Options tried, each trained, chosen by the validation loss alone; the test scores are not looked at to choose."""

from __future__ import annotations

import itertools
import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from domains.task import to_json_digest
from shared_backbones.errors import BadRequest

from .config import RunConfig, parse_set, read_yaml, resolve
from .search import proposals
from .store import write_json
from .train import Share, finished, train
from .usage import Usage, as_rows, measured

MOST = 200  # trainings in one sweep


def grid(options: Sequence[str]) -> list[dict[str, Any]]:
    """``["train.lr=1e-3,1e-2", "model.depth=1,2"]`` -> every combination, as name -> value. Raises BadRequest."""
    axes: dict[str, list[Any]] = {}
    for text in options:
        path, _ = parse_set(text)
        name = ".".join(path)
        values = [read_yaml(v, f"--grid {text}") for v in text.partition("=")[2].split(",") if v.strip()]
        if not values or name in axes:
            raise BadRequest(f"--grid takes NAME=a,b,c, each name once; got {text!r}")
        axes[name] = values
    if not axes:
        raise BadRequest("a sweep needs a grid, such as --grid train.lr=1e-3,1e-2")
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    if len(points) > MOST:
        raise BadRequest(f"the grid has {len(points)} points; at most {MOST} are trained in one sweep")
    return points


def validation_loss(run: Path) -> float:
    """The best validation loss of a finished run: what training itself selected its weights by."""
    training: Mapping[str, Any] = json.loads((run / "metrics.json").read_bytes()).get("training") or {}
    loss = training.get("best_val_loss")
    return float("inf") if loss is None else float(loss)


def _sets(point: Mapping[str, Any]) -> list[str]:
    return [f"{name}={json.dumps(value)}" for name, value in point.items()]


def walk(points: Sequence[Mapping[str, Any]]) -> Generator[dict[str, Any], float, None]:
    """A grid as proposals: the points in order, whatever loss is sent."""
    for point in points:
        yield dict(point)


def sweep(
    task: str,
    options: Sequence[str],
    root: Path = Path("runs"),
    *,
    search: Sequence[str] = (),
    trials: int = 20,
    data: str | None = None,
    preset: str | None = None,
    file: Path | None = None,
    sets: Sequence[str] = (),
    seed: int | None = None,
    quiet: bool = False,
    share: Share | None = None,
) -> dict[str, Any]:
    """Train every point of the grid ``options``, or ``trials`` points that a search proposes over ``search``, and name
    the best by validation; finished points are found, and counted as reused.

    Losses are comparable only where the options leave the loss itself alone. Returns rows, best first, and writes them
    to ``root/sweeps/<id>.json``. Raises BadRequest for options that name neither or both, and what resolving and
    training raise.
    """

    def asked(point: Mapping[str, Any]) -> RunConfig:
        return resolve(task, data=data, preset=preset, file=file, sets=[*sets, *_sets(point)], seed=seed)

    if bool(options) == bool(search):
        raise BadRequest(
            "a sweep takes a grid (--grid train.lr=1e-3,1e-2) or a search (--search train.lr=1e-4:1e-2:log)"
        )
    if not 1 <= trials <= MOST:
        raise BadRequest(f"--trials must lie in 1 .. {MOST}, got {trials}")
    points = grid(options) if options else []
    for point in points:
        asked(point)  # a wrong option is told before anything is trained
    proposed = walk(points) if points else proposals(search, trials, seed or 0)
    there = {
        path.parent.name for path in root.glob(f"{task.replace('/', '-')}/*/metrics.json") if finished(path.parent)
    }
    rows: list[dict[str, Any]] = []
    used: list[Usage] = []
    tried = []

    def whole(part: float) -> None:
        if share is not None:
            share((len(rows) + part) / (len(points) or trials))

    with suppress(StopIteration):
        point = next(proposed)
        while True:
            request = asked(point)
            tried.append(request.to_dict())
            with measured(f"trial {len(rows) + 1}", used):
                run = train(request, root, quiet=quiet, share=whole)
            loss = validation_loss(run)
            rows.append({"options": point, "run": run.name, "val_loss": loss, "reused": run.name in there})
            point = proposed.send(loss)
    rows.sort(key=lambda row: row["val_loss"])
    best, reused = rows[0], sum(row["reused"] for row in rows)
    key = to_json_digest(tried)[:12]
    said = (
        f"all {len(rows)} runs were there" if reused == len(rows) else f"{len(rows) - reused} trained, {reused} found"
    )
    result = {
        "task": task,
        "rows": rows,
        "best": best["run"],
        "options": best["options"],
        "chosen_by": "validation loss",
    }
    write_json(root / "sweeps" / f"{key}.json", json.loads(json.dumps(result).replace("Infinity", "null")))
    place = root / task.replace("/", "-") / best["run"]
    return {**result, "reused": reused, "said": said, "directory": str(place), "usage": as_rows(used)}
