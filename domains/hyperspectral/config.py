"""Options of `hyperspectral/classify`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..task import TaskConfig
from .data import Output


class SplitOptions(BaseModel):
    """How labelled pixels become train, validation and test parts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: Literal["blocks", "polygons", "pixels"] | None = Field(
        None, description="what is dealt out whole; default: polygons where labels are polygons, else blocks"
    )
    block: int = Field(24, ge=1, description="side of a block in pixels")
    buffer: int | None = Field(None, ge=0, description="pixels kept free between parts; default: the patch radius")
    fractions: tuple[float, float, float] = Field((0.5, 0.2, 0.3), description="train, validation, test")
    per_class: int | None = Field(
        None, ge=2, description="at most so many training pixels per class, half as many for validation"
    )
    allow_leak: bool = Field(
        False, description="permit the random pixel split, whose test patches hold training pixels"
    )
    seed: int = 0

    @model_validator(mode="after")
    def _whole(self) -> SplitOptions:
        if min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise ValueError(f"split.fractions must be three positive numbers that sum to 1, got {self.fractions}")
        return self


class ClassifyOptions(TaskConfig):
    """Options of the task; the model's own stand in the preset."""

    labels: str | None = Field(None, description="label raster, .mat, .npy or vector file of the scene")
    label_attribute: str | None = Field(None, description="the class attribute of a vector file")
    label_variable: str | None = Field(None, description="the variable of a .mat label file")
    unlabelled: tuple[int, ...] = Field((0,), description="label ids that mean: no label")
    class_names: dict[int, str] = Field(default_factory=dict, description="names of class ids, for figures")
    variable: str | None = Field(None, description="the variable of a .mat scene")
    wavelengths: str | tuple[float, ...] | None = Field(
        None,
        description="nm, where the file states none: one per band, 'FIRST-LAST', or sentinel-2, landsat-8",
    )
    ranges_nm: tuple[tuple[float, float], ...] | None = Field(None, description="use only bands in these ranges")
    only: tuple[str | float, ...] | None = Field(None, description="use only these bands, by name or wavelength (nm)")
    drop_bad: bool = Field(True, description="leave out the bands that the file flags as bad")
    dead_bands: Literal["refuse", "drop"] = Field(
        "refuse",
        description="a band without data, or of one value only, at the training pixels: refuse, or leave it out",
    )
    other_bands: Literal["refuse", "resample"] = Field(
        "refuse", description="a scene on other bands than the model's: refuse it, or resample onto its wavelengths"
    )
    patch_radius: int = Field(5, ge=0, description="how far (pixels) a prediction may look; the model is held to it")
    split: SplitOptions = SplitOptions()
    balanced: bool = Field(False, description="weight classes in the loss by the inverse of their size")
    augment: bool = Field(True, description="flip and turn training tiles")
    light: float = Field(0.1, ge=0, description="brighten and darken training tiles by about this share")
    sample_bands: bool = Field(
        False, description="train on random subsets of the bands, another for each batch, to bear missing ones"
    )
    tile: int = Field(32, ge=1, description="side of a training tile without its halo, in pixels")
    predict_tile: int = Field(0, ge=0, description="side of a prediction tile; 0: chosen by how the file is stored")
    output: Output = Field("geotiff", description="of predictions: GeoTIFF with overviews, or cloud-optimised")
    simulated: dict[str, float] = Field(
        default_factory=dict, description="for --data simulated: seed, rows, cols, bands, noise, pixels_per_field"
    )
