"""Features of a whole scene: windows with a halo in, a georeferenced raster out, in bounded memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...task import Fitted, Sink
from ...tiling import Slices
from ..data import RasterWriter, Scene, crs_name
from ..datasets import SAMSON
from ..mapping import matched
from ..source import find
from ..unmixing.source import samson_scene
from ..windows import same_unit, stream_scene
from .config import PretrainOptions
from .model import MaskedScenes

NODATA = float("nan")


def map_features(
    model: MaskedScenes, fitted: Fitted, source: str, sink: Sink, options: PretrainOptions
) -> dict[str, Any]:
    """Write ``<name>_features.tif``, one band per feature, NaN where no band was measured. Returns facts.

    Raises BadInput for a scene on other bands, wavelengths or units than the model's.
    """
    scene: Scene = samson_scene()[0] if source == SAMSON.name else find(source, options, labelled=False).scene
    model, used, note = matched(model, fitted, scene, options)
    same_unit(fitted, scene, used)
    model.eval()
    device, name = model.probe.device, Path(source).stem if source != "simulated" else source
    facts: dict[str, Any] = {"pixels": 0, "pixels_without_data": 0}
    corrupt: list[str] = []

    def apply(cube: Tensor) -> Tensor:
        cube = cube.to(device)
        seen = ~torch.isnan(cube)
        valid = seen.any(0)
        out = cube.new_full((*valid.shape, model.width), torch.nan)
        out[valid] = model.encoded(cube.nan_to_num(0.0)[None], seen[None])
        return out.movedim(-1, 0).cpu()

    with sink.file(f"{name}_features.tif") as path:
        names = [f"feature {i}" for i in range(model.width)]
        writer = RasterWriter(
            path, scene, model.width, "float32",
            nodata=NODATA, names=names, output=options.output, compress="deflate",
        )  # fmt: skip
        with writer:

            def write(at: Slices, slab: Tensor) -> None:
                facts["pixels"] += slab[0].numel()
                facts["pixels_without_data"] += int(slab[0].isnan().sum())
                writer.write(at[0], at[1], slab.numpy().astype(np.float32))

            stream_scene(
                scene, used, apply, write, sink,
                gives=model.width, halo=model.spatial_reach, tile=options.predict_tile, corrupt=corrupt, lost=NODATA,
            )  # fmt: skip
    return {
        "rows": scene.shape[0],
        "columns": scene.shape[1],
        **facts,
        "features": model.width,
        "crs": crs_name(scene.crs),
        "halo": model.spatial_reach,
        "corrupt_windows": corrupt,
        "notes": [note] if note else [],
    }
