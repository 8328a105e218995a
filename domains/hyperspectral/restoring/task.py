"""`hyperspectral/denoise` and `hyperspectral/superres`: a clean scene teaches what spoilt ones should have been.

Blocks of the scene are dealt to the parts. A training block is spoilt anew whenever it is seen; a validation or test
block always in the same way. A block is restored from its own pixels alone, so no test value is near a training one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from shared_backbones.errors import BadInput, BadRequest

from ...task import PARTS, Audit, Batch, Evidence, Fitted, MetricFact, Part, Sink, Split, TaskConfig
from ..bands import in_ranges, picked
from ..ground import ground_audits, tiles_at
from ..source import spectra
from .baselines import RANKS, WEIGHTS, Held, chosen, low_rank, total_variation
from .collaborative import collaborative
from .collection import deal
from .config import DenoiseOptions, RestoreOptions, SuperresOptions
from .degrade import coarse_and_back, eight_bit, noisy
from .linear import start_linear
from .model import Restorer
from .pairs import Pairs
from .scoring import METRIC_FACTS, evidence_of, row, scores
from .source import Block, CleanData, Scaled, blocks_of, load, pixels_of, shifted, trimmed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from shared_backbones.presets import Preset

RANGE = (0.1, 99.9)  # percentiles of training values that become 0 and 1
RELATIVE = 0.05  # weight of the squared error relative to the pixel's brightness, beside the plain one
DARK = 0.05  # of the range: spectra darker than this count no more than it
LARGE = 128  # px: attention over a larger image at once would take gigabytes
LINEAR_DRAWS = 4  # how often each training block is spoilt for the closed form
Cube = Float[np.ndarray, "b rows cols"]
Spoil = Callable[[Cube, np.random.Generator], Cube]


class Restore:
    """What both tasks share. A subclass says how a clean block is spoilt, and which methods stand beside."""

    name: ClassVar[str]
    Config: ClassVar[type[TaskConfig]]
    train_defaults: ClassVar[Mapping[str, Any]] = {"epochs": 40, "batch_size": 8, "lr": 1e-3, "weight_decay": 0.0}
    drift_unit: ClassVar[str] = "token"  # tiles are not cut as prediction windows are
    drift_inputs: ClassVar[tuple[str, int | str, int]] = ("", 0, 1)  # bands of a pixel
    default_preset: ClassVar[str] = "scene_restorer"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = METRIC_FACTS
    multiple: int = 1  # blocks are trimmed to multiples of it

    def __init__(self, config: Any) -> None:
        self.config: RestoreOptions = config

    def spoil(self, clean: Cube, rng: np.random.Generator, images: bool = False) -> Cube:
        """A clean block in 0..1 as it would be given; ``images``: it is one of an 8-bit image."""
        raise NotImplementedError

    def open(self, source: str) -> CleanData:
        return load(source, self.config)

    def _blocks(self, data: CleanData) -> list[Block]:
        """Of one scene, its blocks; of several the blocks of each, and of images also each as a whole, at the end."""
        several = data.collection
        if several is None:
            blocks = blocks_of(data.plain.index.shape, self.config.block)
        else:
            blocks = [b for _, b in self._cut(data)] + (several.places if several.images else [])
        return [trimmed(b, self.multiple) for b in blocks]

    def _cut(self, data: CleanData) -> list[tuple[int, Block]]:
        """Blocks of several scenes, each with the number of its scene."""
        assert data.collection is not None
        return [
            (i, shifted(b, place))
            for i, place in enumerate(data.collection.places)
            for b in blocks_of(data.collection.whole.tiles[i].shape, self.config.block)
        ]

    def _whole_split(self, data: CleanData) -> Split:
        """Scenes are dealt whole; images are tested in one piece, as the field scores them."""
        several, cut = data.collection, self._cut(data)
        assert several is not None
        dealt, blocks = deal(several, self.config), self._blocks(data)

        def numbers(part: Part) -> list[int]:
            if several.images and part == "test":
                return [len(cut) + i for i in dealt[part]]
            return [n for n, (i, _) in enumerate(cut) if i in dealt[part] and data.plain.read(*blocks[n])[1].any()]

        parts: dict[str, Any] = {p: np.array(numbers(p), dtype=np.int64) for p in PARTS}
        names = {p: [several.names[i] for i in dealt[p]] for p in PARTS}
        for p in PARTS:
            if not len(parts[p]):
                raise BadInput(f"{data.scene.where}: {', '.join(names[p])} ({p}) holds no data")
        kind = "8-bit images" if several.images else "scenes"
        how = "tested in one piece" if several.images else f"in blocks of about {self.config.block} px"
        said = "; ".join(f"{p}: {', '.join(names[p]) if len(names[p]) <= 8 else len(names[p])}" for p in PARTS)
        return Split(f"whole {kind} ({said}), {how}; {self.said()}", parts, {"scenes": names})

    def split(self, data: CleanData) -> Split:
        """Numbers of blocks."""
        c = self.config
        if data.collection is not None:
            return self._whole_split(data)
        if c.test:
            raise BadRequest(f"{data.scene.where}: one scene; test names those of a folder of scenes")
        blocks = self._blocks(data)
        kept = [i for i, b in enumerate(blocks) if data.plain.read(*b)[1].any()]
        if len(kept) < 4:
            raise BadInput(
                f"{data.scene.where}: {len(kept)} blocks of about {c.block} px hold data; at least 4 are needed to "
                "train, validate and test. Use smaller blocks"
            )
        order = np.random.default_rng(c.draw).permutation(kept)
        val, test = (max(1, round(f * len(kept))) for f in c.fractions[1:])
        test = max(2, test)
        cuts = np.split(order, [len(kept) - val - test, len(kept) - test])
        parts: dict[str, Any] = {p: np.sort(i).astype(np.int64) for p, i in zip(PARTS, cuts, strict=True)}
        shares = "/".join(str(len(parts[p])) for p in PARTS)
        how = f"{len(kept)} blocks of about {c.block} px, {shares}, each taken alone"
        protocol = f"{how}; {self.said()}, draw {c.draw}"
        return Split(protocol, parts, {"blocks": {p: parts[p].tolist() for p in PARTS}})

    def said(self) -> str:
        """What is put on the clean scene, in words."""
        raise NotImplementedError

    def blocks_of_part(self, data: CleanData, split: Split, part: Part) -> list[Block]:
        """The blocks of a part, in order."""
        blocks = self._blocks(data)
        return [blocks[int(i)] for i in split.parts[part]]

    def audit(self, data: CleanData, split: Split) -> list[Audit]:
        shape = data.plain.index.shape
        train, test = (set(pixels_of(self.blocks_of_part(data, split, p), shape).tolist()) for p in ("train", "test"))
        share = len(train & test) / len(test)
        said = "share of test pixels that lie in a training block; a block is restored from its own pixels alone"
        found = [Audit("pixels in both parts", share, share == 0.0, said)]
        if data.collection is None:
            return found
        whole, size = data.collection.whole, shape[1]
        return found + ground_audits(
            whole,
            {p: tiles_at(whole, [b[0].start * size for b in self.blocks_of_part(data, split, p)]) for p in PARTS},
            self.config.patch_radius,
        )

    def poison(self, data: CleanData, split: Split) -> CleanData:
        return data.poisoned(pixels_of(self.blocks_of_part(data, split, "test"), data.plain.index.shape))

    def fit(self, data: CleanData, split: Split) -> Fitted:
        """Used bands, the range of values, and the principal spectra of the training part."""
        c, bands = self.config, data.scene.bands
        at = pixels_of(self.blocks_of_part(data, split, "train"), data.plain.index.shape)
        x, seen = spectra(data.plain, at)
        used = in_ranges(bands, c.ranges_nm) & picked(bands, c.only)
        if c.drop_bad:
            used &= np.array(bands.good)
        used &= seen.any(0) & _varies(x, seen)
        index = np.flatnonzero(used)
        if not len(index):
            raise BadInput(f"{data.scene.where}: no band holds data that vary at the training pixels")
        x, seen = x[:, index], seen[:, index]
        low, high = (0.0, 255.0) if data.images else (float(v) for v in np.percentile(x[seen], RANGE))
        if high <= low:
            raise BadInput(f"{data.scene.where}: nearly all training values are {low:g}")
        scaled = Scaled(low, high).put(x[seen.all(1)]).astype(np.float64)
        if len(scaled) < 2:
            raise BadInput(f"{data.scene.where}: no training pixels were measured in all bands")
        mean = scaled.mean(0)
        _, vectors = np.linalg.eigh((scaled - mean).T @ (scaled - mean))
        count = min(c.components, len(index))
        basis = vectors[:, ::-1][:, :count].T
        basis = basis * np.sign(basis[np.arange(count), np.abs(basis).argmax(1)])[:, None]
        return {
            "bands": bands.to_json(),
            "used": [int(b) for b in index],
            "low": low,
            "high": high,
            "mean": mean.tolist(),
            "basis": basis.tolist(),
            "luma": data.luma,
        }

    def build(self, fitted: Fitted, preset: Preset) -> Restorer:
        return Restorer(fitted["mean"], fitted["basis"], preset)

    def initialise(self, model: nn.Module, data: CleanData, split: Split) -> None:
        """The linear part's closed form, from training blocks, its penalty chosen on validation."""
        assert isinstance(model, Restorer)
        fitted = self.fit(data, split)
        pairs = {p: Pairs(self, data, split, fitted, p) for p in PARTS[:2]}
        train = [pairs["train"].pair(i, d) for d in range(LINEAR_DRAWS) for i in range(len(pairs["train"].blocks))]
        start_linear(model, train, [pairs["val"].pair(i, 0) for i in range(len(pairs["val"].blocks))])

    def items(self, data: CleanData, split: Split, fitted: Fitted, part: Part) -> Pairs:
        return Pairs(self, data, split, fitted, part)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean squared error over the measured values, in units of the range / 100, plus that relative to the pixel.

        The second part makes the spectra of dark pixels count, as the spectral angle does; one band has no angle.
        """
        assert isinstance(model, Restorer)
        seen, clean = batch["seen"], batch["clean"]
        error = ((model(batch["given"], seen) - clean).square() * seen).sum(1)
        bands = seen.sum(1).to(error.dtype).clamp_min(1)
        bright = (clean * seen).square().sum(1) / bands
        weight = seen.sum().to(error.dtype).clamp_min(1e-9)
        relative = RELATIVE if clean.shape[1] > 1 else 0.0
        return 1e4 * (error * (1 + relative / (bright + DARK**2))).sum() / weight, weight

    def calibrate(self, model: nn.Module, data: CleanData, split: Split, fitted: Fitted) -> None:
        """Nothing to calibrate."""

    def restored(self, model: Restorer, given: Tensor, seen: Tensor) -> Tensor:
        """Restored windows on the processor, without gradient."""
        device = model.mean.device
        with torch.no_grad():
            return model(given.to(device), seen.to(device)).cpu()

    def evidence(self, model: nn.Module, data: CleanData, split: Split, fitted: Fitted, part: Part) -> Evidence:
        assert isinstance(model, Restorer)
        model.eval()
        pairs = Pairs(self, data, split, fitted, part)
        rows: dict[int, Any] = {}
        for i, number in enumerate(split.parts[part]):
            given, clean, seen = pairs.pair(i, 0)
            found = self._as_predicted(model, given, seen)
            rows[int(number)] = self._row(data, found[0].numpy(), clean[0].numpy(), seen[0].numpy())
        return evidence_of(rows)

    def _as_predicted(self, model: Restorer, given: Tensor, seen: Tensor) -> Tensor:
        """A block at once; a large one, of an image, in the windows of prediction where the preset looks far."""
        from .mapping import reach_of, restored_in_windows

        if max(given.shape[2:]) <= LARGE or reach_of(model, self.config.patch_radius) is not None:
            return self.restored(model, given, seen)
        return restored_in_windows(partial(self.restored, model), given, seen, self.config.predict_tile)

    def _row(self, data: CleanData, found: Cube, clean: Cube, seen: Any) -> dict[str, Any]:
        """Sums of one block. Images count as the field counts them: rounded, and the border of a finer one shaved."""
        if not data.images:
            return row(found, clean, seen)
        edge = self.multiple if self.multiple > 1 else 0
        inner = (slice(None), slice(edge, found.shape[1] - edge), slice(edge, found.shape[2] - edge))
        return row(eight_bit(found)[inner], clean[inner], seen[inner])

    def methods(self, val: list[Held]) -> dict[str, Callable[[Cube], Cube]]:
        """Name -> function of a given block, settings chosen on (given, clean) validation blocks."""
        raise NotImplementedError

    def baselines(self, data: CleanData, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        val = Pairs(self, data, split, fitted, "val")
        held = [(g[0].double().numpy(), c[0].double().numpy()) for g, c, _ in map(val.pair, range(len(val.blocks)))]
        methods = self.methods(held)
        closed = self.build(fitted, _plain_preset())
        self.initialise(closed, data, split)
        test = Pairs(self, data, split, fitted, "test")
        rows: dict[str, dict[int, Any]] = {n: {} for n in (*methods, "closed_form")}
        for i, number in enumerate(split.parts["test"]):
            given, clean, seen = test.pair(i, 0)
            x, s = clean[0].numpy(), seen[0].numpy()
            for name, apply in methods.items():
                rows[name][int(number)] = self._row(data, apply(given[0].double().numpy()), x, s)
            found = self.restored(closed, given, seen)[0].numpy()
            rows["closed_form"][int(number)] = self._row(data, found, x, s)
        return {name: evidence_of(found) for name, found in rows.items()}

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        return scores(evidence)

    def figures(
        self, model: nn.Module, data: CleanData, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .figures import draw

        assert isinstance(model, Restorer)
        return draw(self, model, data, split, fitted, scored)

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        from .mapping import restore_scene

        assert isinstance(model, Restorer)
        return restore_scene(self, model, fitted, source, sink)


class Denoise(Restore):
    """Noise removed from a cube."""

    name: ClassVar[str] = "hyperspectral/denoise"
    summary: ClassVar[str] = "Noise, stripes, dead lines and impulses removed from a hyperspectral scene"
    Config: ClassVar[type[TaskConfig]] = DenoiseOptions

    @property
    def options(self) -> DenoiseOptions:
        assert isinstance(self.config, DenoiseOptions)
        return self.config

    def spoil(self, clean: Cube, rng: np.random.Generator, images: bool = False) -> Cube:
        return noisy(self.options.noise, clean, rng, self.options.sigma / 255)

    def said(self) -> str:
        return f"{self.options.noise} noise of {self.options.sigma:g}/255 of the range of training values"

    def methods(self, val: list[Held]) -> dict[str, Callable[[Cube], Cube]]:
        return {
            "given": lambda y: y,
            "low_rank": chosen(low_rank, RANKS, val),
            "total_variation": chosen(total_variation, WEIGHTS, val),
            "collaborative": collaborative,
        }


class Superres(Restore):
    """Smaller pixels than the sensor had."""

    name: ClassVar[str] = "hyperspectral/superres"
    summary: ClassVar[str] = "A hyperspectral scene at two to eight times its resolution"
    Config: ClassVar[type[TaskConfig]] = SuperresOptions

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.multiple = int(config.scale)

    def spoil(self, clean: Cube, rng: np.random.Generator, images: bool = False) -> Cube:
        del rng
        return coarse_and_back(clean, self.multiple, images)

    def said(self) -> str:
        return f"bicubic with antialiasing to pixels {self.multiple} times as large"

    def methods(self, val: list[Held]) -> dict[str, Callable[[Cube], Cube]]:
        return {"bicubic": lambda y: y, "bicubic_low_rank": chosen(low_rank, RANKS, val)}


def _varies(x: Any, seen: Any) -> Any:
    high = np.where(seen, x, -np.inf).max(0)
    return high > np.where(seen, x, np.inf).min(0)


def _plain_preset() -> Preset:
    """The smallest network there is: of the closed form it changes nothing."""
    from shared_backbones.presets import parse_preset

    text = "paper: none\nstem: image\nstem_options: {layers: [{kernel: 1, stride: 1}]}\nranks: [2]\n"
    return parse_preset("none", text + "stages: [{dim: 4, layers: [{mixer: identity, channel: none}]}]\n")
