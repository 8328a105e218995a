"""Made electrocardiograms: waves P, Q, R, S, T as Gaussians around each beat, at a heart rate that wanders.

In the spirit of "A dynamical model for generating synthetic electrocardiogram signals" (McSharry et al. 2003), without
its oscillator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from shared_backbones.errors import BadRequest, unknown

RATE = 180.0
DEFAULTS = {"seed": 0, "records": 4, "seconds": 240}
# (place in s relative to R at 60 beats per minute, width in s, height)
NORMAL = ((-0.17, 0.025, 0.12), (-0.03, 0.010, -0.12), (0.0, 0.011, 1.0), (0.03, 0.012, -0.25), (0.27, 0.045, 0.28))
EARLY = ((-0.13, 0.020, 0.07), *NORMAL[1:])  # supraventricular: early, its P wave another
WIDE = ((0.0, 0.045, 1.2), (0.1, 0.05, -0.5), (0.32, 0.06, -0.4))  # ventricular: early, broad, no P wave
SHAPES = {0: NORMAL, 1: EARLY, 2: WIDE}


@dataclass(frozen=True)
class MadeHeart:
    """A record at RATE, the times of its beats (s), and their AAMI classes."""

    name: str
    wave: Float32[np.ndarray, "T"]
    beats: Float64[np.ndarray, "n"]
    kinds: Int64[np.ndarray, "n"]


def settings(given: Mapping[str, int]) -> dict[str, int]:
    """The simulator's settings. Raises BadRequest for an unknown name or an impossible number."""
    least = {"seed": 0, "records": 1, "seconds": 60}
    for name in given:
        if name not in DEFAULTS:
            raise unknown("setting of the simulator", name, DEFAULTS)
    found = {**DEFAULTS, **given}
    for name, value in found.items():
        if not least[name] <= value <= 100_000:
            raise BadRequest(f"simulated.{name} must be {least[name]} to 100000, got {value}")
    return found


def _beats(seconds: float, random: np.random.Generator) -> tuple[Float64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
    usual, phase = random.uniform(0.6, 1.1), random.uniform(0, 6)
    at, kind = random.uniform(0.2, 0.8), 0
    times, kinds = [], []
    while at < seconds - 0.1:
        times.append(at)
        kinds.append(kind)
        breath = 1 + 0.05 * np.sin(2 * np.pi * at / 4 + phase) + 0.02 * random.standard_normal()
        pause = 1.25 if kind else 1.0  # after an early beat the heart waits
        kind = int(random.choice(3, p=(0.92, 0.04, 0.04)))
        at += usual * breath * pause * (0.65 if kind else 1.0)
    return np.array(times), np.array(kinds, np.int64)


def simulated(given: Mapping[str, int]) -> list[MadeHeart]:
    """Records of several hearts, each with its own rate, heights, noise and wander."""
    s = settings(given)
    random = np.random.default_rng(s["seed"])
    found = []
    for r in range(s["records"]):
        times, kinds = _beats(s["seconds"], random)
        at = np.arange(round(s["seconds"] * RATE)) / RATE
        wave = np.zeros(len(at))
        heights = random.uniform(0.7, 1.3, 5)
        for time, kind in zip(times, kinds, strict=True):
            near = slice(max(0, int((time - 0.6) * RATE)), int((time + 0.8) * RATE))
            for (place, width, height), gain in zip(SHAPES[int(kind)], heights, strict=False):
                wave[near] += gain * height * np.exp(-0.5 * ((at[near] - time - place) / width) ** 2)
        wave += 0.3 * np.sin(2 * np.pi * random.uniform(0.1, 0.4) * at + random.uniform(0, 6))
        wave += random.uniform(0.02, 0.1) * random.standard_normal(len(at))
        found.append(MadeHeart(f"made{r}", wave.astype(np.float32), times, kinds))
    return found
