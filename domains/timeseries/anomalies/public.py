"""Public watched series by name."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

import yaml

from domains.public import PublicData, PublicFile

_NAB = "https://raw.githubusercontent.com/numenta/NAB/ea702d75cc2258d9d7dd35ca8e5e2539d71f3140"


def _files() -> dict[str, PublicFile]:
    sums = yaml.safe_load((resources.files(__package__) / "nab.yaml").read_text())["sha256"]
    return {name: PublicFile(s, f"{_NAB}/{name}") for name, s in sums.items()}


@dataclass(frozen=True)
class Watched:
    """A public data set of watched series, and which of its files holds the windows."""

    data: PublicData
    windows: str


NAB = Watched(
    PublicData(
        name="nab",
        domain="timeseries",
        files=_files(),
        licence="MIT",
        source="Numenta Anomaly Benchmark (Lavin and Ahmad 2015): 20 of its 58 series",
        protocol="the first 15 % of each series (at most 750 steps) train, the rest is scored; standard NAB profile",
        task="timeseries/detect",
    ),
    "labels/combined_windows.json",
)
WATCHED: dict[str, Watched] = {NAB.data.name: NAB}
