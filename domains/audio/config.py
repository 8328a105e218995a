"""Options that the audio tasks share, and those of `audio/classify`."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..task import TaskConfig


class FrontEndOptions(BaseModel):
    """How a waveform becomes frames. Times in milliseconds, frequencies in Hz."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["log_mel", "mfcc", "mel"] = Field("log_mel", description="what a frame holds")
    window_ms: float = Field(25.0, gt=0, description="width of the Hann window")
    hop_ms: float = Field(10.0, gt=0, description="from frame to frame")
    mels: int = Field(40, ge=1, description="mel bands")
    low_hz: float = Field(20.0, ge=0, description="lower edge of the first band")
    high_hz: float | None = Field(None, gt=0, description="upper edge of the last band; default: half the rate")
    scale: Literal["slaney", "htk"] = Field("slaney", description="which mel scale")
    norm: Literal["slaney", "none"] = Field("slaney", description="slaney: bands of equal area; none: of equal height")
    log: Literal["db", "ln"] = Field("db", description="10 log10, or the natural logarithm (with htk and none: fbank)")
    coefficients: int = Field(13, ge=1, description="of the cosine transform (mfcc)")
    floor_db: float | None = Field(
        None, gt=0, description="power of white noise so far below the clip (dB), added to every band; null: none"
    )
    level: Literal["rms", "none"] = Field("rms", description="rms: every clip is brought to one level first")

    @model_validator(mode="after")
    def _fits(self) -> FrontEndOptions:
        if self.kind == "mfcc" and self.coefficients > self.mels:
            raise ValueError(f"coefficients must be at most mels, got {self.coefficients} of {self.mels}")
        if self.floor_db is not None and self.level == "none":
            raise ValueError("floor_db is meant below a known level: it needs level=rms")
        return self


class AugmentOptions(BaseModel):
    """What is done to training clips. Every draw comes from the run's seed and position, so a run repeats exactly."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    speed: float = Field(0.15, ge=0, lt=0.9, description="speed and pitch change by a factor within 1 +- this")
    tempo: float = Field(0.2, ge=0, lt=0.9, description="tempo alone, by the distance of frames, within 1 +- this")
    gain_db: float = Field(6.0, ge=0, description="level changes by +- this (dB)")
    noise_db: tuple[float, float] | None = Field((10.0, 40.0), description="signal over added noise (dB); null: none")
    tract: float = Field(
        0.0, ge=0, lt=0.5, description="formants move by up to exp(this), whatever the pitch: bands of log_mel or mel"
    )
    noise: str | None = Field(
        None, description="recordings of noise (file, folder, manifest) that noise_db mixes in; null: white noise"
    )
    colour_db: float = Field(0.0, ge=0, description="another microphone: smooth gains over the bands, deviation (dB)")
    room_s: float = Field(0.0, ge=0, description="longest reverberation time of a made room (s); 0: none")
    time_masks: int = Field(1, ge=0, description="SpecAugment: spans of frames set to the mean")
    time_share: float = Field(0.2, ge=0, lt=1, description="of the clip, at most, per span")
    band_masks: int = Field(1, ge=0, description="SpecAugment: spans of bands set to the mean")
    band_share: float = Field(0.2, ge=0, lt=1, description="of the bands, at most, per span")


class AudioSplitOptions(BaseModel):
    """Which clips train, validate and test."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: Literal["auto", "groups", "given", "clips"] = Field(
        "auto",
        description="groups: speakers or sources stay whole; given: the source's own parts; clips: any clip anywhere. "
        "auto: groups where clips have a speaker or source, else given where there are parts, else clips",
    )
    test: tuple[str, ...] = Field((), description="groups that are the test part (leave one speaker out: its name)")
    val: tuple[str, ...] = Field((), description="groups that are the validation part")
    fractions: tuple[float, float, float] = Field((0.6, 0.2, 0.2), description="train, validation, test")
    seed: int = Field(0, ge=0, description="of the random draws")

    @model_validator(mode="after")
    def _whole(self) -> AudioSplitOptions:
        if min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise ValueError(f"split.fractions must be three positive numbers that sum to 1, got {self.fractions}")
        return self


class SourceOptions(TaskConfig):
    """How recordings are found, read and split."""

    rate: int | None = Field(None, ge=1000, description="samples per second of the model; default: the lowest found")
    channel: int | None = Field(None, ge=0, description="one channel of each file; default: the mean of all")
    name_pattern: str | None = Field(
        None, description="regular expression on file names with groups named label, speaker, source, text or split"
    )
    silence: Literal["refuse", "drop"] = Field("refuse", description="what is done with training clips without sound")
    split: AudioSplitOptions = AudioSplitOptions()
    simulated: dict[str, int] = Field(default_factory=dict, description="for --data simulated: seed, speakers, takes")

    @field_validator("name_pattern")
    @classmethod
    def _pattern(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                names = set(re.compile(value).groupindex)
            except re.error as error:
                raise ValueError(f"name_pattern is no regular expression: {error}") from None
            if not names or not names <= {"label", "speaker", "source", "text", "split"}:
                raise ValueError(f"name_pattern needs groups named label, speaker, source, text, split, got {names}")
        return value


class AudioOptions(SourceOptions):
    """How recordings are turned into frames, too."""

    front_end: FrontEndOptions = FrontEndOptions()
    augment: AugmentOptions = AugmentOptions()
    buckets: int = Field(
        8, ge=0, description="training batches hold clips of like length, sorted within so many batches; 0: any order"
    )


class SpotOptions(BaseModel):
    """Which classes are keywords, and the stream without any in which false alarms are counted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keywords: tuple[str, ...] = Field((), description="classes to be spotted; the others are what else is said")
    negatives: str | None = Field(
        None, description="recordings without a keyword (file, folder, manifest); default: test clips of other classes"
    )
    minutes: float = Field(60.0, gt=0, description="of the stream that is made of those, in which clips come again")
    window_s: float | None = Field(None, gt=0, description="what is heard at once (s); default: median of training")
    per_hour: float = Field(1.0, gt=0, description="false alarms per hour at which misses are counted")
    silence_db: float = Field(35.0, gt=0, description="a window so far below the loudest of its minute holds nothing")


class ClassifyOptions(AudioOptions):
    """Options of `audio/classify`."""

    spot: SpotOptions = SpotOptions()

    chunk_s: float = Field(2.0, gt=0, description="predictions: length of a window over long recordings (s)")
    overlap: float = Field(0.5, ge=0, lt=1, description="share of a window that the next one sees again")
    whole_s: float = Field(4.0, gt=0, description="predictions: recordings up to this length are taken whole (s)")
    table: Literal["csv", "parquet", "jsonl"] = Field("csv", description="predictions: form of the table")
    cnn_epochs: int = Field(20, ge=0, description="epochs of the small CNN among the baselines; 0 leaves it out")
