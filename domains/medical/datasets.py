"""Public images by name: source, checksums, licence, protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import yaml

from ..public import PublicData, PublicFile, locate

_RAW = "https://raw.githubusercontent.com"
_TUMOUR = f"{_RAW}/MohamedAliHabib/Brain-Tumor-Detection/30470ae8eb2e4a523df7dc45dd5323903cb98365"


@dataclass(frozen=True)
class ImageSet:
    """A public data set that lies as a folder per class."""

    data: PublicData

    def folder(self) -> Path:
        """Where it is on this machine, checked. Raises BadInput."""
        locate(self.data)
        return self.data.place


def _tumour_files() -> dict[str, PublicFile]:
    sums = yaml.safe_load((resources.files(__package__) / "brain_tumor_mri253.yaml").read_text())["sha256"]
    return {name: PublicFile(digest, f"{_TUMOUR}/{quote(name)}") for name, digest in sums.items()}


BRAIN_TUMOR = ImageSet(
    PublicData(
        name="brain_tumor_mri253",
        domain="medical",
        files=_tumour_files(),
        licence="not stated (widely used for research)",
        source="N. Chakrabarty, Brain MRI Images for Brain Tumor Detection, 2019: 155 slices with a tumour, 98 without",
        protocol="five folds by group (--set split.protocol=folds --set split.fold=F): 25 exact copies and many near "
        "copies lie in it and patients are not known; AUROC, accuracy, ECE and Brier before and after the temperature",
        task="medical/classify",
    )
)
DATASETS: Mapping[str, ImageSet] = {s.data.name: s for s in (BRAIN_TUMOR,)}
