"""`medical/pretrain`: an encoder learns from images alone, so that others can start from it. For research use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from shared_backbones.errors import BadInput

from ..probing import fitted_probe
from ..task import Audit, Batch, Evidence, Fitted, MetricFact, Part, Portable, Sink, Split, TaskConfig
from .canvas import as_tensor
from .cases import Cases, poisoned
from .classify_model import ImageFront
from .pretrain_config import PretrainOptions
from .pretrain_masks import MaskedItems
from .pretrain_model import MaskedAutoencoder, Restored
from .pretrain_scoring import AT_ONCE, FACTS, baselines, evidence_of, masked, scores, with_probe
from .source import SUFFIXES, open_cases
from .splits import audit_split, make_split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from shared_backbones.presets import Preset


class Features(nn.Module):
    """Images -> features."""

    def __init__(self, model: MaskedAutoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        return self.model.features(image)


class Pretrain:
    """Most squares of an image are hidden, and what they held is told from the rest. See domains.task.Task.

    `medical/classify` starts from such a run by `train.start`: stem and backbone have the same names there.
    """

    name: ClassVar[str] = "medical/pretrain"
    summary: ClassVar[str] = "Hidden squares of medical images restored: pretraining without labels. For research use."
    Config: ClassVar[type[TaskConfig]] = PretrainOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 100, "batch_size": 32, "lr": 1e-3, "weight_decay": 0.05, "warmup": 0.1, "threads": 1,
    }  # fmt: skip
    drift_part: ClassVar[str] = "val"  # training items are varied
    drift_inputs: ClassVar[tuple[str, int | str, int]] = ("front", 0, 1)  # channels of an image
    default_preset: ClassVar[str] = "medical_mae"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = FACTS
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    def __init__(self, config: PretrainOptions) -> None:
        self.config = config

    def open(self, source: str) -> Cases:
        """Checked cases of what `medical/classify` takes; labels may be missing. Raises BadInput."""
        return open_cases(source, self.config, labelled=False)

    def split(self, data: Cases) -> Split:
        """As `medical/classify` splits the same source with the same options, case by case."""
        return make_split(data, self.config.split)

    def audit(self, data: Cases, split: Split) -> list[Audit]:
        return audit_split(data, split)

    def poison(self, data: Cases, split: Split) -> Cases:
        """Noise and other labels for every test case."""
        return poisoned(data, split.parts["test"])

    def fit(self, data: Cases, split: Split) -> Fitted:
        """Means and deviations of the channels. Raises BadInput where the squares do not divide the canvas."""
        side, patch = int(data.canvases.shape[2]), self.config.patch
        if side % patch or side == patch:
            fit = [n for n in range(2, side) if side % n == 0]
            raise BadInput(
                f"{data.manifest.source}: a canvas of {side} pixels cannot be cut by patch={patch}; set patch to one "
                f"of {', '.join(map(str, fit)) or 'none'}, or size to a multiple of {patch}"
            )
        pixels = data.canvases[split.parts["train"]].astype(np.float64) / 255
        return {
            "labels": list(data.labels), "exclusive": data.exclusive, "side": side,
            "channels": int(data.canvases.shape[1]), "mean": pixels.mean((0, 2, 3)).tolist(),
            "std": np.maximum(pixels.std((0, 2, 3)), 1e-3).tolist(), "places": (side // patch) ** 2,
        }  # fmt: skip

    def build(self, fitted: Fitted, preset: Preset) -> MaskedAutoencoder:
        return MaskedAutoencoder(fitted, preset, self.config)

    def initialise(self, model: nn.Module, data: Cases, split: Split) -> None:
        """What is hidden starts near the mean of what is seen."""
        assert isinstance(model, MaskedAutoencoder)
        with torch.no_grad():
            model.to_pixels.weight.mul_(0.1)
            model.to_pixels.bias.zero_()

    def items(self, data: Cases, split: Split, fitted: Fitted, part: Part) -> MaskedItems:
        varied = self.config.augment if part == "train" else None
        return MaskedItems(data, split.parts[part], int(fitted["places"]), self.config.hide, varied)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean squared error over hidden pixels alone."""
        assert isinstance(model, MaskedAutoencoder)
        restored: Restored = model(batch["image"], batch["hidden"])
        count = restored.count().sum()
        return restored.squares().sum() / count, count.detach()

    def glimpse(self, model: nn.Module, batch: Batch) -> None:
        """What predictions see: whole images."""
        assert isinstance(model, MaskedAutoencoder)
        model.features(batch["image"])

    def features(self, model: MaskedAutoencoder, data: Cases, rows: Any) -> Float[Tensor, "n D"]:
        """Of the cases in order, in evaluation mode."""
        model.eval()
        with torch.no_grad():
            parts = np.split(rows, range(AT_ONCE, len(rows), AT_ONCE))
            return torch.cat(
                [model.features(as_tensor(data.canvases[at]).to(model.probe.device)).cpu() for at in parts]
            )

    def calibrate(self, model: nn.Module, data: Cases, split: Split, fitted: Fitted) -> None:
        """The linear probe, where there are labels: fitted on training, its penalty on validation."""
        assert isinstance(model, MaskedAutoencoder)
        if not fitted["labels"]:
            return
        x = {part: self.features(model, data, split.parts[part]).double().numpy() for part in ("train", "val")}
        target = {part: data.target[split.parts[part]] for part in x}
        model.probe.copy_(fitted_probe(x, target, bool(fitted["exclusive"])))

    def restored(self, model: MaskedAutoencoder, data: Cases, rows: Any) -> list[Restored]:
        """The cases in order, in evaluation mode, with the squares hidden that always are."""
        model.eval()
        device, places = model.probe.device, (model.front.side // self.config.patch) ** 2
        return masked(data, rows, places, self.config.hide, lambda x, h: model(x.to(device), h.to(device)))

    def evidence(self, model: nn.Module, data: Cases, split: Split, fitted: Fitted, part: Part) -> Evidence:
        assert isinstance(model, MaskedAutoencoder)
        rows = split.parts[part]
        found = evidence_of(data, rows, self.restored(model, data, rows))
        if not fitted["labels"] or list(data.labels) != list(fitted["labels"]):
            return found
        probe = model.probe.cpu()
        return with_probe(found, data, rows, self.features(model, data, rows) @ probe[:, :-1].mT + probe[:, -1])

    def baselines(self, data: Cases, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """Interpolation from the squares that are seen, the mean training image, the mean of what is seen."""
        front = ImageFront(fitted, self.config.intensity == "image")
        return baselines(front, data, split, int(fitted["places"]), self.config.hide)

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        return scores(evidence)

    def figures(
        self, model: nn.Module, data: Cases, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .pretrain_figures import all_figures

        assert isinstance(model, MaskedAutoencoder)
        return all_figures(self, model, data, split, scored)

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        """Features of every image of a source, one row each. Raises BadInput."""
        from .pretrain_predicting import predict_source

        assert isinstance(model, MaskedAutoencoder)
        return predict_source(self.config, model, fitted, source, sink)

    def portable(self, model: nn.Module, fitted: Fitted) -> Portable:
        """Canvases -> features; a caller brings images to the canvas as ``canvas.on_canvas`` does."""
        assert isinstance(model, MaskedAutoencoder)
        side, channels = int(fitted["side"]), int(fitted["channels"])
        return Portable(
            Features(model),
            (torch.rand(2, channels, side, side),),
            {
                "image": f"(batch, {channels}, {side}, {side}) within 0 .. 1: dark margins cut, the longer side "
                f"resized to {side} with anti-aliasing, centred, zeros beside the shorter one"
            },
            {"features": f"(batch, {model.backbone.dim}): the mean of the encoder's tokens"},
        )
