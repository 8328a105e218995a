"""Rhythms: which one holds at a time, how long each was told rightly, and a rival from the intervals of beats.

A span is (start in s, end in s, name). Codes: places in the names told; -1 nothing known; one past the last: a rhythm
that training did not hold, so whatever is told there is wrong.

Shapes: n stretches, T times, R rhythms.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from ..task import MetricFact
from .signal_data import Heart, Hearts

SMOOTH_S = 10.0  # over which what is told is averaged: a rhythm is no matter of one beat
AROUND_S = 15.0  # of a time, whose intervals the rival sees
EVERY_S = 1.0
Told = tuple[float, float, Int64[np.ndarray, "_"]]  # start (s), step (s), codes
RHYTHM_FACTS: Mapping[str, MetricFact] = {
    "rhythm_accuracy": MetricFact("1", "higher", "share of the seconds with an annotated rhythm that is told rightly"),
    "rhythm_f1_macro": MetricFact("1", "higher", "mean F1, by seconds, over the rhythms that the part holds"),
}


def codes_at(heart: Heart, times: Float[np.ndarray, "T"], names: Sequence[str]) -> Int64[np.ndarray, "T"]:
    """What is annotated at each time."""
    found = np.full(len(times), -1, np.int64)
    for start, end, name in heart.rhythm:
        found[(times >= start) & (times < end)] = names.index(name) if name in names else len(names)
    return found


def seconds_of(data: Hearts, rows: Int64[np.ndarray, "n 3"]) -> dict[str, float]:
    """Rhythm -> seconds of it in the stretches given, by name."""
    found: dict[str, float] = {}
    for r, a, b in rows.tolist():
        for start, end, name in data.hearts[r].rhythm:
            held = min(end, b / data.rate) - max(start, a / data.rate)
            if held > 0:
                found[name] = found.get(name, 0.0) + held
    return dict(sorted(found.items()))


def smoothed(p: Float[np.ndarray, "T R"], step: float) -> Int64[np.ndarray, "T"]:
    """Codes of the largest probability, averaged over SMOOTH_S."""
    half = round(SMOOTH_S / step / 2)
    total = np.concatenate([np.zeros((1, p.shape[1])), np.cumsum(p, 0, np.float64)])
    at = np.arange(len(p))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(p))
    return ((total[high] - total[low]) / (high - low)[:, None]).argmax(1).astype(np.int64)


def rhythm_table(
    data: Hearts, rows: Int64[np.ndarray, "n 3"], names: Sequence[str], told: Mapping[int, Sequence[Told]]
) -> Float[np.ndarray, "n true R"]:
    """Seconds of each stretch by true rhythm (the last row: never learned) and told one."""
    table = np.zeros((len(rows), len(names) + 1, len(names)))
    for i, (r, a, b) in enumerate(rows.tolist()):
        for start, step, codes in told.get(r, ()):
            times = start + (np.arange(len(codes)) + 0.5) * step
            here = (times >= a / data.rate) & (times < b / data.rate)
            truth = codes_at(data.hearts[r], times[here], names)
            known = truth >= 0
            np.add.at(table[i], (truth[known], codes[here][known]), step)
    return table


def rhythm_scores(table: Float[np.ndarray, "true R"]) -> dict[str, float]:
    """Metrics named as in RHYTHM_FACTS, of a table of seconds; NaN where nothing is annotated."""
    hits, of_truth, of_guess = np.diag(table), table.sum(1), table.sum(0)
    there = of_truth[:-1] > 0
    if not there.any():
        return dict.fromkeys(RHYTHM_FACTS, float("nan"))
    f1 = 2 * hits[there] / (of_truth[:-1] + of_guess)[there]
    return {"rhythm_accuracy": float(hits.sum() / of_truth.sum()), "rhythm_f1_macro": float(f1.mean())}


def spans_told(told: Sequence[Told], names: Sequence[str]) -> list[tuple[float, float, str]]:
    """Stretches of one rhythm, joined."""
    found: list[tuple[float, float, str]] = []
    for start, step, codes in told:
        edges = np.flatnonzero(np.diff(codes, prepend=-1, append=-1))
        for a, b in itertools.pairwise(edges):
            name, begin, end = names[int(codes[a])], start + a * step, start + b * step
            if found and found[-1][2] == name and begin - found[-1][1] < step:
                found[-1] = (found[-1][0], end, name)
            else:
                found.append((begin, end, name))
    return found


def interval_features(beats: Float[np.ndarray, "m"], times: Float[np.ndarray, "T"]) -> Float[np.ndarray, "T 6"]:
    """Of the intervals between beats around each time: how many, their mean, spread, changes, and large changes."""
    found = np.zeros((len(times), 6))
    for i, at in enumerate(times):
        gaps = np.diff(beats[(beats >= at - AROUND_S) & (beats < at + AROUND_S)])
        if len(gaps) < 3:
            continue
        change = np.abs(np.diff(gaps))
        mean = gaps.mean()
        found[i] = (len(gaps), mean, gaps.std() / mean, np.sqrt((change**2).mean()) / mean, (change > 0.05).mean(), 1)
    return found


def told_by_intervals(
    beats: Mapping[str, Mapping[int, Sequence[tuple[float, float, Any]]]], data: Hearts, names: Sequence[str]
) -> dict[int, list[Told]]:
    """The rival: a logistic regression from the intervals between beats that a classical detector found.

    beats: part -> record -> (start, end, beats), all in s; fitted on "train", told of "test".
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def seen(part: str) -> list[tuple[int, float, Any, Any]]:
        found = []
        for r, pieces in beats[part].items():
            for start, end, at in pieces:
                times = start + (np.arange(int((end - start) / EVERY_S)) + 0.5) * EVERY_S
                found.append((r, start, times, interval_features(np.asarray(at), times)))
        return found

    x, y = [], []
    for r, _, times, features in seen("train"):
        code = codes_at(data.hearts[r], times, names)
        known = (code >= 0) & (code < len(names))
        x.append(features[known])
        y.append(code[known])
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    model.fit(np.concatenate(x), np.concatenate(y))
    told: dict[int, list[Told]] = {}
    for r, start, _, features in seen("test"):
        if len(features):
            told.setdefault(r, []).append((start, EVERY_S, model.predict(features).astype(np.int64)))
    return told
