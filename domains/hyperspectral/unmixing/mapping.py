"""Abundance maps of a whole scene: windows with a halo in, a georeferenced raster of shares out, bounded memory."""

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
from ..windows import same_unit, stream_scene
from .config import UnmixOptions
from .model import Unmixer
from .source import load

NODATA = -1.0


def map_abundances(model: Unmixer, fitted: Fitted, source: str, sink: Sink, options: UnmixOptions) -> dict[str, Any]:
    """Write ``<name>_abundances.tif`` (a band per endmember) and ``<name>_endmembers.csv``. Returns facts.

    Raises BadInput for a scene on other bands, wavelengths or units than the model's.
    """
    scene = load(source, options.model_copy(update={"truth": None})).scene
    trained = Bands.from_json(fitted["bands"])
    scene, note = matched_scene(scene, trained, fitted["used"], options.other_bands, "unmix")
    same_unit(fitted, scene, fitted["used"])
    model.eval()
    device = model.peak.device
    name = Path(source).stem if source != "simulated" else source
    found: dict[str, Any] = {"pixels": 0, "unseen": 0, "total": np.zeros(len(model.start))}
    corrupt: list[str] = []

    def apply(cube: Tensor) -> Tensor:
        cube = cube.to(device)
        seen = ~torch.isnan(cube)
        shares = model(cube.nan_to_num(0.0)[None], seen[None])[0]
        return shares.masked_fill(~seen.any(0), NODATA).cpu()

    with sink.file(f"{name}_abundances.tif") as path, sink.file(f"{name}_endmembers.csv") as table:
        tags = {"AMPLITUDE": options.amplitude, "MEANING": "abundances: at least 0, sum 1"}
        writer = RasterWriter(
            path, scene, len(model.start), "float32",
            nodata=NODATA, names=fitted["names"], tags=tags, compress="deflate",
            output=options.output,
        )  # fmt: skip
        with writer:

            def write(at: Slices, slab: Tensor) -> None:
                lost = slab[0] < 0
                found["pixels"] += lost.numel()
                found["unseen"] += int(lost.sum())
                found["total"] += slab[:, ~lost].double().sum(1).numpy()
                writer.write(at[0], at[1], slab.numpy().astype(np.float32))

            stream_scene(
                scene, fitted["used"], apply, write, sink,
                gives=len(model.start), halo=model.reach, tile=options.predict_tile, corrupt=corrupt, lost=NODATA,
            )  # fmt: skip
        table.write_text(_table(model, fitted))
    there = max(1, found["pixels"] - found["unseen"])
    return {
        "rows": scene.shape[0],
        "columns": scene.shape[1],
        "pixels": found["pixels"],
        "pixels_without_data": found["unseen"],
        "mean_abundance": {n: float(t / there) for n, t in zip(fitted["names"], found["total"], strict=True)},
        "amplitude": options.amplitude,
        "crs": crs_name(scene.crs),
        "halo": model.reach,
        "corrupt_windows": corrupt,
        "notes": [note] if note else [],
    }


def _table(model: Unmixer, fitted: Fitted) -> str:
    """A library that can be read again: wavelength (nm), then one spectrum per column."""
    e = model.endmembers().detach().cpu().double().numpy()
    names = [n.replace(",", " ") for n in fitted["names"]]
    lines = [",".join(["wavelength", *names])]
    lines += [",".join([repr(w), *(f"{v:.8g}" for v in e[:, i])]) for i, w in enumerate(fitted["nm"])]
    return "\n".join(lines) + "\n"
