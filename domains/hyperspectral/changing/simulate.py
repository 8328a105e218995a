"""Two dates of one place: some fields and small squares change, everything changes its light a little."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int16, Int32
from scipy.ndimage import gaussian_filter

from ..data import ArrayScene, cube_writer
from ..simulate import (
    MATERIALS,
    NODATA,
    REFLECTANCE,
    UTM32,
    Frame,
    asphalt,
    grid,
    inside_of,
    regions,
    sensor,
    sensor_noise,
    smooth_field,
)


@dataclass(frozen=True)
class SimulatedPair:
    """Both dates and the truth: 1 changed, 0 not, -1 at borders of fields, where pixels are mixed."""

    before: ArrayScene
    after: ArrayScene
    mask: Int32[np.ndarray, "rows cols"]


def simulate_pair(
    seed: int = 0,
    *,
    shape: tuple[int, int] = (96, 96),
    bands: int = 48,
    noise: float = 0.012,
    pixels_per_field: float = 120.0,
    changed: float = 0.15,
) -> SimulatedPair:
    """``changed``: share of the fields that get another material. The second date is darker towards the red, lit by
    other clouds, and its plants have grown a little; a strip of either date was not measured.
    """
    rng = np.random.default_rng([seed, 2])
    description = sensor(bands)
    nm = np.array(description.wavelength_nm)
    fields, material = regions(rng, shape, pixels_per_field)
    traits = rng.uniform(0, 1, (len(material), 4))
    new = rng.random(len(material)) < changed
    other = (material + rng.integers(1, len(MATERIALS), len(material))) % len(MATERIALS)
    later = np.where(new, other, material)
    growth = np.clip(traits + 0.1 * rng.normal(size=traits.shape), 0, 1)
    grown = np.where(new[:, None], rng.uniform(0, 1, traits.shape), growth)
    relief = 1 + 0.06 * smooth_field(rng, shape, 3.0)
    built = np.zeros(shape, dtype=bool)
    for _ in range(max(1, round(changed * shape[0] * shape[1] / 600))):
        top, left, side = (int(rng.integers(0, n)) for n in (shape[0] - 6, shape[1] - 6, 4))
        built[top : top + 3 + side, left : left + 3 + side] = True

    def seen(which: Int32[np.ndarray, "fields"], with_traits: Float[np.ndarray, "fields 4"], date: int) -> ArrayScene:
        spectra = np.stack([MATERIALS[m].curve(nm, v) for m, v in zip(which, with_traits, strict=True)])
        light = relief * np.clip(1 + 0.12 * smooth_field(rng, shape, 20.0), 0.5, 1.5)
        cube = (spectra[fields] * light[..., None]).transpose(2, 0, 1).astype(np.float32)
        if date:
            cube = np.where(built, asphalt(nm)[:, None, None] * light, cube).astype(np.float32)
            cube = cube * (1.05 - 0.15 * (nm - nm[0]) / (nm[-1] - nm[0]))[:, None, None].astype(np.float32)
        cube = gaussian_filter(cube, (0, 0.7, 0.7), mode="nearest")
        stored = np.clip(np.round(sensor_noise(rng, nm, cube, noise) * REFLECTANCE), -100, 12_000).astype(np.int16)
        return _scene(stored, date, bands)

    before, after = seen(material.astype(np.int32), traits, 0), seen(later.astype(np.int32), grown, 1)
    truth = (new[fields] | built).astype(np.int32)
    border = ~inside_of(np.where(built, -1, fields).astype(np.int32)) & (truth | (gaussian_filter(truth * 1.0, 1) > 0))
    missing = (before.array[0] == NODATA) | (after.array[0] == NODATA)
    return SimulatedPair(before, after, np.where(border | missing, -1, truth).astype(np.int32))


def _scene(stored: Int16[np.ndarray, "bands rows cols"], date: int, bands: int) -> ArrayScene:
    stored[:, :, slice(-3, None) if date == 0 else slice(0, 2)] = NODATA
    return ArrayScene(f"simulated date {date + 1}", stored, sensor(bands), UTM32, grid(0.0), float(NODATA))


def write_large_pair(
    before: Path, after: Path, *, shape: tuple[int, int], bands: int = 60, seed: int = 0, **creation: Any
) -> None:
    """Two dates as large int16 GeoTIFFs in bounded memory: a simulated pair of patches, repeated over the lattice."""
    made = simulate_pair(seed, shape=(200, 200), bands=bands)
    for path, scene in ((before, made.before), (after, made.after)):
        patch = scene.array[:, :, 2:-3]  # not what one of the dates did not measure
        high, wide = patch.shape[1:]
        frame = Frame(shape, sensor(bands))
        with cube_writer(path, frame, "int16", **creation) as writer:
            for top in range(0, shape[0], high):
                rows = slice(top, min(shape[0], top + high))
                for left in range(0, shape[1], wide):
                    cols = slice(left, min(shape[1], left + wide))
                    writer.write(rows, cols, patch[:, : rows.stop - top, : cols.stop - left])
