"""The options of timeseries/events."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from domains.task import TaskConfig


class EventSplitOptions(BaseModel):
    """Which examples train, validate and test."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: Literal["entities", "time"] = Field(
        "entities", description="entities: each stays whole, drawn within classes; time: the last examples are the test"
    )
    fractions: tuple[float, float, float] = Field((0.6, 0.2, 0.2), description="train, validation, test")
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _whole(self) -> EventSplitOptions:
        if min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise ValueError(f"split.fractions must be three positive numbers that sum to 1, got {self.fractions}")
        return self


class EventOptions(TaskConfig):
    """How a table of events is read, and what is told from what."""

    entity: str = Field("auto", description="column of whom an event belongs to (auto: entity, person, host, id)")
    time: str = Field("auto", description="column of time stamps or of numbers (auto: time, timestamp, date, start)")
    time_format: str | None = None
    label: str = Field("label", description="column of classes")
    unit: Literal["sequence", "record"] = Field(
        "sequence", description="sequence: one class per entity; record: one per event, told from it and those before"
    )
    categories: tuple[str, ...] = Field((), description="columns of words or codes; empty: every text column")
    numbers: tuple[str, ...] = Field((), description="columns of numbers; empty: every numeric column")
    window: int = Field(64, ge=1, description="events that are looked at, the newest of an entity")
    rare: int = Field(2, ge=1, description="words seen less often in training count as unknown")
    separator: str = ","
    split: EventSplitOptions = EventSplitOptions()
    simulated: dict[str, int] = Field(default_factory=dict, description="for --data simulated: people, events, seed")
