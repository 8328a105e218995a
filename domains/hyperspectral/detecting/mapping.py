"""Detections over a whole scene: windows with a halo in, a georeferenced raster of scores out, bounded memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...task import Fitted, Sink
from ...tiling import Slices
from ..bands import Bands
from ..data import RasterWriter, crs_name
from ..matching import matched_scene
from ..restoring.source import load
from ..windows import same_unit, stream_scene
from .config import DetectOptions
from .model import Detector

NODATA = -1.0
CERTAIN = 0.5


def detect_scene(model: Detector, fitted: Fitted, source: str, sink: Sink, options: DetectOptions) -> dict[str, Any]:
    """Write ``<name>_detections.tif``: the probability of a target under the share of training. Returns facts.

    Raises BadInput for a scene on other bands, wavelengths or units than the model's.
    """
    scene = load(source, options).scene
    trained = Bands.from_json(fitted["bands"])
    scene, note = matched_scene(scene, trained, fitted["used"], options.other_bands, "search")
    same_unit(fitted, scene, fitted["used"])
    model.eval()
    device = model.back.device
    name = Path(source).stem if source != "simulated" else source
    facts: dict[str, Any] = {"pixels": 0, "pixels_without_data": 0, "pixels_above_half": 0}
    corrupt: list[str] = []

    def apply(cube: Tensor) -> Tensor:
        cube = cube.to(device)
        seen = ~torch.isnan(cube)
        p = model(cube.nan_to_num(0.0)[None], seen[None]).sigmoid()
        return p.masked_fill(~seen.any(0)[None], NODATA).cpu()

    with sink.file(f"{name}_detections.tif") as path:
        writer = RasterWriter(
            path,
            scene,
            1,
            "float32",
            nodata=NODATA,
            names=["probability"],
            output="cog" if options.output == "cog" else "geotiff",
            tags={"MEANING": f"probability of a target, where a share of {options.share:g} of pixels has one"},
            compress="deflate",
        )
        with writer:

            def write(at: Slices, slab: Tensor) -> None:
                facts["pixels"] += slab.numel()
                facts["pixels_without_data"] += int((slab < 0).sum())
                facts["pixels_above_half"] += int((slab > CERTAIN).sum())
                writer.write(at[0], at[1], slab.numpy().astype(np.float32))

            stream_scene(
                scene,
                fitted["used"],
                apply,
                write,
                sink,
                gives=1,
                halo=model.reach,
                tile=options.predict_tile,
                corrupt=corrupt,
                lost=NODATA,
            )
    return {
        "rows": scene.shape[0],
        "columns": scene.shape[1],
        **facts,
        "crs": crs_name(scene.crs),
        "halo": model.reach,
        "corrupt_windows": corrupt,
        "notes": [note] if note else [],
    }
