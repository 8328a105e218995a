"""Small made recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from domains.audio.classify import Classify
from domains.audio.clips import Clips
from domains.audio.config import ClassifyOptions
from domains.audio.data import write_wav

SMALL = {"speakers": 4, "takes": 3, "words": 3}


def tone(hz: float, seconds: float = 0.3, rate: int = 8000, level: float = 0.3) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of tones, six clips of each, in folders."""
    for name, hz in (("low", 300.0), ("high", 1500.0)):
        (tmp_path / "tones" / name).mkdir(parents=True)
        for i in range(6):
            write_wav(tmp_path / "tones" / name / f"{name}_{'abc'[i % 3]}_{i}.wav", tone(hz + 20 * i), 8000)
    return tmp_path / "tones"


@pytest.fixture(scope="session")
def task() -> Classify:
    return Classify(ClassifyOptions(simulated=SMALL, cnn_epochs=1))


@pytest.fixture(scope="session")
def clips(task: Classify) -> Clips:
    return task.open("simulated")
