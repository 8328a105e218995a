"""Options of `hyperspectral/unmix`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ...task import TaskConfig
from ..data import Output


class UnmixOptions(TaskConfig):
    """Options of the task; the model's own stand in the preset. The defaults are one fixed setting for all scenes."""

    endmembers: int | None = Field(
        None, ge=2, le=30, description="how many materials; default: as many as the truth has, where there is one"
    )
    library: str | None = Field(
        None, description="spectral library (.sli or .csv): endmembers are chosen from it and kept"
    )
    amplitude: Literal["equal", "scene"] = Field(
        "equal",
        description="what an abundance is a share of. equal: every endmember's largest value is 1, so it is a share of "
        "light; scene: endmembers are as bright as their purest pixels, so it is a share of area",
    )
    truth: str | None = Field(None, description="abundances for scoring: a raster or array with one band per material")
    truth_endmembers: str | None = Field(None, description="their spectra: a .sli or .csv library in the same order")
    variable: str | None = Field(None, description="the variable of a .mat scene")
    wavelengths: str | tuple[float, ...] | None = Field(
        None,
        description="nm, where the file states none: one per band, 'FIRST-LAST', or sentinel-2, landsat-8",
    )
    ranges_nm: tuple[tuple[float, float], ...] | None = Field(None, description="use only bands in these ranges")
    only: tuple[str | float, ...] | None = Field(None, description="use only these bands, by name or wavelength (nm)")
    other_bands: Literal["refuse", "resample"] = Field(
        "refuse",
        description="a scene on other bands than the model's: refuse it, or resample it onto those",
    )
    drop_bad: bool = Field(True, description="leave out the bands that the file flags as bad")
    patch_radius: int = Field(5, ge=0, description="how far (pixels) a correction may look; the model is held to it")
    volume: float = Field(1e-3, ge=0, description="weight of the endmembers' volume in the loss")
    dark: float = Field(0.2, gt=0, description="pixels darker than this share of the mean count less in the loss")
    tile: int = Field(16, ge=4, description="side of a training tile without its halo, in pixels")
    held: float = Field(0.1, gt=0, lt=0.5, description="share of tiles whose spectra are kept from training")
    pixels: int = Field(100_000, ge=64, description="most pixels that are fitted and scored; of more, random tiles")
    draw: int = Field(0, ge=0, description="random draw of the tiles and of the baselines")
    predict_tile: int = Field(0, ge=0, description="side of a prediction tile; 0: chosen by how the file is stored")
    output: Output = Field("geotiff", description="of predictions: GeoTIFF with overviews, or cloud-optimised")
    simulated: dict[str, float] = Field(
        default_factory=dict,
        description="for --data simulated: seed, rows, cols, bands, endmembers, purity, patch, light, variety, "
        "bilinear, snr_db",
    )
