"""From a source to a scene that is learned from without labels, and which of its pixels may be seen for that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from shared_backbones.errors import BadInput

from ...public import sha256_of
from ...task import Manifest, Split
from ..data import Scene, conditions, crs_name
from ..datasets import SAMSON, SCENES
from ..source import SIMULATED, SceneData, content_of, find, is_tiled, load
from ..splits import distance_to, make_split
from ..unmixing.source import samson_scene
from .config import PretrainOptions


@dataclass(frozen=True)
class Unlabelled:
    """A scene. ``plain``: all its pixels in one class; ``labelled``: with its classes, where there are any."""

    plain: SceneData
    labelled: SceneData | None
    manifest: Manifest

    @property
    def scene(self) -> Scene:
        return self.plain.scene

    @property
    def dealt(self) -> SceneData:
        """What the split deals out."""
        return self.plain if self.labelled is None else self.labelled


def plain_of(scene: Scene, manifest: Manifest) -> SceneData:
    """A scene whose pixels are all of one class."""
    return SceneData(scene, np.zeros(scene.shape, dtype=np.int32), None, (0,), ("pixel",), manifest)


def open_unlabelled(source: str, options: PretrainOptions) -> Unlabelled:
    """A scene, with its labels where the source has them or ``labels`` names some. Raises BadInput."""
    if source in SCENES or source == SIMULATED or options.labels is not None or is_tiled(source):
        data = load(source, options)
        return Unlabelled(plain_of(data.scene, data.manifest), data, data.manifest)
    if source == SAMSON.name:
        scene, files = samson_scene()
        manifest = _manifest(source, scene, sha256_of(files["samson_1.mat"]), SAMSON.licence)
        return Unlabelled(plain_of(scene, manifest), None, manifest)
    found = find(source, options, labelled=False)
    if found.scene.bands.wavelength_nm is None:
        raise BadInput(
            f"{found.scene.where}: states no wavelengths, and the models here place every band in the spectrum; "
            "give --set wavelengths=400-2500 for evenly spaced bands (nm)"
        )
    manifest = _manifest(source, found.scene, content_of(found.files[0]), found.licence)
    return Unlabelled(plain_of(found.scene, manifest), None, manifest)


def _manifest(source: str, scene: Scene, digest: str, licence: str) -> Manifest:
    nm = scene.bands.wavelength_nm
    facts: dict[str, Any] = {
        "rows": scene.shape[0],
        "columns": scene.shape[1],
        "bands": len(scene.bands),
        "wavelengths_nm": None if nm is None else [min(nm), max(nm)],
        "unit": scene.bands.unit or "not stated",
        "crs": crs_name(scene.crs),
        "nodata": scene.nodata,
        **conditions(scene),
    }
    return Manifest(source, digest, licence, facts)


def split_of(data: Unlabelled, options: PretrainOptions) -> Split:
    """As `hyperspectral/classify` splits the same labels with the same options; all pixels where there are none."""
    split = make_split(data.dealt, options.split, options.patch_radius)
    count = int(trained_on(data, split, options.patch_radius).sum())
    return replace(split, facts={**split.facts, "pixels_trained_on": count})


def trained_on(data: Unlabelled, split: Split, radius: int) -> Bool[np.ndarray, "rows cols"]:
    """True where pretraining may look: farther than ``radius`` from any pixel of validation and test.

    That is more than the labelled pixels of training. Of a leaking split, all but validation and test; of tiles, those
    that hold none of either.
    """
    held = np.concatenate([split.parts["val"], split.parts["test"]])
    free = distance_to(held, data.plain.index.shape) > (0 if split.facts["by"] == "pixels" else radius)
    if split.facts["by"] in ("given", "polygons") and data.dealt.polygons is not None:
        of = data.dealt.polygons
        free &= ~np.isin(of, np.unique(of.ravel()[held]))
        if data.dealt.unit_name != "polygons":
            free &= of >= 0  # not what lies between tiles
    return free


def pixels_of(data: Unlabelled, split: Split, part: str, radius: int) -> Int64[np.ndarray, "n"]:
    """Flat indices of the pixels that a part of pretraining is made of."""
    if part != "train":
        return split.parts[part]
    return np.flatnonzero(trained_on(data, split, radius)).astype(np.int64)
