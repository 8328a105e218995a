"""Public time series by name: source, checksum, licence, protocol, and how their tables are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from domains.public import PublicData, PublicFile

from .anomalies.public import WATCHED, Watched
from .objects.public import LABELLED, Labelled


@dataclass(frozen=True)
class Entry:
    """A data set, the file to read, the reading options it needs, and its usual split."""

    data: PublicData
    file: str
    protocol: str
    reading: Mapping[str, Any] = field(default_factory=dict)  # fields of ReadOptions


ETT_H1 = Entry(
    PublicData(
        name="ett_h1",
        domain="timeseries",
        files={
            "ETTh1.csv": PublicFile(
                "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
                "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/1d16c8f4f943005d613b5bc962e9eeb06058cf07/"
                "ETT-small/ETTh1.csv",
            )
        },
        licence="CC BY-ND 4.0 (never redistribute altered copies)",
        source="Zhou et al. 2021, Informer (ETDataset): hourly load and oil temperature of a transformer",
        protocol="12/4/4 months of 30 days (8640/2880/2880 rows), z-score by train, MSE and MAE over all windows",
        task="timeseries/forecast",
    ),
    "ETTh1.csv",
    "12/4/4 months",
)

EXCHANGE_RATE = Entry(
    PublicData(
        name="exchange_rate",
        domain="timeseries",
        files={
            "exchange_rate.txt.gz": PublicFile(
                "6a4fbb561dcdee43f071a83badbeec9223a335552278348656738b556f1c2e9d",
                "https://raw.githubusercontent.com/laiguokun/multivariate-time-series-data/"
                "7f402f185cc2435b5e66aed13a3b560ed142e023/exchange_rate/exchange_rate.txt.gz",
            )
        },
        licence="none stated by the repository; standard research use",
        source="Lai et al. 2018, LSTNet: daily exchange rates of eight countries, 1990-2016, no dates in the file",
        protocol="70/10/20, z-score by train, MSE and MAE over all windows",
        task="timeseries/forecast",
    ),
    "exchange_rate.txt.gz",
    "70/10/20",
    {"header": False, "time": "none", "layout": "wide"},
)

SERIES: dict[str, Entry] = {entry.data.name: entry for entry in (ETT_H1, EXCHANGE_RATE)}
DATASETS: dict[str, Entry | Labelled | Watched] = {**SERIES, **LABELLED, **WATCHED}
