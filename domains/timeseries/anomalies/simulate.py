"""Simulated machine signals: a daily wave with a weekly change, noise, and faults in the later part.

Faults: a level shift, a burst of spikes, a flat line, or a wave out of step. Steps are quarters of an hour.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .config import DetectOptions
from .records import Record, borders

KINDS = ("shift", "spikes", "flat", "phase")


def simulated(given: Mapping[str, int], options: DetectOptions) -> list[Record]:
    """``series`` signals of ``steps`` steps, one fault each."""
    count, steps = given.get("series", 8), given.get("steps", 2000)
    random = np.random.default_rng(given.get("seed", 0))
    found = []
    for i in range(count):
        t = np.arange(steps)
        wave = np.sin(2 * np.pi * t / 96 + random.uniform(0, 6)) * (1 + 0.2 * np.sin(2 * np.pi * t / 672))
        y = 20 + 4 * wave + 0.4 * random.normal(size=steps)
        first = int(random.uniform(0.4, 0.85) * steps)
        last = min(steps - 1, first + max(20, steps // 25))
        inside, kind = slice(first, last + 1), KINDS[i % len(KINDS)]
        if kind == "shift":
            y[inside] += 9
        elif kind == "spikes":
            y[inside] += 8 * (random.random(last + 1 - first) < 0.25)
        elif kind == "flat":
            y[inside] = y[first]
        else:
            y[inside] = y[inside][::-1] + 3 * np.sin(2 * np.pi * t[inside] / 12)
        train, known = borders(steps, options.probation, options.probation_most, options.val)
        times = np.datetime64("2024-01-01", "ns") + t * np.timedelta64(15, "m")
        found.append(Record(f"machine_{i}", times, y[:, None], ("value",), np.array([[first, last]]), train, known))
    return found
