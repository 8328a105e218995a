"""Champion against challenger: both scored on the same cases, and a reasoned decision. The registry is not touched.

The challenger is promoted when its headline metric is better by at least a margin, beyond what resampling the test
units explains, and no guard objects: another metric (calibration among them) or the worst served units became worse
beyond chance, or the model grew too slow or too large.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from domains.task import Evidence, MetricFact, Split
from shared_backbones.errors import BadRequest, CambiumError, unknown

from .bootstrap import Resampled, percentile, resample
from .cost import cost_of
from .evaluate import evidences, headline
from .runs import Trained, load_run
from .store import finite
from .tail import tail_gain
from .wording import short


class Terms(BaseModel):
    """What a challenger has to show."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    margin: float = Field(default=0.0, ge=0)  # of the headline metric, in its own unit
    level: float = Field(default=0.95, gt=0.5, lt=1)
    guards: tuple[str, ...] | None = None  # metrics that must not become worse; None: all that have a direction
    worst: float = Field(default=0.1, ge=0, le=1)  # share of units that is watched by itself: the worst served; 0: none
    slower: float = Field(default=3.0, gt=0)  # how many times the champion's seconds per item are still allowed
    heavier: float = Field(default=3.0, gt=0)  # how many times the champion's bytes of weights and of a batch
    draws: int = Field(default=1000, ge=100)


@dataclass(frozen=True)
class Judgement:
    """Whether to promote, why in one sentence, and the figures that it rests on."""

    promote: bool
    reason: str
    facts: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"promote": self.promote, "reason": self.reason, **self.facts}


def gain(champion: Resampled, challenger: Resampled, name: str, fact: MetricFact, level: float) -> dict[str, float]:
    """How much nearer to perfect the challenger is in one metric, on the same resamples: value, low, high."""

    def apart(values: Any) -> Any:
        if fact.better == "target":
            return np.abs(np.asarray(values) - (fact.target or 0.0))
        return -np.asarray(values) if fact.better == "higher" else np.asarray(values)

    low, high = percentile(apart(champion.draws[name]) - apart(challenger.draws[name]), level)
    return {"value": float(apart(champion.value[name]) - apart(challenger.value[name])), "low": low, "high": high}


def _pairs(champion: Evidence, challenger: Evidence) -> bool:
    return champion.scope == challenger.scope and np.array_equal(champion.units, challenger.units)


def _kept(reason: str, facts: Mapping[str, Any]) -> Judgement:
    return Judgement(False, reason, facts)


def _guarded(task: Any, terms: Terms) -> list[str]:
    first, _ = headline(task)
    directed = [name for name, fact in task.metric_facts.items() if fact.better != "none" and name != first]
    for name in terms.guards or ():
        if name not in directed:
            raise unknown(f"guard metric of {task.name}", name, directed)
    return directed if terms.guards is None else list(terms.guards)


def decide(task: Any, champion: Evidence, challenger: Evidence, terms: Terms, seed: int = 0) -> Judgement:
    """The decision from the two models' evidence on the same part of the same data."""
    if not _pairs(champion, challenger):
        return _kept("the two models were scored on different cases, so they cannot be compared", {})
    name, fact = headline(task)
    before, after = (resample(task.metrics, e, terms.draws, seed) for e in (champion, challenger))
    if name not in before.value or name not in after.value:
        return _kept(f"{name} is not defined for both models here", {})
    found = gain(before, after, name, fact, terms.level)
    guards = {
        other: gain(before, after, other, task.metric_facts[other], terms.level)
        for other in _guarded(task, terms)
        if other in before.value and other in after.value
    }
    tail = (
        tail_gain(task, champion, challenger, name, share=terms.worst, level=terms.level, draws=terms.draws, seed=seed)
        if terms.worst and terms.guards != ()
        else None
    )
    if tail is not None:
        guards[f"{name} of the worst {100 * terms.worst:g} %"] = dict(tail)
    facts = {
        "metric": name,
        "champion": before.value[name],
        "challenger": after.value[name],
        "gain": found,
        "margin": terms.margin,
        "guards": guards,
        "units": len(champion.units),
        "level": terms.level,
    }
    span = f"{short(found['value'])} ({short(found['low'])} to {short(found['high'])})"
    if not found["low"] > 0:
        return _kept(f"{name} is not better beyond chance: gain {span} over {len(champion.units)} units", facts)
    if not found["value"] >= terms.margin:
        return _kept(f"{name} is better by {span}, less than the margin {short(terms.margin)}", facts)
    worse = [other for other, g in guards.items() if g["high"] < 0]
    if worse:
        said = "; ".join(f"{o} by {short(-guards[o]['value'])}" for o in worse)
        return _kept(f"{name} is better by {span}, but worse beyond chance: {said}", facts)
    return Judgement(True, f"{name} is better by {span} over {len(champion.units)} units, and no guard objects", facts)


