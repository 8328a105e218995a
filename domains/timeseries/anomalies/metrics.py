"""How well alarms meet the windows in which something was wrong, of one series; all of it adds up over series.

"Evaluating Real-time Anomaly Detection Algorithms: the Numenta Anomaly Benchmark" (Lavin and Ahmad 2015); "Precision
and Recall for Time Series" (Tatbul et al. 2018); "Volume Under the Surface" (Paparrizos et al. 2022).
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float, Int64

from .data import runs

FALSE_ALARM = 0.11  # weight of the NAB's standard profile; a hit and a miss weigh 1
BUFFERS = 5  # widths of the buffer, evenly from none to the longest
EXISTENCE = 0.5  # share of a range's recall that is given for finding it at all


def sigmoid_score(position: float) -> float:
    """1 well before, 0 at, -1 well after the end of a window."""
    return -1.0 if position > 3 else 2 / (1 + math.exp(5 * position)) - 1


def alarms(flags: Bool[np.ndarray, "T"], hold: int) -> Int64[np.ndarray, "a"]:
    """Steps at which an alarm is raised: flagged, and no alarm within ``hold`` steps before."""
    found: list[int] = []
    for t in np.flatnonzero(flags):
        if not found or t - found[-1] > hold:
            found.append(int(t))
    return np.array(found, np.int64)


def nab_raw(raised: Int64[np.ndarray, "a"], windows: Int64[np.ndarray, "W 2"]) -> float:
    """Sum of the standard profile: early hits towards 1, misses -1, false alarms to -0.11 with distance.

    Of the alarms in a window only the best counts.
    """
    total, hit = 0.0, np.full(len(windows), -1.0)
    for t in raised:
        inside = np.flatnonzero((windows[:, 0] <= t) & (t <= windows[:, 1]))
        if len(inside):
            first, last = windows[inside[0]]
            value = sigmoid_score(-(last - t + 1) / (last - first + 1)) / sigmoid_score(-1.0)
            hit[inside[0]] = max(hit[inside[0]], value)
            continue
        before = windows[windows[:, 1] < t]
        if not len(before):
            total -= FALSE_ALARM
            continue
        first, last = before[-1]
        total += FALSE_ALARM * sigmoid_score((t - last) / max(1, last - first))
    return total + float(hit.sum())


def range_parts(flags: Bool[np.ndarray, "T"], windows: Int64[np.ndarray, "W 2"]) -> dict[str, float]:
    """Sums and counts of range-based recall (existence and overlap, flat bias, cardinality 1/x) and precision."""
    guessed = runs(flags)
    recall = sum(_reward(w, guessed, EXISTENCE) for w in windows)
    precision = sum(_reward(g, windows, 0.0) for g in guessed)
    return {"range_recall": recall, "ranges": len(windows), "range_precision": precision, "guessed": len(guessed)}


def _reward(one: Int64[np.ndarray, "2"], others: Int64[np.ndarray, "n 2"], existence: float) -> float:
    overlap = np.minimum(others[:, 1], one[1]) - np.maximum(others[:, 0], one[0]) + 1
    met = overlap[overlap > 0]
    if not len(met):
        return 0.0
    share = float(met.sum()) / (one[1] - one[0] + 1) / len(met)
    return existence + (1 - existence) * share


def soft_labels(windows: Int64[np.ndarray, "W 2"], steps: int, buffer: int) -> Float[np.ndarray, "T"]:
    """1 inside a window, falling as sqrt(1 - distance / buffer) to 0 over half a buffer on either side."""
    out, t = np.zeros(steps), np.arange(steps)
    for first, last in windows:
        away = np.maximum(np.maximum(first - t, t - last), 0)
        near = away <= buffer / 2
        out = np.maximum(out, np.where(near, np.sqrt(np.maximum(1 - away / max(1, buffer), 0)), 0.0))
        out[first : last + 1] = 1.0
    return out


def vus_pr(score: Float[np.ndarray, "T"], windows: Int64[np.ndarray, "W 2"], longest: int, levels: int = 100) -> float:
    """Volume under the surface of precision and recall over thresholds and buffer widths; NaN without a window."""
    if not len(windows):
        return float("nan")
    hard = soft_labels(windows, len(score), 0)
    thresholds = np.unique(np.quantile(score, np.linspace(1, 0, levels)))[::-1]
    order = np.argsort(-score, kind="stable")
    counts = np.searchsorted(-score[order], -thresholds, side="right")
    peak = [float(score[a : b + 1].max()) for a, b in windows]
    found = np.array([np.mean([p >= h for p in peak]) for h in thresholds])
    areas = []
    for buffer in np.linspace(0, longest, BUFFERS).astype(int):
        soft = soft_labels(windows, len(score), int(buffer))
        hits = np.cumsum(soft[order])[counts - 1]
        recall = np.minimum(hits / ((hard.sum() + soft.sum()) / 2), 1.0) * found
        precision = hits / counts
        recall = np.maximum.accumulate(recall)
        areas.append(float(np.sum(np.diff(np.concatenate([[0.0], recall])) * precision)))
    return float(np.mean(areas))


def point_counts(flags: Bool[np.ndarray, "T"], labels: Bool[np.ndarray, "T"]) -> dict[str, float]:
    """Hits, false alarms and misses, step by step."""
    return {
        "tp": float((flags & labels).sum()),
        "fp": float((flags & ~labels).sum()),
        "fn": float((~flags & labels).sum()),
    }


def point_adjusted(flags: Bool[np.ndarray, "T"], windows: Int64[np.ndarray, "W 2"]) -> Bool[np.ndarray, "T"]:
    """Every step of a window counts as found when one is. It flatters: even random scores reach high values."""
    out = flags.copy()
    for first, last in windows:
        if flags[first : last + 1].any():
            out[first : last + 1] = True
    return out
