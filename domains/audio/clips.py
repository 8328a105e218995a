"""Clips in memory, checked: samples at one rate, classes, groups, and the data card."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from shared_backbones.errors import BadInput

from ..task import Manifest
from .config import SourceOptions
from .data import AudioFile, content_hash, open_audio, read_mono
from .manifests import Entry

QUIET = 1e-4  # amplitude (-80 dB): a clip that never leaves it holds no sound
FULL = 0.999  # amplitude that counts as full scale
CLIPPED = 3  # samples in a row at full scale


@dataclass(frozen=True)
class Clips:
    """Recordings of one corpus. Everything lies in memory: 230 MB an hour at 16 kHz."""

    manifest: Manifest
    rate: int
    waves: tuple[Float32[np.ndarray, "_"], ...]
    names: tuple[str, ...]
    labels: Int64[np.ndarray, "n"]  # places in classes; -1: none said
    classes: tuple[str, ...]
    texts: tuple[str | None, ...]
    groups: tuple[str, ...]  # speaker or source; "": not known
    parts: tuple[str, ...]  # of the source's own split; "": none
    hashes: tuple[str, ...]  # of the samples
    noises: tuple[Float32[np.ndarray, "_"], ...] = ()  # recordings that training clips are mixed with

    def __len__(self) -> int:
        return len(self.waves)


@dataclass(frozen=True)
class Read:
    """A clip as it was read."""

    entry: Entry
    file: AudioFile
    wave: Float32[np.ndarray, "T"]


def read_all(entries: Sequence[Entry], options: SourceOptions, source: str) -> tuple[int, list[Read]]:
    """The rate, and every clip at it. Raises BadInput for the first that cannot be used."""
    files = {e.path: None for e in entries}
    opened = {path: open_audio(path) for path in files}
    lowest = min(opened.values(), key=lambda f: f.rate)
    rate = options.rate or lowest.rate
    if lowest.rate < rate:
        raise BadInput(
            f"{lowest.path}: {lowest.rate} samples per second, and the model needs {rate}: what is above "
            f"{lowest.rate / 2:g} Hz cannot be made up. Set rate={lowest.rate}, or leave it out"
        )
    return rate, [_read(e, opened[e.path], rate, options.channel) for e in entries]


def _read(entry: Entry, file: AudioFile, rate: int, channel: int | None) -> Read:
    if entry.start >= file.seconds or (entry.end is not None and entry.end > file.seconds + 1e-3):
        raise BadInput(
            f"{entry.where}: the segment goes from {entry.start:g} s to {entry.end or file.seconds:g} s, and "
            f"{file.path} is {file.seconds:.3f} s long"
        )
    wave = read_mono(file, rate, channel, entry.start, entry.end)
    if not len(wave):
        raise BadInput(f"{entry.where}: the segment holds no sample")
    return Read(entry, file, wave)


def refuse_silence(read: list[Read], rule: str, source: str) -> list[Read]:
    """Clips with sound; what ``rule`` says of the others is done. Raises BadInput."""
    silent = [r for r in read if np.abs(r.wave).max() < QUIET]
    if silent and (rule == "refuse" or len(silent) == len(read)):
        raise BadInput(
            f"{silent[0].entry.where}: all silence (never above {QUIET:g} of full scale); {len(silent)} of {len(read)} "
            f"clips of {source} are. Repair them, or leave them out with --set silence=drop"
        )
    return [r for r in read if np.abs(r.wave).max() >= QUIET] if silent else read


def clips_of(read: list[Read], rate: int, source: str, licence: str, classes: tuple[str, ...] | None = None) -> Clips:
    """Checked clips with their data card."""
    if classes is None:
        classes = tuple(sorted({r.entry.label for r in read if r.entry.label}, key=_natural))
    place = {name: i for i, name in enumerate(classes)}
    hashes = tuple(content_hash(r.wave) for r in read)
    labels = np.array([place.get(r.entry.label, -1) for r in read], np.int64)
    said = "".join(f"{h}|{r.entry.label}|{r.entry.text}|{r.entry.group}\n" for h, r in zip(hashes, read, strict=True))
    facts = card(read, rate, hashes)
    return Clips(
        Manifest(source, hashlib.sha256(f"{rate}\n{said}".encode()).hexdigest(), licence, facts),
        rate,
        tuple(r.wave for r in read),
        tuple(r.entry.path.name for r in read),
        labels,
        classes,
        tuple(r.entry.text for r in read),
        tuple(r.entry.group for r in read),
        tuple(r.entry.split for r in read),
        hashes,
    )


def _natural(name: str) -> tuple[int, float, str]:
    return (0, float(name), name) if name.isdigit() else (1, 0.0, name)


def clipped(wave: Float32[np.ndarray, "T"]) -> bool:
    """Whether samples stand at full scale several times in a row."""
    at = np.abs(wave) >= FULL
    runs = at[: -CLIPPED + 1].copy() if len(at) >= CLIPPED else at[:0]
    for i in range(1, CLIPPED):
        runs &= at[i : len(at) - CLIPPED + 1 + i]
    return bool(runs.any())


def card(read: list[Read], rate: int, hashes: tuple[str, ...]) -> dict[str, Any]:
    """The data card: how much there is, of what, and what is wrong with it."""
    seconds = np.array([len(r.wave) / rate for r in read])
    files = {r.file.path: r.file for r in read}
    peak = np.array([np.abs(r.wave).max() for r in read])
    quiet = sum(float((np.abs(r.wave) < 1e-3).sum()) for r in read) / max(1.0, float(seconds.sum()) * rate)
    channels = max(f.channels for f in files.values())
    labels = Counter(r.entry.label or "(none)" for r in read)
    return {
        "clips": len(read),
        "files": len(files),
        "hours": round(float(seconds.sum()) / 3600, 4),
        "seconds": {name: round(float(f(seconds)), 3) for name, f in
                    (("shortest", np.min), ("median", np.median), ("longest", np.max))},
        "rate": rate,
        "rates_of_files": dict(sorted(Counter(f.rate for f in files.values()).items())),
        "channels_of_files": dict(sorted(Counter(f.channels for f in files.values()).items())),
        "formats": dict(sorted(Counter(f.form for f in files.values()).items())),
        "down_mix": "none: all files are mono" if channels == 1 else "mean of the channels, or the one asked for",
        "resampling": "none" if {f.rate for f in files.values()} == {rate} else f"polyphase filter to {rate} Hz",
        "peak": {"lowest": round(float(peak.min()), 4), "median": round(float(np.median(peak)), 4)},
        "clipped_clips": sum(clipped(r.wave) for r in read),
        "share_below_-60_dB": round(quiet, 4),
        "duplicates": len(hashes) - len(set(hashes)),
        "labels": dict(sorted(labels.items(), key=lambda kv: _natural(kv[0]))),
        "groups": dict(sorted(Counter(r.entry.group or "(none)" for r in read).items())),
    }  # fmt: skip


def poisoned(data: Clips, rows: Int64[np.ndarray, "n"]) -> Clips:
    """Noise at full scale for every clip of ``rows``, as long as before, and another class."""
    waves, labels = list(data.waves), data.labels.copy()
    random = np.random.default_rng(0)
    for i in rows:
        waves[i] = random.uniform(-1, 1, len(waves[i])).astype(np.float32)
        labels[i] = (labels[i] + 1) % max(2, len(data.classes)) if data.classes else -1
    return replace(data, waves=tuple(waves), labels=labels)
