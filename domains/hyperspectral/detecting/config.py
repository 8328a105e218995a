"""Options of `hyperspectral/detect`."""

from __future__ import annotations

from pydantic import Field, model_validator

from ..restoring.config import RestoreOptions


class DetectOptions(RestoreOptions):
    """What is sought and how it is implanted; where no target is named, anything strange is sought."""

    target: str | None = Field(None, description="spectral library (.sli or .csv) of the target; none: anomalies")
    target_name: str | None = Field(None, description="which spectrum of the library; default: its only one")
    target_scale: float = Field(1.0, gt=0, description="factor from the library's numbers to the scene's values")
    share: float = Field(0.03, gt=0, lt=0.5, description="share of pixels that get an implant")
    fractions_of: tuple[float, float] = Field((0.05, 0.5), description="what an implant fills of its pixel: from, to")
    near: int = Field(5, ge=0, description="how far (pixels) a decision may look; the model is held to it")

    @model_validator(mode="after")
    def _range(self) -> DetectOptions:
        low, high = self.fractions_of
        if not 0 < low <= high <= 1:
            raise ValueError(f"fractions_of must be 0 < from <= to <= 1, got {self.fractions_of}")
        return self
