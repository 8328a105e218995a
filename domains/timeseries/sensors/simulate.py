"""A simulated ring road: detectors that count vehicles every quarter of an hour, jams that travel on."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
from jaxtyping import Float


def simulated_road(sensors: int = 8, steps: int = 1500, seed: int = 0) -> tuple[bytes, Float[np.ndarray, "V V"]]:
    """A wide table as CSV bytes (date and one column per detector, vehicles per quarter), and who neighbours whom."""
    random = np.random.default_rng(seed)
    t = np.arange(steps)
    hour = (t / 4) % 24
    weekend = ((t // 96) % 7) >= 5
    rush = np.exp(-0.5 * ((hour - 8) / 1.2) ** 2) + 0.9 * np.exp(-0.5 * ((hour - 17.5) / 1.5) ** 2)
    demand = 40 + 160 * np.where(weekend, 0.4 * np.exp(-0.5 * ((hour - 14) / 4) ** 2), rush)
    jam = np.zeros((steps, sensors))
    for i in range(1, steps):
        start = (random.random(sensors) < 0.004) * random.uniform(0.3, 0.8, sensors)
        jam[i] = np.clip(0.55 * jam[i - 1] + 0.4 * np.roll(jam[i - 1], 1) + start, 0, 0.9)
    flow = demand[:, None] * random.uniform(0.6, 1.4, sensors) * (1 - jam)
    counts = random.poisson(np.maximum(flow, 0)).astype(float)
    counts[random.random(counts.shape) < 0.005] = np.nan
    frame = pd.DataFrame(counts, columns=[f"detector_{i}" for i in range(sensors)])
    frame.insert(0, "date", pd.date_range("2024-01-01", periods=steps, freq="15min"))
    ring = np.roll(np.eye(sensors), 1, axis=1)
    text = io.StringIO()
    frame.to_csv(text, index=False)
    return text.getvalue().encode(), ring + ring.T
