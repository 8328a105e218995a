"""Evidence of beats: hits, misses and false alarms per stretch of time, and the metrics read from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from ..task import Evidence, MetricFact
from .beats import matched
from .signal_data import Heart
from .signal_rhythms import RHYTHM_FACTS, rhythm_scores

STRICT = 0.075  # s
FACTS: Mapping[str, MetricFact] = {
    "f1": MetricFact("1", "higher", "of beats found within the tolerance (150 ms unless asked otherwise)"),
    "sensitivity": MetricFact("1", "higher", "share of the true beats that are found"),
    "precision": MetricFact("1", "higher", "share of the found beats that are true"),
    "f1_75ms": MetricFact("1", "higher", "of beats found within 75 ms"),
    "timing_ms": MetricFact("ms", "lower", "mean distance of found beats from the true ones"),
    "missed": MetricFact("beats", "lower", "true beats that are not found"),
    "false_alarms": MetricFact("beats", "lower", "found beats that are none"),
    "kind_accuracy": MetricFact("1", "higher", "share of the found beats whose AAMI class is right"),
    "kind_f1_macro": MetricFact(
        "1", "higher", "mean F1 over the AAMI classes that the part holds, missed beats missed"
    ),
    **RHYTHM_FACTS,
}


def beat_evidence(
    hearts: Sequence[Heart], rows: Int64[np.ndarray, "n 3"], rate: float, tolerance: float, kinds: Sequence[int],
    found: Mapping[int, tuple[Float[np.ndarray, "m"], Int64[np.ndarray, "m"]]],
) -> Evidence:  # fmt: skip
    """One row per stretch. found: record -> (times in s, place in ``kinds`` of each). kinds: AAMI classes told."""
    columns: dict[str, Any] = {
        name: np.zeros(len(rows)) for name in ("hits", "misses", "alarms", "hits_75", "misses_75", "alarms_75", "away")
    }
    table = np.zeros((len(rows), max(1, len(kinds)), max(1, len(kinds)) + 1))  # the last column: missed
    for r in np.unique(rows[:, 0]).tolist():
        mine = np.flatnonzero(rows[:, 0] == r)
        mine = mine[np.argsort(rows[mine, 1])]
        edges = rows[mine, 1:] / rate
        heart = hearts[r]
        scored = _inside(heart.beats, edges)
        truth, of_truth = heart.beats[scored], heart.kinds[scored]
        heard = _inside(found[r][0], edges)
        times, of_found = found[r][0][heard], found[r][1][heard]
        for suffix, reach in (("", tolerance), ("_75", STRICT)):
            pairs = matched(heart.beats, times, reach)
            alarm = np.ones(len(times), bool)
            alarm[pairs[pairs >= 0]] = False  # one beside a beat just outside of a stretch is no false alarm
            pairs = pairs[scored]
            hit = pairs >= 0
            _add(columns[f"hits{suffix}"], mine, edges, truth[hit])
            _add(columns[f"misses{suffix}"], mine, edges, truth[~hit])
            _add(columns[f"alarms{suffix}"], mine, edges, times[alarm])
            if not suffix:
                away = np.abs(truth[hit] - times[pairs[hit]])
                _add(columns["away"], mine, edges, truth[hit], away)
                guess = np.full(len(truth), -1, np.int64)
                guess[hit] = of_found[pairs[hit]]
                _confusion(table, mine, edges, truth, of_truth, guess, kinds)
    few = len(np.unique(rows[:, 0])) < 5
    columns["kinds"] = table
    unit = np.arange(len(rows)) if few else rows[:, 0].astype(np.int64)
    return Evidence(unit, columns)


def _inside(times: Any, edges: Float[np.ndarray, "n 2"]) -> Any:
    """Which beats lie within any of the stretches."""
    place = np.searchsorted(edges[:, 0], times, side="right") - 1
    return (place >= 0) & (times < edges[np.maximum(place, 0), 1])


def _add(column: Any, mine: Any, edges: Any, times: Any, values: Any = None) -> None:
    place = np.searchsorted(edges[:, 0], times, side="right") - 1
    np.add.at(column, mine[place], 1.0 if values is None else values)


def _confusion(table: Any, mine: Any, edges: Any, truth: Any, of_truth: Any, guess: Any, kinds: Sequence[int]) -> None:
    if not len(kinds):
        return
    place = mine[np.searchsorted(edges[:, 0], truth, side="right") - 1]
    for at, kind, said in zip(place, of_truth, guess, strict=True):
        if kind in kinds:
            table[at, kinds.index(int(kind)), said] += 1  # -1: missed, the last column


def _f1(hits: float, misses: float, alarms: float) -> float:
    total = 2 * hits + misses + alarms
    return 2 * hits / total if total else float("nan")


def beat_scores(evidence: Evidence) -> dict[str, float]:
    """Metrics named as in FACTS."""
    s = {name: float(evidence.sum(name)) for name in evidence.columns if name not in ("kinds", "rhythm")}
    table = evidence.sum("kinds")
    hits, of_truth, of_guess = np.diag(table), table.sum(1), table[:, :-1].sum(0)
    there = of_truth > 0
    several = len(table) > 1
    found = table[:, :-1].sum()
    return {
        "f1": _f1(s["hits"], s["misses"], s["alarms"]),
        "sensitivity": _ratio(s["hits"], s["hits"] + s["misses"]),
        "precision": _ratio(s["hits"], s["hits"] + s["alarms"]),
        "f1_75ms": _f1(s["hits_75"], s["misses_75"], s["alarms_75"]),
        "timing_ms": 1000 * _ratio(s["away"], s["hits"]),
        "missed": _ratio(s["misses"], _scale(evidence)),
        "false_alarms": _ratio(s["alarms"], _scale(evidence)),
        "kind_accuracy": _ratio(hits.sum(), found) if several else float("nan"),
        "kind_f1_macro": float((2 * hits[there] / (of_truth + of_guess)[there]).mean())
        if several and there.any()
        else float("nan"),
        **(rhythm_scores(evidence.sum("rhythm")) if "rhythm" in evidence.columns else {}),
    }


def _scale(evidence: Evidence) -> float:
    """Mean weight of a row, so that counts stay counts of the whole part however rows are weighted."""
    return 1.0 if evidence.weight is None else float(evidence.weight.mean())


def _ratio(a: Any, b: Any) -> float:
    return float(a / b) if b else float("nan")
