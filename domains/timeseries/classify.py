"""`timeseries/classify`: a class for every series or light curve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from domains.scoring import CLASS_FACTS, class_evidence, class_scores, softmax
from domains.task import Audit, Batch, Evidence, Fitted, MetricFact, Part, Portable, Sink, Split, TaskConfig

from .classes import places
from .objects.closing import calibrate, fit_skip, fit_thresholds, over_items
from .objects.collection import Objects, numbered, poisoned
from .objects.config import ClassifyOptions
from .objects.fitting import fit_objects
from .objects.items import ObjectItems
from .objects.model import SeriesClassifier
from .objects.source import SUFFIXES, open_objects
from .objects.splits import audit_split, make_split
from .objects.trend import WORDS, worded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from shared_backbones.presets import Preset


class Classify:
    """Classes of whole series, regular or observed at any times. See domains.task.Task."""

    name: ClassVar[str] = "timeseries/classify"
    summary: ClassVar[str] = "A class for every series: regular ones of any channels and lengths, or light curves."
    Config: ClassVar[type[TaskConfig]] = ClassifyOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 30, "batch_size": 16, "lr": 1e-3, "weight_decay": 0.05, "patience": 6,
    }  # fmt: skip
    default_preset: ClassVar[str] = "series_mixer"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = CLASS_FACTS
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    def __init__(self, config: ClassifyOptions) -> None:
        self.config = config

    @property
    def drift_pieces(self) -> bool:
        """Windows of one table of prices are alike by themselves; other objects are not."""
        return bool(self.config.trend.price)

    def open(self, source: str) -> Objects:
        """Checked objects from .ts files, tables, a public data set's name or ``simulated``. Raises BadInput."""
        return open_objects(source, self.config)

    def split(self, data: Objects) -> Split:
        return make_split(data, self.config.split)

    def audit(self, data: Objects, split: Split) -> list[Audit]:
        return audit_split(data, split)

    def poison(self, data: Objects, split: Split) -> Objects:
        """1e9 for every number of a test object, and another class."""
        return poisoned(data, split.parts["test"].tolist())

    def fit(self, data: Objects, split: Split) -> Fitted:
        """Means and deviations of the training part, and the schema. Raises BadInput for a class never seen."""
        return fit_objects(data, split, self.config)

    def build(self, fitted: Fitted, preset: Preset) -> SeriesClassifier:
        return SeriesClassifier(fitted, preset, self.config)

    def initialise(self, model: nn.Module, data: Objects, split: Split) -> None:
        """Thresholds of the fixed features and the ridge on them, from the training part; else nothing."""
        assert isinstance(model, SeriesClassifier)
        if model.options.skip == "none":
            return
        items = ObjectItems(data, split.parts["train"])
        fit_thresholds(model, items)
        fit_skip(model, items, data.labels[split.parts["train"]])

    def items(self, data: Objects, split: Split, fitted: Fitted, part: Part) -> ObjectItems:
        return ObjectItems(data, split.parts[part], self.targets(data, split.parts[part], fitted))

    def targets(self, data: Objects, rows: Int64[np.ndarray, "n"], fitted: Fitted) -> Int64[np.ndarray, "n"]:
        """Places of the objects' classes among those of the training. Raises BadInput for one that was not there.

        Moves of a price are classed by the threshold of the training, whatever another file would make of its own.
        """
        remedy = ". Leave its objects out, or train with it"
        names, labels = data.classes, data.labels[rows]
        if len(data.moves) and "trend" in fitted:
            names, labels = WORDS, numbered(worded(data.moves[rows], fitted["trend"]["threshold"]), WORDS)[0]
        return places(names, labels, fitted["classes"], data.manifest.source, remedy)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean cross-entropy of the backbone's own scores, and the objects of the batch."""
        assert isinstance(model, SeriesClassifier)
        scores = model.correction(batch)
        return F.cross_entropy(scores, batch["target"]), torch.tensor(float(len(scores)), device=scores.device)

    def calibrate(self, model: nn.Module, data: Objects, split: Split, fitted: Fitted) -> None:
        """How much of the backbone is kept, the ridge on training and validation together, and the temperature."""
        assert isinstance(model, SeriesClassifier)
        train, val = (self.items(data, split, fitted, part) for part in ("train", "val"))
        rows = np.concatenate([split.parts["train"], split.parts["val"]])
        calibrate(model, train, val, ObjectItems(data, rows), self.targets(data, rows, fitted))

    def evidence(self, model: nn.Module, data: Objects, split: Split, fitted: Fitted, part: Part) -> Evidence:
        assert isinstance(model, SeriesClassifier)
        items = self.items(data, split, fitted, part)
        assert items.targets is not None
        z = over_items(model, items, model).numpy()
        return class_evidence(split.parts[part], items.targets, softmax(z / float(model.temperature)), softmax(z))

    def baselines(self, data: Objects, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """Regular: 1-NN Euclidean and DTW, ridge on MiniRocket features; light curves: gradient boosting, ridge."""
        from .objects.baselines import all_baselines

        return all_baselines(self, data, split, fitted)

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        return class_scores(evidence)

    def figures(
        self, model: nn.Module, data: Objects, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .objects.figures import all_figures

        assert isinstance(model, SeriesClassifier)
        return all_figures(self, model, data, split, fitted, scored)

    def tables(
        self, model: nn.Module, data: Objects, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> dict[str, list[dict[str, Any]]]:
        """Title -> rows: of light curves how soon they are told, and periods beside known ones."""
        from .objects.listing import all_tables

        assert isinstance(model, SeriesClassifier)
        return all_tables(self, model, data, split, fitted)

    def portable(self, model: nn.Module, fitted: Fitted) -> Portable | None:
        """The backbone's verdict on regular or gridded series as a function of plain tensors, for export."""
        from .objects.portable import portable

        assert isinstance(model, SeriesClassifier)
        return portable(model, fitted)

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        """A row per object as predictions.csv; one with too few observations says so and has no class."""
        from .objects.predicting import predict_source

        assert isinstance(model, SeriesClassifier)
        return predict_source(self.config, model, fitted, source, sink)
