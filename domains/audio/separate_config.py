"""Options of `audio/separate`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .config import SourceOptions


class MixOptions(BaseModel):
    """How single speakers become mixtures. Every draw has a seed, so a mixture can be made again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: float = Field(4.0, gt=0, description="length of a mixture (s)")
    level_db: float = Field(5.0, ge=0, description="level of a speaker against the first, within +- this (dB)")
    gap_s: float = Field(0.2, ge=0, description="longest pause between two clips of a speaker (s)")
    train: int = Field(800, ge=1, description="mixtures made anew in every epoch")
    val: int = Field(80, ge=1, description="validation mixtures, always the same")
    test: int = Field(200, ge=2, description="test mixtures, always the same")
    voice: float = Field(
        0.35, ge=0, lt=1, description="training voices are played faster or slower by up to exp(this): other speakers"
    )
    tract: float = Field(
        0.0, ge=0, lt=0.5, description="training voices have formants moved by up to exp(this), whatever their pitch"
    )
    twins: float = Field(
        0.3, ge=0, le=1, description="share of training mixtures of one person at two speeds, a quarter octave apart"
    )
    colour_db: float = Field(4.0, ge=0, description="other microphones: smooth gains over frequency, deviation (dB)")
    clip_s: float | None = Field(
        None, gt=0, description="longest piece taken of a clip, from anywhere in it (s); default: a mixture's length"
    )
    seed: int = Field(0, ge=0, description="of the validation and test mixtures")


class SeparateOptions(SourceOptions):
    """Options of `audio/separate`."""

    speakers: int = Field(2, ge=2, le=6, description="in every mixture")
    mix: MixOptions = MixOptions()
    chunk_s: float = Field(8.0, gt=0, description="predictions: length of a chunk (s)")
    overlap: float = Field(0.5, gt=0, le=0.5, description="share of a chunk that the next one hears again")
    form: Literal["pcm16", "float32"] = Field("pcm16", description="samples of the files that are written")
    nmf: tuple[int, ...] = Field(
        (8, 16, 32), description="components of the NMF baseline, chosen on validation; empty leaves it out"
    )

    @model_validator(mode="after")
    def _fits(self) -> SeparateOptions:
        if self.mix.seconds * (self.rate or 8000) < 256:
            raise ValueError(f"mix.seconds must hold 256 samples at least, got {self.mix.seconds}")
        return self
