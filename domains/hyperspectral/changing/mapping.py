"""Change maps of whole pairs: windows with a halo in, georeferenced files out, in bounded memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared_backbones.errors import BadInput

from ...task import Fitted, Sink
from ...tiling import Slices
from ..bands import Bands, difference
from ..data import RasterWriter, crs_name
from ..windows import same_unit, stream_scene
from .config import ChangeOptions
from .model import ChangeDetector, measured_in_both
from .source import PairScene, pairs_of

NODATA, NO_CLASS = -1.0, 255
COLOURS = {0: (225, 225, 225, 255), 1: (200, 40, 40, 255), NO_CLASS: (0, 0, 0, 0)}


def map_change(
    model: ChangeDetector, fitted: Fitted, source: str, sink: Sink, options: ChangeOptions
) -> dict[str, Any]:
    """Write ``<name>_change.tif`` (1 changed, 0 not, 255 no data) and ``<name>_probability.tif`` of every pair.

    Returns facts. Raises BadInput for dates on different grids, or on other bands, wavelengths or units than the
    model's.
    """
    model.eval()
    pairs = pairs_of(source, options)
    for _, opener in pairs:  # all are looked at before anything is written
        _fits(opener(), fitted)
    found = {name: _one(model, fitted, name, opener(), sink, options) for name, opener in pairs}
    totals = {k: sum(f[k] for f in found.values()) for k in ("pixels", "pixels_without_data", "pixels_changed")}
    return {**totals, "pairs": found}


def _fits(pair: PairScene, fitted: Fitted) -> None:
    other = difference(Bands.from_json(fitted["bands"]), pair.before.bands)
    if other is not None:
        raise BadInput(f"{pair.before.where}: {other}; compare scenes of the same sensor")
    same_unit(fitted, pair.before, fitted["used"])
    same_unit({"mean": fitted["mean_after"]}, pair.after, fitted["used"])


def _one(
    model: ChangeDetector, fitted: Fitted, name: str, pair: PairScene, sink: Sink, options: ChangeOptions
) -> dict[str, Any]:
    facts: dict[str, Any] = {"pixels": 0, "pixels_without_data": 0, "pixels_changed": 0}
    corrupt: list[str] = []
    device, limit = model.threshold.device, float(model.threshold.sigmoid())
    used = [*fitted["used"], *(u + len(pair.before.bands) for u in fitted["used"])]

    def apply(cube: Tensor) -> Tensor:
        cube = cube.to(device)
        seen = ~torch.isnan(cube)
        p = model(cube.nan_to_num(0.0)[None], seen[None]).sigmoid()
        return p.masked_fill(~measured_in_both(seen)[None], NODATA).cpu()

    with sink.file(f"{name}_change.tif") as class_path, sink.file(f"{name}_probability.tif") as path:
        classes = RasterWriter(
            class_path, pair, 1, "uint8",
            nodata=NO_CLASS, names=["change"], colours=COLOURS, overviews="mode", output=options.output,
            tags={"THRESHOLD": f"{limit:.6f}"}, compress="deflate",
        )  # fmt: skip
        probability = RasterWriter(
            path, pair, 1, "float32",
            nodata=NODATA, names=["probability"], output=options.output, compress="deflate",
        )  # fmt: skip
        with classes, probability:

            def write(at: Slices, slab: Tensor) -> None:
                lost, changed = slab < 0, slab > limit
                facts["pixels"] += slab.numel()
                facts["pixels_without_data"] += int(lost.sum())
                facts["pixels_changed"] += int(changed.sum())
                called = changed.to(torch.uint8).masked_fill(lost, NO_CLASS)
                classes.write(at[0], at[1], called.numpy())
                probability.write(at[0], at[1], slab.numpy().astype(np.float32))

            stream_scene(
                pair, used, apply, write, sink,
                gives=1, halo=model.reach, tile=options.predict_tile, corrupt=corrupt, lost=NODATA,
                name=f"windows-{name}",
            )  # fmt: skip
    rows, cols = pair.shape
    more = {"crs": crs_name(pair.crs), "halo": model.reach, "corrupt_windows": corrupt}
    return {"rows": rows, "columns": cols, **facts, **more}
