"""Keywords in a stream: how many are missed, and how often something else is taken for one.

Shapes: n clips of a part, W windows of a stream, T thresholds, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from shared_backbones.errors import BadInput, unknown

from ..task import Evidence, Fitted, MetricFact
from .clips import Clips
from .config import ClassifyOptions
from .data import chunks
from .items import collate
from .predicting import entries_to_hear, spanned

THRESHOLDS = 1 / (1 + np.exp(-np.linspace(-5, 14, 77)))  # of a keyword's probability
SPOT_FACTS: Mapping[str, MetricFact] = {
    "keyword_misses": MetricFact("1", "lower", "share of keywords missed at the lowest threshold with at most "
                                 "spot.per_hour false alarms per hour of a stream without them; with spot.keywords"),
    "false_alarms": MetricFact("1/h", "lower", "false alarms per hour at the highest threshold that misses up to 5 %"),
}  # fmt: skip
MISSED = 0.05
PER_WINDOW = 4  # steps from window to window in its length
BLOCK_S = 30.0  # of a made stream at a time
GAP_S = (0.2, 0.8)  # between its clips
GAIN_DB, NOISE_DB = 6.0, -40.0  # levels of its clips within +- this; its noise, against the loudest clip of a block
SEED = 0x5707  # of what it is made of: the same for every model and every seed
AT_ONCE = 64  # windows
Say = Callable[[Tensor, Tensor], Tensor]
Wave = Float32[np.ndarray, "_"]


def check_keywords(options: ClassifyOptions, classes: list[str]) -> None:
    """Raises BadInput for keywords that are no classes, or that leave nothing else to be told from them."""
    spot = options.spot
    for name in spot.keywords:
        if name not in classes:
            raise unknown("keyword (spot.keywords)", name, classes)
    if spot.keywords and not spot.negatives and set(spot.keywords) == set(classes):
        raise BadInput(
            "spot.keywords names every class, so no clip is left for a stream without keywords: leave a class out, or "
            "give recordings without keywords as spot.negatives"
        )


@dataclass(frozen=True)
class Heard:
    """A stream, scored window by window: the probabilities, and which clip stands at the middle of each."""

    p: Float[np.ndarray, "W K"]
    owner: Int[np.ndarray, "W"]


@dataclass(frozen=True)
class Listener:
    """Hears windows of one length, a quarter of it apart. Windows far below the loudest hold nothing.

    say: samples and how many are each window's own -> calibrated logits.
    """

    say: Say
    classes: int
    size: int
    silence_db: float

    @property
    def step(self) -> int:
        return max(1, self.size // PER_WINDOW)

    def windows(self, wave: Wave) -> list[Wave]:
        """Of a stretch of sound."""
        return [wave[i : i + self.size] for i in range(0, max(1, len(wave) - self.size + 1), self.step)]

    @torch.no_grad()
    def shares(self, windows: list[Wave]) -> Float[np.ndarray, "W K"]:
        """Calibrated probabilities of the classes; 0 of all where a window is silent beside the others."""
        power = np.array([float(np.mean(w.astype(np.float64) ** 2)) for w in windows])
        loud = power > max(1e-12, float(power.max()) * 10 ** (-self.silence_db / 10))
        found, at = np.zeros((len(windows), self.classes)), np.flatnonzero(loud)
        for rows in np.split(at, range(AT_ONCE, len(at), AT_ONCE)):
            if len(rows):
                batch = collate([windows[i] for i in rows])
                found[rows] = self.say(batch["wave"], batch["length"]).double().softmax(1).numpy()
        return found

    def hear(self, wave: Wave, ends: Int[np.ndarray, "c"]) -> Heard:
        """A stretch whose clips, each with the gap behind it, end at ``ends``."""
        windows = self.windows(wave)
        middle = np.arange(len(windows)) * self.step + self.size // 2
        return Heard(self.shares(windows), np.searchsorted(ends, middle, side="right").clip(max=len(ends) - 1))


def alarmed(score: Float[np.ndarray, "W"]) -> Float[np.ndarray, "W T"]:
    """1 at the windows in which an alarm begins: neighbours at a threshold or above are one, for a window's length."""
    above = score[:, None] >= THRESHOLDS
    count = above.cumsum(0)
    since = (
        count - np.maximum.accumulate(np.where(above, 0, count), 0) - 1
    )  # windows since the score came to stand there
    return (above & (since % PER_WINDOW == 0)).astype(np.float64)


