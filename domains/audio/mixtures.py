"""Mixtures of speakers: made of their clips by seeded draws, or given with their sources.

Shapes: S speakers, T samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor

from ..task import Batch
from .augment import other_tract, speed
from .clips import Clips
from .separate_config import MixOptions

FADE_S = 0.005  # of a piece cut out of a longer clip
LEVEL = 0.05  # root mean square of a speaker where it speaks
APART = 0.25 * np.log(2)  # logarithm of the least ratio of speeds of two voices of one person
Wave = Float32[np.ndarray, "T"]
Mixture = tuple[Float32[np.ndarray, "_"], Float32[np.ndarray, "S _"]]


@dataclass(frozen=True)
class Maker:
    """Makes mixtures of a part's clips. ``varied``: voices and microphones are varied, as in training."""

    clips: Clips
    rows: Int[np.ndarray, "n"]
    speakers: int
    options: MixOptions
    varied: bool

    @cached_property
    def by_speaker(self) -> dict[str, list[int]]:
        """The part's clips by speaker."""
        found: dict[str, list[int]] = {}
        for i in self.rows:
            found.setdefault(self.clips.groups[int(i)], []).append(int(i))
        return found

    def draw(self, random: np.random.Generator) -> Mixture:
        """A mixture and its sources, which add up to it."""
        who, speeds = self._voices(random)
        sources = np.stack([self._line(name, f, random) for name, f in zip(who, speeds, strict=True)])
        level = self.options.level_db * np.r_[0.0, random.uniform(-1, 1, len(who) - 1)]
        sources *= (10 ** (level / 20)).astype(np.float32)[:, None]
        peak = float(np.abs(sources.sum(0)).max())
        if peak > 0.9:
            sources *= np.float32(0.9 / peak)
        return sources.sum(0), sources

    def _voices(self, random: np.random.Generator) -> tuple[list[str], list[float]]:
        """Names and speeds: other people, or one person with voices that are told apart by pitch."""
        names, most = sorted(self.by_speaker), self.options.voice
        if not self.varied:
            return [str(n) for n in random.permutation(names)[: self.speakers]], [1.0] * self.speakers
        if random.uniform() < self.options.twins:
            picked = np.repeat(random.choice(names), self.speakers)
        else:
            picked = random.choice(names, self.speakers, replace=len(names) < self.speakers)
        for _ in range(20):
            logs = random.uniform(-most, most, self.speakers)
            far = np.abs(logs[:, None] - logs) + 9 * (picked[:, None] != picked) + 9 * np.eye(self.speakers)
            if far.min() >= min(APART, most / self.speakers):
                break
        return [str(n) for n in picked], np.exp(logs).tolist()

    def _piece(self, wave: Wave, random: np.random.Generator) -> Float32[np.ndarray, "t"]:
        """A clip; of a long one a piece from anywhere, with its ends faded."""
        rate, longest = self.clips.rate, round((self.options.clip_s or self.options.seconds) * self.clips.rate)
        if len(wave) <= longest:
            return wave
        n = max(2, round(longest * random.uniform(0.3, 1)))
        at = int(random.integers(len(wave) - n + 1))
        ramp = np.minimum(1.0, (np.arange(n) + 0.5) / max(1, round(FADE_S * rate)))
        return (wave[at : at + n] * np.minimum(ramp, ramp[::-1])).astype(np.float32)

    def _line(self, who: str, factor: float, random: np.random.Generator) -> Wave:
        """One speaker alone: clips in any order with pauses, at level ``LEVEL``."""
        size, rate = round(self.options.seconds * self.clips.rate), self.clips.rate
        mine, gap = self.by_speaker[who], self.options.gap_s * rate
        line, heard, at = np.zeros(size, np.float32), np.zeros(size, bool), int(gap * random.uniform())
        while at < size or not heard.any():
            wave = self._piece(self.clips.waves[mine[random.integers(len(mine))]], random)
            wave = (wave if factor == 1.0 else speed(wave, factor))[: max(1, size - at)]
            at = min(at, size - 1)
            wave = wave[: size - at]
            line[at : at + len(wave)], heard[at : at + len(wave)] = wave, True
            at += len(wave) + int(gap * random.uniform())
        if self.varied and self.options.tract:
            moved = float(np.exp(self.options.tract * random.uniform(-1, 1)))
            line = other_tract(line, moved, round(0.032 * rate)) * heard
        if self.varied and self.options.colour_db:
            line = coloured_wave(line, self.options.colour_db, random) * heard
        power = float((line.astype(np.float64) ** 2).sum() / heard.sum())
        return (line * (LEVEL / max(1e-9, np.sqrt(power)))).astype(np.float32)


