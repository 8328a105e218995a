"""A class map of a whole scene: windows with a halo in, georeferenced files out, in bounded memory."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from shared_backbones.errors import BadInput

from ..task import Fitted, Sink
from ..tiling import Slices
from .bands import Bands, difference
from .config import ClassifyOptions
from .data import RasterWriter, Scene, crs_name
from .model import SceneClassifier, SceneFeatures
from .source import find
from .windows import same_unit, stream_scene

Model = TypeVar("Model", bound=SceneFeatures)
GIVES = 3  # what a window gives per pixel: class position, confidence, entropy
CONFIDENCE_NODATA = -1.0
CHOSEN_COLOURS = (
    (46, 139, 70), (230, 159, 45), (58, 110, 190), (200, 70, 70), (150, 200, 80), (140, 90, 170),
    (90, 190, 205), (120, 80, 50), (235, 150, 190), (110, 110, 110), (225, 215, 70), (25, 60, 110),
)  # fmt: skip


@dataclass
class Progress:
    """What happened on the way."""

    pixels: int = 0
    unseen: int = 0
    corrupt: list[str] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=dict)


def map_scene(
    model: SceneClassifier, fitted: Fitted, source: str, sink: Sink, options: ClassifyOptions
) -> dict[str, Any]:
    """Write ``<name>_class.tif`` (class ids) and ``<name>_confidence.tif`` (confidence, entropy) of a scene.

    Windows overlap by the model's reach, so every pixel's answer is that of the whole scene at once and there are no
    seams to blend. Returns facts. Raises BadInput for a scene on other bands, wavelengths or units than the model's.
    """
    scene = find(source, options, labelled=False).scene
    model, used, note = matched(model, fitted, scene, options)
    same_unit(fitted, scene, used)
    model.eval()
    name = Path(source).stem if source != "simulated" else source
    ids, dtype, nodata = _id_type(fitted["class_ids"])
    done = Progress()
    with sink.file(f"{name}_class.tif") as class_path, sink.file(f"{name}_confidence.tif") as confidence_path:
        classes = RasterWriter(
            class_path,
            scene,
            1,
            dtype,
            nodata=nodata,
            names=["class"],
            colours=_colours(fitted["class_ids"]) if dtype in ("uint8", "uint16") else None,
            overviews="mode",
            output=options.output,
            tags={f"CLASS_{i}": n for i, n in zip(fitted["class_ids"], fitted["class_names"], strict=True)},
            compress="deflate",
        )
        confidence = RasterWriter(
            confidence_path,
            scene,
            2,
            "float32",
            nodata=CONFIDENCE_NODATA,
            output=options.output,
            names=["confidence", "entropy"],
            band_tags=[
                {"meaning": "calibrated probability of the class"},
                {"meaning": "entropy of the class probabilities, nats"},
            ],
            compress="deflate",
        )
        with classes, confidence:

            def write(at: Slices, slab: Tensor) -> None:
                position, sure = slab[0].round().long().numpy(), slab[1:].numpy()
                done.pixels += position.size
                done.unseen += int((position < 0).sum())
                for c, n in zip(*np.unique(position[position >= 0], return_counts=True), strict=True):
                    done.counts[int(c)] = done.counts.get(int(c), 0) + int(n)
                classes.write(at[0], at[1], np.where(position < 0, nodata, ids[position])[None].astype(dtype))
                confidence.write(at[0], at[1], np.where(position < 0, CONFIDENCE_NODATA, sure).astype(np.float32))

            device = model.temperature.device
            stream_scene(
                scene,
                used,
                lambda cube: answer(model, cube.to(device)).cpu(),
                write,
                sink,
                gives=GIVES,
                halo=model.reach,
                tile=options.predict_tile,
                corrupt=done.corrupt,
            )
    return {
        "rows": scene.shape[0],
        "columns": scene.shape[1],
        "pixels": done.pixels,
        "pixels_without_data": done.unseen,
        "class_pixels": {str(fitted["class_ids"][c]): n for c, n in sorted(done.counts.items())},
        "crs": crs_name(scene.crs),
        "halo": model.reach,
        "corrupt_windows": done.corrupt,
        "notes": [note] if note else [],
    }


@torch.no_grad()
def answer(model: SceneClassifier, cube: Float[Tensor, "b rows cols"]) -> Float[Tensor, "3 rows cols"]:
    """Class position (-1 where no band was measured), its probability and the entropy (nats). NaN: not measured."""
    seen = ~torch.isnan(cube)
    logits = model(cube.nan_to_num(0.0)[None], seen[None])[0]
    log_p = logits.log_softmax(0)
    p = log_p.exp()
    sure, position = p.max(0)
    out = torch.stack([position.to(p.dtype), sure, -(p * log_p).sum(0)])
    return out.masked_fill(~seen.any(0), -1.0)


def matched(model: Model, fitted: Fitted, scene: Scene, options: ClassifyOptions) -> tuple[Model, list[int], str]:
    """The model for this scene's bands, the bands that it reads, and a note where it was resampled."""
    trained = Bands.from_json(fitted["bands"])
    other = difference(trained, scene.bands)
    if other is None:
        return model, list(fitted["used"]), ""
    remedy = "predict a scene of the same sensor, or train with --set other_bands=resample"
    nm = scene.bands.wavelength_nm
    if trained.unit != scene.bands.unit and trained.unit and scene.bands.unit:
        raise BadInput(f"{scene.where}: {other}. Convert its values")
    if options.other_bands == "refuse" or nm is None:
        if nm is None:
            remedy = "write its wavelengths into a side-car .json beside it"
        raise BadInput(f"{scene.where}: {other}; {remedy}")
    low, high = min(fitted["nm"]), max(fitted["nm"])
    chosen = [i for i, w in enumerate(nm) if low <= w <= high and (scene.bands.good[i] or not options.drop_bad)]
    if not chosen:
        raise BadInput(f"{scene.where}: none of its bands lies in {low:g} to {high:g} nm, where the model was trained")
    note = f"resampled from {len(fitted['used'])} trained bands to {len(chosen)} of this scene's: {other}"
    return model.on_bands([nm[i] for i in chosen]), chosen, note


def _id_type(class_ids: list[int]) -> tuple[Any, str, int]:
    """The class ids as an array, the smallest type that holds them, and a nodata value that is none of them."""
    top = max(class_ids)
    dtype = "uint8" if top <= 254 else "uint16" if top <= 65534 else "int32"
    nodata = 0 if 0 not in class_ids else {"uint8": 255, "uint16": 65535, "int32": -1}[dtype]
    return np.array(class_ids), dtype, nodata


def palette(classes: int) -> list[tuple[int, int, int]]:
    """Distinct colours: a dozen chosen by eye, then hues by the golden angle with changing lightness."""
    found = list(CHOSEN_COLOURS[:classes])
    for i in range(len(found), classes):
        r, g, b = colorsys.hls_to_rgb((0.07 + i * 0.618034) % 1.0, (0.45, 0.65, 0.33)[i % 3], 0.55)
        found.append((round(255 * r), round(255 * g), round(255 * b)))
    return found


def _colours(class_ids: list[int]) -> dict[int, tuple[int, int, int, int]]:
    return {i: (*rgb, 255) for i, rgb in zip(class_ids, palette(len(class_ids)), strict=True)}