def stretches(
    data: Clips, order: Int[np.ndarray, "m"], random: np.random.Generator
) -> Iterator[tuple[Wave, Int[np.ndarray, "c"], Int[np.ndarray, "c"]]]:
    """(samples, where each clip with its gap ends, which clips) of a made stream, ``BLOCK_S`` or a clip more each."""
    held: list[Wave] = []
    ends: list[int] = []
    rows: list[int] = []
    at = 0
    for n, row in enumerate(order):
        gap = round(data.rate * random.uniform(*GAP_S))
        wave = data.waves[int(row)]
        level = 0.1 / max(1e-6, float(np.sqrt(np.mean(wave.astype(np.float64) ** 2))))
        level *= 10 ** (GAIN_DB * random.uniform(-1, 1) / 20)
        piece = np.concatenate([wave * np.float32(level), np.zeros(gap, np.float32)])
        at += len(piece)
        held, ends, rows = [*held, piece], [*ends, at], [*rows, int(row)]
        if at >= BLOCK_S * data.rate or n + 1 == len(order):
            stream = np.concatenate(held)
            noise = random.standard_normal(len(stream)) * 0.1 * 10 ** (NOISE_DB / 20)
            yield (stream + noise).astype(np.float32), np.array(ends), np.array(rows)
            held, ends, rows, at = [], [], [], 0


def columns(
    say: Say, data: Clips, rows: Int[np.ndarray, "n"], fitted: Fitted, options: ClassifyOptions
) -> dict[str, Float[np.ndarray, "n ..."]]:
    """Additive statistics of each clip: "alarms" (T) in its share of the stream, "stream_s" of it (s); "keyword" 1
    where it is one, "missed" (T) where that was not heard.
    """
    spot = options.spot
    classes = [str(c) for c in fitted["classes"]]
    keys = np.array([classes.index(k) for k in spot.keywords])
    size = round((spot.window_s or float(fitted["median_s"])) * data.rate)
    listener = Listener(say, len(classes), max(2, size), spot.silence_db)
    place = {int(row): i for i, row in enumerate(rows)}
    n, t = len(rows), len(THRESHOLDS)
    found = {"alarms": np.zeros((n, t)), "stream_s": np.zeros(n), "missed": np.zeros((n, t)), "keyword": np.zeros(n)}
    is_key = np.isin(data.labels[rows], keys)
    random = np.random.default_rng(SEED)
    found["keyword"][is_key] = 1
    for wave, ends, own in stretches(data, rows[is_key], random):
        heard = listener.hear(wave, ends)
        for c, row in enumerate(own):
            mine = heard.p[heard.owner == c, int(data.labels[row])]
            found["missed"][place[int(row)]] = mine.max(initial=0.0) < THRESHOLDS
    if spot.negatives:
        _recorded(listener, data.rate, options, keys, found)
        return found
    rest, seconds = rows[~is_key], np.array([len(data.waves[int(r)]) / data.rate for r in rows[~is_key]])
    if not len(rest):
        return found
    turns = int(np.ceil(spot.minutes * 60 / (seconds.sum() + np.mean(GAP_S) * len(rest))))
    order = np.concatenate([random.permutation(rest) for _ in range(max(1, turns))])
    for wave, ends, own in stretches(data, order, random):
        heard = listener.hear(wave, ends)
        at = np.array([place[int(row)] for row in own])
        np.add.at(found["alarms"], at[heard.owner], alarmed(heard.p[:, keys].max(1)))
        np.add.at(found["stream_s"], at, np.diff(ends, prepend=0) / data.rate)
    return found


def _recorded(listener: Listener, rate: int, options: ClassifyOptions, keys: Any, found: dict[str, Any]) -> None:
    """Recordings without keywords, from disk, minute by minute: the minutes in turn belong to the clips in turn."""
    assert options.spot.negatives is not None
    n, minute = len(found["stream_s"]), 0
    for entry in entries_to_hear(options.spot.negatives, options):
        part, _ = spanned(entry, rate)
        for _, wave in chunks(part, rate, options.channel, 60 * rate, 60 * rate):
            heard = listener.hear(wave, np.array([len(wave)]))
            found["alarms"][minute % n] += alarmed(heard.p[:, keys].max(1)).sum(0)
            found["stream_s"][minute % n] += len(wave) / rate
            minute += 1


def trade_off(evidence: Evidence) -> tuple[Float[np.ndarray, "T"], Float[np.ndarray, "T"]]:
    """(share of keywords missed, false alarms per hour) at each threshold, the most at it or above it."""
    hours = max(1e-9, float(evidence.sum("stream_s")) / 3600)
    alarms = np.maximum.accumulate(evidence.sum("alarms")[::-1])[::-1]
    return evidence.sum("missed") / max(1e-9, float(evidence.sum("keyword"))), alarms / hours


def spot_scores(evidence: Evidence, per_hour: float) -> dict[str, float]:
    """Metrics named as in SPOT_FACTS; NaN without a stream."""
    if "alarms" not in evidence.columns or not float(evidence.sum("keyword")):
        return {name: float("nan") for name in SPOT_FACTS}
    missed, alarms = trade_off(evidence)
    quiet = np.flatnonzero(alarms <= per_hour)
    well = np.flatnonzero(missed <= MISSED)
    return {
        "keyword_misses": float(missed[quiet[0]]) if len(quiet) else 1.0,
        "false_alarms": float(alarms[well[-1]]) if len(well) else float("nan"),
    }
