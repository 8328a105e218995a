"""Options of `hyperspectral/denoise` and `hyperspectral/superres`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ...task import TaskConfig

Noise = Literal["gaussian", "noniid", "stripes", "deadlines", "impulse", "mixture"]


class RestoreOptions(TaskConfig):
    """What both tasks ask for; the model's own options stand in the preset."""

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
    luma: bool = Field(False, description="of grey or colour images: restore their luma (16 to 235), not each colour")
    block: int = Field(24, ge=8, description="about the side of a block in pixels; blocks are dealt out whole")
    fractions: tuple[float, float, float] = Field((0.5, 0.2, 0.3), description="train, validation, test")
    draw: int = Field(0, ge=0, description="random draw of the blocks, or of the scenes of a folder")
    test: tuple[str, ...] = Field((), description="of a folder of scenes or images: names of those that only test")
    components: int = Field(16, ge=1, description="principal spectra of the training part that images are written in")
    crops: int = Field(8, ge=1, description="how often an epoch visits each training block, with other noise each time")
    light: float = Field(0.1, ge=0, description="brighten and darken training blocks by about this share")
    predict_tile: int = Field(64, ge=8, description="side of a prediction window in (output) pixels")
    output: Literal["geotiff", "cog", "envi"] = Field("geotiff", description="format of predicted cubes")
    patch_radius: int = Field(
        16, ge=0, description="windows are exact for presets that look no farther than this; others are blended"
    )
    simulated: dict[str, float] = Field(
        default_factory=dict, description="for --data simulated: seed, rows, cols, bands, endmembers, snr_db"
    )

    @model_validator(mode="after")
    def _whole(self) -> RestoreOptions:
        if min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise ValueError(f"fractions must be three positive numbers that sum to 1, got {self.fractions}")
        return self


class DenoiseOptions(RestoreOptions):
    """Which noise is put on the clean scene, and is to be removed."""

    noise: Noise = Field("gaussian", description="kind of noise; mixture: non-iid with stripes, dead lines, impulses")
    sigma: float = Field(50.0, gt=0, le=255, description="deviation of the noise, of a range of 255")


class SuperresOptions(RestoreOptions):
    """How much finer the result is than what is given."""

    scale: Literal[2, 3, 4, 8] = Field(2, description="how many output pixels a side of an input pixel gives")
