"""Objects with a class each: regular series of one or more channels, or light curves observed at any times."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from domains.task import Manifest

TIME, VALUE, ERROR, BAND = range(4)  # columns of a light curve


@dataclass(frozen=True)
class Objects:
    """Checked objects of one source.

    A regular series is an array (steps, channels), NaN where nothing was observed. A light curve is an array
    (observations, 4): time, value, error (NaN where none is known), place of the band in ``channels``; in time order.
    ``features`` are statistics of light curves (see :mod:`.statistics`); a regular series has none.
    """

    manifest: Manifest
    regular: bool
    channels: tuple[str, ...]
    names: tuple[str, ...]
    series: tuple[Float[np.ndarray, "_ _"], ...]
    labels: Int64[np.ndarray, "n"]  # places in classes; -1: none said
    classes: tuple[str, ...]
    parts: tuple[str, ...]  # of the source's own split; "": none
    static: Float[np.ndarray, "n S"]
    static_names: tuple[str, ...] = ()
    features: Float[np.ndarray, "m F"] = field(default_factory=lambda: np.zeros((0, 0)))
    feature_names: tuple[str, ...] = ()
    longest_period: float | None = None  # that was looked for
    known_periods: Float[np.ndarray, "k"] = field(default_factory=lambda: np.zeros(0))  # NaN where none is known
    moves: Float[np.ndarray, "w"] = field(default_factory=lambda: np.zeros(0))  # of the price, where it decides classes

    def __len__(self) -> int:
        return len(self.names)

    @property
    def lengths(self) -> Int64[np.ndarray, "n"]:
        return np.array([len(s) for s in self.series], np.int64)


def digest(data: Objects) -> str:
    """sha256 of names, labels, parts and every number."""
    h = hashlib.sha256(repr((data.regular, data.channels, data.classes, data.static_names)).encode())
    for i, name in enumerate(data.names):
        h.update(f"{name}|{data.labels[i]}|{data.parts[i]}|{data.series[i].shape}".encode())
        h.update(np.ascontiguousarray(data.series[i]).tobytes())
    h.update(np.ascontiguousarray(data.static).tobytes())
    return h.hexdigest()


def card(data: Objects) -> dict[str, Any]:
    """The data card: how many objects, how long, of which classes, with which gaps."""
    lengths = data.lengths
    counts = Counter(data.classes[i] if i >= 0 else "(none)" for i in data.labels)
    facts: dict[str, Any] = {
        "objects": len(data),
        "channels" if data.regular else "bands": list(data.channels),
        "length" if data.regular else "observations": {
            "least": int(lengths.min()), "median": float(np.median(lengths)), "most": int(lengths.max()),
            "all": int(lengths.sum()),
        },
        "labels": dict(sorted(counts.items())),
        "parts": dict(sorted(Counter(p or "(none)" for p in data.parts).items())),
        "static": list(data.static_names),
    }  # fmt: skip
    if data.regular:
        missing = sum(int(np.isnan(s).sum()) for s in data.series)
        facts["missing_percent"] = round(100 * missing / max(1, sum(s.size for s in data.series)), 4)
        return facts
    bands = np.concatenate([s[:, BAND] for s in data.series]).astype(int)
    spans = [float(np.ptp(s[:, TIME])) for s in data.series]
    facts["observations_by_band"] = dict(zip(data.channels, np.bincount(bands, minlength=len(data.channels)).tolist(),
                                             strict=True))  # fmt: skip
    facts["span"] = {"least": min(spans), "median": float(np.median(spans)), "most": max(spans)}
    facts["without_error"] = sum(int(np.isnan(s[:, ERROR]).sum()) for s in data.series)
    return facts


def described(data: Objects, source: str, licence: str, found: Mapping[str, Any]) -> Objects:
    """The same objects with their manifest; ``found``: what the reader masked, dropped or put in order."""
    return replace(data, manifest=Manifest(source, digest(data), licence, {**card(data), **found}))


def poisoned(data: Objects, rows: Sequence[int]) -> Objects:
    """Absurd values and another class for every object of ``rows``; as long as before."""
    series, labels = list(data.series), data.labels.copy()
    features, static = data.features.copy(), data.static.copy()
    for i in rows:
        spoilt = series[i].copy()
        if data.regular:
            spoilt[:] = 1e9
        else:
            spoilt[:, [VALUE, ERROR]] = 1e9
        series[i] = spoilt
        labels[i] = (labels[i] + 1) % max(2, len(data.classes))
    for table in (features, static):
        if table.size:
            table[np.asarray(rows)] = 1e9
    return replace(data, series=tuple(series), labels=labels, features=features, static=static)


def numbered(
    labels: Sequence[str], classes: Sequence[str] | None = None
) -> tuple[Int64[np.ndarray, "n"], tuple[str, ...]]:
    """Places of labels among the classes, numbers in their order; "" is -1."""
    if classes is None:
        classes = sorted({s for s in labels if s}, key=lambda s: (0, float(s), s) if _number(s) else (1, 0.0, s))
    place = {name: i for i, name in enumerate(classes)}
    return np.array([place.get(s, -1) for s in labels], np.int64), tuple(classes)


def _number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
