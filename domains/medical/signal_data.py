"""Recordings with their beats in memory, at the rate of the model, cut into windows.

A row of a split is (record, first sample, last sample + 1): a stretch of time that is scored as one unit.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from scipy.signal import resample_poly

from shared_backbones.errors import BadInput

from ..public import locate
from ..task import PARTS, Audit, Batch, Manifest, Split
from .data.signals import AAMI, Record, read_beats, read_rhythms, read_span, records_of
from .datasets import SIGNAL_SETS
from .signal_config import SignalAugmentOptions, SignalOptions, SignalSplitOptions
from .signal_simulate import RATE, simulated

SIMULATED = "simulated"
MANY = 5  # records from which on whole records are split


@dataclass(frozen=True)
class Heart:
    """One lead of one record: samples at the model's rate (NaN: gaps), times (s) and AAMI classes of its beats.

    rhythm: spans (start in s, end in s, name) of what is annotated.
    """

    name: str
    wave: Float32[np.ndarray, "T"]
    beats: Float64[np.ndarray, "n"]
    kinds: Int64[np.ndarray, "n"]
    rhythm: tuple[tuple[float, float, str], ...] = ()


@dataclass(frozen=True)
class Hearts:
    """Every record of a source."""

    manifest: Manifest
    rate: float
    hearts: tuple[Heart, ...]


def at_rate(x: Float32[np.ndarray, "T"], rate: float, to: float) -> Float32[np.ndarray, "t"]:
    """At another rate (polyphase filter); gaps stay gaps."""
    if rate == to:
        return x
    a, b = round(to * 100), round(rate * 100)
    common = gcd(a, b)
    bad = np.isnan(x)
    y = resample_poly(np.where(bad, 0, x), a // common, b // common).astype(np.float32)
    if bad.any():
        y[np.interp(np.arange(len(y)) * rate / to, np.arange(len(x)), bad.astype(np.float64)) > 0] = np.nan
    return y


def read_heart(record: Record, options: SignalOptions) -> Heart:
    """One lead with its annotated beats. Raises BadInput."""
    if options.lead >= len(record.leads):
        raise BadInput(f"{record.source}: lead {options.lead} is asked for; it has {len(record.leads)}, counted from 0")
    samples, kinds = read_beats(record, options.annotations)
    x = read_span(record, options.lead, 0, record.length)
    if np.isnan(x).all() or float(np.nanstd(x)) == 0:
        raise BadInput(f"{record.source}: lead {record.leads[options.lead]} is flat or holds nothing")
    number = np.array([AAMI.index(k) for k in kinds], np.int64)
    rhythm = read_rhythms(record, options.annotations)
    return Heart(record.name, at_rate(x, record.rate, options.rate), samples / record.rate, number, rhythm)


def open_hearts(source: str, options: SignalOptions) -> Hearts:
    """From a record, a folder of records, a public name or ``simulated``. Raises BadInput."""
    if source == SIMULATED:
        made = simulated(options.simulated)
        hearts = [Heart(m.name, at_rate(m.wave, RATE, options.rate), m.beats, m.kinds, m.rhythm) for m in made]
        return _hearts(source, "simulated, free of rights", hearts, options, {"rates_of_files": {RATE: len(made)}})
    path, licence = Path(source), "not stated"
    if source in SIGNAL_SETS:
        files = locate(SIGNAL_SETS[source])
        path, licence = next(p for n, p in files.items() if n.endswith(".hea")), SIGNAL_SETS[source].licence
    records = records_of(path)
    facts = {
        "rates_of_files": dict(sorted(Counter(r.rate for r in records).items())),
        "leads": dict(sorted(Counter(r.leads[min(options.lead, len(r.leads) - 1)] for r in records).items())),
    }
    return _hearts(source, licence, [read_heart(r, options) for r in records], options, facts)


def _hearts(
    source: str, licence: str, hearts: Sequence[Heart], options: SignalOptions, facts: dict[str, object]
) -> Hearts:
    digest = hashlib.sha256(f"{options.rate}".encode())
    for h in hearts:
        digest.update(h.wave.tobytes() + h.beats.tobytes() + h.kinds.tobytes())
        digest.update(str(h.rhythm).encode() if h.rhythm else b"")
        if not len(h.beats):
            raise BadInput(f"{source}: record {h.name} has no annotated beat")
    kinds = np.bincount(np.concatenate([h.kinds for h in hearts]), minlength=len(AAMI))
    card = {
        "records": len(hearts), "hours": round(sum(len(h.wave) for h in hearts) / options.rate / 3600, 4),
        "rate": options.rate, "beats": int(kinds.sum()),
        "kinds": {k: int(n) for k, n in zip(AAMI, kinds, strict=True) if n},
        "rhythms_s": _seconds(hearts),
        "gaps": round(float(np.mean([np.isnan(h.wave).mean() for h in hearts])), 5),
        "use": "for research use; not a medical device", **facts,
    }  # fmt: skip
    return Hearts(Manifest(source, digest.hexdigest(), licence, card), options.rate, tuple(hearts))


def _seconds(hearts: Sequence[Heart]) -> dict[str, float]:
    found: Counter[str] = Counter()
    for h in hearts:
        for a, b, name in h.rhythm:
            found[name] += b - a  # type: ignore[assignment]
    return {name: round(float(s), 1) for name, s in sorted(found.items())}


def stretches(first: int, last: int, size: int, record: int) -> list[tuple[int, int, int]]:
    """Windows of ``size`` samples between two samples, the rest joined to the last one."""
    count = max(1, (last - first) // size)
    edges = [first + i * size for i in range(count)] + [last]
    return [(record, a, b) for a, b in itertools.pairwise(edges)]


def make_split(data: Hearts, options: SignalSplitOptions, window: int) -> Split:
    """Stretches of time, or whole records. Raises BadInput where there is too little."""
    protocol = options.protocol
    if protocol == "auto":
        protocol = "records" if len(data.hearts) >= MANY else "time"
    rows: dict[str, list[tuple[int, int, int]]] = {p: [] for p in PARTS}
    if protocol == "records":
        if len(data.hearts) < 3:
            raise BadInput(
                f"{data.manifest.source}: {len(data.hearts)} records cannot be three parts; set split.protocol=time"
            )
        order = np.random.default_rng(options.seed).permutation(len(data.hearts))
        ends = np.cumsum([max(1, round(f * len(order))) for f in options.fractions[:0:-1]])
        which = {"test": order[: ends[0]], "val": order[ends[0] : ends[1]], "train": order[ends[1] :]}
        for part, records in which.items():
            for r in records:
                rows[part] += stretches(0, len(data.hearts[r].wave), window, int(r))
        said = f"whole records, {'/'.join(f'{100 * f:g}' for f in options.fractions)}, seed {options.seed}"
    else:
        gap = round(options.gap_s * data.rate)
        for r, heart in enumerate(data.hearts):
            ends = np.round(np.cumsum(options.fractions) * len(heart.wave)).astype(int)
            starts = [0, int(ends[0]) + gap, int(ends[1]) + gap]
            for part, a, b in zip(PARTS, starts, ends, strict=True):
                if b - a < window:
                    raise BadInput(
                        f"{data.manifest.source}: {heart.name} is too short to be cut by time; give longer records"
                    )
                rows[part] += stretches(a, int(b), window, r)
        shares = "/".join(f"{100 * f:g}" for f in options.fractions)
        said = f"in order of time, {shares}, {options.gap_s:g} s left out between"
    if not all(rows.values()):
        raise BadInput(f"{data.manifest.source}: a part is empty ({said})")
    parts = {p: np.array(v, np.int64) for p, v in rows.items()}
    facts = {
        p: {"minutes": round(float((v[:, 2] - v[:, 1]).sum()) / data.rate / 60, 2), "records": len(np.unique(v[:, 0]))}
        for p, v in parts.items()
    }
    return Split(said, parts, facts)


def audit_split(data: Hearts, split: Split) -> list[Audit]:
    """Would show that the test part is known from training: shared times, shared patients."""
    known = np.concatenate([split.parts["train"], split.parts["val"]])
    test = split.parts["test"]
    both = len(np.intersect1d(known[:, 0], test[:, 0]))
    overlap = sum(int(((known[:, 0] == r) & (known[:, 1] < b) & (known[:, 2] > a)).any()) for r, a, b in test.tolist())
    return [
        Audit("times_on_both_sides", float(overlap), not overlap, "Stretches of the test part that training saw."),
        Audit(
            "records_on_both_sides", float(both), None if both else True,
            "Records whose earlier minutes train and whose later ones test: nothing is said about other patients."
            if both else "No record stands on both sides.",
        ),
    ]  # fmt: skip


def poisoned(data: Hearts, rows: Int64[np.ndarray, "n 3"]) -> Hearts:
    """Noise, no beat where beats were, and another rhythm, in the stretches given."""
    random = np.random.default_rng(0)
    hearts = list(data.hearts)
    for r, a, b in rows.tolist():
        heart = hearts[r]
        wave = heart.wave.copy()
        wave[a:b] = random.normal(0, 1e3, b - a)
        keep = (heart.beats < a / data.rate) | (heart.beats >= b / data.rate)
        rhythm = _without(heart.rhythm, a / data.rate, b / data.rate)
        hearts[r] = replace(heart, wave=wave, beats=heart.beats[keep], kinds=heart.kinds[keep], rhythm=rhythm)
    return replace(data, hearts=tuple(hearts))


def _without(
    rhythm: tuple[tuple[float, float, str], ...], start: float, end: float
) -> tuple[tuple[float, float, str], ...]:
    cut = [(x, y, name) for a, b, name in rhythm for x, y in ((a, min(b, start)), (max(a, end), b)) if y > x]
    return (*cut, (start, end, "POISON")) if rhythm else ()


@dataclass(frozen=True)
class WindowItems:
    """Windows of one part: "wave" (B, T) with NaN in gaps, "time" (B, M) of beats in s (NaN: no more), "kind" (B, M).

    "rhythm" (B, T): the place in ``rhythms`` of what holds at a sample, -1 where that is not known. ``augment``: what
    is done to them while training; then windows start anywhere in their record's training time.
    """

    data: Hearts
    rows: Int64[np.ndarray, "n 3"]
    size: int
    augment: SignalAugmentOptions | None = None
    rhythms: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Sequence[int]) -> Batch:
        waves, times, kinds, rhythms = [], [], [], []
        random = np.random.default_rng(int(torch.randint(2**62, ()))) if self.augment else None
        for i in indices:
            r, a, b = (int(v) for v in self.rows[i])
            start = a
            if random is not None:
                mine = self.rows[self.rows[:, 0] == r]
                low = max(int(mine[:, 1].min()), a - self.size // 2)
                start = int(
                    random.integers(low, max(low + 1, min(int(mine[:, 2].max()), b + self.size // 2) - self.size))
                )
            heart = self.data.hearts[r]
            wave = np.full(self.size, np.nan, np.float32)
            piece = heart.wave[start : min(start + self.size, b if random is None else len(heart.wave))]
            wave[: len(piece)] = piece
            if random is not None and self.augment is not None:
                wave = disturbed(wave, self.data.rate, self.augment, random)
            here = (heart.beats >= start / self.data.rate) & (heart.beats < (start + len(piece)) / self.data.rate)
            waves.append(wave)
            times.append(heart.beats[here] - start / self.data.rate)
            kinds.append(heart.kinds[here])
            rhythms.append(self._rhythm(heart, start))
        most = max(1, *(len(t) for t in times))
        time = torch.full((len(waves), most), float("nan"))
        kind = torch.zeros(len(waves), most, dtype=torch.long)
        for row, (t, k) in enumerate(zip(times, kinds, strict=True)):
            time[row, : len(t)], kind[row, : len(k)] = torch.from_numpy(t).float(), torch.from_numpy(k)
        batch = {"wave": torch.from_numpy(np.stack(waves)), "time": time, "kind": kind}
        return batch | ({"rhythm": torch.from_numpy(np.stack(rhythms))} if self.rhythms else {})

    def _rhythm(self, heart: Heart, start: int) -> Int64[np.ndarray, "T"]:
        found = np.full(self.size, -1, np.int64)
        for a, b, name in heart.rhythm if self.rhythms else ():
            low, high = (max(0, round(s * self.data.rate) - start) for s in (a, b))
            found[low:high] = self.rhythms.index(name) if name in self.rhythms else -1
        return found


def disturbed(
    wave: Float32[np.ndarray, "T"], rate: float, options: SignalAugmentOptions, random: np.random.Generator
) -> Float32[np.ndarray, "T"]:
    """Another electrode: gain, sign, noise, a base line that wanders."""
    spread = float(np.nanstd(wave)) if not np.isnan(wave).all() else 0.0
    out = wave * (1 + options.gain * random.uniform(-1, 1)) * (-1 if options.invert and random.random() < 0.5 else 1)
    out = out + options.noise * spread * random.random() * random.standard_normal(len(wave))
    at = np.arange(len(wave)) / rate
    drift = np.sin(2 * np.pi * (random.uniform(0.1, 0.5) * at + random.random()))
    return (out + options.wander * spread * random.random() * drift).astype(np.float32)