def _costs(champion: Trained, challenger: Trained, data: Any, split: Split) -> dict[str, float]:
    """Items per second and bytes of both, one after the other in this process, in batches of the same size."""
    size = champion.config.train.batch_size
    config = challenger.config.model_copy(
        update={"train": challenger.config.train.model_copy(update={"batch_size": size})}
    )
    found = {}
    for who, trained in (("champion", champion), ("challenger", replace(challenger, config=config))):
        cost = cost_of(trained, data, split)
        weights = sum(t.nbytes for t in trained.model.state_dict().values())
        found[f"{who}_items_per_second"] = cost["items_per_second"]
        found[f"{who}_memory_mb"] = cost["batch_memory_mb"] + weights / 1e6
    return found


def judge(champion: Path, challenger: Path, source: str | None = None, terms: Terms | None = None) -> Judgement:
    """Score two finished runs of one task on the test part of ``source`` (default: the challenger's data), and decide.

    The parts are those that the challenger's own configuration makes. Where the champion was trained on other data,
    some of these cases may have been among its training cases, which favours the champion; the facts say so.
    Raises BadInput and BadRequest where the data cannot be read or the runs are of different tasks.
    """
    terms = Terms() if terms is None else terms
    old, new = load_run(champion), load_run(challenger)
    if old.task.name != new.task.name:
        raise BadRequest(f"{champion} is a run of {old.task.name} and {challenger} of {new.task.name}: nothing to pair")
    if old.meta["weights_sha256"] == new.meta["weights_sha256"]:
        return _kept("the challenger is the champion: their weights are equal", {})
    data = new.task.open(new.config.data if source is None else source)
    split = new.task.split(data)
    seed = new.config.seed
    try:
        first = evidences(old, data, split, baselines=False, seed=seed)["model"]
    except (CambiumError, RuntimeError, KeyError, ValueError, IndexError) as error:
        return _kept(f"the champion cannot be scored on this data ({error}): decide by hand", {})
    second = evidences(new, data, split, baselines=False, seed=seed)["model"]
    found = decide(new.task, first, second, terms, seed)
    cost = _costs(old, new, data, split)
    same = old.meta.get("data_sha256") == data.manifest.sha256
    facts = finite({**found.facts, **cost, "data": data.manifest.sha256, "split": split.digest, "same_data": same})
    slower = cost["champion_items_per_second"] / cost["challenger_items_per_second"]
    heavier = cost["challenger_memory_mb"] / cost["champion_memory_mb"]
    if found.promote and slower > terms.slower:
        return _kept(
            f"{found.reason}, but it takes {slower:.1f} times as long, more than {terms.slower:g} times", facts
        )
    if found.promote and heavier > terms.heavier:
        said = f"{found.reason}, but it takes {heavier:.1f} times the memory, more than {terms.heavier:g} times"
        return _kept(said, facts)
    return Judgement(found.promote, found.reason, facts)
