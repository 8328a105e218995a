"""`timeseries/detect`: steps at which a series does what it did not do before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from domains.following import Follower
from domains.task import PARTS, Audit, Batch, Evidence, Fitted, MetricFact, Part, Sink, Split, TaskConfig

from .anomalies.baselines import all_baselines
from .anomalies.config import DetectOptions
from .anomalies.judging import judged, views_of
from .anomalies.leveling import leveled
from .anomalies.model import Watcher, choose_gate, errors_of, fit_skip
from .anomalies.records import Record, Records, poisoned, probation_of
from .anomalies.scores import evidence_of, metrics_of
from .anomalies.source import SUFFIXES, open_records
from .anomalies.windows import LookBacks, look_backs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from shared_backbones.presets import Preset

FACTS: Mapping[str, MetricFact] = {
    "vus_pr": MetricFact("1", "higher", "volume under precision and recall over thresholds and buffers, series mean"),
    "nab": MetricFact("0-100", "higher", "NAB score, standard profile, at the threshold set by the probations"),
    "f1": MetricFact("1", "higher", "F1 of single steps, raw: nothing is adjusted"),
    "precision": MetricFact("1", "higher", "share of the flagged steps that are labelled"),
    "recall": MetricFact("1", "higher", "share of the labelled steps that are flagged"),
    "range_f1": MetricFact("1", "higher", "range-based F1 (Tatbul et al. 2018): existence, overlap, number of pieces"),
    "affiliation_f1": MetricFact("1", "higher", "of affiliation precision and recall; about 0.5 and more by chance"),
    "affiliation_precision": MetricFact("1", "higher", "how near flagged steps lie to an anomaly (Huet et al. 2022)"),
    "affiliation_recall": MetricFact("1", "higher", "how near the steps of an anomaly lie to a flagged one; 0: none"),
    "false_alarms_per_1000": MetricFact("per 1000 steps", "lower", "flagged steps outside the windows"),
    "nab_best_threshold": MetricFact(
        "0-100",
        "none",
        "NAB score at the threshold that is best on the test part itself, as its leaderboard does",
    ),
    "f1_point_adjusted": MetricFact(
        "1", "none", "point-adjusted F1, only on request: random scores reach high values, so it ranks nothing"
    ),
}


class Detect:
    """Anomalies in running series, judged by what each series did in its first part. See domains.task.Task."""

    name: ClassVar[str] = "timeseries/detect"
    drift_pieces: ClassVar[bool] = True  # windows of a table
    summary: ClassVar[str] = "Alarms for steps of running series that are unlike what they did before."
    Config: ClassVar[type[TaskConfig]] = DetectOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 6, "batch_size": 128, "lr": 1e-3, "weight_decay": 0.05, "patience": 2,
    }  # fmt: skip
    default_preset: ClassVar[str] = "series_watcher"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = FACTS
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    def __init__(self, config: DetectOptions) -> None:
        self.config = config

    def open(self, source: str) -> Records:
        """Series with labelled windows from tables, a public data set's name or ``simulated``. Raises BadInput."""
        return open_records(source, self.config)

    def split(self, data: Records) -> Split:
        """Each series in time: training, validation (together its probation), test; as places of steps."""
        parts: dict[str, Any] = {part: [] for part in PARTS}
        for start, r in zip(data.starts, data.items, strict=True):
            edges = (0, r.train, r.known, len(r))
            for part, first, last in zip(PARTS, edges, edges[1:], strict=False):
                parts[part].append(start + np.arange(first, last))
        c = self.config
        said = (
            f"each series by itself: first {100 * c.probation:g} % (at most {c.probation_most} steps) is known, of "
            f"which the last {100 * c.val:g} % validate; the rest is judged; look-back {c.lookback}"
        )
        found = {part: np.concatenate(rows).astype(np.int64) for part, rows in parts.items()}
        return Split(said, found, {"series": {r.name: [r.train, r.known, len(r)] for r in data.items[:100]}})

    def audit(self, data: Records, split: Split) -> list[Audit]:
        early = sum(int((r.windows[:, 0] < r.known).sum()) for r in data.items)
        return [
            Audit("anomalies_in_the_probation", float(early), None, "Windows that begin where normal is learned from."),
            Audit("steps_in_time_order", "yes", True, "Training lies before validation, validation before test."),
        ]

    def poison(self, data: Records, split: Split) -> Records:
        """1e9 for every test step, no window left in the test part."""
        return poisoned(data)

    def fit(self, data: Records, split: Split) -> Fitted:
        """The look-back: what is usual belongs to each series, and is read from its own first part."""
        return {"lookback": self.config.lookback, "series": len(data.items)}

    def build(self, fitted: Fitted, preset: Preset) -> Watcher:
        return Watcher(fitted, preset)

    def initialise(self, model: nn.Module, data: Records, split: Split) -> None:
        """The window ridge on all training windows."""
        assert isinstance(model, Watcher)
        if model.options.skip:
            fit_skip(model, self._windows(data, "train"), self._windows(data, "val"))

    def items(self, data: Records, split: Split, fitted: Fitted, part: Part) -> LookBacks:
        return self._windows(data, part)

    def _windows(self, data: Records, part: Part) -> LookBacks:
        return look_backs(data.items, self.config.lookback, part)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean Huber loss of the next value, where it was observed."""
        assert isinstance(model, Watcher)
        start, correction = model.parts(batch)
        known = batch["known"].to(start.dtype)
        each = F.huber_loss(start + correction, batch["next"], reduction="none") * known
        return each.sum() / known.sum().clamp_min(1), known.sum().clamp_min(1e-9)

    def calibrate(self, model: nn.Module, data: Records, split: Split, fitted: Fitted) -> None:
        """The share of the correction from validation, then the threshold from the scores of all probations."""
        assert isinstance(model, Watcher)
        if model.options.skip:
            choose_gate(model, self._windows(data, "val"))
        known = [probation_of(r) for r in data.items]
        with torch.no_grad():
            model.threshold.fill_(self._judged(model, known)[1])

    def scores(self, model: Watcher, data: Records) -> list[Float[np.ndarray, "T"]]:
        """Of every step of every series, as multiples of what an alarm takes."""
        return leveled(self._judged(model, data.items)[0], data.items, float(model.threshold), self.config)

    def _judged(self, model: Watcher, records: Sequence[Record]) -> tuple[list[Float[np.ndarray, "T"]], float]:
        errors = errors_of(model, records)
        views = [views_of(r, e, model.lookback) for r, e in zip(records, errors, strict=True)]
        return judged(views, records, self.config.smooth, self.config.alarm_rate)

    def evidence(self, model: nn.Module, data: Records, split: Split, fitted: Fitted, part: Part) -> Evidence:
        """One row per series. Only the test part holds anomalies worth judging; other parts are judged as it is."""
        assert isinstance(model, Watcher)
        c = self.config
        return evidence_of(data.items, self.scores(model, data), c.hold, c.point_adjust)

    def baselines(self, data: Records, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """Random scores, moving z-score, isolation forest and discord, thresholds by the same rule."""
        return all_baselines(data.items, self.config)

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        return metrics_of(evidence)

    def figures(
        self, model: nn.Module, data: Records, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .anomalies.figures import beside, histogram, strips

        assert isinstance(model, Watcher)
        scores = self.scores(model, data)
        return {
            "Alarms where they did best and worst": strips(data.items, scores, self.config.hold, scored["model"]),
            "Scores of quiet and of labelled steps": histogram(data.items, scores),
            "Beside the baselines": beside(scored, self.metrics),
        }

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        """Scores and alarms of every step of a source, as scores.csv and events.csv. Raises BadInput."""
        from .anomalies.predicting import predict_source

        assert isinstance(model, Watcher)
        return predict_source(self.config, model, fitted, source, sink)

    def follow(self, model: nn.Module, fitted: Fitted) -> Follower:
        """Scores and alarms of each new row of a growing table."""
        from .anomalies.following import AlarmFollower

        assert isinstance(model, Watcher)
        return AlarmFollower(model, self.config)
