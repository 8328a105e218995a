"""Public objects with classes by name: source, checksums, licence, protocol, and how their files are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import yaml

from domains.public import PublicData, PublicFile

_RAW = "https://raw.githubusercontent.com"
_AEON = f"{_RAW}/aeon-toolkit/aeon/a101ddc8b35a65441609b45c9bcce5aeafa0c131/aeon/datasets/data"
_RRLYRAE = f"{_RAW}/light-curve/test-data/3c8d9877643b881ec6fb6bb41fbe0fc8677b96db/RRLyrae"


@dataclass(frozen=True)
class Labelled:
    """A public data set of objects, and the options that its files need."""

    data: PublicData
    reading: dict[str, Any] = field(default_factory=dict)


def _ucr(name: str, problem: str, sums: tuple[str, str], words: str) -> Labelled:
    files = {
        f"{problem}_{part}.ts": PublicFile(digest, f"{_AEON}/{problem}/{problem}_{part}.ts")
        for part, digest in zip(("TRAIN", "TEST"), sums, strict=True)
    }
    return Labelled(
        PublicData(
            name=name,
            domain="timeseries",
            files=files,
            licence="UCR/UEA archive, research use (copies of aeon, BSD-3-Clause)",
            source=f"UCR/UEA archive (Dau et al. 2019, Bagnall et al. 2018), {problem}: {words}",
            protocol="the archive's train and test parts; validation is carved from training",
            task="timeseries/classify",
        )
    )


GUNPOINT = _ucr(
    "ucr_gunpoint",
    "GunPoint",
    (
        "f842401779fd9800d247d8b33121a1a4643710a19b24917dbdd9a060ca8630d5",
        "79332750788a6227b325b96bd0d70130c8eb707b9731f8d7dec62b7a7d36017e",
    ),
    "50 and 150 hand movements, 2 classes",
)
ARROWHEAD = _ucr(
    "ucr_arrowhead",
    "ArrowHead",
    (
        "a83c470aaf611a5f5284377cce27a5fc9f6292bc3d110257b0fd4905ced5ee72",
        "5417dab42626d41df5e435bb22458c2df40dfad4bcd3b59559bbe72e20e84904",
    ),
    "36 and 175 outlines of arrowheads, 3 classes",
)
BASICMOTIONS = _ucr(
    "ucr_basicmotions",
    "BasicMotions",
    (
        "8dc43cc6306cb679c888c01e26f91772ac4441a916da43bac8b79734a538b9d6",
        "79213102bc6fca1a398ad98ce1185dff0208fa3d1465e687f48288946b0ff8dc",
    ),
    "40 and 40 recordings of a watch's six sensors, 4 classes",
)


def _stars() -> dict[str, PublicFile]:
    text = yaml.safe_load((resources.files(__package__) / "rrlyrae.yaml").read_text())["sha256"]
    rows = [line.split() for line in text.splitlines()]
    return {f"light-curves/{star}.csv": PublicFile(s, f"{_RRLYRAE}/light-curves/{star}.csv") for star, s in rows}


RRLYRAE = Labelled(
    PublicData(
        name="rrlyrae_stripe82",
        domain="timeseries",
        files={
            **_stars(),
            "periods.csv": PublicFile(
                "7d64594f846bb6df579f3c0be83e3b9563cb66c15027a643e61cf4ee1e14ec3d", f"{_RRLYRAE}/periods.csv"
            ),
        },
        licence="none stated; open scientific use with citation",
        source="Sesar et al. 2010 (VizieR J/ApJ/708/717): 483 RR Lyrae stars of SDSS Stripe 82 in five bands",
        protocol="subtype (ab, c) by five stratified folds; rows with a magnitude or error near 100 are masked",
        task="timeseries/classify",
    ),
    {
        "objects": "periods.csv",
        "objects_id": "Num",
        "label": "Type",
        "curves": "light-curves",
        "longest_period": 1.2,
        "known_period": "Per",
    },
)

LABELLED: dict[str, Labelled] = {e.data.name: e for e in (GUNPOINT, ARROWHEAD, BASICMOTIONS, RRLYRAE)}
