"""What a finished run says: its scores, its baselines, and how they stand to each other."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from domains import load_task
from domains.task import MetricFact
from shared_backbones.errors import BadInput

from .wording import plain

Verdict = Literal["better", "level", "worse", "no baseline"]


@dataclass(frozen=True)
class Score:
    """A value, with its interval where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


def score_of(raw: Any) -> Score:
    """From a number, or ``{"value", "low", "high"}``; null reads as NaN."""
    if isinstance(raw, Mapping):
        value, low, high = (raw.get(k) for k in ("value", "low", "high"))
        return Score(math.nan if value is None else float(value), low, high)
    return Score(math.nan if raw is None else float(raw))


def better(a: float, b: float, fact: MetricFact) -> bool:
    """Whether a is strictly better than b."""
    if fact.better == "target":
        return abs(a - (fact.target or 0.0)) < abs(b - (fact.target or 0.0))
    return a < b if fact.better == "lower" else a > b


def _read(folder: Path, name: str) -> Any:
    try:
        return json.loads((folder / name).read_bytes())
    except FileNotFoundError:
        raise BadInput(f"{folder} is not a finished run: it holds no {name}") from None
    except ValueError:
        raise BadInput(f"{folder / name} cannot be read: it is not whole JSON. Train or evaluate again") from None


class Run:
    """A finished run as its folder describes it, read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder).resolve()
        self.metrics = _read(self.folder, "metrics.json")
        self.data = _read(self.folder, "data.json")
        self.config = yaml.safe_load((self.folder / "config.yaml").read_text()) or {}
        model = self.folder / "model.json"
        self.model: Mapping[str, Any] = _read(self.folder, "model.json") if model.is_file() else {}
        self.task = load_task(self.metrics["task"])
        self.scores = {name: score_of(raw) for name, raw in self.metrics["metrics"].items()}
        values = self.metrics.get("baselines") or {}
        intervals = self.metrics.get("baseline_intervals") or {}
        self.baselines = {k: _scores({**v, **intervals.get(k, {})}) for k, v in values.items()}
        self.partial = dict(self.metrics.get("baseline_scopes") or {})  # baselines scored on less than the model
        self.ablation = {k: _scores(v) for k, v in _ablations(self.metrics.get("ablation"))}

    @property
    def seed(self) -> int:
        return int(self.metrics.get("seed", self.config.get("seed", 0)))

    @property
    def facts(self) -> dict[str, MetricFact]:
        """Facts of the metrics that this run has, headline first; a metric without facts is shown as it is."""
        known = dict(self.task.metric_facts)
        order = [n for n in known if n in self.scores] + [n for n in self.scores if n not in known]
        return {n: known.get(n, MetricFact("", "none")) for n in order}

    @property
    def headline(self) -> tuple[str, MetricFact]:
        return next(iter(self.facts.items()))

    def rival(self) -> tuple[str, Score] | None:
        """The best baseline by the headline metric, of those scored on all that the model was scored on."""
        name, fact = self.headline
        best: tuple[str, Score] | None = None
        for label, scores in self.baselines.items():
            score = scores.get(name)
            if score is None or not math.isfinite(score.value) or label in self.partial:
                continue
            if best is None or better(score.value, best[1].value, fact):
                best = (label, score)
        return best

    def verdict(self) -> Verdict:
        """How the model stands against its best baseline, by the paired difference where it was measured.

        Otherwise "level" means that the baseline's value lies within the model's interval.
        """
        rival, (name, fact) = self.rival(), self.headline
        score = self.scores[name]
        if rival is None or fact.better == "none" or not math.isfinite(score.value):
            return "no baseline"
        if self.difference is not None and fact.better != "target":
            low, high = self.difference.low, self.difference.high
            level = low is None or high is None or low <= 0 <= high
        else:
            level = score.low is not None and score.high is not None and score.low <= rival[1].value <= score.high
        if level:
            return "level"
        return "better" if better(score.value, rival[1].value, fact) else "worse"

    @property
    def difference(self) -> Score | None:
        """Model less best baseline by the headline metric, resampled together."""
        paired = self.metrics.get("paired")
        return score_of(paired["difference"]) if paired else None

    @property
    def preset(self) -> str:
        """The preset's name, with what was changed about it."""
        changes = self.config.get("model") or {}
        extra = ", ".join(f"{k}={plain(v)}" for k, v in changes.items())
        return f"{Path(str(self.config.get('preset', '?'))).stem}{f' ({extra})' if extra else ''}"

    @property
    def history(self) -> list[Mapping[str, Any]]:
        """One row per epoch: epoch, train_loss, val_loss, best."""
        if (self.folder / "history.json").is_file():
            return list(_read(self.folder, "history.json"))
        return list(self.metrics.get("history") or self.model.get("history") or [])


def _scores(raw: Mapping[str, Any]) -> dict[str, Score]:
    raw = raw.get("metrics", raw)
    return {
        name: score_of(value)
        for name, value in raw.items()
        if isinstance(value, (int, float, Mapping)) or value is None
    }


def _ablations(raw: Mapping[str, Any] | None) -> list[tuple[str, Mapping[str, Any]]]:
    """``{"mse": ..}`` or ``{"metrics": {..}}`` is the identity ablation; ``{"identity": {..}, ..}`` names several."""
    if not raw:
        return []
    if "metrics" in raw or any(not isinstance(v, Mapping) or "value" in v for v in raw.values()):
        return [("identity", raw)]
    return list(raw.items())
