"""A plausible scene: fields of materials with physically shaped spectra, mixing, shade, noise, a georeference.

Everything is a function of the seed. Spectra are built from the features that people read in them: the red edge and
the chlorophyll bands of leaves, liquid water at 970, 1200, 1450 and 1940 nm, clay at 2200 nm, cellulose at 2100 nm,
iron oxides below 600 nm, the steep fall of open water.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int16, Int32
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from .bands import Bands, plain_bands
from .data import ArrayScene, cube_writer

Curve = Float[np.ndarray, "bands"]
NODATA = -9999
REFLECTANCE = 10_000.0  # stored numbers per unit of reflectance
UTM32 = (
    'PROJCS["WGS 84 / UTM zone 32N",GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563,'
    'AUTHORITY["EPSG","7030"]],AUTHORITY["EPSG","6326"]],PRIMEM["Greenwich",0,AUTHORITY["EPSG","8901"]],'
    'UNIT["degree",0.0174532925199433,AUTHORITY["EPSG","9122"]],AUTHORITY["EPSG","4326"]],'
    'PROJECTION["Transverse_Mercator"],PARAMETER["latitude_of_origin",0],PARAMETER["central_meridian",9],'
    'PARAMETER["scale_factor",0.9996],PARAMETER["false_easting",500000],PARAMETER["false_northing",0],'
    'UNIT["metre",1,AUTHORITY["EPSG","9001"]],AXIS["Easting",EAST],AXIS["Northing",NORTH],AUTHORITY["EPSG","32632"]]'
)


def _dip(nm: Curve, centre: float, width: float, depth: float) -> Curve:
    """A Gaussian absorption: a factor that falls to 1 - depth at its centre (nm)."""
    return 1.0 - depth * np.exp(-0.5 * ((nm - centre) / width) ** 2)


def leaf(nm: Curve, chlorophyll: float, water: float, structure: float, red_edge: float) -> Curve:
    visible = 0.04 + 0.07 * (1.2 - chlorophyll) * np.exp(-0.5 * ((nm - 552) / 32) ** 2) + 0.02 * (1 - chlorophyll)
    plateau = structure / (1 + np.exp(-(nm - red_edge) / 14))
    swir = 1.0 - (0.35 + 0.25 * water) / (1 + np.exp(-(nm - 1380) / 60))
    curve = (visible + plateau) * swir
    for centre, width, depth in (
        (970, 28, 0.10),
        (1200, 40, 0.22),
        (1450, 55, 0.70),
        (1940, 70, 0.80),
        (2500, 160, 0.6),
    ):
        curve = curve * _dip(nm, centre, width, min(0.95, depth * water))
    return curve


def soil(nm: Curve, brightness: float, clay: float, iron: float, moisture: float) -> Curve:
    curve = brightness * (0.25 + 0.75 * (1 - np.exp(-(nm - 350) / 620)))
    for centre, width, depth in ((480, 60, 0.35 * iron), (900, 90, 0.18 * iron), (2205, 28, 0.30 * clay)):
        curve = curve * _dip(nm, centre, width, depth)
    for centre, width, depth in ((1410, 45, 0.20), (1920, 55, 0.35)):
        curve = curve * _dip(nm, centre, width, depth * (0.4 + moisture))
    return curve * (1 - 0.45 * moisture)


def straw(nm: Curve) -> Curve:
    curve = 0.42 * (1 - np.exp(-(nm - 380) / 330))
    for centre, width, depth in (
        (1730, 40, 0.08),
        (2100, 60, 0.22),
        (2300, 50, 0.20),
        (1450, 50, 0.15),
        (1940, 60, 0.25),
    ):
        curve = curve * _dip(nm, centre, width, depth)
    return curve


def water(nm: Curve) -> Curve:
    return 0.055 * np.exp(-np.clip(nm - 480, 0, None) / 130) + 0.004


def asphalt(nm: Curve) -> Curve:
    return 0.09 + 0.05 * (nm - 400) / 2100


@dataclass(frozen=True)
class Material:
    """What a class is made of: a curve drawn anew for every field (``variety``), by the field's own numbers in 0..1."""

    id: int
    name: str
    curve: Callable[[Curve, Float[np.ndarray, "4"]], Curve]
    share: float


