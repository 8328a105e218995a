"""The options of timeseries/impute."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..config import TableConfig

Kind = Literal["points", "blocks", "outages"]


class ImputeConfig(TableConfig):
    """What is hidden to train and to score on, and how much a model sees at once. Lengths are in steps."""

    length: int = Field(96, ge=8, description="steps of a window")
    hide: Kind = Field(
        "blocks",
        description="points: single values; blocks: stretches of one series; outages: stretches of all series at once",
    )
    share: float = Field(0.2, gt=0, le=0.8, description="of the observed values that is hidden")
    gap: float = Field(12.0, gt=1, description="mean length of a hidden stretch (blocks, outages)")
    hide_seed: int = Field(0, ge=0, description="of what is hidden for validation and test")
