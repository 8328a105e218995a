"""Utterances made of single words, with gaps, level changes and noise: by simulated speakers, or of FSDD."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared_backbones.errors import BadRequest, unknown

from ..public import locate
from .clips import Read
from .data import AudioFile, open_audio, read_mono
from .datasets import FSDD, OFFICIAL
from .manifests import Entry
from .simulate import RATE, WORDS, Voice, say, voice

CONNECTED = "connected_digits"
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DEFAULTS = {"seed": 0, "speakers": 6, "strings": 24, "words": 5, "shortest": 1, "longest": 4}
LEAST = {"seed": 0, "speakers": 3, "strings": 2, "words": 2, "shortest": 1, "longest": 1}
Wave = Float32[np.ndarray, "_"]


class JoinOptions(BaseModel):
    """How single words become an utterance."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gap_s: tuple[float, float] = Field((0.03, 0.4), description="shortest and longest gap between words (s)")
    level_db: float = Field(6.0, ge=0, description="level of each word changes by +- this (dB)")
    noise_db: float = Field(40.0, description="white noise so far below the utterance (dB)")

    @model_validator(mode="after")
    def _ordered(self) -> JoinOptions:
        if not 0 <= self.gap_s[0] <= self.gap_s[1]:
            raise ValueError(f"gap_s must be two numbers from 0 on, the shorter first, got {self.gap_s}")
        return self


class DigitOptions(BaseModel):
    """Strings of digits made from FSDD (--data connected_digits)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    strings: int = Field(200, ge=1, description="per speaker, of takes 5 to 49")
    held: int = Field(40, ge=1, description="further strings per speaker, of takes 0 to 4: what validates")
    shortest: int = Field(3, ge=1, description="digits of a string")
    longest: int = Field(7, ge=1, description="digits of a string")
    seed: int = Field(0, ge=0, description="of what is said, gaps and levels")

    @model_validator(mode="after")
    def _ordered(self) -> DigitOptions:
        if self.shortest > self.longest:
            raise ValueError(f"shortest must be at most longest, got {self.shortest} and {self.longest}")
        return self


def join(words: Sequence[Wave], rate: int, options: JoinOptions, random: np.random.Generator) -> Wave:
    """Words one after the other with a gap before, between and behind them."""
    pieces: list[Wave] = []
    for word in words:
        pieces.append(np.zeros(round(rate * random.uniform(*options.gap_s)), np.float32))
        pieces.append(word * np.float32(10 ** (random.uniform(-1, 1) * options.level_db / 20)))
    pieces.append(np.zeros(round(rate * random.uniform(*options.gap_s)), np.float32))
    wave = np.concatenate(pieces)
    wave /= max(1.0, float(np.abs(wave).max()))
    power = float(np.mean(wave.astype(np.float64) ** 2)) / 10 ** (options.noise_db / 10)
    return (wave + np.sqrt(power) * random.standard_normal(len(wave))).astype(np.float32)


def made(name: str, wave: Wave, rate: int, text: str, speaker: str, part: str = "") -> Read:
    """An utterance that stands in no file."""
    path = Path(name)
    entry = Entry(path, name, text=text, speaker=speaker, split=part)
    return Read(entry, AudioFile(path, rate, 1, len(wave), "made"), wave)


def settings(given: Mapping[str, int]) -> dict[str, int]:
    """The simulator's settings. Raises BadRequest for an unknown name or an impossible number."""
    for name in given:
        if name not in DEFAULTS:
            raise unknown("setting of the simulator", name, DEFAULTS)
    found = {**DEFAULTS, **given}
    for name, value in found.items():
        most = len(WORDS) if name == "words" else 10_000
        if not LEAST[name] <= value <= most:
            raise BadRequest(f"simulated.{name} must be {LEAST[name]} to {most}, got {value}")
    if found["shortest"] > found["longest"]:
        raise BadRequest(f"simulated.shortest must be at most longest, got {found['shortest']} and {found['longest']}")
    return found


def simulated_utterances(given: Mapping[str, int], options: JoinOptions) -> list[Read]:
    """Strings of made words by made speakers. The first ones of every speaker say each word by itself."""
    s = settings(given)
    random = np.random.default_rng([s["seed"], 7])
    found = []
    for who in range(s["speakers"]):
        of = voice(random)
        for k in range(s["strings"]):
            n = int(random.integers(s["shortest"], s["longest"] + 1))
            chosen = [k] if k < s["words"] and s["shortest"] == 1 else random.integers(0, s["words"], n).tolist()
            wave = join([say(w, of, random) for w in chosen], RATE, options, random)
            text = " ".join(WORDS[w] for w in chosen)
            found.append(made(f"s{who}_{k:03d}.wav", wave, RATE, text, f"s{who}"))
    return found


def connected_digits(digits: DigitOptions, options: JoinOptions, rate: int) -> list[Read]:
    """Strings of digits by the four speakers of FSDD, each string of one speaker's recordings. Raises BadInput.

    A recording stands in strings of one part alone: takes 0 to 4 of every speaker in those that may validate.
    """
    takes: dict[tuple[str, bool], list[list[Wave]]] = {}
    for entry in FSDD.entries(locate(FSDD.data)):
        held = int(entry.path.stem.split("_")[2]) < OFFICIAL
        words = takes.setdefault((entry.speaker, held), [[] for _ in DIGITS])
        words[int(entry.label)].append(read_mono(open_audio(entry.path), rate, None))
    found = []
    for i, ((who, held), words) in enumerate(takes.items()):
        random = np.random.default_rng([digits.seed, i])
        for k in range(digits.held if held else digits.strings):
            said = random.integers(0, 10, int(random.integers(digits.shortest, digits.longest + 1))).tolist()
            wave = join([words[d][int(random.integers(len(words[d])))] for d in said], rate, options, random)
            name = f"{who}_{'held' if held else 'string'}_{k:03d}.wav"
            text = " ".join(DIGITS[d] for d in said)
            found.append(made(name, wave, rate, text, who, "val" if held else "train"))
    return found


def hours(seconds: float, given: Mapping[str, int], options: JoinOptions) -> Iterable[tuple[Wave, str]]:
    """Simulated utterances of one speaker for so many seconds, each with its text: what a long recording is made of."""
    s = settings(given)
    random = np.random.default_rng([s["seed"], 11])
    of: Voice = voice(random)
    total = 0.0
    while total < seconds:
        chosen = random.integers(0, s["words"], int(random.integers(s["shortest"], s["longest"] + 1))).tolist()
        wave = join([say(w, of, random) for w in chosen], RATE, options, random)
        total += len(wave) / RATE
        yield wave, " ".join(WORDS[w] for w in chosen)
