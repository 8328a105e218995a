"""`hyperspectral/change`: what changed between two dates of one place, learned from a mask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from shared_backbones.errors import BadInput

from ...task import PARTS, Audit, Batch, Evidence, Fitted, MetricFact, Part, Sink, Split, TaskConfig
from ..bands import Bands
from ..detecting.model import start_logistic
from ..samples import Tiles
from ..source import SceneData, spectra
from ..splits import audit_split, make_split, near, unit_of
from ..statistics import moments, used_bands
from .baselines import MOST, both_dates, classical, some
from .classical import Linear, reweighted_mad
from .config import ChangeOptions
from .model import ChangeDetector, measured_in_both
from .scoring import METRIC_FACTS, best_threshold, cases, scores
from .source import companions, load

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from shared_backbones.presets import Preset


class Change:
    """Change between two co-registered scenes. See domains.task.Task."""

    name: ClassVar[str] = "hyperspectral/change"
    summary: ClassVar[str] = "What changed between two dates of one place, from a mask to georeferenced maps"
    Config: ClassVar[type[TaskConfig]] = ChangeOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {"epochs": 30, "batch_size": 4, "lr": 1e-3, "weight_decay": 0.01}
    drift_unit: ClassVar[str] = "token"  # tiles are not cut as prediction windows are
    default_preset: ClassVar[str] = "scene_unmixer"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = METRIC_FACTS

    def __init__(self, config: ChangeOptions) -> None:
        self.config = config

    def open(self, source: str) -> SceneData:
        return load(source, self.config)

    def split(self, data: SceneData) -> Split:
        """Blocks, or whole pairs where there are several, as `hyperspectral/classify` deals them out."""
        return make_split(data, self.config.split, self.config.patch_radius)

    def audit(self, data: SceneData, split: Split) -> list[Audit]:
        return audit_split(data, split, self.config.patch_radius)

    def poison(self, data: SceneData, split: Split) -> SceneData:
        """The other label at all test pixels, absurd spectra where no patch of the other parts may look."""
        test, others = split.parts["test"], np.concatenate([split.parts[p] for p in PARTS[:2]])
        seen = near(others, data.index.shape, self.config.patch_radius).ravel()
        return data.poisoned(test, test[~seen[test]])

    def fit(self, data: SceneData, split: Split) -> Fitted:
        """Used bands, and of each date their means and deviations over training pixels that did not change."""
        at = split.parts["train"]
        still = at[data.index.ravel()[at] == 0]
        values, seen = spectra(data, still)
        half = values.shape[1] // 2
        bands = data.scene.bands.select(range(half))
        bands = Bands.from_json({**bands.to_json(), "names": [n.removeprefix("before: ") for n in bands.names]})
        where = data.scene.where
        first, second = (used_bands(where, bands, self.config, values[:, s], seen[:, s]).index
                         for s in (slice(half), slice(half, None)))  # fmt: skip
        used = sorted(set(first) & set(second))
        if not used:
            raise BadInput(f"{where}: no band can be used at both dates")
        (mean, std), (mean_after, std_after) = (
            moments(values[:, index], seen[:, index]) for index in (np.array(used), np.array(used) + half)
        )
        return {
            "bands": bands.to_json(),
            "used": used,
            "nm": [float(bands.wavelength_nm[b]) for b in used] if bands.wavelength_nm else [],
            "mean": mean.tolist(),
            "std": std.tolist(),
            "mean_after": mean_after.tolist(),
            "std_after": std_after.tolist(),
        }

    def build(self, fitted: Fitted, preset: Preset) -> ChangeDetector:
        c, b = self.config, len(fitted["used"])
        variates = min(c.components, b)
        return ChangeDetector(fitted["nm"], fitted["mean"], fitted["std"], preset, c.patch_radius, variates)

    def initialise(self, model: nn.Module, data: SceneData, split: Split) -> None:
        """The second date's normalisation, the canonical variates, the logistic over the statistics of training."""
        assert isinstance(model, ChangeDetector)
        fitted = self.fit(data, split)
        m, s, ma, sa = (np.array(fitted[k]) for k in ("mean", "std", "mean_after", "std_after"))
        (x, y), live = both_dates(data, some(split.parts["train"], MOST), fitted["used"])
        mad = reweighted_mad(x[live], y[live], self.config.components)
        model.know(Linear(s / sa, m - s / sa * ma, s), mad)
        found, label = [], []
        with torch.no_grad():
            for batch, _ in self._tiles(data, split, fitted, "train").one_by_one():
                wanted = (batch["target"] >= 0) & measured_in_both(batch["seen"])
                found.append(model.known(batch["cube"], batch["seen"]).movedim(1, -1)[wanted])
                label.append(batch["target"][wanted].float())
        start_logistic(model, torch.cat(found), torch.cat(label))

    def items(self, data: SceneData, split: Split, fitted: Fitted, part: Part) -> Tiles:
        c = self.config
        if part != "train":
            return self._tiles(data, split, fitted, part)
        return self._tiles(data, split, fitted, part, augment=c.augment, light=c.light)

    def _tiles(self, data: SceneData, split: Split, fitted: Fitted, part: Part, **varied: Any) -> Tiles:
        half = len(data.scene.bands) // 2
        used = [*fitted["used"], *(u + half for u in fitted["used"])]
        return Tiles(data, split.parts[part], used, self.config.tile, self.config.patch_radius, **varied)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean cross-entropy over the part's pixels that both dates measured."""
        assert isinstance(model, ChangeDetector)
        wanted = (batch["target"] >= 0) & measured_in_both(batch["seen"])
        logits = model(batch["cube"], batch["seen"])[wanted]
        weight = wanted.sum().to(logits.dtype).clamp_min(1e-9)
        each = F.binary_cross_entropy_with_logits(logits, batch["target"][wanted].to(logits.dtype), reduction="sum")
        return each / weight, weight

    def calibrate(self, model: nn.Module, data: SceneData, split: Split, fitted: Fitted) -> None:
        """The threshold with the best F1 on validation; on training where nothing changes in validation."""
        assert isinstance(model, ChangeDetector)
        for part in ("val", "train"):
            found = list(self._scored(model, data, split, fitted, part))
            best = best_threshold(np.concatenate([z for _, z, _ in found]), np.concatenate([y for _, _, y in found]))
            if np.isfinite(best):
                model.threshold.fill_(best)
                return

    def _scored(
        self, model: ChangeDetector, data: SceneData, split: Split, fitted: Fitted, part: Part
    ) -> Iterator[tuple[Any, Any, Any]]:
        """(flat indices, logits, labels) of a part's pixels that both dates measured, tile by tile."""
        model.eval()
        device = model.threshold.device
        for batch, at in self._tiles(data, split, fitted, part).one_by_one():
            wanted = batch["target"][0] >= 0
            live = measured_in_both(batch["seen"][0])[wanted]
            with torch.no_grad():
                z = model(batch["cube"].to(device), batch["seen"].to(device))[0].cpu()[wanted][live]
            yield at[live.numpy()], z.double().numpy(), batch["target"][0][wanted][live].numpy()

    def evidence(self, model: nn.Module, data: SceneData, split: Split, fitted: Fitted, part: Part) -> Evidence:
        assert isinstance(model, ChangeDetector)
        at, z, y = (np.concatenate(v) for v in zip(*self._scored(model, data, split, fitted, part), strict=True))
        return cases(unit_of(data, split, at), z, y, float(model.threshold))

    def baselines(self, data: SceneData, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """Change vectors, spectral angle, MAD and IR-MAD without labels, thresholds from validation; a forest."""
        return classical(data, split, fitted["used"], self.config.components)

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        return scores(evidence)

    def figures(
        self, model: nn.Module, data: SceneData, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .figures import draw

        assert isinstance(model, ChangeDetector)
        return draw(self, model, data, split, fitted, scored)

    def companions(self, source: str) -> list[Path]:
        """Files besides ``source`` itself that its maps depend on."""
        return companions(source, self.config)

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        """Maps of every pair of a list. Raises BadInput."""
        from .mapping import map_change

        assert isinstance(model, ChangeDetector)
        return map_change(model, fitted, source, sink, self.config)
