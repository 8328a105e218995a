"""Options of `audio/regress`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from .config import AudioOptions


class RegressOptions(AudioOptions):
    """Which columns hold the numbers; windows of predictions as of `audio/classify`."""

    targets: tuple[str, ...] = Field((), description="columns of the manifest; default: all others that hold numbers")
    chunk_s: float = Field(4.0, gt=0, description="predictions: length of a window over long recordings (s)")
    overlap: float = Field(0.5, ge=0, lt=1, description="share of a window that the next one sees again")
    whole_s: float = Field(15.0, gt=0, description="predictions: recordings up to this length are taken whole (s)")
    table: Literal["csv", "parquet", "jsonl"] = Field("csv", description="predictions: form of the table")

    @field_validator("targets")
    @classmethod
    def _lower(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name.strip().lower() for name in value)  # as columns are read
