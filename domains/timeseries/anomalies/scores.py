"""Scores of a series -> alarms: what is usual comes from its probation alone, never from what is judged.

A detector gives an error per step, large where the step is unusual. Averaged over the last few steps it is set against
what the series' own training steps had, and compared with a threshold that all validation steps together set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from domains.task import Evidence

from .affiliation import affiliation_parts
from .metrics import alarms, nab_raw, point_adjusted, point_counts, range_parts, vus_pr
from .records import Record

TAIL = 0.1  # share of the usual scores, the highest, whose mean excess says how fast the tail falls
GRID = np.geomspace(0.05, 20, 80)  # multiples of the alarm's level at which the NAB score is read as well


def causal_mean(x: Float[np.ndarray, "T"], width: int) -> Float[np.ndarray, "T"]:
    """Mean of the last ``width`` values that are there; NaN where none is."""
    known = np.isfinite(x)
    total, count = np.cumsum(np.where(known, x, 0.0)), np.cumsum(known)
    total[width:], count[width:] = total[width:] - total[:-width], count[width:] - count[:-width]
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def surprise(errors: Float[np.ndarray, "T"], train: int, smooth: int) -> Float[np.ndarray, "T"]:
    """-log of the share of the series' own training steps that are as unusual; 0 where nothing can be said.

    Counted up to the highest TAIL of them; beyond, the tail is taken for exponential, so the score grows linearly.
    """
    score = causal_mean(errors, smooth)
    usual = np.sort(score[:train][np.isfinite(score[:train])])
    if len(usual) < 2:
        return np.zeros(len(score))
    level = float(np.quantile(usual, 1 - TAIL))
    over = usual[usual > level] - level
    excess = max(float(over.mean()) if len(over) else 0.0, 1e-6 * float(usual.std()), 1e-12)
    above = len(usual) - np.searchsorted(usual, score, side="left")
    counted = -np.log(np.maximum(above, 1) / len(usual))
    beyond = -np.log(TAIL) + (score - level) / excess
    found = np.where(score > level, beyond, np.minimum(counted, -np.log(TAIL)))
    return np.nan_to_num(np.where(np.isfinite(score), found, 0.0), posinf=1e12)


def threshold_of(scores: Sequence[Float[np.ndarray, "_"]], rate: float) -> float:
    """The level that a share ``rate`` of quiet steps exceeds: an exponential tail fitted to the probations' highest.

    Exceedances over a high level are nearly exponential (Pickands 1975, at shape 0): level + excess * log(tail / rate).
    """
    pooled = np.concatenate(list(scores))
    level = float(np.quantile(pooled, 1 - TAIL))
    over = pooled[pooled > level] - level
    excess = float(over.mean()) if len(over) else 0.0
    return max(level + excess * float(np.log(max(TAIL / rate, 1.0))), 1e-9)


def score_record(record: Record, score: Float[np.ndarray, "T"], hold: int, adjust: bool) -> dict[str, Any]:
    """Additive statistics of one series' test part; scores are multiples of what an alarm takes."""
    start = record.known
    windows = record.windows[record.windows[:, 1] >= start] - start
    windows = np.maximum(windows, 0)
    mine, labels = score[start:], record.labels[start:]
    flags = mine >= 1
    longest = int(np.median(windows[:, 1] - windows[:, 0] + 1)) if len(windows) else 0
    row: dict[str, Any] = {
        **point_counts(flags, labels), **range_parts(flags, windows), **affiliation_parts(flags, windows),
    }  # fmt: skip
    row |= {
        "nab": nab_raw(alarms(flags, hold), windows), "windows": float(len(windows)), "steps": float(len(mine)),
        "alarms": float(len(alarms(flags, hold))), "vus_pr": vus_pr(mine, windows, longest),
        "nab_grid": np.array([nab_raw(alarms(mine >= g, hold), windows) for g in GRID]),
    }  # fmt: skip
    if adjust:
        row |= {f"adjusted_{k}": v for k, v in point_counts(point_adjusted(flags, windows), labels).items()}
    return row


def evidence_of(
    records: Sequence[Record],
    scores: Sequence[Float[np.ndarray, "_"]],
    hold: int,
    adjust: bool = False,
) -> Evidence:
    """One row per series, which is one unit. Scores are multiples of what an alarm takes."""
    rows = [score_record(r, s, hold, adjust) for r, s in zip(records, scores, strict=True)]
    columns = {k: np.array([row[k] for row in rows], np.float64) for k in rows[0]}
    columns["scored"] = np.isfinite(columns["vus_pr"]).astype(np.float64)
    columns["vus_pr"] = np.nan_to_num(columns["vus_pr"])
    return Evidence(np.arange(len(rows)), columns)


def _f1(hits: float, wrong: float, missed: float) -> float:
    return 2 * hits / (2 * hits + wrong + missed) if hits + wrong + missed > 0 else float("nan")


def metrics_of(evidence: Evidence) -> dict[str, float]:
    """Named as in the task's metric_facts."""
    sums = {name: evidence.sum(name) for name in evidence.columns}
    total: Mapping[str, Any] = {name: value if np.ndim(value) else float(value) for name, value in sums.items()}
    precision = total["range_precision"] / total["guessed"] if total["guessed"] else 0.0
    recall = total["range_recall"] / total["ranges"] if total["ranges"] else float("nan")
    near = float(total["affiliation_precision"] / total["affiliated"]) if total["affiliated"] else 0.0
    reached = float(total["affiliation_recall"] / total["zones"]) if total["zones"] else float("nan")
    affiliated = 2 * near * reached / (near + reached) if near + reached > 0 else 0.0
    found = {
        "vus_pr": float(total["vus_pr"] / total["scored"]) if total["scored"] else float("nan"),
        "nab": _normalised(total["nab"], total["windows"]),
        "f1": _f1(total["tp"], total["fp"], total["fn"]),
        "precision": float(total["tp"] / max(total["tp"] + total["fp"], 1e-12)),
        "recall": float(total["tp"] / max(total["tp"] + total["fn"], 1e-12)),
        "range_f1": float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0,
        "affiliation_f1": affiliated,
        "affiliation_precision": near,
        "affiliation_recall": reached,
        "false_alarms_per_1000": float(1000 * total["fp"] / max(total["steps"], 1e-12)),
        "nab_best_threshold": _normalised(float(np.max(total["nab_grid"])), total["windows"]),
    }
    if "adjusted_tp" in evidence.columns:
        found["f1_point_adjusted"] = _f1(total["adjusted_tp"], total["adjusted_fp"], total["adjusted_fn"])
    return {k: float(v) for k, v in found.items()}


def _normalised(raw: float, windows: float) -> float:
    """0: no alarm at all; 100: every window found at its start and no false alarm."""
    return 100 * (raw + windows) / (2 * windows) if windows else float("nan")