# ids are not contiguous, on purpose: those of real maps are not
MATERIALS: tuple[Material, ...] = (
    Material(1, "maize", lambda nm, v: leaf(nm, 0.75 + 0.1 * v[0], 0.75 + 0.2 * v[1], 0.42 + 0.06 * v[2], 716), 0.22),
    Material(2, "wheat", lambda nm, v: leaf(nm, 0.62 + 0.1 * v[0], 0.60 + 0.2 * v[1], 0.38 + 0.06 * v[2], 711), 0.20),
    Material(4, "forest", lambda nm, v: leaf(nm, 0.85 + 0.1 * v[0], 0.95 + 0.2 * v[1], 0.30 + 0.05 * v[2], 719), 0.18),
    Material(7, "bare soil", lambda nm, v: soil(nm, 0.30 + 0.1 * v[0], 0.3 + 0.3 * v[1], 0.5, 0.3 * v[2]), 0.16),
    Material(10, "stubble", lambda nm, v: (0.5 + 0.2 * v[0]) * straw(nm) + 0.4 * soil(nm, 0.3, 0.3, 0.4, 0.2), 0.12),
    Material(12, "water", lambda nm, v: water(nm) * (0.7 + 0.8 * v[0]), 0.12),
)
CLASS_NAMES: Mapping[int, str] = {m.id: m.name for m in MATERIALS}


@dataclass(frozen=True)
class Simulated:
    """A scene with its truth. ``fields`` numbers the fields (polygons) of one material each."""

    scene: ArrayScene
    ids: Int32[np.ndarray, "rows cols"]
    fields: Int32[np.ndarray, "rows cols"]


def sensor(count: int, first_nm: float = 420.0, last_nm: float = 2450.0) -> Bands:
    """Evenly spaced bands, int16 reflectance x 10000; those in the water vapour windows are flagged as bad."""
    nm = np.linspace(first_nm, last_nm, count)
    bad = ((nm > 1350) & (nm < 1430)) | ((nm > 1800) & (nm < 1950))
    width = (last_nm - first_nm) / max(1, count - 1)
    plain = plain_bands(count, [float(w) for w in nm.round(3)], "reflectance")
    return Bands(
        plain.wavelength_nm,
        (round(1.1 * width, 3),) * count,
        tuple(bool(g) for g in ~bad),
        plain.unit,
        (1 / REFLECTANCE,) * count,
        (0.0,) * count,
        plain.names,
    )


