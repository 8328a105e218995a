"""A file in, labels and certainty in the file's own geometry out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from shared_backbones.errors import BadInput

from ..task import Fitted, Sink
from .data.pairs import Grid, read_image, stem_of
from .data.volume import Volume, write_nifti
from .plan import Plan
from .segment_config import SegmentOptions
from .segment_model import Segmenter
from .segment_simulate import simulated
from .segment_source import SIMULATED
from .segment_windows import Answer, Blend, segment

UNCERTAINTY = "largest deviation over the views of a structure's probability, 255 is 0.5"
FAR = 3.0  # a spacing that differs by more than this from training is worth a note


def blend_of(options: SegmentOptions) -> Blend:
    return Blend(options.overlap, options.blend, options.views)


def read_source(source: str, fitted: Fitted, options: SegmentOptions) -> tuple[Grid, str]:
    """What is to be predicted, and the name for its outputs. Raises BadInput where it does not fit the model."""
    path = Path(source)
    if source == SIMULATED:
        return simulated(options.simulated)[0], SIMULATED
    grid, name = read_image(path, int(fitted["channels"])), stem_of(path)
    rank = len(fitted["plan"]["patch"])
    if len(grid.shape) != rank:
        raise BadInput(f"{source}: has {len(grid.shape)} axes, the model was trained on images with {rank}")
    if len(grid.image) != fitted["channels"]:
        raise BadInput(f"{source}: has {len(grid.image)} channels, the model was trained on {fitted['channels']}")
    return grid, name


def predict_file(model: Segmenter, fitted: Fitted, source: str, sink: Sink, options: SegmentOptions) -> dict[str, Any]:
    """Writes ``<name>_labels`` and ``<name>_certainty`` (.nii.gz or .png) on the grid of the source; returns facts.

    Where several views are asked for also ``<name>_uncertainty``.
    """
    grid, name = read_source(source, fitted, options)
    plan = Plan.from_json(fitted["plan"])
    answer = segment(model, grid.image, grid.spacing, plan, blend_of(options))
    values = np.array(fitted["values"])
    table = values.astype(np.uint8 if values.min() >= 0 and values.max() < 256 else np.int32)
    labels = table[answer.labels]
    maps = {"labels": labels, "certainty": answer.sure}
    if answer.spread is not None:
        maps["uncertainty"] = answer.spread
    for what, voxels in maps.items():
        if grid.volume is None:
            _write_flat(sink, f"{name}_{what}", voxels)
        else:
            _write_volume(sink, f"{name}_{what}", grid, voxels)
    return {
        "shape": list(grid.shape),
        "spacing": [float(s) for s in grid.spacing],
        "unit": "mm" if grid.volume is not None else "px",
        "amounts": _amounts(answer, grid, fitted),
        "mean_certainty": float(answer.sure.mean() / 255),
        "certainty": "largest probability, 255 is 1",
        **({} if answer.spread is None else {"mean_uncertainty": answer.mean_spread, "uncertainty": UNCERTAINTY}),
        "notes": [*_notes(grid, fitted), "for research use only"],
    }


def _amounts(answer: Answer, grid: Grid, fitted: Fitted) -> dict[str, float]:
    """Of each structure: millilitres of a volume, pixels of a flat image."""
    one = float(np.prod(grid.spacing)) / 1000 if grid.volume is not None else 1.0
    counts = np.bincount(answer.labels.ravel(), minlength=len(fitted["values"]))
    return {name: float(n) * one for name, n in zip(fitted["names"][1:], counts[1:], strict=True)}


def _notes(grid: Grid, fitted: Fitted) -> list[str]:
    ratio = max(max(a / b, b / a) for a, b in zip(grid.spacing, fitted["plan"]["spacing"], strict=True))
    if ratio <= FAR:
        return []
    return [f"spacing {grid.spacing} is {ratio:.1f} times off that of training, {fitted['plan']['spacing']}"]


def _write_volume(sink: Sink, name: str, grid: Grid, voxels: Shaped[np.ndarray, "i j k"]) -> None:
    assert grid.volume is not None
    assert grid.turn is not None
    with sink.file(f"{name}.nii.gz") as path:
        write_nifti(path, Volume(grid.turn.back(voxels), grid.volume.affine, name, grid.volume.stored))


def _write_flat(sink: Sink, name: str, pixels: Shaped[np.ndarray, "h w"]) -> None:
    from PIL import Image

    with sink.file(f"{name}.png") as path:
        Image.fromarray(np.ascontiguousarray(pixels)).save(path, format="PNG")
