"""`hyperspectral/classify`: a class for every pixel of a georeferenced scene."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..calibration import fitted_temperature
from ..task import PARTS, Audit, Batch, Evidence, Fitted, MetricFact, Part, Sink, Split, TaskConfig
from .bands import Bands
from .baselines import classical, sample
from .config import ClassifyOptions
from .linear import start_linear
from .model import SceneClassifier
from .samples import Tiles
from .scoring import METRIC_FACTS, Tally, scores, softmax
from .source import SceneData, load, spectra
from .splits import audit_split, make_split, near, unit_of
from .statistics import used_bands

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from shared_backbones.presets import Preset

CALIBRATION_PIXELS = 200_000
LINEAR_PIXELS = 20_000


class Classify:
    """Classification of hyperspectral scenes, per pixel or with its neighbourhood."""

    name: ClassVar[str] = "hyperspectral/classify"
    drift_pieces: ClassVar[bool] = True  # tiles of a scene
    summary: ClassVar[str] = "Classes of a hyperspectral scene, from labelled pixels to a georeferenced map"
    Config: ClassVar[type[TaskConfig]] = ClassifyOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {"epochs": 40, "batch_size": 4, "lr": 1e-3, "weight_decay": 0.01}
    drift_inputs: ClassVar[tuple[str, int | str, int]] = ("moments", 0, 1)  # bands of a pixel
    default_preset: ClassVar[str] = "scene_mixer"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = METRIC_FACTS

    def __init__(self, config: ClassifyOptions) -> None:
        self.config = config

    def open(self, source: str) -> SceneData:
        return load(source, self.config)

    def split(self, data: SceneData) -> Split:
        return make_split(data, self.config.split, self.config.patch_radius)

    def audit(self, data: SceneData, split: Split) -> list[Audit]:
        return audit_split(data, split, self.config.patch_radius)

    def poison(self, data: SceneData, split: Split) -> SceneData:
        """Other labels at all test pixels, absurd spectra where no patch of the other parts may look.

        Behind a buffer that is all of them; a leaking split, which the user has permitted, leaves few.
        """
        test, others = split.parts["test"], np.concatenate([split.parts[p] for p in PARTS[:2]])
        seen = near(others, data.index.shape, self.config.patch_radius).ravel()
        return data.poisoned(test, test[~seen[test]])

    def fit(self, data: SceneData, split: Split) -> Fitted:
        """Used bands, their means and deviations over training pixels, and the schema of the scene."""
        at = split.parts["train"]
        values, seen = spectra(data, at)
        found = used_bands(data.scene.where, data.scene.bands, self.config, values, seen)
        label = data.index.ravel()[at]
        counts = np.bincount(label, minlength=len(data.class_ids))
        weight = counts.sum() / (len(counts) * np.maximum(counts, 1)) if self.config.balanced else np.ones(len(counts))
        return {
            "bands": data.scene.bands.to_json(),
            "used": found.index,
            "nm": found.nm,
            "dead_bands": found.dead,
            "mean": found.mean,
            "std": found.std,
            "class_ids": list(data.class_ids),
            "class_names": list(data.class_names),
            "class_pixels": [int(c) for c in counts],
            "class_weight": [float(w) for w in weight],
        }

    def build(self, fitted: Fitted, preset: Preset) -> SceneClassifier:
        return SceneClassifier(
            fitted["nm"], fitted["mean"], fitted["std"], fitted["class_weight"], preset, self.config.patch_radius
        )

    def initialise(self, model: nn.Module, data: SceneData, split: Split) -> None:
        """The linear path's closed form, from training pixels, its two choices made on validation."""
        assert isinstance(model, SceneClassifier)
        if model.skip is None:
            return
        fitted = self.fit(data, split)
        train, val = (self._tiles(data, _fewer(data, split, p), fitted, p) for p in PARTS[:2])
        start_linear(model, train, val, self.config.patch_radius)

    def items(self, data: SceneData, split: Split, fitted: Fitted, part: Part) -> Tiles:
        c, train = self.config, part == "train"
        if not train:
            return self._tiles(data, split, fitted, part)
        varied = {"augment": c.augment, "light": c.light, "sample_bands": c.sample_bands}
        return self._tiles(data, split, fitted, part, **varied)

    def _tiles(self, data: SceneData, split: Split, fitted: Fitted, part: Part, **varied: Any) -> Tiles:
        c = self.config
        return Tiles(data, split.parts[part], fitted["used"], c.tile, c.patch_radius, **varied)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Cross-entropy over the part's pixels, weighted by class where ``balanced``."""
        assert isinstance(model, SceneClassifier)
        logits = model(batch["cube"], batch["seen"])
        wanted = (batch["target"] >= 0) & batch["seen"].any(1)
        target = batch["target"][wanted]
        each = F.cross_entropy(logits.movedim(1, -1)[wanted], target, reduction="none")
        weight = model.class_weight[target]
        total = weight.sum()
        return (each * weight).sum() / total.clamp_min(1e-12), total

    def calibrate(self, model: nn.Module, data: SceneData, split: Split, fitted: Fitted) -> None:
        """Fit the temperature on the validation part."""
        assert isinstance(model, SceneClassifier)
        model.temperature.fill_(1.0)
        found = [(z, y) for _, y, z in self._scored(model, data, split, fitted, "val")]
        logits, truth = torch.cat([z for z, _ in found]), torch.cat([y for _, y in found])
        step = max(1, len(truth) // CALIBRATION_PIXELS)
        model.temperature.fill_(fitted_temperature(logits[::step], truth[::step]))

    def _scored(self, model: SceneClassifier, data: SceneData, split: Split, fitted: Fitted, part: Part) -> Any:
        """(flat indices, class positions, logits) of a part's pixels, tile by tile."""
        model.eval()
        device = model.temperature.device
        for batch, at in self._tiles(data, split, fitted, part).one_by_one():
            wanted = batch["target"][0] >= 0
            with torch.no_grad():
                logits = model(batch["cube"].to(device), batch["seen"].to(device))[0].movedim(0, -1).cpu()
            yield at, batch["target"][0][wanted], logits[wanted]

    def evidence(self, model: nn.Module, data: SceneData, split: Split, fitted: Fitted, part: Part) -> Evidence:
        assert isinstance(model, SceneClassifier)
        tally = Tally(data.class_ids)
        temperature = float(model.temperature)
        for at, truth, logits in self._scored(model, data, split, fitted, part):
            z = logits.numpy()
            after, before = softmax(z), softmax(z * temperature)
            tally.add(unit_of(data, split, at), truth.numpy(), z.argmax(1), after.max(1), before.max(1))
        return tally.evidence()

    def baselines(self, data: SceneData, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        return classical(data, split, fitted["used"])

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        return scores(evidence)

    def figures(
        self, model: nn.Module, data: SceneData, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .figures import draw

        assert isinstance(model, SceneClassifier)
        return draw(self, model, data, split, fitted, scored)

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        from .mapping import map_scene

        assert isinstance(model, SceneClassifier)
        return map_scene(model, fitted, source, sink, self.config)


def _fewer(data: SceneData, split: Split, part: Part) -> Split:
    """The split with at most ``LINEAR_PIXELS`` pixels in a part, evenly over classes."""
    at = split.parts[part]
    kept = at[sample(data.index.ravel()[at].astype(np.int64), LINEAR_PIXELS)]
    return replace(split, parts={**split.parts, part: kept})


__all__ = ["Bands", "Classify", "ClassifyOptions"]
