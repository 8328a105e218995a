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
DEFAULTS = {"seed": 0, "records": 4, "seconds": 240, "rhythms": 0}
# (place in s relative to R at 60 beats per minute, width in s, height)
NORMAL = ((-0.17, 0.025, 0.12), (-0.03, 0.010, -0.12), (0.0, 0.011, 1.0), (0.03, 0.012, -0.25), (0.27, 0.045, 0.28))
EARLY = ((-0.13, 0.020, 0.07), *NORMAL[1:])  # supraventricular: early, its P wave another
WIDE = ((0.0, 0.045, 1.2), (0.1, 0.05, -0.5), (0.32, 0.06, -0.4))  # ventricular: early, broad, no P wave
SHAPES = {0: NORMAL, 1: EARLY, 2: WIDE}
TURN_S = (15.0, 40.0)  # how long a rhythm holds, at least and at most, where rhythms are asked for
Spans = tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class MadeHeart:
    """A record at RATE, the times of its beats (s), their AAMI classes, and spans (s) of rhythms."""

    name: str
    wave: Float32[np.ndarray, "T"]
    beats: Float64[np.ndarray, "n"]
    kinds: Int64[np.ndarray, "n"]
    rhythm: Spans = ()


def settings(given: Mapping[str, int]) -> dict[str, int]:
    """The simulator's settings. Raises BadRequest for an unknown name or an impossible number."""
    least = {"seed": 0, "records": 1, "seconds": 60, "rhythms": 0}
    for name in given:
        if name not in DEFAULTS:
            raise unknown("setting of the simulator", name, DEFAULTS)
    found = {**DEFAULTS, **given}
    for name, value in found.items():
        if not least[name] <= value <= 100_000:
            raise BadRequest(f"simulated.{name} must be {least[name]} to 100000, got {value}")
    return found


def _rhythm(seconds: float, random: np.random.Generator) -> Spans:
    """Sinus rhythm and atrial fibrillation in turn."""
    at, found = 0.0, list[tuple[float, float, str]]()
    while at < seconds:
        end = min(seconds, at + float(random.uniform(*TURN_S)))
        found.append((at, end, ("N", "AFIB")[len(found) % 2]))
        at = end
    return tuple(found)


def _fibrillates(at: float, rhythm: Spans) -> bool:
    return any(a <= at < b and name == "AFIB" for a, b, name in rhythm)


def _beats(
    seconds: float, random: np.random.Generator, rhythm: Spans = ()
) -> tuple[Float64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
    usual, phase = random.uniform(0.6, 1.1), random.uniform(0, 6)
    at, kind = random.uniform(0.2, 0.8), 0
    times, kinds = [], []
    while at < seconds - 0.1:
        times.append(at)
        kinds.append(kind)
        if _fibrillates(at, rhythm):
            kind = 0
            at += usual * random.uniform(0.5, 1.4)
            continue
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
        rhythm = _rhythm(s["seconds"], random) if s["rhythms"] else ()
        times, kinds = _beats(s["seconds"], random, rhythm)
        at = np.arange(round(s["seconds"] * RATE)) / RATE
        wave = np.zeros(len(at))
        heights = random.uniform(0.7, 1.3, 5)
        for time, kind in zip(times, kinds, strict=True):
            near = slice(max(0, int((time - 0.6) * RATE)), int((time + 0.8) * RATE))
            shape = NORMAL[1:] if _fibrillates(time, rhythm) else SHAPES[int(kind)]  # no P wave
            for (place, width, height), gain in zip(shape, heights, strict=False):
                wave[near] += gain * height * np.exp(-0.5 * ((at[near] - time - place) / width) ** 2)
        wave += 0.3 * np.sin(2 * np.pi * random.uniform(0.1, 0.4) * at + random.uniform(0, 6))
        wave += random.uniform(0.02, 0.1) * random.standard_normal(len(at))
        for a, b, name in rhythm:
            if name == "AFIB":  # the atria's own small waves
                wave += np.where((at >= a) & (at < b), 0.06 * np.sin(2 * np.pi * 6 * at), 0.0)
        found.append(MadeHeart(f"made{r}", wave.astype(np.float32), times, kinds, rhythm))
    return found
