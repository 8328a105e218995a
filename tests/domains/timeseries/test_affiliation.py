"""Affiliation precision and recall against loops over the definition, lengths on the real line, and chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.timeseries.anomalies.affiliation import affiliation_parts, zones

WINDOWS = np.array([[10, 14], [40, 40], [60, 69]])


def by_loops(flags: np.ndarray, windows: np.ndarray) -> tuple[list[float], list[float]]:
    """Precision of each anomaly with a flag in its zone, recall of each anomaly."""
    distance = lambda t, w: min(abs(t - y) for y in range(w[0], w[1] + 1))  # noqa: E731
    nearest = [min(range(len(windows)), key=lambda j: (distance(t, windows[j]), j)) for t in range(len(flags))]
    precision, recall = [], []
    for j, w in enumerate(windows):
        zone = [t for t in range(len(flags)) if nearest[t] == j]
        told = [t for t in zone if flags[t]]
        if not told:
            recall.append(0.0)
            continue
        precision.append(np.mean([np.mean([distance(x, w) >= distance(t, w) for x in zone]) for t in told]))
        recall.append(
            np.mean([
                np.mean([abs(x - y) >= min(abs(t - y) for t in told) for x in zone]) for y in range(w[0], w[1] + 1)
            ])
        )  # fmt: skip
    return precision, recall


@given(st.lists(st.booleans(), min_size=90, max_size=90))
@settings(max_examples=15)
def test_parts_equal_loops_over_the_definition(flagged: list[bool]) -> None:
    flags = np.array(flagged)
    flags[30:55] = False  # the second one is sometimes without a flag in its zone
    precision, recall = by_loops(flags, WINDOWS)
    found = affiliation_parts(flags, WINDOWS)
    assert found["affiliated"] == len(precision)
    assert found["affiliation_precision"] == pytest.approx(sum(precision))
    assert found["affiliation_recall"] == pytest.approx(sum(recall))
    assert found["zones"] == 3


def test_a_hit_is_one_and_silence_is_nothing() -> None:
    flags = np.zeros(90, bool)
    assert affiliation_parts(flags, WINDOWS)["affiliation_recall"] == 0
    for first, last in WINDOWS:
        flags[first : last + 1] = True
    found = affiliation_parts(flags, WINDOWS)
    assert (found["affiliation_precision"], found["affiliation_recall"], found["affiliated"]) == (3, 3, 3)
    assert zones(WINDOWS, 90).tolist() == [[0, 27], [28, 50], [51, 89]]
    assert affiliation_parts(flags, WINDOWS[:0])["zones"] == 0


def test_one_flag_is_worth_its_share_of_the_line() -> None:
    steps, a, b = (
        20_000,
        8000,
        12_000,
    )  # by lengths: P(farther than d) = 1 - (b - a + 2 d) / T
    flags = np.zeros(steps, bool)
    flags[13_500] = True
    found = affiliation_parts(flags, np.array([[a, b - 1]]))
    assert found["affiliation_precision"] == pytest.approx(1 - (b - a + 2 * 1500) / steps, abs=1e-3)
    y = np.arange(a, b)  # of each point the flag lies 13500 - y away; farther is what lies outside that reach of it
    reach = 13_500 - y
    inside = np.minimum(y + reach, steps) - np.maximum(y - reach, 0)
    assert found["affiliation_recall"] == pytest.approx(float(np.mean(1 - inside / steps)), abs=1e-3)


def test_chance_stands_near_a_half() -> None:
    random = np.random.default_rng(0)
    windows = np.array([[500, 519], [1500, 1519]])
    values = [affiliation_parts(random.random(2000) < 0.002, windows) for _ in range(60)]
    precision = sum(v["affiliation_precision"] for v in values) / sum(v["affiliated"] for v in values)
    assert precision == pytest.approx(0.51, abs=0.05)
