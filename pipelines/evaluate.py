"""Scores of a finished model on a whole part: value and interval, baselines beside it, cost, and what it rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from domains.task import Audit, Evidence, MetricFact, Split
from shared_backbones.errors import BadInput

from .bootstrap import Resampled, paired, resample
from .cost import cost_of, peak_memory_mb
from .rivals import once, rivals_key
from .runs import Trained, load_run
from .store import finite
from .trainer.plan import seed_all

DRAWS, LEVEL = 1000, 0.95


def distance(value: float, fact: MetricFact) -> float:
    """How far a metric is from perfect, up to a constant: the smaller the better. NaN counts as worst."""
    if math.isnan(value):
        return math.inf
    if fact.better == "higher":
        return -value
    return abs(value - (fact.target or 0.0)) if fact.better == "target" else value


def headline(task: Any) -> tuple[str, MetricFact]:
    """The first metric of a task, by which methods are ranked."""
    return next(iter(task.metric_facts.items()))


def evidences(
    trained: Trained, data: Any, split: Split, *, baselines: bool = True, seed: int = 0, keep: Path | None = None
) -> dict[str, Evidence]:
    """The whole test part scored by the model ("model") and by every baseline.

    keep: a folder for the baselines of a task whose ``fixed_baselines`` (optional) says that they draw no random
    numbers: runs that differ by preset, training or seed alone find them there.
    """
    task, model = trained.task, trained.model.eval()
    seed_all(seed, 2)  # whatever was drawn while training, scoring draws the same numbers
    with torch.no_grad():
        scored = {"model": task.evidence(model, data, split, trained.fitted, "test")}
    if baselines:
        seed_all(seed, 3)
        make = partial(task.baselines, data, split, trained.fitted)
        if keep is not None and getattr(task, "fixed_baselines", False):
            make = partial(once, keep / f"{rivals_key(trained.config, data, split, trained.fitted)}.npz", make)
        scored.update(make())
    return scored


def _with_interval(found: Resampled, name: str) -> dict[str, float]:
    low, high = found.interval(name, LEVEL)
    return {"value": found.value[name], "low": low, "high": high}


def compare_with_best(
    task: Any, found: Mapping[str, Resampled], scored: Mapping[str, Evidence]
) -> dict[str, Any] | None:
    """The model's headline metric less the best baseline's, on the same resamples of the same units.

    The best baseline is chosen by its test score, which favours the baseline. None where there is nothing to pair.
    """
    name, fact = headline(task)
    model = scored["model"]
    rivals = [
        b
        for b in found
        if b != "model"
        and name in found[b].value
        and scored[b].scope == model.scope
        and np.array_equal(scored[b].units, model.units)
    ]
    if not rivals or name not in found["model"].value:
        return None
    best = min(rivals, key=lambda b: distance(found[b].value[name], fact))
    return {"metric": name, "baseline": best, "difference": paired(found["model"], found[best], name, LEVEL)}


def score(
    trained: Trained,
    data: Any,
    split: Split,
    *,
    baselines: bool = True,
    scored: Mapping[str, Evidence] | None = None,
    audits: list[Audit] | None = None,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """The content of ``metrics.json``, but for what only training knows. NaN stands as None.

    ``scored``: evidence already at hand (see :func:`evidences`). Without baselines neither they nor the costs that
    need training data are there.
    """
    task, seed = trained.task, trained.config.seed
    scored = evidences(trained, data, split, baselines=baselines, seed=seed) if scored is None else scored
    found = {name: resample(task.metrics, evidence, draws, seed) for name, evidence in scored.items()}
    model, rivals = found["model"], {name: f for name, f in found.items() if name != "model"}
    content = {
        "task": task.name,
        "run": trained.meta.get("run", trained.directory.name),
        "preset": trained.config.preset,
        "seed": seed,
        "data": data.manifest.to_json(),
        "protocol": split.protocol,
        "split": split.to_json(),
        "metrics": {name: _with_interval(model, name) for name in model.value},
        "baselines": {name: f.value for name, f in rivals.items()},
        "baseline_intervals": {name: {m: _with_interval(f, m) for m in f.value} for name, f in rivals.items()},
        "baseline_scopes": {name: evidence.scope for name, evidence in scored.items() if evidence.scope},
        "paired": compare_with_best(task, found, scored),
        "interval": {
            "method": "percentile bootstrap over independent units",
            "level": LEVEL,
            "draws": draws,
            "units": len(scored["model"].units),
            "rows": len(scored["model"].unit),
        },
        "units": {name: fact.unit for name, fact in task.metric_facts.items()},
        "audits": [
            {"name": a.name, "value": a.value, "passed": a.passed, "meaning": a.meaning} for a in (audits or [])
        ],
        "cost": {**cost_of(trained, data, split), "peak_memory_mb": peak_memory_mb()},
    }
    return finite(content)


def _whole(split: Split) -> Split:
    """Every part as test."""
    everything = np.concatenate([split.parts[name] for name in split.parts])
    none = everything[:0]
    parts = {"train": none, "val": none, "test": everything}
    return Split(protocol="whole source: every part of its split scored as test", parts=parts)


def evaluate(run: Path, source: str | None = None, *, whole: bool = False, draws: int = DRAWS) -> dict[str, Any]:
    """Score a finished run again: on its own data, or on the test part of another source (``whole``: on all of it).

    Baselines are fitted on the source's own training part, so they are left out with ``whole``. Nothing is written.
    Raises BadInput where the source cannot be read, split, or held to the run's schema.
    """
    trained = load_run(run)
    data = trained.task.open(trained.config.data if source is None else source)
    known = trained.meta.get("data_sha256")
    if source is None and known and data.manifest.sha256 != known:
        raise BadInput(
            f"{trained.config.data} is not what run {trained.directory.name} was trained on: sha256 "
            f"{data.manifest.sha256}, expected {known}. Name it with --data to score it as other data"
        )
    split = trained.task.split(data)
    audits = [] if whole else trained.task.audit(data, split)
    split = _whole(split) if whole else split
    result = score(trained, data, split, baselines=not whole, audits=audits, draws=draws)
    result["cost"]["train_seconds"] = trained.meta.get("train_seconds")
    return result
