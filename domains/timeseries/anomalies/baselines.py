"""What a sceptic would try first, each with its threshold by the same rule from its own probation scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from domains.task import Evidence

from .config import DetectOptions
from .discord import left_profile
from .judging import judged, moving_z
from .leveling import leveled
from .records import Record
from .scores import evidence_of
from .windows import standardised

Scorer = Callable[[Record, DetectOptions], Float[np.ndarray, "T V"]]


def random_scores(record: Record, options: DetectOptions) -> Float[np.ndarray, "T V"]:
    """The control: numbers that know nothing, the same for the same series."""
    seed = sum(ord(c) for c in record.name)
    return np.random.default_rng(seed).exponential(size=record.values.shape)


def local_z(record: Record, options: DetectOptions) -> Float[np.ndarray, "T V"]:
    """Distance from the mean of the last look-back, in its deviations."""
    return moving_z(record, options.lookback)


def forest(record: Record, options: DetectOptions) -> Float[np.ndarray, "T V"]:
    """An isolation forest on the last 16 steps, grown on the series' own training steps."""
    from sklearn.ensemble import IsolationForest

    z, _ = standardised(record)
    width = min(16, options.lookback)
    windows = np.lib.stride_tricks.sliding_window_view(z, width, axis=0).reshape(len(z) - width + 1, -1)
    model = IsolationForest(n_estimators=options.forest_trees, random_state=0)
    model.fit(windows[: record.train - width + 1])
    out = np.full((len(z), 1), np.nan)
    out[width - 1 :, 0] = -model.score_samples(windows)
    return out


def discord(record: Record, options: DetectOptions) -> Float[np.ndarray, "T V"]:
    """Distance to the nearest earlier window, channel by channel."""
    z, _ = standardised(record)
    out = np.column_stack([left_profile(z[:, v], options.lookback) for v in range(z.shape[1])])
    out[: 2 * options.lookback] = np.nan
    return out


def all_baselines(records: Sequence[Record], options: DetectOptions) -> Mapping[str, Evidence]:
    """Every baseline on the test part."""
    scorers: dict[str, Scorer] = {
        "random scores": random_scores,
        "moving z-score": lambda r, o: moving_z(r, o.lookback),
    }
    if options.forest_trees:
        scorers["isolation forest"] = forest
    if max(len(r) for r in records) ** 2 / 2 <= options.discord_cells:
        scorers["discord"] = discord
    found = {}
    for name, scorer in scorers.items():
        smooth = 1 if name == "discord" else options.smooth
        scores, threshold = judged([[scorer(r, options)] for r in records], records, smooth, options.alarm_rate)
        found[name] = evidence_of(
            records, leveled(scores, records, threshold, options), options.hold, options.point_adjust
        )
    return found
