"""Public images with masks by name: source, checksums, licence, protocol, and what their files do not say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ..public import PublicData, PublicFile, locate
from .data.pairs import Case

_RAW = "https://raw.githubusercontent.com"
_UNET = f"{_RAW}/zhixuhao/unet/b45af4d458437d8281cc218a07fd4380818ece4a/data/membrane"
_TOTAL = f"{_RAW}/wasserth/TotalSegmentator/0e65a448d557382b1e925276212b3bec7f5aff83/tests/reference_files"


@dataclass(frozen=True)
class MaskSet:
    """A public data set of images and masks. options: the task's own, where the user gives none."""

    data: PublicData
    cases: Callable[[Path], list[Case]]
    options: Mapping[str, Any] = field(default_factory=dict)

    def folder(self) -> Path:
        """Where it is on this machine, checked. Raises BadInput."""
        locate(self.data)
        return self.data.place


def _membrane_files() -> dict[str, PublicFile]:
    sums = yaml.safe_load((resources.files(__package__) / "isbi2012_membrane.yaml").read_text())["sha256"]
    return {name: PublicFile(digest, f"{_UNET}/{name}") for name, digest in sums.items()}


def _membrane_cases(place: Path) -> list[Case]:
    return [Case(f"{i:02d}", place / f"train/image/{i}.png", place / f"train/label/{i}.png") for i in range(30)]


ISBI2012 = MaskSet(
    PublicData(
        name="isbi2012_membrane",
        domain="medical",
        files=_membrane_files(),
        licence="repository MIT; ISBI-2012 EM free for research",
        source="Arganda-Carreras et al., Crowdsourcing the creation of image segmentation algorithms for connectomics, "
        "2015: 30 neighbouring slices of one stack, 512 x 512, with their membranes",
        protocol="five contiguous blocks of slices, each the test part once (--set split.fold=0 to 4); Dice of the "
        "membrane, V-Rand and surface Dice; all slices are of one animal; the challenge's test labels are secret",
        task="medical/segment",
    ),
    _membrane_cases,
    {"background": 255, "classes": {0: "membrane", 255: "cell"}, "boundary": "membrane", "by": "blocks"},
)
TOTAL = MaskSet(
    PublicData(
        name="nifti_totalsegmentator",
        domain="medical",
        files={
            "example_ct_sm.nii.gz": PublicFile(
                "e50c00b2914e2cac0aaee8e7f3b5f57d44d9f21bfd5c0577271c54c0cb49e9fb", f"{_TOTAL}/example_ct_sm.nii.gz"
            ),
            "example_seg.nii.gz": PublicFile(
                "8be652475a4aaae83103a66bfb3345314b1fc06742807a06cf5005f7a7913a2d", f"{_TOTAL}/example_seg.nii.gz"
            ),
        },
        licence="Apache-2.0",
        source="Wasserthal et al., TotalSegmentator: one small CT and the labels that its model gave",
        protocol="slabs of one volume along the body; the labels are a model's output: a test of geometry and memory, "
        "not of accuracy",
        task="medical/segment",
    ),
    lambda place: [Case("example_ct_sm", place / "example_ct_sm.nii.gz", place / "example_seg.nii.gz", "one")],
    {"background": 0, "by": "slabs"},
)
MASK_SETS: Mapping[str, MaskSet] = {s.data.name: s for s in (ISBI2012, TOTAL)}
