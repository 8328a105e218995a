"""Options of `medical/signal`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..task import TaskConfig


class SignalAugmentOptions(BaseModel):
    """What is done to training windows. Every draw comes from the run's seed and position."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gain: float = Field(0.3, ge=0, lt=1, description="amplitude changes by a factor within 1 +- this")
    noise: float = Field(1.0, ge=0, description="deviation of added noise, at most, over the window's own deviation")
    wander: float = Field(
        1.0, ge=0, description="slow drift of the base line, at most, over the window's own deviation"
    )
    invert: bool = Field(True, description="upside down for half of the windows, as leads swapped")


class SignalSplitOptions(BaseModel):
    """Which times, or which records, train, validate and test."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: Literal["auto", "time", "records"] = Field(
        "auto",
        description="records: patients stay whole; time: each record is cut in order. auto: records from five on",
    )
    fractions: tuple[float, float, float] = Field((0.6, 0.2, 0.2), description="train, validation, test")
    gap_s: float = Field(5.0, ge=0, description="left out between parts of one record (s)")
    seed: int = Field(0, ge=0, description="of the draw of records")

    @model_validator(mode="after")
    def _whole(self) -> SignalSplitOptions:
        if min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise ValueError(f"split.fractions must be three positive numbers that sum to 1, got {self.fractions}")
        return self


class SignalOptions(TaskConfig):
    """Options of `medical/signal`."""

    lead: int = Field(0, ge=0, description="which lead of a record, counted from 0")
    rate: float = Field(180.0, ge=60, description="samples per second inside the model")
    window_s: float = Field(10.0, ge=2, description="length of a window (s)")
    margin_s: float = Field(1.0, ge=0, description="on each side of a window that is heard and not scored (s)")
    low_hz: float = Field(0.5, gt=0, description="slower drift of the base line is taken away")
    tolerance_s: float = Field(0.15, gt=0, description="how far from a true beat a found one may lie (s)")
    annotations: str = Field("atr", description="ending of the files with the beats")
    kinds: bool = Field(True, description="tell the AAMI class of each beat too, where training holds two")
    rhythms: bool = Field(True, description="tell the rhythm over time too, where training holds two for a window each")
    augment: SignalAugmentOptions = SignalAugmentOptions()
    split: SignalSplitOptions = SignalSplitOptions()
    simulated: dict[str, int] = Field(default_factory=dict, description="for --data simulated: seed, records, seconds")

    @model_validator(mode="after")
    def _margins(self) -> SignalOptions:
        if 2 * self.margin_s >= self.window_s:
            raise ValueError(f"margin_s must be below half of window_s={self.window_s:g}, got {self.margin_s:g}")
        return self
