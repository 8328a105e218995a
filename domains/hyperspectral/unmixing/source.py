"""From a source to a scene with, where it is known, the truth of its mixtures."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from shared_backbones.errors import BadInput, BadRequest, unknown

from ...public import locate, sha256_of
from ...task import Manifest
from ..bands import plain_bands
from ..data import ArrayScene, Scene, conditions, crs_name, open_scene
from ..data.arrays import load_mat
from ..data.library import read_library
from ..datasets import SAMSON, samson_wavelengths
from ..source import SIMULATED, SceneData, content_of, local_file
from .config import UnmixOptions
from .simulate import simulate_mixture

_SIMULATED = {"seed", "rows", "cols", "bands", "endmembers", "purity", "patch", "light", "variety", "bilinear"}
_SIMULATED |= {"snr_db"}


@dataclass(frozen=True)
class Truth:
    """Known mixtures: shares (p, rows, cols) and the spectra of the materials (p, bands), the same order."""

    abundances: Float[np.ndarray, "p rows cols"]
    endmembers: Float[np.ndarray, "p bands"]
    names: tuple[str, ...]
    area: bool  # shares of area under the endmembers' own brightness; False: the source normalised its endmembers

    def under(self, amplitude: str) -> Float[np.ndarray, "p rows cols"]:
        """The abundances as shares of light ("equal") or of area ("scene").

        Endmembers of another amplitude explain the same spectra with other shares: a_k times its peak, of the sum.
        A source that normalised its endmembers has lost their amplitude, so its shares stay as they were published.
        """
        if amplitude == "scene" or not self.area:
            return self.abundances
        light = self.abundances * np.abs(self.endmembers).max(1)[:, None, None]
        return light / np.maximum(light.sum(0), 1e-12)


@dataclass(frozen=True)
class UnmixData:
    """A scene to unmix. ``plain`` is the scene with all its pixels in one class, for windows and spectra."""

    plain: SceneData
    truth: Truth | None
    manifest: Manifest

    @property
    def scene(self) -> Scene:
        return self.plain.scene

    def with_truth(self, truth: Truth | None) -> UnmixData:
        return replace(self, truth=truth)


@dataclass(frozen=True)
class _Found:
    scene: Scene
    truth: Truth | None
    digest: str
    licence: str = "not stated"
    facts: tuple[tuple[str, Any], ...] = ()


def load(source: str, options: UnmixOptions) -> UnmixData:
    """A scene and its truth. Raises BadInput or BadRequest where they cannot be used."""
    found = _find(source, options)
    scene = found.scene
    if scene.bands.wavelength_nm is None:
        raise BadInput(
            f"{scene.where}: states no wavelengths, and the models here place every band in the spectrum. Write them "
            f'into {Path(scene.where).stem}.json beside it as {{"wavelength": [...]}}, or give --set '
            "wavelengths=400-2500 for evenly spaced bands (nm)"
        )
    facts = {
        "rows": scene.shape[0],
        "columns": scene.shape[1],
        "bands": len(scene.bands),
        "unit": scene.bands.unit or "not stated",
        "crs": crs_name(scene.crs),
        "materials": None if found.truth is None else list(found.truth.names),
        **conditions(scene),
        **dict(found.facts),
    }
    manifest = Manifest(source, found.digest, found.licence, facts)
    index = np.zeros(scene.shape, dtype=np.int32)
    return UnmixData(SceneData(scene, index, None, (0,), ("pixel",), manifest), found.truth, manifest)


def _find(source: str, options: UnmixOptions) -> _Found:
    if source == SIMULATED:
        return _simulated(options)
    if source == SAMSON.name:
        return _samson()
    if "://" not in source and "/" not in source and "." not in source and not Path(source).exists():
        raise BadInput(f"{unknown('data', source, [SIMULATED, SAMSON.name])}, or the path of a scene")
    path = local_file(source)
    scene = open_scene(path, variable=options.variable, wavelengths=options.wavelengths)
    truth, files = None, [path]
    if options.truth is not None:
        truth, more = _read_truth(options, scene)
        files += more
    digests = [content_of(f) for f in files]
    joined = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return _Found(scene, truth, joined)


def _simulated(options: UnmixOptions) -> _Found:
    chosen = dict(options.simulated)
    for name in chosen:
        if name not in _SIMULATED:
            raise unknown("option of the simulator", name, _SIMULATED)
    seed, shape = int(chosen.pop("seed", 0)), (int(chosen.pop("rows", 64)), int(chosen.pop("cols", 64)))
    whole: dict[str, Any] = {k: int(v) if k in ("bands", "endmembers") else v for k, v in chosen.items()}
    made = simulate_mixture(seed, shape=shape, **whole)
    digest = hashlib.sha256(np.ascontiguousarray(made.scene.array).tobytes()).hexdigest()
    truth = Truth(made.abundances, made.endmembers, made.names, area=True)
    return _Found(made.scene, truth, digest, "own simulation", (("simulated", {"seed": seed, **options.simulated}),))


def samson_scene() -> tuple[ArrayScene, dict[str, Path]]:
    """The public scene samson (156, 95, 95) and its files: pixels are stored column by column."""
    files = locate(SAMSON)
    cube = load_mat(files["samson_1.mat"], 2, "V").reshape(156, 95, 95).transpose(0, 2, 1)
    return ArrayScene("samson", cube, plain_bands(156, samson_wavelengths())), files


def _samson() -> _Found:
    scene, files = samson_scene()
    shares = load_mat(files["end3.mat"], 2, "A").reshape(3, 95, 95).transpose(0, 2, 1)
    spectra = load_mat(files["end3.mat"], 2, "M").T.astype(np.float64)
    truth = Truth(shares.astype(np.float64), spectra, ("rock", "tree", "water"), area=False)
    digest = hashlib.sha256("".join(sha256_of(files[n]) for n in sorted(files)).encode()).hexdigest()
    notes = ("wavelengths are nominal: the file states none", "its endmembers are divided by their largest value")
    return _Found(scene, truth, digest, SAMSON.licence, (("notes", list(notes)),))


def _read_truth(options: UnmixOptions, scene: Scene) -> tuple[Truth, list[Path]]:
    assert options.truth is not None
    if options.truth_endmembers is None:
        raise BadRequest(
            "truth needs truth_endmembers: abundances can be told apart only by the spectra of their materials. "
            "Give a .sli or .csv library in the same order"
        )
    path, spectra = local_file(options.truth), local_file(options.truth_endmembers)
    shares = open_scene(path)
    library = read_library(spectra)
    if shares.shape != scene.shape or len(shares.bands) != len(library.names):
        raise BadInput(
            f"{path}: {len(shares.bands)} bands of {shares.shape} pixels; expected {len(library.names)} materials (as "
            f"in {spectra}) of {scene.shape} pixels"
        )
    values, seen = shares.read(slice(0, scene.shape[0]), slice(0, scene.shape[1]))
    total = values.sum(0)[seen.all(0)]
    if not len(total) or (np.abs(total - 1) > 0.01).any() or (values < -0.01).any():
        raise BadInput(f"{path}: true abundances are at least 0 and sum to one in every pixel that has any")
    nm = scene.bands.wavelength_nm
    if nm is None:
        raise BadInput(f"{scene.where}: states no wavelengths, so it cannot be compared with {spectra}")
    held = np.where(seen.all(0), values, np.nan).astype(np.float64)
    return Truth(held, library.on(nm), library.names, area=True), [path, spectra, *_beside(spectra)]


def _beside(path: Path) -> list[Path]:
    header = path.with_suffix(".hdr")
    return [header] if path.suffix.lower() == ".sli" and header.is_file() else []


def known_pixels(data: UnmixData) -> Int64[np.ndarray, "n"]:
    """Flat indices of pixels whose truth is known; all where there is none at all."""
    if data.truth is None:
        return np.arange(data.plain.index.size, dtype=np.int64)
    return np.flatnonzero(np.isfinite(data.truth.abundances).all(0).ravel()).astype(np.int64)
