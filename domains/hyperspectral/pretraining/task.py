"""`hyperspectral/pretrain`: an encoder of scenes learns without labels; `hyperspectral/classify` starts from it.

Cells of neighbouring wavelengths and pixels are hidden, and what they held is told from the rest: the 3-D tokens and
the second, sequential target of "SpectralGPT" (Hong et al. 2024), and two scales as in "Rethinking Transformers
Pre-training for Multi-Spectral Satellite Imagery" (Noman et al. 2024), for any preset that classifies scenes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ...task import Audit, Batch, Evidence, Fitted, MetricFact, Part, Sink, Split, TaskConfig
from ..baselines import sample
from ..samples import Tiles
from ..scoring import Tally
from ..source import SceneData, spectra
from ..splits import audit_split, distance_to, near, overlap, unit_of
from ..statistics import used_bands
from .baselines import RANKS, WIDTHS, Method, along_spectrum, best, low_rank, low_rank_around, neighbours, principal
from .config import PretrainOptions
from .masks import MaskedTiles, spans_of
from .model import MaskedScenes
from .probe import fitted_probe
from .scoring import FACTS, Sums, scores, with_probe
from .source import Unlabelled, open_unlabelled, pixels_of, split_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from shared_backbones.presets import Preset

MOST = 100_000  # training pixels that statistics are made of
PROBED = 20_000  # labelled pixels of a part that the probe learns from


def shrink(last: nn.Linear | nn.Conv2d) -> None:
    """A last layer that begins with small answers around zero."""
    last.weight.mul_(0.1)
    assert last.bias is not None
    last.bias.zero_()


@dataclass(frozen=True)
class Window:
    """A window with what was made of it, in deviations; ``unit`` and ``at`` (flat index) of every pixel."""

    made: Float[np.ndarray, "b S S"]
    truth: Float[np.ndarray, "b S S"]
    seen: Bool[np.ndarray, "b S S"]
    hidden: Bool[np.ndarray, "b S S"]
    at: Int64[np.ndarray, "S S"]


class Pretrain:
    """What is hidden of a scene is told from the rest. See domains.task.Task."""

    name: ClassVar[str] = "hyperspectral/pretrain"
    summary: ClassVar[str] = "Hidden wavelengths and pixels of a scene restored: pretraining without labels"
    Config: ClassVar[type[TaskConfig]] = PretrainOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {"epochs": 100, "batch_size": 4, "lr": 2e-3, "weight_decay": 0.01}
    drift_part: ClassVar[str] = "val"  # training items are varied
    drift_unit: ClassVar[str] = "token"  # windows are not cut as prediction windows are
    drift_inputs: ClassVar[tuple[str, int | str, int]] = ("moments", 0, 1)  # bands of a pixel
    default_preset: ClassVar[str] = "scene_mixer"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = FACTS

    def __init__(self, config: PretrainOptions) -> None:
        self.config = config

    def open(self, source: str) -> Unlabelled:
        return open_unlabelled(source, self.config)

    def split(self, data: Unlabelled) -> Split:
        return split_of(data, self.config)

    def audit(self, data: Unlabelled, split: Split) -> list[Audit]:
        """How far what is trained on lies from test; with labels also what `hyperspectral/classify` measures."""
        radius = self.config.patch_radius
        train = pixels_of(data, split, "train", radius)
        least = int(distance_to(train, data.plain.index.shape).ravel()[split.parts["test"]].min())
        said = f"of what pretraining saw to a test pixel; must be above the patch radius, {radius}"
        found = [Audit("distance pretraining to test (px)", float(least), least > radius, said)]
        if data.labelled is not None:
            return found + audit_split(data.labelled, split, radius)
        share, _ = overlap(split, data.plain.index.shape, radius)
        said = "share of test pixels whose patch holds a training pixel"
        return [*found, Audit("patch overlap", share, share == 0.0, said)]

    def poison(self, data: Unlabelled, split: Split) -> Unlabelled:
        """Absurd spectra at test pixels, but for those that a patch of another part sees; other labels at all."""
        test, shape = split.parts["test"], data.plain.index.shape
        radius = self.config.patch_radius
        others = np.concatenate([pixels_of(data, split, p, radius) for p in ("train", "val")])
        absurd = test[~near(others, shape, 0).ravel()[test]]
        if data.labelled is None:
            return replace(data, plain=data.plain.poisoned(absurd[:0], absurd))
        labelled = np.concatenate([split.parts[p] for p in ("train", "val")])
        absurd = absurd[~near(labelled, shape, radius).ravel()[absurd]]
        return Unlabelled(data.plain.poisoned(absurd[:0], absurd), data.labelled.poisoned(test, absurd), data.manifest)

    def fit(self, data: Unlabelled, split: Split) -> Fitted:
        """Used bands, their means and deviations over what is trained on, and the schema of the scene."""
        values, seen = spectra(data.plain, self._some(data, split))
        found = used_bands(data.scene.where, data.scene.bands, self.config, values, seen)
        return {
            "bands": data.scene.bands.to_json(),
            "used": found.index,
            "nm": found.nm,
            "dead_bands": found.dead,
            "mean": found.mean,
            "std": found.std,
            "class_ids": [] if data.labelled is None else list(data.labelled.class_ids),
        }

    def _some(self, data: Unlabelled, split: Split) -> Int64[np.ndarray, "n"]:
        at = pixels_of(data, split, "train", self.config.patch_radius)
        return at[:: max(1, -(-len(at) // MOST))]

    def build(self, fitted: Fitted, preset: Preset) -> MaskedScenes:
        return MaskedScenes(fitted, preset, self.config)

    def initialise(self, model: nn.Module, data: Unlabelled, split: Split) -> None:
        """What is hidden starts near the training mean."""
        assert isinstance(model, MaskedScenes)
        with torch.no_grad():
            shrink(model.to_bands)
            if model.finer is not None:
                shrink(model.finer.to_bands)

    def items(self, data: Unlabelled, split: Split, fitted: Fitted, part: Part) -> MaskedTiles:
        c, train = self.config, part == "train"
        at = pixels_of(data, split, part, c.patch_radius)
        varied = {"augment": c.augment, "light": c.light} if train else {}
        tiles = Tiles(data.plain, at, fitted["used"], c.tile, 0, **varied)  # type: ignore[arg-type]
        return MaskedTiles(tiles, spans_of(fitted["nm"], c.spans), c, train)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean squared error over hidden values and the steps beside them; at two scales, the finer by absolute error.

        The coarser scale's errors count four times: a pixel of it stands for four.
        """
        assert isinstance(model, MaskedScenes)
        fine, coarse = model(batch["cube"], batch["seen"], batch["hidden"])
        count = batch["hidden"].sum().to(fine.made.dtype).clamp_min(1e-9)
        if coarse is None:
            return model.error(fine, self.config.sequence) / count, count
        total = 4 * model.error(coarse, self.config.sequence) + ((fine.made - fine.truth) * fine.hidden).abs().sum()
        return total / count, count

    def glimpse(self, model: nn.Module, batch: Batch) -> None:
        """What predictions see: whole windows."""
        assert isinstance(model, MaskedScenes)
        model.encoded(batch["cube"], batch["seen"])

    def calibrate(self, model: nn.Module, data: Unlabelled, split: Split, fitted: Fitted) -> None:
        """The linear probe, where there are labels: fitted on training, its shrinkage on validation."""
        assert isinstance(model, MaskedScenes)
        if data.labelled is None or not fitted["class_ids"]:
            return
        flat, two = data.labelled.index.ravel().astype(np.int64), []
        for part in ("train", "val"):
            at = split.parts[part]
            some = at[sample(flat[at], PROBED)]
            pieces = list(self._features(model, data.labelled, fitted, some))
            two.append((np.concatenate([x for x, _ in pieces]), flat[np.concatenate([a for _, a in pieces])]))
        model.probe.copy_(fitted_probe(two[0], two[1], len(fitted["class_ids"])))

    def _features(self, model: MaskedScenes, data: SceneData, fitted: Fitted, at: Any) -> Iterator[tuple[Any, Any]]:
        """(features, flat indices) of labelled pixels with their patches whole, window by window."""
        model.eval()
        device = model.probe.device
        for batch, place in Tiles(data, at, fitted["used"], self.config.tile, self.config.patch_radius).one_by_one():
            seen = batch["seen"].to(device)
            wanted = (batch["target"] >= 0).to(device)[seen.any(1)]
            with torch.no_grad():
                found = model.encoded(batch["cube"].to(device), seen)[wanted]
            there = seen.any(1)[0].cpu().numpy()[batch["target"][0].numpy() >= 0]
            yield found.double().cpu().numpy(), place[there]

    def restored(
        self, model: MaskedScenes, data: Unlabelled, split: Split, fitted: Fitted, part: Part
    ) -> Iterator[Window]:
        """The windows of validation or test with what is always hidden of them, restored."""
        model.eval()
        device = model.probe.device

        def make(batch: Batch) -> tuple[Any, Any]:
            with torch.no_grad():
                found, _ = model(*(batch[k].to(device) for k in ("cube", "seen", "hidden")))
            return found.made[0].cpu().numpy(), found.truth[0].cpu().numpy()

        for batch, at in self.items(data, split, fitted, part).one_by_one():
            made, truth = make(batch)
            yield Window(made, truth, batch["seen"][0].numpy(), batch["hidden"][0].numpy(), at)

    def _filled(self, method: Method, data: Unlabelled, split: Split, fitted: Fitted, part: Part) -> Iterator[Window]:
        mean, std = (np.array(fitted[k])[:, None, None] for k in ("mean", "std"))
        for batch, at in self.items(data, split, fitted, part).one_by_one():
            seen, hidden = batch["seen"][0].numpy(), batch["hidden"][0].numpy()
            truth = np.where(seen, (batch["cube"][0].double().numpy() - mean) / std, 0.0)
            visible = seen & ~hidden
            yield Window(method(np.where(visible, truth, 0.0), visible), truth, seen, hidden, at)

    def _summed(self, data: Unlabelled, split: Split, fitted: Fitted, windows: Iterator[Window]) -> Evidence:
        sums = Sums(fitted["mean"], fitted["std"])
        for w in windows:
            inside = w.seen.any(0)
            unit = unit_of(data.dealt, split, w.at[inside])
            sums.add(unit, w.made[:, inside], w.truth[:, inside], w.hidden[:, inside])
        return sums.evidence()

    def evidence(self, model: nn.Module, data: Unlabelled, split: Split, fitted: Fitted, part: Part) -> Evidence:
        assert isinstance(model, MaskedScenes)
        found = self._summed(data, split, fitted, self.restored(model, data, split, fitted, part))
        if data.labelled is None or list(data.labelled.class_ids) != list(fitted["class_ids"]):
            return found
        tally, flat = Tally(data.labelled.class_ids), data.labelled.index.ravel().astype(np.int64)
        probe = model.probe.double().cpu().numpy()
        for x, at in self._features(model, data.labelled, fitted, split.parts[part]):
            guess = (x @ probe[:, :-1].T + probe[:, -1]).argmax(1)
            tally.add(unit_of(data.labelled, split, at), flat[at], guess)
        return with_probe(found, tally.evidence())

    def baselines(self, data: Unlabelled, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """The training mean, interpolation along the spectrum, low rank, the pixels around, and the last two joined."""
        values, seen = spectra(data.plain, self._some(data, split))
        values, seen = values[:, fitted["used"]], seen[:, fitted["used"]]
        z = ((values - np.array(fitted["mean"])) / np.array(fitted["std"]))[seen.all(1)].astype(np.float64)
        methods: dict[str, Method] = {"training_mean": lambda x, visible: np.zeros_like(x)}
        methods["spectral_interpolation"] = along_spectrum(fitted["nm"])
        held = [
            (w.truth, w.seen & ~w.hidden, w.hidden)
            for w in self._filled(methods["training_mean"], data, split, fitted, "val")
        ]
        methods["neighbours"] = best([neighbours(s) for s in WIDTHS], held)
        if len(z) > 2 and z.shape[1] > 1:
            found = [principal(z, k) for k in RANKS]
            methods["low_rank"] = best([low_rank(p) for p in found], held)
            methods["low_rank_around"] = best([low_rank_around(p, s) for p in found for s in WIDTHS], held)
        return {
            name: self._summed(data, split, fitted, self._filled(method, data, split, fitted, "test"))
            for name, method in methods.items()
        }

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        return scores(evidence)

    def figures(
        self, model: nn.Module, data: Unlabelled, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .figures import draw

        assert isinstance(model, MaskedScenes)
        return draw(self, model, data, split, fitted, scored)

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        """Features of every pixel of a scene. Raises BadInput."""
        from .mapping import map_features

        assert isinstance(model, MaskedScenes)
        return map_features(model, fitted, source, sink, self.config)
