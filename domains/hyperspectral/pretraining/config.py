"""Options of `hyperspectral/pretrain`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ..config import ClassifyOptions


class PretrainOptions(ClassifyOptions):
    """Options of `hyperspectral/pretrain`. Those on data, bands and split mean what they mean in
    `hyperspectral/classify`; labels may be missing, and are only used by the linear probe.
    """

    mask: Literal["cells", "spans", "places"] = Field(
        "cells", description="what is hidden: cells of wavelengths and pixels, spans of wavelengths, or whole pixels"
    )
    hide: float = Field(0.75, gt=0, lt=1, description="share of the cells that is hidden")
    patch: int = Field(4, ge=1, description="side of a cell in pixels")
    spans: int = Field(8, ge=2, description="how many spans of neighbouring bands the spectrum is cut into")
    sequence: float = Field(0.5, ge=0, description="weight of the second target: steps from band to band")
    scales: Literal[1, 2] = Field(
        1, description="2: the network sees the scene at half its resolution and restores both"
    )
    decoder_dim: int = Field(64, ge=8, description="width of the decoder, which is thrown away")
    decoder_depth: int = Field(2, ge=1, description="blocks of the decoder")

    @model_validator(mode="after")
    def _fits(self) -> PretrainOptions:
        if self.tile % self.patch:
            raise ValueError(f"patch must divide tile={self.tile}, got {self.patch}")
        if self.scales == 2 and self.patch % 2:
            raise ValueError(f"with scales=2 patch must be even, got {self.patch}")
        return self
