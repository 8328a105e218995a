"""`hyperspectral/detect`: learned from targets implanted into a scene, tested on others implanted elsewhere.

Scenes with true targets and their places are rare, so the scene itself is the background: targets of known size are
mixed into pixels of training blocks, anew whenever they are seen, and into those of test blocks always in the same
way. With a target's spectrum it is target detection; without one every implant is a strange spectrum of its own, and
those of the test were never seen: anomaly detection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from shared_backbones.errors import BadInput, BadRequest, unknown

from ...task import PARTS, Audit, Batch, Evidence, Fitted, MetricFact, Part, Sink, Split, TaskConfig
from ..bands import in_ranges, picked
from ..data.library import read_library
from ..restoring.source import CleanData, load, pixels_of
from ..restoring.task import Restore
from ..source import local_file, spectra
from .config import DetectOptions
from .detectors import ace, background, implanted, matched_filter, rx
from .model import Detector, start_logistic
from .scoring import METRIC_FACTS, cases, scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from shared_backbones.presets import Preset

MOST = 20_000  # training spectra that make the background
DRAWS = 3  # how often each training block is implanted for the closed form


class Detect:
    """Targets and anomalies in hyperspectral scenes."""

    name: ClassVar[str] = "hyperspectral/detect"
    summary: ClassVar[str] = "A known spectrum, or anything strange, found in a hyperspectral scene"
    Config: ClassVar[type[TaskConfig]] = DetectOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {"epochs": 30, "batch_size": 8, "lr": 1e-3, "weight_decay": 0.01}
    drift_unit: ClassVar[str] = "token"  # tiles are not cut as prediction windows are
    default_preset: ClassVar[str] = "scene_unmixer"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = METRIC_FACTS

    def __init__(self, config: DetectOptions) -> None:
        self.config = config
        self._blocks = _Blocks(config)

    def open(self, source: str) -> CleanData:
        data = load(source, self.config)
        if data.collection is not None:
            raise BadInput(f"{source}: several scenes; a detector is trained on one. Name its file")
        if data.scene.bands.wavelength_nm is None:
            raise BadInput(
                f"{data.scene.where}: states no wavelengths, and the models here place every band in the spectrum; "
                "give --set wavelengths=400-2500 for evenly spaced bands (nm)"
            )
        return data

    def split(self, data: CleanData) -> Split:
        return self._blocks.split(data)

    def audit(self, data: CleanData, split: Split) -> list[Audit]:
        return self._blocks.audit(data, split)

    def poison(self, data: CleanData, split: Split) -> CleanData:
        return self._blocks.poison(data, split)

    def fit(self, data: CleanData, split: Split) -> Fitted:
        """Used bands, their statistics over training pixels, and the target on them."""
        c, bands = self.config, data.scene.bands
        x, seen = spectra(
            data.plain, pixels_of(self._blocks.blocks_of_part(data, split, "train"), data.plain.index.shape)
        )
        used = in_ranges(bands, c.ranges_nm) & picked(bands, c.only) & seen.any(0)
        if c.drop_bad:
            used &= np.array(bands.good)
        count = np.maximum(seen.sum(0), 1)
        mean = np.where(seen, x, 0).sum(0, dtype=np.float64) / count
        std = np.sqrt(np.where(seen, (x - mean) ** 2, 0).sum(0) / count)
        index = np.flatnonzero(used & (std > 0))
        if len(index) < 2:
            raise BadInput(f"{data.scene.where}: fewer than two bands hold data that vary at the training pixels")
        nm = [float(bands.wavelength_nm[b]) for b in index] if bands.wavelength_nm else []
        return {
            "bands": bands.to_json(),
            "used": [int(b) for b in index],
            "nm": nm,
            "mean": mean[index].tolist(),
            "std": std[index].tolist(),
            "target": self._target(nm),
        }

    def _target(self, nm: list[float]) -> list[float] | None:
        c = self.config
        if c.target is None:
            return None
        library = read_library(local_file(c.target))
        if c.target_name is None and len(library.names) > 1:
            raise BadRequest(f"{c.target}: holds {len(library.names)} spectra; name one with --set target_name=NAME")
        if c.target_name is not None and c.target_name not in library.names:
            raise unknown("spectrum of the library", c.target_name, library.names)
        at = 0 if c.target_name is None else library.names.index(c.target_name)
        return [float(v) for v in c.target_scale * library.on(nm)[at]]

    def build(self, fitted: Fitted, preset: Preset) -> Detector:
        return Detector(fitted["nm"], fitted["mean"], fitted["std"], preset, self.config.near)

    def _spectra(self, data: CleanData, split: Split, fitted: Fitted) -> Float[np.ndarray, "n b"]:
        at = pixels_of(self._blocks.blocks_of_part(data, split, "train"), data.plain.index.shape)
        values, seen = spectra(data.plain, at[:: max(1, -(-len(at) // MOST))])
        used = fitted["used"]
        whole = seen[:, used].all(1)
        if whole.sum() < 2:
            raise BadInput(f"{data.scene.where}: no training pixels were measured in all used bands")
        return values[:, used][whole].astype(np.float64)

    def initialise(self, model: nn.Module, data: CleanData, split: Split) -> None:
        """Background and target, and the logistic over the classical statistics of training implants."""
        assert isinstance(model, Detector)
        fitted = self.fit(data, split)
        target = None if fitted["target"] is None else torch.tensor(fitted["target"])
        model.know(background(self._spectra(data, split, fitted)), target)
        items, x, y = self.items(data, split, fitted, "train"), [], []
        with torch.no_grad():
            for draw in range(DRAWS):
                for i in range(len(split.parts["train"])):
                    cube, seen, where = items.pair(i, draw)
                    live = seen.any(1)
                    x.append(model.statistics(cube, seen).movedim(1, -1)[live])
                    y.append(where[live].float())
        start_logistic(model, torch.cat(x), torch.cat(y))

    def items(self, data: CleanData, split: Split, fitted: Fitted, part: Part) -> Implants:
        return Implants(self, data, split, fitted, part, self._spectra(data, split, fitted))

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean cross-entropy over measured pixels."""
        assert isinstance(model, Detector)
        live = batch["seen"].any(1)
        each = F.binary_cross_entropy_with_logits(
            model(batch["cube"], batch["seen"])[live], batch["where"][live].float(), reduction="none"
        )
        weight = live.sum().to(each.dtype).clamp_min(1e-9)
        return each.sum() / weight, weight

    def glimpse(self, model: nn.Module, batch: Batch) -> None:
        """What a scene shows the network: pixels without anything planted in them."""
        model(batch["cube"], batch["seen"] & ~batch["where"][:, None].bool())

    def calibrate(self, model: nn.Module, data: CleanData, split: Split, fitted: Fitted) -> None:
        """Nothing: the logistic is one already."""

    def evidence(self, model: nn.Module, data: CleanData, split: Split, fitted: Fitted, part: Part) -> Evidence:
        assert isinstance(model, Detector)
        model.eval()
        device = model.back.device

        def score(cube: Tensor, seen: Tensor) -> Any:
            with torch.no_grad():
                return model(cube.to(device), seen.to(device)).cpu()[0].double().numpy()

        return self._cases(data, split, fitted, part, score)

    def _cases(self, data: CleanData, split: Split, fitted: Fitted, part: Part, score: Any) -> Evidence:
        items, found = self.items(data, split, fitted, part), []
        for i, number in enumerate(split.parts[part]):
            cube, seen, where = items.pair(i, 0)
            live = seen.any(1)[0].numpy()
            values = score(cube, seen)[live]
            found.append((np.full(len(values), number), values, where[0].numpy()[live]))
        return cases(*(np.concatenate(column) for column in zip(*found, strict=True)))

    def baselines(self, data: CleanData, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        b = background(self._spectra(data, split, fitted))
        methods = {"rx": lambda x: rx(x, b)}
        if fitted["target"] is not None:
            t = np.array(fitted["target"])
            methods |= {"ace": lambda x: ace(x, b, t), "matched_filter": lambda x: matched_filter(x, b, t)}

        def applied(method: Any) -> Any:
            def score(cube: Tensor, seen: Tensor) -> Any:
                x = np.where(seen[0].numpy(), cube[0].double().numpy(), b.mean[:, None, None])
                return method(x.reshape(len(x), -1).T).reshape(x.shape[1:])

            return score

        return {name: self._cases(data, split, fitted, "test", applied(m)) for name, m in methods.items()}

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        return scores(evidence)

    def figures(
        self, model: nn.Module, data: CleanData, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .figures import draw

        assert isinstance(model, Detector)
        return draw(self, model, data, split, fitted, scored)

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        from .mapping import detect_scene

        assert isinstance(model, Detector)
        return detect_scene(model, fitted, source, sink, self.config)


class _Blocks(Restore):
    """How the blocks of a scene are dealt out, with the implants in the protocol."""

    def said(self) -> str:
        assert isinstance(self.config, DetectOptions)
        c = self.config
        what = "strange spectra" if c.target is None else f"the target {c.target_name or 'of ' + c.target}"
        low, high = c.fractions_of
        return f"{what} implanted into {100 * c.share:g} % of pixels, filling {low:g} to {high:g} of them"


@dataclass(frozen=True)
class Implants:
    """Blocks of a part with implants, padded to one size.

    A batch: "cube" and "seen" (B, b, S, S), "where" (B, S, S) True at implants. A training part has each block
    ``crops`` times, turned, flipped, brightened and implanted by torch's random state.
    """

    task: Detect
    data: CleanData
    split: Split
    fitted: Fitted
    part: Part
    pool: Float[np.ndarray, "n b"]

    def __len__(self) -> int:
        return len(self.split.parts[self.part]) * (self.task.config.crops if self.part == "train" else 1)

    def _made(self, cube: Any, seen: Any, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        c, target = self.task.config, self.fitted["target"]
        known = None if target is None else np.array(target)
        found, where = implanted(cube, known, rng, c.share, c.fractions_of, seen.any(0), self.pool)
        found = np.where(seen, found, np.float32(0))
        three = (np.ascontiguousarray(v) for v in (found.astype(np.float32), seen, where))
        a, b, w = (torch.from_numpy(v) for v in three)
        return a, b, w

    def _block(self, i: int) -> tuple[Any, Any]:
        values, seen = self.data.plain.read(*self.task._blocks.blocks_of_part(self.data, self.split, self.part)[i])
        return values[self.fitted["used"]], seen[self.fitted["used"]]

    def pair(self, i: int, draw: int) -> tuple[Tensor, Tensor, Tensor]:
        """Block i as batches of one, implanted by a random state of its own."""
        rng = np.random.default_rng([draw, int(self.split.parts[self.part][i]), self.task.config.draw])
        a, b, w = self._made(*self._block(i), rng)
        return a[None], b[None], w[None]

    def _fresh(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        cube, seen = self._block(i)
        turns, flip, seed = (int(torch.randint(0, n, ())) for n in (4, 2, 2**31 - 1))
        cube, seen = (np.rot90(v, turns, (1, 2)) for v in (cube, seen))
        if flip:
            cube, seen = cube[:, :, ::-1], seen[:, :, ::-1]
        return self._made(np.ascontiguousarray(cube), seen, np.random.default_rng(seed))

    def batch(self, indices: Any) -> Batch:
        blocks = self.task._blocks.blocks_of_part(self.data, self.split, self.part)
        side = max(s.stop - s.start for b in blocks for s in b)
        stacks: dict[str, list[Tensor]] = {"cube": [], "seen": [], "where": []}
        for index in indices:
            i = int(index) % len(blocks)
            three = self._fresh(i) if self.part == "train" else tuple(t[0] for t in self.pair(i, 0))
            for name, t in zip(stacks, three, strict=True):
                whole = torch.zeros(*t.shape[:-2], side, side, dtype=t.dtype)
                whole[..., : t.shape[-2], : t.shape[-1]] = t
                stacks[name].append(whole)
        return {n: torch.stack(s) for n, s in stacks.items()}


__all__ = ["PARTS", "Detect"]
