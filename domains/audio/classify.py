"""`audio/classify`: a class for every clip, and over time for recordings of any length."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from shared_backbones.errors import BadInput

from ..calibration import fitted_temperature
from ..following import Follower
from ..scoring import CLASS_FACTS, class_evidence, class_scores, softmax
from ..task import Audit, Batch, Evidence, Fitted, MetricFact, Part, Portable, Sink, Split, TaskConfig
from .baselines import all_baselines
from .clips import Clips, poisoned
from .closed import joined
from .codes import CodesStem
from .config import AudioOptions, ClassifyOptions
from .data import SUFFIXES
from .elastic import said_alike
from .frontend import FrontEnd
from .items import ClipItems
from .model import AudioClassifier
from .noises import with_noises
from .source import open_clips
from .splits import audit_split, make_split
from .spotting import SPOT_FACTS, check_keywords, columns, spot_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from shared_backbones.presets import Preset

AT_ONCE = 400_000  # samples scored at once


def frame_statistics(data: Clips, split: Split, options: AudioOptions) -> tuple[list[float], list[float]]:
    """Mean and deviation of every feature over the frames of the training part."""
    front = FrontEnd(data.rate, options.front_end)
    items = ClipItems(data, split.parts["train"])
    total, square, count = np.zeros(front.features), np.zeros(front.features), 0
    with torch.no_grad():
        for rows in items.by_length(AT_ONCE):
            batch = items.batch(rows)
            x, mask = front(batch["wave"], batch["length"])
            own = x[mask].double().numpy()
            total, square, count = total + own.sum(0), square + (own**2).sum(0), count + len(own)
    mean = total / count
    return mean.tolist(), np.sqrt(np.maximum(square / count - mean**2, 1e-8)).tolist()


class Classify:
    """Tagging of clips and spotting over time. See domains.task.Task."""

    name: ClassVar[str] = "audio/classify"
    drift_pieces: ClassVar[bool] = True  # windows of a recording
    summary: ClassVar[str] = "Classes of sounds and spoken words, by clip, and over time in recordings of any length."
    Config: ClassVar[type[TaskConfig]] = ClassifyOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 30, "batch_size": 64, "lr": 2e-3, "weight_decay": 0.05, "threads": 1,
    }  # fmt: skip
    default_preset: ClassVar[str] = "audio_mixer"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = {**CLASS_FACTS, **SPOT_FACTS}
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    def __init__(self, config: ClassifyOptions) -> None:
        self.config = config

    def open(self, source: str) -> Clips:
        """Checked clips from a folder, a manifest, a public data set's name or ``simulated``. Raises BadInput."""
        return with_noises(open_clips(source, self.config), self.config)

    def split(self, data: Clips) -> Split:
        return make_split(data, self.config.split)

    def audit(self, data: Clips, split: Split) -> list[Audit]:
        return audit_split(data, split)

    def poison(self, data: Clips, split: Split) -> Clips:
        """Noise and another class for every test clip."""
        return poisoned(data, split.parts["test"])

    def fit(self, data: Clips, split: Split) -> Fitted:
        """Means and deviations of frames, the classes and their counts. Raises BadInput for a class never heard."""
        counts = np.bincount(data.labels[split.parts["train"]], minlength=len(data.classes))
        if len(data.classes) < 2:
            raise BadInput(f"{data.manifest.source}: one class only ({', '.join(data.classes)}); give at least two")
        unheard = [name for name, n in zip(data.classes, counts, strict=True) if not n]
        if unheard:
            raise BadInput(
                f"{data.manifest.source}: no training clip of class {', '.join(unheard)} ({split.protocol}). Add some, "
                "leave the class out, or split otherwise"
            )
        check_keywords(self.config, list(data.classes))
        mean, std = frame_statistics(data, split, self.config)
        lengths = [len(data.waves[i]) / data.rate for i in split.parts["train"]]
        return {
            "rate": data.rate, "classes": list(data.classes), "class_clips": counts.tolist(), "mean": mean, "std": std,
            "longest_s": max(lengths), "median_s": float(np.median(lengths)),
        }  # fmt: skip

    def build(self, fitted: Fitted, preset: Preset) -> AudioClassifier:
        return AudioClassifier(fitted, preset, self.config)

    def initialise(self, model: nn.Module, data: Clips, split: Split) -> None:
        """The line beside the backbone and books of codes, where there are such; else weights start at random."""
        assert isinstance(model, AudioClassifier)
        if model.closed is not None:
            model.closed.fit(data, split.parts["train"], self.config.augment)
        if not isinstance(model.stem, CodesStem):
            return
        was = model.training
        model.eval()
        items, found = ClipItems(data, split.parts["train"]), []
        with torch.no_grad():
            for rows in items.by_length(AT_ONCE):
                batch = items.batch(rows)
                found.append(model.frames(batch["wave"], batch["length"]))
        model.stem.fit(found)
        model.train(was)

    def items(self, data: Clips, split: Split, fitted: Fitted, part: Part) -> ClipItems:
        varied = self.config.augment if part == "train" else None
        return ClipItems(data, split.parts[part], varied, self.config.buckets)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean cross-entropy of the backbone's own scores of a batch, and its clips.

        Where narrower networks are trained within the model, the mean over all widths: while training, they learn from
        what the widest one says; in validation each stands for itself.
        """
        assert isinstance(model, AudioClassifier)
        logits, narrow = model.every(batch["wave"], batch["length"])
        cost = F.cross_entropy(logits, batch["target"])
        for z in narrow:
            cost = cost + (said_alike(z, logits) if model.training else F.cross_entropy(z, batch["target"]))
        return cost / (1 + len(narrow)), torch.tensor(float(len(logits)), device=logits.device)

    def logits(self, model: nn.Module, items: ClipItems) -> Float[Tensor, "n K"]:
        """Of all items in order, in evaluation mode."""
        return self.over(model, items, model)

    def over(self, model: nn.Module, items: ClipItems, what: Callable[..., Tensor]) -> Float[Tensor, "n K"]:
        """``what(wave, length)`` of all items in order, with ``model`` in evaluation mode."""
        model.eval()
        device = next(model.parameters()).device
        rows, found = list(items.by_length(AT_ONCE)), []
        with torch.no_grad():
            for indices in rows:
                batch = items.batch(indices)
                found.append(what(batch["wave"].to(device), batch["length"].to(device)).cpu())
        z = torch.cat(found)
        return torch.empty_like(z).index_copy(0, torch.tensor([i for r in rows for i in r]), z)

    def calibrate(self, model: nn.Module, data: Clips, split: Split, fitted: Fitted) -> None:
        """The backbone's share beside a closed form, and the temperature, from the validation part."""
        assert isinstance(model, AudioClassifier)
        truth = torch.from_numpy(data.labels[split.parts["val"]])
        items = ClipItems(data, split.parts["val"])
        own = self.over(model, items, lambda wave, length: model.every(wave, length)[0])
        if model.closed is None:
            temperature = fitted_temperature(own, truth)
        else:
            gate, temperature = joined(self.over(model, items, model.closed), own, truth)
            model.closed.gate.fill_(gate)
        with torch.no_grad():
            model.temperature.fill_(temperature)

    def evidence(self, model: nn.Module, data: Clips, split: Split, fitted: Fitted, part: Part) -> Evidence:
        assert isinstance(model, AudioClassifier)
        rows = split.parts[part]
        z = self.logits(model, ClipItems(data, rows)).numpy()
        found = class_evidence(rows, data.labels[rows], softmax(z / float(model.temperature)), softmax(z))
        if not self.config.spot.keywords:
            return found
        device = model.mean.device

        def say(wave: Tensor, length: Tensor) -> Tensor:
            return (model(wave.to(device), length.to(device)) / model.temperature).cpu()

        return replace(found, columns={**found.columns, **columns(say, data, rows, fitted, self.config)})

    def baselines(self, data: Clips, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """MFCC statistics with logistic regression and with an SVM, a small CNN, the most frequent class."""
        return all_baselines(data, split, fitted, self.config)

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        return {**class_scores(evidence), **spot_scores(evidence, self.config.spot.per_hour)}

    def figures(
        self, model: nn.Module, data: Clips, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .figures import all_figures

        assert isinstance(model, AudioClassifier)
        return all_figures(self, model, data, split, fitted, scored)

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        """Classes of every recording of a source, over time where it is long. Raises BadInput."""
        from .predicting import predict_source

        assert isinstance(model, AudioClassifier)
        return predict_source(self.config, model, fitted, source, sink)

    def follow(self, model: nn.Module, fitted: Fitted) -> Follower:
        """Classes of a WAV file that is still growing, window by window."""
        from .following import WindowFollower
        from .predicting import scored_windows

        assert isinstance(model, AudioClassifier)
        return WindowFollower(int(fitted["rate"]), self.config, partial(scored_windows, model.eval(), fitted, ""))

    def portable(self, model: nn.Module, fitted: Fitted) -> Portable:
        """Samples -> calibrated probabilities, for export."""
        from .portable import Shares, of_waves

        assert isinstance(model, AudioClassifier)
        said = {"probabilities": "(batch, classes): " + ", ".join(fitted["classes"])}
        return of_waves(Shares(model), int(fitted["rate"]), said, classes=fitted["classes"])
