"""A restored cube of a whole scene: windows in, a georeferenced cube with the same bands out, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from shared_backbones.errors import BadRequest

from ...journal import Windows, stream_kept
from ...task import Fitted, Sink
from ...tiling import Slices, Tile, map_tiles
from ..bands import Bands
from ..data import CorruptBlock, Scene, crs_name, cube_writer, finish_envi
from ..matching import matched_scene
from ..reach import measured_reach
from .degrade import finer
from .model import RADII, Restorer
from .source import Scaled, scene_of

if TYPE_CHECKING:
    from .task import Restore

NODATA = -9999.0
MARGIN = 3  # given pixels around a window that bicubic interpolation reads


@dataclass(frozen=True)
class Fine:
    """The lattice of the output: ``scale`` times as many pixels in the same place."""

    scene: Scene
    bands: Bands
    scale: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.scene.shape[0] * self.scale, self.scene.shape[1] * self.scale

    @property
    def crs(self) -> str | None:
        return self.scene.crs

    @property
    def transform(self) -> tuple[float, ...] | None:
        if self.scene.transform is None:
            return None
        a, b, c, d, e, f = self.scene.transform
        return a / self.scale, b / self.scale, c, d / self.scale, e / self.scale, f

    @property
    def nodata(self) -> float | None:
        return NODATA


def window_reader(scene: Scene, used: list[int], scaled: Scaled, scale: int) -> Any:
    """Reads windows of the fine lattice: (bands, rows, cols) scaled to 0..1, NaN where nothing was measured."""

    def read(at: Slices) -> Float[Tensor, "b rows cols"]:
        coarse, inner = [], []
        for span, size in zip(at, scene.shape, strict=True):
            start = max(0, span.start // scale - (MARGIN if scale > 1 else 0))
            stop = min(size, -(-span.stop // scale) + (MARGIN if scale > 1 else 0))
            coarse.append(slice(start, stop))
            inner.append(slice(span.start - start * scale, span.stop - start * scale))
        values, seen = scene.read(coarse[0], coarse[1])
        values, seen = scaled.put(values[used]), seen[used]
        x = torch.from_numpy(np.where(seen, values, np.float32(0)))
        there = torch.from_numpy(np.ascontiguousarray(seen))
        if scale > 1:
            x = finer(x, scale)
            there = there.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
        return x.masked_fill(~there, torch.nan)[:, inner[0], inner[1]]

    return read


def restore_scene(task: Restore, model: Restorer, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
    """Write ``<name>_denoised.tif`` or ``<name>_x<scale>.tif``: the used bands as float32 in the scene's unit.

    Windows of a preset that looks a bounded way are exact; others overlap by a quarter and are blended. Raises
    BadInput for a scene on other bands, wavelengths or units than the model's.
    """
    scene, scale, options = scene_of(source, task.config, bool(fitted.get("luma"))), task.multiple, task.config
    trained = Bands.from_json(fitted["bands"])
    scene, note = matched_scene(scene, trained, fitted["used"], options.other_bands, "restore")
    used, scaled = fitted["used"], Scaled(fitted["low"], fitted["high"])
    own = scene.bands.select(used)
    out = Fine(scene, replace(own, scale=(1.0,) * len(used), offset=(0.0,) * len(used)), scale)
    model.eval()
    reach = reach_of(model, options.patch_radius)
    name = Path(source).stem if source != "simulated" else source
    ending = f"x{scale}" if scale > 1 else "denoised"
    facts: dict[str, Any] = {"values": 0, "unseen": 0}
    corrupt: list[str] = []

    def apply(cube: Tensor) -> Tensor:
        seen = ~torch.isnan(cube)
        found = task.restored(model, cube.nan_to_num(0.0)[None], seen[None])[0]
        return found.masked_fill(~seen, torch.nan)

    def on_error(tile: Tile, error: Exception) -> Tensor:
        if not isinstance(error, CorruptBlock):
            raise error
        rows, cols = tile.core
        corrupt.append(f"rows {rows.start} to {rows.stop}, columns {cols.start} to {cols.stop}: {error}")
        return torch.full((len(used), *tile.shape), torch.nan)

    tile, blended = options.predict_tile, reach is None
    envi = options.output == "envi"
    creation = {} if envi else {"compress": "deflate", "output": options.output}
    with sink.file(f"{name}_{ending}.{'img' if envi else 'tif'}") as path:
        with cube_writer(path, out, "float32", bands=out.bands, nodata=NODATA, **creation) as writer:

            def write(at: Slices, slab: Tensor) -> None:
                lost = torch.isnan(slab).numpy()
                facts["values"] += lost.size
                facts["unseen"] += int(lost.sum())
                writer.write(at[0], at[1], np.where(lost, np.float32(NODATA), scaled.back(slab.numpy())))

            halo = max(RADII) if reach is None else reach
            where = {"shape": list(out.shape), "tile": tile, "halo": halo, "blended": blended}
            windows = Windows(
                window_reader(scene, used, scaled, scale), apply, on_error, out.shape, tile,
                stride=max(1, tile * 3 // 4) if blended else None, halo=halo, blend="hann" if blended else "constant",
            )  # fmt: skip
            stream_kept(windows, write, sink, "windows", where, corrupt)
        if envi:
            finish_envi(path, out, out.bands)
    return {
        "rows": out.shape[0],
        "columns": out.shape[1],
        "bands": len(used),
        "values": facts["values"],
        "values_without_data": facts["unseen"],
        "crs": crs_name(scene.crs),
        "windows": "blended" if blended else f"exact, halo {reach}",
        "corrupt_windows": corrupt,
        "notes": [note] if note else [],
    }


def restored_in_windows(
    restored: Callable[[Tensor, Tensor], Tensor], given: Tensor, seen: Tensor, tile: int
) -> Float[Tensor, "1 b rows cols"]:
    """A cube in memory as :func:`restore_scene` makes it with a preset that looks far: overlapping windows, blended."""
    bands = given.shape[1]
    found = map_tiles(
        torch.cat([given[0], seen[0].to(given.dtype)]),
        lambda x: restored(x[None, :bands], x[None, bands:] > 0.5)[0],
        tile=tile,
        stride=max(1, tile * 3 // 4),
        halo=max(RADII),
        blend="hann",
    )
    return found[None]


def reach_of(model: Restorer, limit: int) -> int | None:
    """How far an output looks, in pixels; None where that is not bounded by ``limit``."""
    import copy

    if model.volume:
        return None
    with torch.inference_mode(False), torch.enable_grad():  # a batch predicts in inference mode, which has no gradients
        probe = copy.deepcopy(model).double().cpu().eval()
        for module in probe.modules():
            module._forward_hooks.clear()  # who watches the model is not to see what is made up here
        torch.nn.init.normal_(probe.head.weight)

        def mix(x: Float[Tensor, "1 C rows cols"]) -> Float[Tensor, "1 K rows cols"]:
            found: Tensor = probe(x, torch.ones_like(x, dtype=torch.bool))
            return found

        try:
            return measured_reach(mix, len(probe.mean), limit)
        except BadRequest:
            return None