def coloured_wave(wave: Wave, decibel: float, random: np.random.Generator) -> Wave:
    """As another microphone would hear it: a smooth random gain over frequency, four cosines of falling weight."""
    spectrum = np.fft.rfft(wave)
    at = np.linspace(0, np.pi, len(spectrum))
    k = np.arange(1, 5)
    gain = decibel * (random.standard_normal(4) / k) @ np.cos(at * k[:, None])
    return np.fft.irfft(spectrum * 10 ** (gain / 20), len(wave)).astype(np.float32)


@dataclass(frozen=True)
class Given:
    """A mixture that came with its sources."""

    name: str
    wave: Wave
    sources: Float32[np.ndarray, "S T"]
    split: str = ""
    group: str = ""


@dataclass(frozen=True)
class MadeItems:
    """``count`` mixtures of a maker. Without a seed each is drawn anew from torch's random state."""

    maker: Maker
    count: int
    seed: tuple[int, ...] | None

    def __len__(self) -> int:
        return self.count

    def one(self, i: int) -> Mixture:
        """The mixture and its sources."""
        seed = [int(torch.randint(2**62, ()))] if self.seed is None else [*self.seed, i]
        return self.maker.draw(np.random.default_rng(seed))

    def batch(self, indices: Sequence[int]) -> Batch:
        return stacked([self.one(int(i)) for i in indices])


@dataclass(frozen=True)
class GivenItems:
    """Given mixtures; of a long one, while training, ``crop`` samples from anywhere."""

    given: Sequence[Given]
    crop: int | None = None

    def __len__(self) -> int:
        return len(self.given)

    def one(self, i: int) -> Mixture:
        """The mixture and its sources."""
        row = self.given[i]
        n = len(row.wave)
        if self.crop is None or n <= self.crop:
            return row.wave, row.sources
        at = int(torch.randint(n - self.crop + 1, ()))
        return row.wave[at : at + self.crop], row.sources[:, at : at + self.crop]

    def batch(self, indices: Sequence[int]) -> Batch:
        return stacked([self.one(int(i)) for i in indices])


def stacked(rows: Sequence[Mixture]) -> dict[str, Tensor]:
    """Mixtures of any lengths side by side, zeros behind: "wave" (B, T), "sources" (B, S, T), "length" (B,)."""
    longest = max(len(wave) for wave, _ in rows)
    wave = torch.zeros(len(rows), longest)
    sources = torch.zeros(len(rows), len(rows[0][1]), longest)
    for i, (x, s) in enumerate(rows):
        wave[i, : len(x)], sources[i, :, : len(x)] = torch.from_numpy(x.copy()), torch.from_numpy(s.copy())
    return {"wave": wave, "sources": sources, "length": torch.tensor([len(x) for x, _ in rows])}


def digest(items: MadeItems | GivenItems) -> str:
    """sha256 of mixtures and sources as 16-bit samples: the same test on another machine, or not."""
    h = hashlib.sha256()
    for i in range(len(items)):
        h.update(np.round(items.one(i)[1] * 32767).astype("<i2").tobytes())
    return h.hexdigest()


def overlap_share(items: MadeItems | GivenItems, most: int = 20) -> float:
    """Share of the time with sound in which more than one speaker is heard, of the first few mixtures."""
    sound, both = 0, 0
    for i in range(min(len(items), most)):
        sources = items.one(i)[1]
        on = np.abs(sources) > 0.02 * np.abs(sources).max(1, keepdims=True)
        width = 400
        n = on.shape[1] // width * width
        spoken = on[:, :n].reshape(len(on), -1, width).any(2).sum(0) if n else on.any(1).sum(keepdims=True)
        sound, both = sound + int((spoken > 0).sum()), both + int((spoken > 1).sum())
    return both / max(1, sound)
