"""`medical/classify`: classes or labels of flat images, patients kept apart. For research use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from shared_backbones.errors import BadInput

from ..task import Audit, Batch, Evidence, Fitted, MetricFact, Part, Portable, Sink, Split, TaskConfig
from .augment import views
from .canvas import as_tensor
from .cases import Cases, poisoned
from .classify_calibration import calibrate
from .classify_config import ClassifyOptions
from .classify_items import ImageItems
from .classify_model import ImageClassifier
from .classify_scoring import FACTS, label_evidence, label_scores
from .source import SUFFIXES, open_cases
from .splits import audit_split, make_split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from shared_backbones.presets import Preset

AT_ONCE = 64  # images scored at once


def label_loss(
    logits: Float[Tensor, "B L"], target: Float[Tensor, "B L"], exclusive: bool, weight: Float[Tensor, "L"] | None
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """(mean loss, what it is a mean over): cross-entropy of cases, or of every known label. Unknown ones count nothing.

    weight: of each class, or of a label where it is true.
    """
    if exclusive:
        per_case = -(target * logits.log_softmax(1))
        each = per_case.sum(1) if weight is None else (per_case * weight).sum(1)
        total = torch.ones_like(each) if weight is None else (target * weight).sum(1)
    else:
        known = ~target.isnan()
        y = target.nan_to_num(0.0)
        each = F.binary_cross_entropy_with_logits(logits, y, reduction="none")[known]
        total = torch.ones_like(each)
        if weight is not None:
            share = (1 + y * (weight - 1))[known]
            each, total = each * share, share
    return each.sum() / total.sum(), total.sum().detach()


class Classify:
    """Diagnosis of images. See domains.task.Task."""

    name: ClassVar[str] = "medical/classify"
    summary: ClassVar[str] = "Classes or labels of medical images, patients kept apart. For research use."
    Config: ClassVar[type[TaskConfig]] = ClassifyOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 60, "batch_size": 32, "lr": 1e-3, "weight_decay": 0.05, "patience": 60, "threads": 1,
    }  # fmt: skip
    drift_part: ClassVar[str] = "val"  # training items are varied
    drift_inputs: ClassVar[tuple[str, int | str, int]] = ("", 0, 1)  # channels of an image
    default_preset: ClassVar[str] = "medical_mixer"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = FACTS
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    def __init__(self, config: ClassifyOptions) -> None:
        self.config = config

    def open(self, source: str) -> Cases:
        """Checked cases from a folder, manifest, MedMNIST archive, public name or ``simulated``. Raises BadInput."""
        return open_cases(source, self.config)

    def split(self, data: Cases) -> Split:
        return make_split(data, self.config.split)

    def audit(self, data: Cases, split: Split) -> list[Audit]:
        return audit_split(data, split)

    def poison(self, data: Cases, split: Split) -> Cases:
        """Noise and other labels for every test case."""
        return poisoned(data, split.parts["test"])

    def fit(self, data: Cases, split: Split) -> Fitted:
        """Means and deviations of the channels, the labels and their counts. Raises BadInput for a class never seen."""
        rows = split.parts["train"]
        target = data.target[rows]
        counts = np.nansum(target, 0)
        unseen = [name for name, n in zip(data.labels, counts, strict=True) if not n]
        if unseen and data.exclusive:
            raise BadInput(
                f"{data.manifest.source}: no training case of class {', '.join(unseen)} ({split.protocol}). Add some, "
                "leave the class out, or split otherwise"
            )
        pixels = data.canvases[rows].astype(np.float64) / 255
        return {
            "labels": list(data.labels), "exclusive": data.exclusive, "true": counts.tolist(),
            "known": (~np.isnan(target)).sum(0).tolist(), "never_true": unseen,
            "side": int(data.canvases.shape[2]), "channels": int(data.canvases.shape[1]),
            "mean": pixels.mean((0, 2, 3)).tolist(), "std": np.maximum(pixels.std((0, 2, 3)), 1e-3).tolist(),
        }  # fmt: skip

    def build(self, fitted: Fitted, preset: Preset) -> ImageClassifier:
        return ImageClassifier(fitted, preset, self.config)

    def initialise(self, model: nn.Module, data: Cases, split: Split) -> None:
        """The head starts at the labels' log-odds in training, its weights small."""
        assert isinstance(model, ImageClassifier)
        target = data.target[split.parts["train"]]
        share = (np.nansum(target, 0) + 0.5) / ((~np.isnan(target)).sum(0) + 1)
        odds = np.log(share) if data.exclusive else np.log(share / (1 - share))
        with torch.no_grad():
            model.head.scores.weight.mul_(0.1)
            model.head.scores.bias.copy_(torch.from_numpy(odds))

    def items(self, data: Cases, split: Split, fitted: Fitted, part: Part) -> ImageItems:
        return ImageItems(data, split.parts[part], self.config.augment if part == "train" else None)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        assert isinstance(model, ImageClassifier)
        target = batch["target"]
        if model.training and self.config.smoothing:
            share = 1 / target.shape[1] if model.exclusive else 0.5
            target = target * (1 - self.config.smoothing) + self.config.smoothing * share
        return label_loss(model(batch["image"]), target, model.exclusive, model.weight)

    def logits(self, model: nn.Module, data: Cases, rows: Any) -> Float[Tensor, "n L"]:
        """Of the cases in order, in evaluation mode; the mean over views where several are asked for."""
        model.eval()
        device = next(model.parameters()).device
        found = []
        with torch.no_grad():
            for at in np.split(rows, range(AT_ONCE, len(rows), AT_ONCE)):
                x = as_tensor(data.canvases[at])
                seen = [model(v.to(device)).cpu() for v in views(x, self.config.views, self.config.augment)]
                found.append(torch.stack(seen).mean(0))
        return torch.cat(found)

    def calibrate(self, model: nn.Module, data: Cases, split: Split, fitted: Fitted) -> None:
        """Temperature and operating points from the validation part."""
        assert isinstance(model, ImageClassifier)
        rows = split.parts["val"]
        calibrate(model, self.logits(model, data, rows), torch.from_numpy(data.target[rows]), self.config.specificity)

    def evidence(self, model: nn.Module, data: Cases, split: Split, fitted: Fitted, part: Part) -> Evidence:
        assert isinstance(model, ImageClassifier)
        return self.scored(model, data, split.parts[part])

    def scored(self, model: ImageClassifier, data: Cases, rows: Any) -> Evidence:
        """Evidence of the cases given."""
        z = self.logits(model, data, rows)
        before = (z.double().softmax(1) if model.exclusive else z.double().sigmoid()).numpy()
        p = model.probabilities(z.to(model.temperature.device)).cpu().numpy()
        return label_evidence(
            data.group[rows], rows, data.labels, data.exclusive, data.target[rows].astype(np.float64), p, before,
            model.threshold.double().cpu().numpy(),
        )  # fmt: skip

    def baselines(self, data: Cases, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """Pooled features with logistic regression, a ResNet-18 from scratch, the share of each label."""
        from .classify_baselines import all_baselines

        return all_baselines(data, split, fitted, self.config)

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        return label_scores(evidence, self.config.specificity)

    def figures(
        self, model: nn.Module, data: Cases, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .classify_figures import all_figures

        assert isinstance(model, ImageClassifier)
        return all_figures(self, model, data, split, scored)

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        """Probabilities of every image of a source, one row each. Raises BadInput."""
        from .classify_predicting import predict_source

        assert isinstance(model, ImageClassifier)
        return predict_source(self, model, fitted, source, sink)

    def portable(self, model: nn.Module, fitted: Fitted) -> Portable:
        """Images of any size -> calibrated probabilities and what is called."""
        from .classify_portable import portable

        assert isinstance(model, ImageClassifier)
        return portable(model, fitted, self.config)
