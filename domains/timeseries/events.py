"""`timeseries/events`: a class for a sequence of events, or for each event from it and those before it."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from domains.calibration import fitted_temperature
from domains.scoring import CLASS_FACTS, class_evidence, class_scores, softmax
from domains.task import PARTS, Audit, Batch, Evidence, Fitted, Manifest, MetricFact, Part, Sink, Split, TaskConfig
from shared_backbones.errors import BadInput

from .classes import places
from .sequences.baselines import all_baselines
from .sequences.config import EventOptions
from .sequences.data import Events, from_frame, parse_events
from .sequences.items import EventItems, coded
from .sequences.model import EventNet
from .sequences.simulate import simulated
from .tables import read_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from shared_backbones.presets import Preset

SIMULATED = "simulated"
AT_ONCE = 256  # examples


class EventClasses:
    """Classes of event sequences and of records in a stream. See domains.task.Task."""

    name: ClassVar[str] = "timeseries/events"
    summary: ClassVar[str] = "Classes from events with time stamps, words and numbers: lives, network flows."
    Config: ClassVar[type[TaskConfig]] = EventOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 40, "batch_size": 32, "lr": 3e-3, "weight_decay": 0.05, "patience": 15,
    }  # fmt: skip
    default_preset: ClassVar[str] = "event_mixer"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = CLASS_FACTS
    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".csv.gz", ".parquet")

    def __init__(self, config: EventOptions) -> None:
        self.config = config

    def read(self, source: str) -> Events:
        """Events of a table or of the simulator, with or without classes. Raises BadInput."""
        if source == SIMULATED:
            data = from_frame(simulated(self.config.simulated), source, self.config)
            licence = "simulated, free of rights"
            return replace(data, manifest=Manifest(source, data.manifest.sha256, licence, data.manifest.facts))
        return parse_events(read_bytes(source), source, self.config)

    def open(self, source: str) -> Events:
        """Events with a class for every example. Raises BadInput."""
        data = self.read(source)
        bare = np.flatnonzero(data.labels < 0)
        if len(bare):
            last = data.examples[bare[0], 1]
            raise BadInput(
                f"{source}: {len(bare)} of {len(data)} examples have no class (entity "
                f"{data.names[data.entity[last]]!r}); name the column with label="
            )
        return data

    def split(self, data: Events) -> Split:
        """Entities stay whole, or the newest examples are the test. Raises BadInput where a part stays empty."""
        options = self.config.split
        order = self._by_time(data) if options.protocol == "time" else self._by_entity(data)
        parts: dict[str, Any] = {name: np.sort(rows) for name, rows in zip(PARTS, order, strict=True)}
        empty = [name for name in PARTS if not len(parts[name])]
        if empty:
            raise BadInput(
                f"{data.manifest.source}: no example in part {empty[0]!r}; give more, or set split.fractions"
            )
        said = {"time": "examples in time order", "entities": "entities stay whole, drawn within classes"}
        shares = "/".join(f"{100 * f:g}" for f in options.fractions)
        facts: dict[str, Any] = {
            p: np.bincount(data.labels[r], minlength=len(data.classes)).tolist() for p, r in parts.items()
        }
        return Split(f"{said[options.protocol]}, {shares} %, seed {options.seed}", parts, facts)

    def _by_time(self, data: Events) -> list[np.ndarray]:
        order = np.argsort(data.time[data.examples[:, 1]], kind="stable")
        a, b, _ = self.config.split.fractions
        return np.split(order, [round(a * len(order)), round((a + b) * len(order))])

    def _by_entity(self, data: Events) -> list[np.ndarray]:
        random = np.random.default_rng(self.config.split.seed)
        whose = data.entity[data.examples[:, 1]]
        kind = np.full(len(data.names), -1)
        kind[whose] = data.labels  # of several events: the last one's
        a, b, _ = self.config.split.fractions
        part = np.zeros(len(data.names), int)
        for label in np.unique(kind):
            mine = random.permutation(np.flatnonzero(kind == label))
            first, second = round(a * len(mine)), round((a + b) * len(mine))
            part[mine[first:second]], part[mine[second:]] = 1, 2
        return [np.flatnonzero(part[whose] == i) for i in range(3)]

    def audit(self, data: Events, split: Split) -> list[Audit]:
        whose = {p: set(data.entity[data.examples[r, 1]].tolist()) for p, r in split.parts.items()}
        shared = len(whose["test"] & (whose["train"] | whose["val"]))
        passed = (not shared) if self.config.split.protocol == "entities" else None
        return [Audit("entities_on_both_sides", float(shared), passed, "Entities of the test part that training knew.")]

    def poison(self, data: Events, split: Split) -> Events:
        """1e9 for every number, the first word and another class for every test example's own events."""
        numbers, words, labels = data.numbers.copy(), data.words.copy(), data.labels.copy()
        keep = np.zeros(len(data.time), bool)
        for p in ("train", "val"):
            for first, last in data.examples[split.parts[p]]:
                keep[first : last + 1] = True
        numbers[~keep], words[~keep] = 1e9, 0
        labels[split.parts["test"]] = (labels[split.parts["test"]] + 1) % max(2, len(data.classes))
        return replace(data, numbers=numbers, words=words, labels=labels)

    def fit(self, data: Events, split: Split) -> Fitted:
        """Vocabulary, means and deviations of the training examples. Raises BadInput for a class never seen there."""
        rows = split.parts["train"]
        counts = np.bincount(data.labels[rows], minlength=len(data.classes))
        unseen = [c for c, n in zip(data.classes, counts, strict=True) if not n]
        if len(data.classes) < 2 or unseen:
            what = f"no training example of class {', '.join(unseen)}" if unseen else "one class only"
            raise BadInput(f"{data.manifest.source}: {what} ({split.protocol}). Add some, or split otherwise")
        own = np.zeros(len(data.time), bool)
        for first, last in data.examples[rows]:
            own[first : last + 1] = True
        vocabulary = []
        for c, words in enumerate(data.vocabulary):
            often = np.bincount(data.words[own, c], minlength=len(words))
            vocabulary.append([w for w, n in zip(words, often, strict=True) if n >= self.config.rare])
        x, seen = data.numbers[own], np.isfinite(data.numbers[own])
        mean = np.where(seen, x, 0).sum(0) / np.maximum(seen.sum(0), 1)
        std = np.sqrt((np.where(seen, x - mean, 0) ** 2).sum(0) / np.maximum(seen.sum(0), 1))
        same = own[1:] & own[:-1] & (np.diff(data.entity) == 0)
        gaps = np.diff(data.time)[same]
        gaps = gaps[gaps > 0]
        return {
            "classes": list(data.classes), "class_examples": counts.tolist(), "categories": list(data.categories),
            "vocabulary": vocabulary, "number_names": list(data.number_names), "mean": mean.tolist(),
            "std": np.where(std > 1e-12, std, 1.0).tolist(), "gap": float(np.median(gaps)) if len(gaps) else 1.0,
        }  # fmt: skip

    def build(self, fitted: Fitted, preset: Preset) -> EventNet:
        return EventNet(fitted, preset)

    def initialise(self, model: nn.Module, data: Events, split: Split) -> None:
        """Weights start at random."""

    def items(self, data: Events, split: Split, fitted: Fitted, part: Part) -> EventItems:
        rows = split.parts[part]
        return EventItems(data, rows, coded(data, fitted), self.targets(data, rows, fitted))

    def targets(self, data: Events, rows: Int64[np.ndarray, "n"], fitted: Fitted) -> Int64[np.ndarray, "n"]:
        """Places of the classes among those of training. Raises BadInput for one that was not there."""
        return places(data.classes, data.labels[rows], fitted["classes"], data.manifest.source)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean cross-entropy of the classes; while training also of hidden events' words."""
        assert isinstance(model, EventNet)
        scores = model(batch)
        loss = F.cross_entropy(scores, batch["target"])
        if model.training and model.options.masked and model.options.masked_weight:
            loss = loss + model.options.masked_weight * model.hidden_loss(batch)
        return loss, torch.tensor(float(len(scores)), device=scores.device)

    def scores(self, model: EventNet, items: EventItems, rows: Sequence[int]) -> Float[np.ndarray, "n K"]:
        """Of these items, in evaluation mode."""
        was = model.training
        model.eval()
        found = []
        with torch.no_grad():
            for at in range(0, len(rows), AT_ONCE):
                batch = {k: v.to(model.temperature.device) for k, v in items.batch(rows[at : at + AT_ONCE]).items()}
                found.append(model(batch).cpu())
        model.train(was)
        return torch.cat(found).numpy()

    def calibrate(self, model: nn.Module, data: Events, split: Split, fitted: Fitted) -> None:
        """The temperature, from validation."""
        assert isinstance(model, EventNet)
        items = self.items(data, split, fitted, "val")
        z = torch.from_numpy(self.scores(model, items, range(len(items))))
        with torch.no_grad():
            model.temperature.fill_(fitted_temperature(z, torch.from_numpy(np.asarray(items.targets))))

    def evidence(self, model: nn.Module, data: Events, split: Split, fitted: Fitted, part: Part) -> Evidence:
        """A row per example; its unit is the entity where entities stay whole."""
        assert isinstance(model, EventNet)
        items = self.items(data, split, fitted, part)
        z = self.scores(model, items, range(len(items)))
        assert items.targets is not None
        return class_evidence(items.rows, items.targets, softmax(z / float(model.temperature)), softmax(z))

    def baselines(self, data: Events, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """Bags of events with logistic regression and gradient boosting, the most frequent class."""
        known = np.concatenate([split.parts["train"], split.parts["val"]])
        truth, labels = (self.targets(data, rows, fitted) for rows in (split.parts["test"], known))
        return all_baselines(data, split, fitted, truth, labels)

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        return class_scores(evidence)

    def figures(
        self, model: nn.Module, data: Events, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .sequences.figures import all_figures

        assert isinstance(model, EventNet)
        return all_figures(self, model, data, split, fitted, scored)

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        """A row per example as predictions.csv; words that training did not have are counted. Raises BadInput."""
        assert isinstance(model, EventNet)
        data = self.read(source)
        for role, here in (("categories", data.categories), ("number_names", data.number_names)):
            if list(here) != fitted[role]:
                raise BadInput(f"{source}: columns {list(here)}, the model was trained on {fitted[role]} ({role})")
        codes = coded(data, fitted)
        items = EventItems(data, np.arange(len(data)), codes)
        p = softmax(self.scores(model, items, range(len(data))) / float(model.temperature))
        with sink.file("predictions.csv") as path, path.open("w", newline="", encoding="utf-8") as f:
            table = csv.writer(f)
            table.writerow(
                ["entity", "time", "events", "prediction", "confidence", *(f"p_{c}" for c in fitted["classes"])]
            )
            for (first, last), row in zip(data.examples, p, strict=True):
                best = int(row.argmax())
                name = data.names[data.entity[last]]
                head = [name, f"{data.time[last]:.6g}", last - first + 1, fitted["classes"][best]]
                table.writerow([*head, *(f"{v:.6g}" for v in (row[best], *row))])
        return {"examples": len(data), "unknown_words": int((codes == 0).sum()), "output": "predictions.csv"}
