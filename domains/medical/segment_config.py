"""Options of `medical/segment`. Those of the plan are null by default: then the plan chooses, and says why."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..task import TaskConfig


class SegmentSplitOptions(BaseModel):
    """Which cases train, validate and test."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: Literal["patient", "sites", "blocks", "slabs", "given"] | None = Field(
        None,
        description="patient: cases of one patient, and copies, stay together; sites: whole sites, by the table's "
        "column site; blocks: neighbouring cases, in the order of their numbers; slabs: parts of every volume along "
        "the body; given: the table's fold column. Default: patient",
    )
    folds: int = Field(5, ge=3, description="parts of about equal size, one of which is the test part")
    fold: int = Field(0, ge=0, description="which one")
    val: float = Field(0.2, gt=0, lt=1, description="share of the rest that validates")
    gap: int = Field(0, ge=0, description="cases (blocks) or voxels (slabs) left out between parts")
    seed: int = 0

    @model_validator(mode="after")
    def _one_of_them(self) -> SegmentSplitOptions:
        if self.fold >= self.folds:
            raise ValueError(f"split.fold must be below split.folds = {self.folds}, got {self.fold}")
        return self


class SegmentOptions(TaskConfig):
    """Options of the task; the model's own stand in the preset."""

    split: SegmentSplitOptions = SegmentSplitOptions()
    patient_pattern: str | None = Field(None, description="regular expression whose first group is the patient")
    classes: dict[int, str] = Field(
        default_factory=dict, description="declared label values and their names; any other value is refused"
    )
    background: int | None = Field(None, description="label value that is no structure; default: the smallest")
    ignore: int | None = Field(None, description="label value that counts nowhere: not learned, not scored")
    boundary: str | None = Field(None, description="structure that parts cells, scored by V-Rand too (flat images)")
    tolerance: float = Field(2.0, gt=0, description="distance (mm, or pixels) within which a surface counts as met")

    dimensions: Literal[2, 3] | None = Field(None, description="of the network: whole volumes or their slices")
    spacing: tuple[float, ...] | None = Field(None, description="mm along right, anterior, superior")
    patch: tuple[int, ...] | None = Field(None, description="voxels of a training patch and of a window")
    normalise: Literal["fixed", "image"] | None = Field(
        None, description="fixed: clipped and scaled by training statistics; image: by its own mean and deviation"
    )
    batch: int | None = Field(None, ge=1, description="patches of one training item (train.batch_size counts items)")
    depth: int | None = Field(None, ge=0, description="how often the lattice may be halved: deeper stages are left out")

    patches: int = Field(64, ge=1, description="training items per epoch")
    oversample: float = Field(0.5, ge=0, le=1, description="share of patches centred on a structure, each as often")
    augment: bool = Field(True, description="mirror, turn, brighten training patches, add noise")
    dice: float = Field(1.0, ge=0, description="weight of the Dice loss beside the cross-entropy")
    overlap: float = Field(0.5, ge=0, lt=1, description="of neighbouring windows, as a share of the window")
    blend: Literal["gaussian", "hann", "constant"] = Field("gaussian", description="weights of overlapping windows")
    views: int = Field(
        1, ge=1, le=8, description="mirrored views of each window that are averaged; their spread is told"
    )
    corrupted: int = Field(4, ge=0, description="test cases in the corruption curves, one window of each; 0: none")
    simulated: dict[str, int] = Field(
        default_factory=dict, description="for --data simulated: dimensions, cases, size, structures, seed"
    )

    @field_validator("patient_pattern")
    @classmethod
    def _has_a_group(cls, value: str | None) -> str | None:
        try:
            if value is not None and re.compile(value).groups != 1:
                raise ValueError(f"patient_pattern needs one group in brackets, got {value!r}")
        except re.error as error:
            raise ValueError(f"patient_pattern is not a regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _declared(self) -> SegmentOptions:
        for name, value in (("background", self.background), ("ignore", self.ignore)):
            if self.classes and value is not None and (value in self.classes) != (name == "background"):
                raise ValueError(f"{name} = {value} and classes = {self.classes} exclude each other")
        return self
