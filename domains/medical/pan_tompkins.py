"""The classical detector of beats: "A Real-Time QRS Detection Algorithm" (Pan and Tompkins 1985), from its equations.

Band-pass, derivative, square, moving mean; then two thresholds that follow the running heights of signal and noise, a
search back where a beat is overdue, and the slope that tells a T wave. Filters run forwards and backwards, so they do
not delay.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from scipy.signal import butter, find_peaks, sosfiltfilt

BAND = (5.0, 15.0)  # Hz
WIDTH = 0.15  # s of the moving mean
REFRACTORY = 0.2  # s
T_WAVE = 0.36  # s: within that after a beat a peak of half its slope is a T wave
OVERDUE = 1.66  # times the mean of the last intervals
LEARN = 2.0  # s from which the first heights are learned
KEPT = 8  # intervals in the running mean


@dataclass
class Levels:
    """Running heights of signal and noise peaks, and the thresholds between them."""

    signal: float
    noise: float
    beats: list[int] = field(default_factory=list)

    @property
    def high(self) -> float:
        return self.noise + 0.25 * (self.signal - self.noise)

    def hear(self, height: float, beat: bool, share: float = 0.125) -> None:
        if beat:
            self.signal = share * height + (1 - share) * self.signal
        else:
            self.noise = share * height + (1 - share) * self.noise


def features(x: Float[np.ndarray, "T"], rate: float) -> tuple[Float[np.ndarray, "T"], Float[np.ndarray, "T"]]:
    """(band-passed signal, mean of its squared slope over WIDTH)."""
    band = sosfiltfilt(butter(2, BAND, "bandpass", fs=rate, output="sos"), x)
    k = max(1, round(rate / 200))  # the paper's derivative spans five samples at 200 Hz
    padded = np.pad(band, 2 * k, mode="edge")
    n = len(x)
    at = 2 * k
    slope = (
        2 * padded[at + 2 * k : at + 2 * k + n] + padded[at + k : at + k + n]
        - padded[at - k : at - k + n] - 2 * padded[at - 2 * k : at - 2 * k + n]
    ) / (8 * k)  # fmt: skip
    width = max(1, round(WIDTH * rate))
    energy = np.convolve(slope**2, np.full(width, 1 / width), "same")
    return band, energy


def detect(x: Float[np.ndarray, "T"], rate: float) -> Float[np.ndarray, "n"]:
    """Times (s) of the beats of one lead. Gaps (NaN) are bridged by straight lines."""
    bad = np.isnan(x)
    if bad.all() or len(x) < rate:
        return np.zeros(0)
    x = np.interp(np.arange(len(x)), np.flatnonzero(~bad), x[~bad]).astype(np.float64)
    band, energy = features(x - np.median(x), rate)
    tops, _ = find_peaks(energy, distance=max(1, round(REFRACTORY * rate)))
    if not len(tops):
        return np.zeros(0)
    begin = energy[: round(LEARN * rate)]
    levels = Levels(0.6 * float(begin.max()), 0.5 * float(begin.mean()))
    slopes = np.abs(np.gradient(band))
    reach = max(1, round(0.075 * rate))

    def steepest(i: int) -> float:
        return float(slopes[max(0, i - reach) : i + reach + 1].max())

    for place, top in enumerate(tops):
        _overdue(levels, tops[:place], int(top), energy, rate)
        last = levels.beats[-1] if levels.beats else None
        wave_t = last is not None and (top - last) / rate < T_WAVE and steepest(int(top)) < 0.5 * steepest(last)
        beat = bool(energy[top] > levels.high) and not wave_t
        levels.hear(float(energy[top]), beat)
        if beat:
            levels.beats.append(int(top))
    at = [max(0, b - reach) + int(np.argmax(np.abs(band[max(0, b - reach) : b + reach + 1]))) for b in levels.beats]
    return np.unique(at).astype(np.float64) / rate


def _overdue(
    levels: Levels, before: Float[np.ndarray, "n"] | np.ndarray, now: int, energy: np.ndarray, rate: float
) -> None:
    """Where no beat came for OVERDUE of the usual interval, the highest peak since that passes half the threshold."""
    if len(levels.beats) < 2:
        return
    usual = float(np.mean(np.diff(levels.beats[-KEPT - 1 :])))
    last = levels.beats[-1]
    if now - last <= OVERDUE * usual:
        return
    since = before[(before > last + REFRACTORY * rate) & (before < now)]
    since = since[energy[since] > 0.5 * levels.high]
    if len(since):
        best = int(since[np.argmax(energy[since])])
        levels.beats.append(best)
        levels.hear(float(energy[best]), True, 0.25)
