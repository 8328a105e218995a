"""`audio/pretrain`: an encoder learns from recordings alone, so that others can start from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..probing import fitted_probe
from ..task import Audit, Batch, Evidence, Fitted, MetricFact, Part, Sink, Split, TaskConfig
from .classify import frame_statistics
from .clips import Clips, poisoned
from .data import SUFFIXES
from .items import ClipItems
from .noises import with_noises
from .pretrain_config import PretrainOptions
from .pretrain_masks import MaskedItems
from .pretrain_model import MaskedFrames, Restored
from .pretrain_scoring import AT_ONCE, FACTS, Fillers, evidence_of, hiding_of, probed, scores, with_probe
from .source import open_clips
from .splits import audit_split, make_split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from shared_backbones.presets import Preset


class Pretrain:
    """Spans of frames are hidden, and what they held is told from the rest. See domains.task.Task.

    `audio/classify` and `audio/recognise` start from such a run by `train.start`: stem and backbone have the same names
    there.
    """

    name: ClassVar[str] = "audio/pretrain"
    drift_pieces: ClassVar[bool] = True  # windows of a recording
    summary: ClassVar[str] = "Hidden spans of recordings told from the rest: pretraining without labels."
    Config: ClassVar[type[TaskConfig]] = PretrainOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 50, "batch_size": 32, "lr": 1e-3, "weight_decay": 0.05, "warmup": 0.1, "threads": 1,
    }  # fmt: skip
    drift_part: ClassVar[str] = "val"  # training items are varied
    default_preset: ClassVar[str] = "audio_mixer"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = FACTS
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    def __init__(self, config: PretrainOptions) -> None:
        self.config = config

    def open(self, source: str) -> Clips:
        """Checked clips of what `audio/classify` takes; labels may be missing. Raises BadInput."""
        return with_noises(open_clips(source, self.config, needs=None), self.config)

    def split(self, data: Clips) -> Split:
        """As `audio/classify` splits the same source with the same options, clip by clip."""
        return make_split(data, self.config.split)

    def audit(self, data: Clips, split: Split) -> list[Audit]:
        return audit_split(data, split)

    def poison(self, data: Clips, split: Split) -> Clips:
        """Noise and another class for every test clip."""
        return poisoned(data, split.parts["test"])

    def fit(self, data: Clips, split: Split) -> Fitted:
        """Means and deviations of frames; the classes, where every clip of training and validation has one."""
        mean, std = frame_statistics(data, split, self.config)
        labels = np.concatenate([data.labels[split.parts[p]] for p in ("train", "val")])
        return {
            "rate": data.rate, "mean": mean, "std": std,
            "classes": list(data.classes) if labels.min() >= 0 else [],
        }  # fmt: skip

    def build(self, fitted: Fitted, preset: Preset) -> MaskedFrames:
        return MaskedFrames(fitted, preset, self.config)

    def initialise(self, model: nn.Module, data: Clips, split: Split) -> None:
        """What is hidden starts near the mean frame, and all codes as likely."""
        assert isinstance(model, MaskedFrames)
        with torch.no_grad():
            model.told.weight.mul_(0.1)
            model.told.bias.zero_()

    def _items(self, data: Clips, rows: Int[np.ndarray, "n"]) -> MaskedItems:
        return MaskedItems(ClipItems(data, rows), hiding_of(data.rate, self.config))

    def items(self, data: Clips, split: Split, fitted: Fitted, part: Part) -> MaskedItems:
        varied = self.config.augment if part == "train" else None
        return MaskedItems(
            ClipItems(data, split.parts[part], varied, self.config.buckets), hiding_of(data.rate, self.config)
        )

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean cost of a hidden frame, and how many there are; of several widths as in `audio/classify`."""
        assert isinstance(model, MaskedFrames)
        restored, narrow = model.every(batch["wave"], batch["length"], batch["hidden"])
        count = restored.count().sum()
        cost = restored.cost().sum() / count.clamp_min(1)
        for own in narrow:
            cost = cost + (own.apart(restored) if model.training else own.cost().sum() / count.clamp_min(1))
        return cost / (1 + len(narrow)), count.detach()

    def glimpse(self, model: nn.Module, batch: Batch) -> None:
        """What predictions hear: whole clips."""
        assert isinstance(model, MaskedFrames)
        model.features(batch["wave"], batch["length"])

    def features(self, model: MaskedFrames, data: Clips, rows: Int[np.ndarray, "n"]) -> Float[Tensor, "n D"]:
        """Of the clips in order, in evaluation mode."""
        model.eval()
        items, device = ClipItems(data, rows), model.mean.device
        batches, found = list(items.by_length(AT_ONCE)), []
        with torch.no_grad():
            for at in batches:
                batch = items.batch(at)
                found.append(model.features(batch["wave"].to(device), batch["length"].to(device)).cpu())
        x = torch.cat(found)
        return torch.empty_like(x).index_copy(0, torch.tensor([i for at in batches for i in at]), x)

    def calibrate(self, model: nn.Module, data: Clips, split: Split, fitted: Fitted) -> None:
        """The linear probe, where there are classes: fitted on training, its penalty on validation."""
        assert isinstance(model, MaskedFrames)
        if not fitted["classes"]:
            return
        parts = {part: split.parts[part] for part in ("train", "val")}
        x = {part: self.features(model, data, rows).double().numpy() for part, rows in parts.items()}
        target = {part: np.eye(len(fitted["classes"]))[data.labels[rows]] for part, rows in parts.items()}
        model.probe.copy_(fitted_probe(x, target, exclusive=True))

    def restored(self, model: MaskedFrames, batch: Batch) -> Restored:
        """In evaluation mode."""
        device = model.mean.device
        return model.eval()(*(batch[name].to(device) for name in ("wave", "length", "hidden")))

    def evidence(self, model: nn.Module, data: Clips, split: Split, fitted: Fitted, part: Part) -> Evidence:
        assert isinstance(model, MaskedFrames)
        rows = split.parts[part]
        found = evidence_of(self._items(data, rows), lambda batch: self.restored(model, batch))
        if not fitted["classes"] or list(data.classes) != list(fitted["classes"]):
            return found
        return with_probe(found, data.labels[rows], probed(self.features(model, data, rows), model.probe.cpu()))

    def baselines(self, data: Clips, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """Linear interpolation in time, the mean frame of training and of what is seen; how often codes occur."""
        return Fillers(data, split, fitted, self.config).evidence()

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        return scores(evidence)

    def figures(
        self, model: nn.Module, data: Clips, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .pretrain_figures import all_figures

        assert isinstance(model, MaskedFrames)
        return all_figures(self, model, data, split, scored)

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        """Features of every recording of a source, window by window where it is long. Raises BadInput."""
        from .pretrain_predicting import predict_source

        assert isinstance(model, MaskedFrames)
        return predict_source(self.config, model, fitted, source, sink)
