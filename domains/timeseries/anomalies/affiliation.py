"""Affiliation precision and recall: how near flagged steps lie to the anomalies that they belong to, and the reverse.

"Local Evaluation of Time Series Anomaly Detection Algorithms" (Huet, Navarro and Rossi 2022). Each step of the judged
part belongs to the zone of the nearest anomaly. Within a zone every distance is read as the share of the zone's steps
that lie as far or farther, so 1 is a hit and about a half is what chance gives. Here a zone is a set of steps, not a
stretch of the real line. Shapes: T steps, W windows.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int64


def zones(windows: Int64[np.ndarray, "W 2"], steps: int) -> Int64[np.ndarray, "W 2"]:
    """First and last step of each anomaly's zone: borders lie midway between neighbours, an odd step to the earlier."""
    if not len(windows):
        return windows
    middle = (windows[:-1, 1] + windows[1:, 0]) // 2
    return np.column_stack([np.concatenate([[0], middle + 1]), np.concatenate([middle, [steps - 1]])]).astype(np.int64)


def away(at: Int64[np.ndarray, "n"], first: int, last: int) -> Int64[np.ndarray, "n"]:
    """Steps between each place and a window; 0 inside."""
    return np.maximum(np.maximum(first - at, at - last), 0)


def _as_far(all_distances: Int64[np.ndarray, "n"], mine: Int64[np.ndarray, "m"]) -> Float[np.ndarray, "m"]:
    """Share of all distances that are at least as large as each of mine."""
    return 1 - np.searchsorted(np.sort(all_distances), mine, side="left") / len(all_distances)


def affiliation_parts(flags: Bool[np.ndarray, "T"], windows: Int64[np.ndarray, "W 2"]) -> dict[str, float]:
    """Sums over anomalies, and how many are in each: precision over zones with a flagged step, recall over all."""
    found = {"affiliation_precision": 0.0, "affiliated": 0.0, "affiliation_recall": 0.0, "zones": float(len(windows))}
    for (first, last), (low, high) in zip(windows.tolist(), zones(windows, len(flags)).tolist(), strict=True):
        zone = np.arange(low, high + 1)
        told = zone[flags[low : high + 1]]
        if not len(told):
            continue
        found["affiliated"] += 1
        found["affiliation_precision"] += float(_as_far(away(zone, first, last), away(told, first, last)).mean())
        found["affiliation_recall"] += float(np.mean([_nearness(zone, told, y) for y in range(first, last + 1)]))
    return found


def _nearness(zone: Int64[np.ndarray, "n"], told: Int64[np.ndarray, "m"], at: int) -> float:
    """Share of the zone's steps that lie as far from ``at`` as the nearest flagged step, or farther."""
    return float((np.abs(zone - at) >= np.abs(told - at).min()).mean())
