"""Options of the tasks on flat images, and of `medical/classify`."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..task import TaskConfig


class ImageAugmentOptions(BaseModel):
    """What is done to training images. Every draw comes from the run's seed and position, so a run repeats exactly."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    turn: float = Field(15.0, ge=0, le=180, description="rotation within +- this (degrees)")
    scale: float = Field(0.15, ge=0, lt=0.9, description="size and aspect change by factors within 1 +- this")
    shift: float = Field(0.08, ge=0, lt=1, description="of the side, along each axis, within +- this")
    flip: bool = Field(True, description="left and right swapped for half of the images")
    upside_down: bool = Field(False, description="top and bottom swapped for half of the images")
    contrast: float = Field(0.25, ge=0, lt=1, description="contrast and gamma change by factors within 1 +- this")
    brightness: float = Field(0.1, ge=0, lt=1, description="brightness changes by +- this of full scale")
    noise: float = Field(0.03, ge=0, description="deviation of white noise, at most, of full scale")
    erase: float = Field(0.2, ge=0, lt=1, description="a rectangle of up to this share of each side becomes its mean")
    mixup: float = Field(
        0.0, ge=0, description="alpha of the beta distribution by which two images are blended; 0: none"
    )


class GroupSplitOptions(BaseModel):
    """Which cases train, validate and test. A patient, and a set of copies, is never divided."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: Literal["auto", "groups", "given", "folds", "sites"] = Field(
        "auto",
        description="groups: drawn by patient and set of copies, balanced by label; folds: one of ``folds`` parts; "
        "given: the source's own parts or its column fold; sites: the sites named in ``test``. auto: given where the "
        "source has parts, else groups",
    )
    fractions: tuple[float, float, float] = Field((0.7, 0.15, 0.15), description="train, validation, test")
    folds: int = Field(5, ge=2, description="how many folds (protocol=folds)")
    fold: int = Field(0, ge=0, description="which fold tests, counted from 0")
    test: tuple[str, ...] = Field((), description="sites that are the test part (protocol=sites)")
    seed: int = Field(0, ge=0, description="of the random draws")
    allow_leak: bool = Field(False, description="go on where the source's own parts divide a patient or hold copies")

    @model_validator(mode="after")
    def _whole(self) -> GroupSplitOptions:
        if min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise ValueError(f"split.fractions must be three positive numbers that sum to 1, got {self.fractions}")
        if self.fold >= self.folds:
            raise ValueError(f"split.fold counts from 0 and must be below split.folds={self.folds}, got {self.fold}")
        return self


class ImageOptions(TaskConfig):
    """Where flat images come from, how they are brought to one canvas, varied and split."""

    size: int | None = Field(
        None, ge=8, description="side of the model's square image; default: 96, or the images' own"
    )
    crop: bool = Field(True, description="cut dark margins away before an image is brought to size")
    channels: Literal["auto", "grey", "colour"] = Field("auto", description="auto: grey where no image holds colour")
    intensity: Literal["train", "image"] = Field(
        "image", description="image: each image by its own mean and deviation first; train: by those of training alone"
    )
    window: tuple[float, float] | None = Field(None, description="DICOM: centre and width in the unit of the file")
    label_columns: tuple[str, ...] = Field((), description="of a manifest; default: every column without a meaning")
    positive: str | None = Field(
        None, description="of two classes the one that is looked for; default: the last by name"
    )
    separator: str | None = Field(None, description="one label column that lists several, as in 'a|b': what parts them")
    patient_pattern: str | None = Field(
        None, description="regular expression with a group named patient, on paths below the source"
    )
    alike: int = Field(
        2, ge=0, le=16, description="images whose 64-bit perceptual hashes differ in up to so many bits stay together"
    )
    augment: ImageAugmentOptions = ImageAugmentOptions()
    split: GroupSplitOptions = GroupSplitOptions()
    table: Literal["csv", "parquet", "jsonl"] = Field("csv", description="predictions: form of the table")
    simulated: dict[str, int] = Field(
        default_factory=dict, description="for --data simulated: seed, patients, slices, labels"
    )

    @field_validator("patient_pattern")
    @classmethod
    def _pattern(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                names = set(re.compile(value).groupindex)
            except re.error as error:
                raise ValueError(f"patient_pattern is no regular expression: {error}") from None
            if "patient" not in names:
                raise ValueError(
                    f"patient_pattern needs a group named patient, as in '(?P<patient>\\d+)_', got {value!r}"
                )
        return value


class ClassifyOptions(ImageOptions):
    """Options of `medical/classify`."""

    balance: bool = Field(False, description="weigh the loss so that every class counts alike")
    smoothing: float = Field(0.0, ge=0, lt=0.5, description="of the targets")
    specificity: float = Field(
        0.9, gt=0, lt=1, description="at which sensitivity is stated; its threshold is set on validation"
    )
    calibration: Literal["temperature", "isotonic"] = Field(
        "temperature", description="fitted on validation; isotonic: a rising curve per label on top of the temperature"
    )
    views: int = Field(1, ge=1, le=64, description="test-time augmentation: mean over so many views of each image")
    cnn_epochs: int = Field(30, ge=0, description="epochs of the ResNet-18 among the baselines; 0 leaves it out")
    cnn_width: int = Field(64, ge=4, description="channels of its first stage; 64 is the published one")
    corrupted: int = Field(256, ge=0, description="test cases in the corruption curves; 0: none")
