"""Made words by made speakers: each class is a contour of two formants over a buzz, each speaker a pitch and a size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from shared_backbones.errors import BadRequest, unknown

from .data import AudioFile
from .manifests import Entry

RATE = 8000
DEFAULTS = {"seed": 0, "speakers": 6, "takes": 8, "words": 5}
# (first, second) formant in Hz at the start and the end of each word
CONTOURS = (
    ((300, 2300), (700, 1200)), ((700, 1200), (300, 2300)), ((500, 900), (500, 900)), ((350, 800), (400, 2000)),
    ((650, 1700), (350, 900)), ((300, 2300), (300, 800)), ((600, 1100), (650, 1800)), ((450, 2000), (450, 1000)),
    ((700, 1700), (700, 1700)), ((300, 900), (700, 1700)),
)  # fmt: skip
WORDS = ("ia", "ai", "oo", "uy", "eu", "iu", "ae", "yo", "ee", "ue")


@dataclass(frozen=True)
class Voice:
    """A speaker: pitch (Hz), how long the vocal tract is, how loud and how noisy the recording is."""

    pitch: float
    size: float
    level: float
    noise: float


def voice(random: np.random.Generator) -> Voice:
    return Voice(
        float(random.uniform(90, 220)),
        float(random.uniform(0.88, 1.14)),
        float(10 ** random.uniform(-1.2, -0.1)),
        float(10 ** random.uniform(-3, -1.7)),
    )


def say(word: int, of: Voice, random: np.random.Generator) -> Float32[np.ndarray, "T"]:
    """One take of a word, .25 to .6 s: harmonics of the pitch, each as loud as the formants let it be."""
    n = int(RATE * random.uniform(0.25, 0.6))
    at = np.linspace(0, 1, n)
    pitch = of.pitch * (1 + 0.08 * random.standard_normal()) * (1 - 0.15 * at)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    start, end = np.array(CONTOURS[word], np.float64) / of.size
    formants = start[:, None] + (end - start)[:, None] * at
    x = np.zeros(n)
    for k in range(1, int(3400 / of.pitch)):
        gain = sum(np.exp(-(((k * pitch - f) / (0.12 * f + 60)) ** 2)) for f in formants) + 0.01
        x += gain / k**0.5 * np.sin(k * phase)
    x *= np.minimum(1, np.minimum(at, 1 - at) * 8)
    x *= of.level / np.abs(x).max()
    return (x + of.noise * of.level * random.standard_normal(n)).astype(np.float32)


def numbers(word: int) -> dict[str, float]:
    """What can be told of a word by ear: where its second formant stands on the whole (kHz), and how far it moves."""
    (_, start), (_, end) = CONTOURS[word]
    return {"height": (start + end) / 2000, "movement": (end - start) / 1000}


def settings(given: Mapping[str, int]) -> dict[str, int]:
    """The simulator's settings. Raises BadRequest for an unknown name or an impossible number."""
    for name in given:
        if name not in DEFAULTS:
            raise unknown("setting of the simulator", name, DEFAULTS)
    found = {**DEFAULTS, **given}
    least = {"speakers": 3, "takes": 2, "words": 2, "seed": 0}
    for name, value in found.items():
        most = len(WORDS) if name == "words" else 10_000
        if not least[name] <= value <= most:
            raise BadRequest(f"simulated.{name} must be {least[name]} to {most}, got {value}")
    return found


def simulated(given: Mapping[str, int]) -> list[tuple[Entry, AudioFile, Float32[np.ndarray, "T"]]]:
    """(what is said about it, the file it stands for, samples) of every take."""
    s = settings(given)
    random = np.random.default_rng(s["seed"])
    found = []
    for who in range(s["speakers"]):
        of = voice(random)
        for word in range(s["words"]):
            for take in range(s["takes"]):
                x = say(word, of, random)
                path = Path(f"{WORDS[word]}_s{who}_{take}.wav")
                entry = Entry(
                    path, str(path), label=WORDS[word], text=WORDS[word], speaker=f"s{who}", more=numbers(word)
                )
                found.append((entry, AudioFile(path, RATE, 1, len(x), "simulated"), x))
    return found
