"""Small options, made pictures, a sink."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from domains.medical.classify_config import ClassifyOptions

SMALL: dict[str, Any] = {
    "simulated": {"patients": 16, "slices": 2},
    "size": 32,
    "cnn_epochs": 1,
    "cnn_width": 4,
    "corrupted": 0,
}
RANDOM = np.random.default_rng(0)


class Folder:
    """A sink."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        yield self.path / name


def options(**changes: Any) -> ClassifyOptions:
    return ClassifyOptions.model_validate({**SMALL, **changes})


def scan(seed: int, size: tuple[int, int] = (40, 30)) -> np.ndarray:
    """A picture that no other seed resembles."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