def smooth_field(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> Float[np.ndarray, "rows cols"]:
    """A smooth random field of mean 0 and deviation 1."""
    field = gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return (field - field.mean()) / max(field.std(), 1e-9)


def regions(
    rng: np.random.Generator, shape: tuple[int, int], pixels_per_field: float
) -> tuple[Int32[np.ndarray, "rows cols"], Int32[np.ndarray, "fields"]]:
    """Which field a pixel lies in, and which material (its position in MATERIALS) a field is made of."""
    count = max(3 * len(MATERIALS), round(shape[0] * shape[1] / pixels_per_field))
    seeds = rng.uniform((0, 0), shape, (count, 2))
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    wiggle = [2.0 * smooth_field(rng, shape, 6.0) for _ in range(2)]
    points = np.stack([rows + wiggle[0], cols + wiggle[1]], -1)
    nearest = cKDTree(seeds).query(points.reshape(-1, 2))[1]
    shares = np.array([m.share for m in MATERIALS])
    material = np.repeat(np.arange(len(MATERIALS)), np.maximum(2, np.floor(shares * count).astype(int)))
    material = np.resize(rng.permutation(material), count)
    return nearest.reshape(shape).astype(np.int32), material.astype(np.int32)


def sensor_noise(rng: np.random.Generator, nm: Curve, cube: Float[np.ndarray, "bands rows cols"], level: float) -> Any:
    """Shot and read-out noise, an order of magnitude stronger where water vapour leaves little light."""
    vapour = 1 + 9 * np.exp(-0.5 * ((nm - 1390) / 45) ** 2) + 9 * np.exp(-0.5 * ((nm - 1870) / 70) ** 2)
    sigma = level * vapour[:, None, None] * np.sqrt(0.2 + cube)
    return cube + sigma * rng.standard_normal(cube.shape, dtype=np.float32)


def simulate(
    seed: int = 0,
    *,
    shape: tuple[int, int] = (128, 128),
    bands: int = 64,
    noise: float = 0.012,
    pixels_per_field: float = 220.0,
    rotation: float = 0.0,
) -> Simulated:
    """A scene of ``shape`` pixels of 30 m, int16 reflectance x 10000, EPSG:32632, with a strip without data.

    ``rotation`` turns the grid (degrees). Labels are left out at the border of fields, where pixels are mixed.
    """
    rng = np.random.default_rng(seed)
    description = sensor(bands)
    nm = np.array(description.wavelength_nm)
    fields, material = regions(rng, shape, pixels_per_field)
    traits = rng.uniform(0, 1, (len(material), 4))
    spectra = np.stack([MATERIALS[m].curve(nm, v) for m, v in zip(material, traits, strict=True)])  # (fields, bands)
    brightness = 1 + 0.06 * smooth_field(rng, shape, 3.0)
    light = np.clip(1 + 0.12 * smooth_field(rng, shape, 20.0), 0.5, 1.5)
    cube = (spectra[fields] * (brightness * light)[..., None]).astype(np.float32).transpose(2, 0, 1)
    cube = gaussian_filter(cube, (0, 0.7, 0.7), mode="nearest")  # the point spread mixes neighbours
    stored = np.clip(np.round(sensor_noise(rng, nm, cube, noise) * REFLECTANCE), -100, 12_000).astype(np.int16)
    stored[:, :, -3:] = NODATA  # beyond the edge of the swath
    ids = np.array([MATERIALS[m].id for m in material], dtype=np.int32)[fields]
    inner = inside_of(fields) & (stored[0] != NODATA)
    scene = ArrayScene("simulated", stored, description, UTM32, grid(rotation), float(NODATA))
    return Simulated(scene, np.where(inner, ids, -1).astype(np.int32), np.where(inner, fields, -1).astype(np.int32))


def inside_of(fields: Int32[np.ndarray, "rows cols"]) -> Any:
    """True where all four neighbours belong to the same field."""
    padded = np.pad(fields, 1, mode="edge")
    shifted = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return np.logical_and.reduce([fields == s for s in shifted])


def grid(rotation: float, pixel: float = 30.0) -> tuple[float, ...]:
    c, s = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    return (float(pixel * c), float(pixel * s), 500_000.0, float(pixel * s), float(-pixel * c), 5_400_000.0)


@dataclass(frozen=True)
class Frame:
    """A lattice without values: what a writer needs to know of a scene."""

    shape: tuple[int, int]
    bands: Bands
    crs: str | None = UTM32
    transform: tuple[float, ...] | None = grid(0.0)
    nodata: float | None = float(NODATA)


def write_large(
    path: Path, *, shape: tuple[int, int] = (3000, 3000), bands: int = 60, seed: int = 0, **creation: Any
) -> None:
    """A large int16 GeoTIFF in bounded memory: a simulated patch, repeated, with the light of each block its own."""
    patch = simulate(seed, shape=(250, 250), bands=bands).scene.array[:, :, :-3]
    rng = np.random.default_rng(seed)
    with cube_writer(path, Frame(shape, sensor(bands)), "int16", **creation) as writer:
        for top in range(0, shape[0], patch.shape[1]):
            rows = slice(top, min(shape[0], top + patch.shape[1]))
            for left in range(0, shape[1], patch.shape[2]):
                cols = slice(left, min(shape[1], left + patch.shape[2]))
                light = rng.uniform(0.9, 1.1)
                part: Int16[np.ndarray, "bands rows cols"] = patch[:, : rows.stop - top, : cols.stop - left]
                writer.write(rows, cols, (part * light).astype(np.int16))
