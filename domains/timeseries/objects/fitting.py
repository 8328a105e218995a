"""Statistics of the training objects, and the schema that later sources are held to."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from domains.task import Fitted, Split
from shared_backbones.errors import BadInput

from .collection import BAND, TIME, VALUE, Objects
from .config import ClassifyOptions


def fit_objects(data: Objects, split: Split, options: ClassifyOptions) -> Fitted:
    """Everything from the training part alone. Raises BadInput for one class only, or one never seen in training."""
    rows = split.parts["train"]
    counts = np.bincount(data.labels[rows], minlength=len(data.classes))
    if len(data.classes) < 2:
        raise BadInput(f"{data.manifest.source}: one class only ({', '.join(data.classes)}); give at least two")
    unseen = [name for name, n in zip(data.classes, counts, strict=True) if not n]
    if unseen:
        raise BadInput(
            f"{data.manifest.source}: no training object of class {', '.join(unseen)} ({split.protocol}). Add some, "
            "leave the class out, or split otherwise"
        )
    series = [data.series[i] for i in rows]
    mean, std = _channel_statistics(data, series)
    feature_mean, feature_std = _columns(data.features[rows] if len(data.features) else np.zeros((len(rows), 0)))
    static_mean, static_std = _columns(data.static[rows])
    fitted: Fitted = {
        "regular": data.regular, "source_regular": not data.feature_names,
        "channels": list(data.channels), "classes": list(data.classes), "class_objects": counts.tolist(),
        "mean": mean.tolist(), "std": std.tolist(), "length": max(len(s) for s in series),
        "feature_mean": feature_mean.tolist(), "feature_std": feature_std.tolist(),
        "feature_names": list(data.feature_names), "static_mean": static_mean.tolist(),
        "static_std": static_std.tolist(), "static_names": list(data.static_names), "least": options.least,
        "longest_period": data.longest_period,
    }  # fmt: skip
    if "trend" in data.manifest.facts:
        fitted["trend"] = data.manifest.facts["trend"]
    if not data.regular:
        spans = [float(np.ptp(s[:, TIME])) for s in series]
        fitted["span"] = max(spans) or 1.0
        fitted["within"] = _within(series, len(data.channels)).tolist()
        fitted["time_unit"] = float(np.median([x / len(s) for x, s in zip(spans, series, strict=True)])) or 1.0
    return fitted


def _channel_statistics(
    data: Objects, series: list[np.ndarray]
) -> tuple[Float[np.ndarray, "V"], Float[np.ndarray, "V"]]:
    """Mean and deviation of each channel or band over all observations; 0 and 1 where there is none."""
    mean, std = np.zeros(len(data.channels)), np.ones(len(data.channels))
    everything = np.concatenate(series)
    for v in range(len(data.channels)):
        own = everything[:, v] if data.regular else everything[everything[:, BAND] == v, VALUE]
        own = own[np.isfinite(own)]
        if len(own):
            mean[v], std[v] = own.mean(), own.std() or 1.0
    return mean, std


def _within(series: list[np.ndarray], bands: int) -> Float[np.ndarray, "V"]:
    """Typical deviation of an object around its own mean, in each band; 1 where there is none."""
    out = np.ones(bands)
    for b in range(bands):
        own = [s[s[:, BAND] == b, VALUE] for s in series]
        square = [float(v.var()) for v in own if len(v) > 1]
        out[b] = np.sqrt(np.mean(square)) if square and np.mean(square) > 0 else 1.0
    return out


def _columns(table: Float[np.ndarray, "n F"]) -> tuple[Float[np.ndarray, "F"], Float[np.ndarray, "F"]]:
    """Mean and deviation of each column over what is known; 0 and 1 where nothing is."""
    known = np.isfinite(table)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, table, 0.0).sum(0) / count
    std = np.sqrt((np.where(known, table - mean, 0.0) ** 2).sum(0) / count)
    return mean, np.where(std > 1e-8, std, 1.0)
