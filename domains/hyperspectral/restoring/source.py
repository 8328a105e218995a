"""From a source to a clean scene, dealt out in blocks."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from shared_backbones.errors import BadInput, unknown

from ...public import locate, sha256_of
from ...task import Manifest
from ..data import Scene, conditions, crs_name, open_scene
from ..datasets import SALINAS_A, SAMSON, SET5
from ..source import SIMULATED, SceneData, content_of, is_tiled, local_file
from ..unmixing.simulate import simulate_mixture
from ..unmixing.source import samson_scene
from .collection import Collection, collect, opened
from .config import RestoreOptions

PUBLIC = (SAMSON.name, SALINAS_A.data.name)
_SIMULATED = {"seed", "rows", "cols", "bands", "endmembers", "snr_db"}
Block = tuple[slice, slice]


@dataclass(frozen=True)
class CleanData:
    """What counts as clean. ``plain`` is the scene with all its pixels in one class; ``collection``: the scenes or
    images that it is made of, where they are several."""

    plain: SceneData
    manifest: Manifest
    collection: Collection | None = None
    luma: bool = False  # of colour images

    @property
    def scene(self) -> Scene:
        return self.plain.scene

    @property
    def images(self) -> bool:
        """Whether these are 8-bit images: their range is 0 to 255, and results are rounded to it."""
        return self.collection is not None and self.collection.images

    def poisoned(self, at: Int64[np.ndarray, "n"]) -> CleanData:
        """Absurd spectra at these pixels."""
        return replace(self, plain=self.plain.poisoned(np.zeros(0, dtype=np.int64), at))


def load(source: str, options: RestoreOptions) -> CleanData:
    """A scene, or several. Raises BadInput where they cannot be read."""
    if source == SET5.name or is_tiled(source):
        return _several(source, collect(source, options), options)
    scene, digest, licence, facts = _found(source, options)
    facts = {
        "rows": scene.shape[0],
        "columns": scene.shape[1],
        "bands": len(scene.bands),
        "unit": scene.bands.unit or "not stated",
        "crs": crs_name(scene.crs),
        **conditions(scene),
        **facts,
    }
    manifest = Manifest(source, digest, licence, facts)
    plain = SceneData(scene, np.zeros(scene.shape, dtype=np.int32), None, (0,), ("pixel",), manifest)
    return CleanData(plain, manifest, luma=options.luma)


def _several(source: str, found: Collection, options: RestoreOptions) -> CleanData:
    scene = found.whole
    kind = "8-bit images" if found.images else "scenes"
    facts = {kind: len(found.names), "names": list(found.names), "bands": len(scene.bands)}
    licence = SET5.licence if source == SET5.name else "not stated"
    manifest = Manifest(source, found.digest, licence, facts)
    plain = SceneData(scene, np.zeros(scene.shape, dtype=np.int32), None, (0,), ("pixel",), manifest)
    return CleanData(plain, manifest, found, options.luma or source == SET5.name)


def scene_of(source: str, options: RestoreOptions, luma: bool) -> Scene:
    """The one scene to restore; ``luma``: that of a colour image. Raises BadInput."""
    if source == SET5.name or is_tiled(source):
        raise BadInput(f"{source}: several scenes; name the files to be restored")
    return load(source, options.model_copy(update={"luma": luma})).scene


def _found(source: str, options: RestoreOptions) -> tuple[Scene, str, str, dict[str, Any]]:
    if source == SIMULATED:
        chosen: dict[str, Any] = {"snr_db": 45.0, **options.simulated}
        for name in chosen:
            if name not in _SIMULATED:
                raise unknown("option of the simulator", name, _SIMULATED)
        seed, shape = int(chosen.pop("seed", 0)), (int(chosen.pop("rows", 72)), int(chosen.pop("cols", 72)))
        whole: Mapping[str, Any] = {k: int(v) if k in ("bands", "endmembers") else v for k, v in chosen.items()}
        made = simulate_mixture(seed, shape=shape, **whole).scene
        digest = hashlib.sha256(np.ascontiguousarray(made.array).tobytes()).hexdigest()
        return made, digest, "own simulation", {"simulated": {"seed": seed, **options.simulated}}
    if source == SAMSON.name:
        scene, files = samson_scene()
        return scene, sha256_of(files["samson_1.mat"]), SAMSON.licence, {}
    if source == SALINAS_A.data.name:
        path = locate(SALINAS_A.data)[SALINAS_A.cube]
        salinas = open_scene(path, variable=SALINAS_A.cube_variable, wavelengths=SALINAS_A.wavelength_nm)
        return salinas, sha256_of(path), SALINAS_A.data.licence, {}
    if "://" not in source and "/" not in source and "." not in source and not Path(source).exists():
        raise BadInput(f"{unknown('data', source, [SIMULATED, *PUBLIC, SET5.name])}, or the path of a scene")
    path = local_file(source)
    found = opened(path, options, options.luma)
    return found, content_of(path), "not stated", {}


def shifted(block: Block, place: Block) -> Block:
    """A block of a scene where that scene lies on the lattice."""
    rows, cols = (slice(s.start + p.start, s.stop + p.start) for s, p in zip(block, place, strict=True))
    return rows, cols


def blocks_of(shape: tuple[int, int], side: int) -> list[Block]:
    """A lattice cut into nearly equal blocks of about ``side`` pixels, row by row."""
    cuts = [np.linspace(0, n, max(1, round(n / side)) + 1).round().astype(int) for n in shape]
    spans = [[slice(int(a), int(b)) for a, b in itertools.pairwise(c)] for c in cuts]
    return [(r, c) for r in spans[0] for c in spans[1]]


def trimmed(block: Block, multiple: int) -> Block:
    """The block without the last rows and columns that do not fill a coarse pixel."""
    rows, cols = (slice(s.start, s.start + (s.stop - s.start) // multiple * multiple) for s in block)
    return rows, cols


def pixels_of(blocks: list[Block], shape: tuple[int, int]) -> Int64[np.ndarray, "n"]:
    """Flat indices of all pixels of some blocks, in order."""
    inside = np.zeros(shape, dtype=bool)
    for rows, cols in blocks:
        inside[rows, cols] = True
    return np.flatnonzero(inside).astype(np.int64)


@dataclass(frozen=True)
class Scaled:
    """Stored physical values as numbers whose usual range is 0..1: (v - low) / (high - low)."""

    low: float
    high: float

    def put(self, values: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        return ((values - self.low) / (self.high - self.low)).astype(np.float32)

    def back(self, values: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        return (values * (self.high - self.low) + self.low).astype(np.float32)
