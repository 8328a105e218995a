"""Public images by name: source, checksums, licence, protocol."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from ..public import PublicData, PublicFile, locate
from .segment_datasets import MASK_SETS

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
IMAGE_SETS: dict[str, ImageSet] = {s.data.name: s for s in (BRAIN_TUMOR,)}

_WFDB = f"{_RAW}/MIT-LCP/wfdb-python/main/sample-data"
MITDB_100 = PublicData(
    name="mitdb_100",
    domain="medical",
    folder="ecg_wfdb_samples",
    files={
        name: PublicFile(digest, f"{_WFDB}/{name}")
        for name, digest in {
            "100.hea": "95fbdda0454fffae1a2dab1a5ac53e924ae97691c028cdd3ee82f2446b73c066",
            "100.dat": "b2ea3c250e56e48f4b7b90697832b8ecd1afa1e0bb31f2dcfea4ed6e1075a639",
            "100.atr": "8d8a5349fb16638ebbf649f1779d12e96d91b736b2aafe59db43719ae583d471",
        }.items()
    },
    licence="ODC-BY 1.0",
    source="Moody and Mark, The impact of the MIT-BIH Arrhythmia Database, 2001: record 100, 30 minutes at 360 Hz",
    protocol="one record, so by time: the first 60 % train, 20 % validate, 20 % test; F1 of beats within 150 ms, "
    "beside Pan-Tompkins",
    task="medical/signal",
)
SIGNAL_SETS: dict[str, PublicData] = {s.name: s for s in (MITDB_100,)}
DATASETS: dict[str, Any] = {**IMAGE_SETS, **MASK_SETS, **SIGNAL_SETS}  # what the domain knows by name
