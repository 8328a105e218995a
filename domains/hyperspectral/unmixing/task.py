"""`hyperspectral/unmix`: what a pixel is made of, and how much of each, without labels.

What is learned from are spectra: those of most tiles train, those of the rest validate. The truth, where there is
one, is the test part: it scores and is never looked at before. So one pixel's spectrum may train while its truth
tests, as is usual in unmixing, and every element of the split is a pair (0: its spectrum, 1: its truth; pixel).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.spatial import cKDTree
from torch import Tensor, nn

from shared_backbones.errors import BadInput, BadRequest

from ...task import Audit, Batch, Evidence, Fitted, MetricFact, Part, Sink, Split, TaskConfig
from ..bands import in_ranges, picked
from ..data.library import read_library
from ..samples import Tiles
from ..source import local_file, spectra
from .baselines import classical
from .config import UnmixOptions
from .endmembers import voted
from .model import Unmixer, misfit, pixels, volume
from .scoring import METRIC_FACTS, Mixing, scores
from .source import UnmixData, known_pixels, load

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from shared_backbones.presets import Preset

START_PIXELS = 10_000  # of which the first endmembers are voted
PURE_SHARE = 0.9  # of the light: from there a pixel tells how bright its material is
SPECTRUM, TRUTH = 0, 1


class Unmix:
    """Blind unmixing, or with a library, of hyperspectral scenes."""

    name: ClassVar[str] = "hyperspectral/unmix"
    summary: ClassVar[str] = "Materials of a scene and their abundances, blind or with a spectral library"
    Config: ClassVar[type[TaskConfig]] = UnmixOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {"epochs": 60, "batch_size": 8, "lr": 1e-3, "weight_decay": 0.0}
    drift_unit: ClassVar[str] = "token"  # tiles are not cut as prediction windows are
    default_preset: ClassVar[str] = "scene_unmixer"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = METRIC_FACTS

    def __init__(self, config: UnmixOptions) -> None:
        self.config = config

    def open(self, source: str) -> UnmixData:
        return load(source, self.config)

    def split(self, data: UnmixData) -> Split:
        """Spectra of tiles for training and validation; the truth of all their pixels for the test."""
        c, shape = self.config, data.plain.index.shape
        rng = np.random.default_rng(c.draw)
        at = np.arange(data.plain.index.size, dtype=np.int64)
        tile = self._tile_of(at, shape)
        order = rng.permutation(np.unique(tile))
        if len(order) < 2:
            raise BadInput(
                f"{data.scene.where}: {shape} pixels are one tile of {c.tile}; make it smaller with --set tile"
            )
        most = max(2, min(len(order), c.pixels // c.tile**2))
        held = max(1, round(c.held * most))
        train, val = (at[np.isin(tile, part)] for part in (order[held:most], order[:held]))
        known = known_pixels(data)
        test = known[np.isin(self._tile_of(known, shape), order[:most])]
        if len(np.unique(self._tile_of(test, shape))) < 2:
            raise BadInput(f"{data.scene.where}: true abundances lie in fewer than two tiles of {c.tile} px")
        dealt = (("train", SPECTRUM, train), ("val", SPECTRUM, val), ("test", TRUTH, test))
        parts = {p: np.stack([np.full(len(i), kind), i], 1) for p, kind, i in dealt}
        protocol = (
            f"unsupervised: spectra of {most - held} tiles of {c.tile} px train, of {held} validate; the truth of "
            f"{len(test)} pixels only scores; endmembers paired by angle alone, draw {c.draw}"
        )
        return Split(protocol, parts, {"truth_known": data.truth is not None, "amplitude": c.amplitude})

    def _tile_of(self, at: Int64[np.ndarray, "n"], shape: tuple[int, ...]) -> Int64[np.ndarray, "n"]:
        rows, cols = np.divmod(at, shape[1])
        return (rows // self.config.tile) * (shape[1] // self.config.tile + 1) + cols // self.config.tile

    def audit(self, data: UnmixData, split: Split) -> list[Audit]:
        """Nothing that is learned from has seen the truth; what could still flatter a score is said."""
        kinds = {p: set(split.parts[p][:, 0].tolist()) for p in split.parts}
        clean = kinds["train"] == {SPECTRUM} == kinds["val"] and kinds["test"] == {TRUTH}
        found = [
            Audit("the truth only scores", 0.0 if clean else 1.0, clean, "training and validation hold spectra only")
        ]
        if data.truth is None:
            found.append(Audit("truth", "none", None, "only the reconstruction can be scored"))
            return found
        spectra_of = data.truth.endmembers
        bright = np.abs(spectra_of).max(1)
        meaning = (
            "largest over least peak of the true endmembers: how much abundances depend on what they are shares of"
        )
        found.append(Audit("amplitude ratio", float(bright.max() / bright.min()), None, meaning))
        if not data.truth.area:
            said = "the source divided its endmembers by their peaks: its abundances can only be compared with shares "
            found.append(Audit("amplitude of the truth", "lost", None, said + "of light (amplitude=equal)"))
        return found

    def poison(self, data: UnmixData, split: Split) -> UnmixData:
        """Absurd abundances and endmembers: the test part is the truth, and all of it."""
        if data.truth is None:
            return data
        truth = data.truth
        absurd = replace(truth, abundances=truth.abundances[::-1] * 7.0, endmembers=truth.endmembers[:, ::-1].copy())
        return data.with_truth(absurd)

    def fit(self, data: UnmixData, split: Split) -> Fitted:
        """Used bands and their statistics over training spectra, how many endmembers, those of a library."""
        c, bands = self.config, data.scene.bands
        x, seen = spectra(data.plain, split.parts["train"][:, 1])
        chosen = in_ranges(bands, c.ranges_nm) & picked(bands, c.only)
        if c.drop_bad:
            chosen &= np.array(bands.good)
        share = seen.mean(0)
        mean = np.where(seen, x, 0).sum(0, dtype=np.float64) / np.maximum(seen.sum(0), 1)
        std = np.sqrt(np.where(seen, (x - mean) ** 2, 0).sum(0) / np.maximum(seen.sum(0), 1))
        used = np.flatnonzero(chosen & (share > 0.01) & (std > 0))
        if len(used) < 2:
            raise BadInput(f"{data.scene.where}: fewer than two bands hold data that vary at the training pixels")
        count = self._count(data)
        if count > len(used):
            raise BadRequest(f"endmembers={count}, but only {len(used)} bands can be used")
        nm = [float(bands.wavelength_nm[b]) for b in used] if bands.wavelength_nm else []
        whole = seen[:, used].all(1)
        if whole.sum() < 10 * count:
            raise BadInput(f"{data.scene.where}: only {int(whole.sum())} training pixels were measured in all bands")
        level = float(np.linalg.norm(x[:, used][whole], axis=1).mean())
        fitted: Fitted = {
            "bands": bands.to_json(),
            "used": [int(b) for b in used],
            "nm": nm,
            "mean": mean[used].tolist(),
            "std": std[used].tolist(),
            "level": level,
            "endmembers": count,
            "names": [f"endmember {i + 1}" for i in range(count)],
            "library": None,
        }
        if c.library is not None:
            library = read_library(local_file(c.library))
            known = library.on(nm)
            members = _picked(x[:, used][whole][:: max(1, int(whole.sum()) // 2000)], known, count)
            fitted["library"] = known[members].tolist()
            fitted["names"] = [library.names[i] for i in members]
        return fitted

    def _count(self, data: UnmixData) -> int:
        if self.config.endmembers is not None:
            return self.config.endmembers
        if data.truth is None:
            raise BadRequest("how many materials? Give --set endmembers=N (two or more)")
        return len(data.truth.names)

    def build(self, fitted: Fitted, preset: Preset) -> Unmixer:
        library = None if fitted["library"] is None else torch.tensor(fitted["library"], dtype=torch.float32)
        statistics = fitted["nm"], fitted["mean"], fitted["std"], fitted["level"]
        return Unmixer(*statistics, fitted["endmembers"], library, preset, self.config.patch_radius)

    def initialise(self, model: nn.Module, data: UnmixData, split: Split) -> None:
        """The first endmembers, voted among training spectra by the random number that the model was built with."""
        assert isinstance(model, Unmixer)
        if not model.drift.requires_grad:
            return
        _, x = self._whole_spectra(data, split, "train", START_PIXELS)
        rng = np.random.default_rng(int(model.draw))
        start = voted(x, len(model.start), rng)
        model.start.copy_(torch.from_numpy(np.maximum(start, 1e-3 * model.level.item() / x.shape[1] ** 0.5)))

    def _whole_spectra(self, data: UnmixData, split: Split, part: Part, most: int) -> tuple[Any, Any]:
        """Flat indices (n) and spectra (n, b) of a part, measured in all used bands, thinned to at most so many."""
        fitted = self.fit(data, split)
        at = split.parts[part][:, 1]
        at = at[:: max(1, -(-len(at) // most))]
        values, seen = spectra(data.plain, at)
        used = fitted["used"]
        whole = seen[:, used].all(1)
        return at[whole], values[:, used][whole].astype(np.float64)

    def items(self, data: UnmixData, split: Split, fitted: Fitted, part: Part) -> Tiles:
        c = self.config
        at = np.sort(split.parts[part][:, 1])
        return Tiles(data.plain, at, fitted["used"], c.tile, c.patch_radius, augment=part == "train")

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean misfit of the solver's mixtures, which moves the endmembers, plus that of the network's.

        The network sees every other band and is judged on those it did not see, so that copying noise does not pay.
        """
        assert isinstance(model, Unmixer)
        c = self.config
        seen = batch["seen"]
        valid, core = seen.any(1), batch["target"] >= 0
        u = model.directions()
        x, there = pixels(batch["cube"], seen, valid)
        mine = core[valid]
        floor = c.dark * model.level
        loads = model.loads(x[mine], u, there[mine])
        fit = misfit(x[mine], model.level * (loads @ u), there[mine], floor)
        asked = torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
        asked[int(torch.randint(0, 2, ())) if model.training else 0 :: 2] = True
        net = self._judged(model, x, there, asked, valid, mine, floor)
        total = fit.sum() + net.sum()
        weight = torch.tensor(float(int(mine.sum())), device=x.device).clamp_min(1e-9)
        return total / weight + c.volume * volume(u), weight

    def glimpse(self, model: nn.Module, batch: Batch) -> None:
        """What a prediction shows the network: every band (the loss hides every other one)."""
        assert isinstance(model, Unmixer)
        model(batch["cube"], batch["seen"])

    def _judged(
        self, model: Unmixer, x: Tensor, there: Tensor, asked: Tensor, valid: Tensor, mine: Tensor, floor: Tensor
    ) -> Float[Tensor, "n"]:
        """Misfit of the corrected mixtures over the bands that were not asked, at their best brightness."""
        with torch.no_grad():
            u, e = model.directions(), model.endmembers()
            some = u[:, asked].norm(dim=1, keepdim=True).clamp_min(1e-6)
            part = model.loads(x[:, asked], u[:, asked] / some, there[:, asked]) / some[:, 0]
            solved = model.solved(part, u)
        made = model.corrected(solved, x, there & asked, valid)[mine] @ e
        w = (there & ~asked)[mine]
        light = (x[mine] * made * w).sum(1) / (made.square() * w).sum(1).clamp_min(1e-12)
        return misfit(x[mine], light.clamp_min(0)[:, None] * made, w, floor)

    def calibrate(self, model: nn.Module, data: UnmixData, split: Split, fitted: Fitted) -> None:
        """For amplitude=scene: how bright each endmember is in its purest pixels."""
        assert isinstance(model, Unmixer)
        model.peak.fill_(1.0)
        if self.config.amplitude == "scene":
            x = torch.from_numpy(self._whole_spectra(data, split, "train", START_PIXELS)[1]).float()
            model.peak.copy_(bright_peaks(model, x.to(model.peak.device)))

    def evidence(self, model: nn.Module, data: UnmixData, split: Split, fitted: Fitted, part: Part) -> Evidence:
        assert isinstance(model, Unmixer)
        model.eval()
        with torch.no_grad():
            mixing = Mixing(model.endmembers().double().cpu().numpy(), self._true(data, fitted))
            device = model.peak.device
            for batch, at in self._windows(data, split, fitted, part):
                wanted = batch["target"] >= 0
                found = model(batch["cube"].to(device), batch["seen"].to(device)).cpu().movedim(1, -1)[wanted]
                x, seen = pixels(batch["cube"], batch["seen"], wanted)
                live = seen.any(1).numpy()
                self._add(mixing, data, at[live], found.double().numpy()[live], x.double().numpy()[live])
        return mixing.evidence()

    def _windows(
        self, data: UnmixData, split: Split, fitted: Fitted, part: Part
    ) -> Iterator[tuple[Batch, Int64[np.ndarray, "n"]]]:
        at = np.sort(split.parts[part][:, 1])
        return Tiles(data.plain, at, fitted["used"], self.config.tile, self.config.patch_radius).one_by_one()

    def _true(self, data: UnmixData, fitted: Fitted) -> Float[np.ndarray, "p b"] | None:
        return None if data.truth is None else data.truth.endmembers[:, fitted["used"]]

    def _add(self, mixing: Mixing, data: UnmixData, at: Any, a: Any, x: Any) -> None:
        truth = None
        if data.truth is not None:
            known = data.truth.under(self.config.amplitude)
            truth = known.reshape(len(known), -1)[:, at].T
        mixing.add(self._tile_of(at, data.plain.index.shape), a, x, truth)

    def baselines(self, data: UnmixData, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        c, used = self.config, fitted["used"]
        at, x = self._whole_spectra(data, split, "train", START_PIXELS)
        places = np.stack(np.divmod(at, data.plain.index.shape[1]), 1)
        beside = cKDTree(places).query(places, k=5)[1][:, 1:].astype(np.int64)
        library = None if c.library is None else read_library(local_file(c.library)).on(fitted["nm"])
        rows = classical(x, fitted["endmembers"], c.draw, c.amplitude, beside, library)
        tallies = {name: Mixing(e, self._true(data, fitted)) for name, (e, _) in rows.items()}
        for at in np.array_split(split.parts["test"][:, 1], max(1, len(split.parts["test"]) // 20_000)):
            values, seen = spectra(data.plain, at)
            live = seen[:, used].any(1)
            filled = np.where(seen, values, 0.0)[:, used][live].astype(np.float64)
            for name, (_, apply) in rows.items():
                self._add(tallies[name], data, at[live], apply(filled), filled)
        return {name: tally.evidence() for name, tally in tallies.items()}

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        return scores(evidence)

    def figures(
        self, model: nn.Module, data: UnmixData, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .figures import draw

        assert isinstance(model, Unmixer)
        return draw(self, model, data, fitted, scored)

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        from .mapping import map_abundances

        assert isinstance(model, Unmixer)
        return map_abundances(model, fitted, source, sink, self.config)


@torch.no_grad()
def bright_peaks(model: Unmixer, x: Float[Tensor, "n b"]) -> Float[Tensor, "p"]:
    """The peak of every endmember at the brightness of its purest pixels: their median."""
    u = model.directions()
    loads = model.loads(x, u)
    light = loads / loads.sum(1, keepdim=True).clamp_min(1e-9)
    peaks = []
    for k in range(len(u)):
        order = light[:, k].argsort(descending=True)
        count = max(int((light[:, k] > PURE_SHARE).sum()), len(x) // 100, 5)
        peaks.append(loads[order[:count], k].median() * model.level * u[k].amax())
    return torch.stack(peaks)


def _picked(x: Float[np.ndarray, "n b"], library: Float[np.ndarray, "m b"], count: int) -> list[int]:
    """Members of a library that explain the pixels best together: greedily, by what least squares leaves of them."""
    from .solvers import non_negative

    pixels_of, known = torch.from_numpy(x.astype(np.float64)), torch.from_numpy(library)
    if count > len(library):
        raise BadRequest(f"endmembers={count}, but the library holds {len(library)} spectra")
    chosen: list[int] = []
    unit_library = known / known.norm(dim=1, keepdim=True)
    for _ in range(count):
        left = [i for i in range(len(known)) if i not in chosen]
        errors = []
        for i in left:
            e = unit_library[[*chosen, i]]
            made = non_negative(pixels_of, e, 60, exact=False) @ e
            errors.append(float((pixels_of - made).norm(dim=1).sum()))
        chosen.append(left[int(np.argmin(errors))])
    return chosen
