"""Small scenes, tasks and models that the tests of this room share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from domains.hyperspectral.bands import plain_bands
from domains.hyperspectral.classify import Classify, ClassifyOptions
from domains.hyperspectral.data import ArrayScene
from domains.hyperspectral.simulate import UTM32
from shared_backbones.presets import parse_preset

SMALL = """
paper: none
stem: pixels
stem_options: {centres: 12, basis: 2}
stages:
  - dim: 8
    layers:
      - {mixer: depthwise, kernel: 3, channel: mlp, channel_options: {ratio: 1.0}}
      - {mixer: pooling, window: 3, channel: mlp, channel_options: {ratio: 1.0}}
"""
SIMULATED = {"rows": 72, "cols": 72, "bands": 24, "pixels_per_field": 90}


@dataclass(frozen=True)
class Folder:
    """The simplest sink: writes aside, then renames."""

    path: Path

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        aside = self.path / f".{name}.part"
        try:
            yield aside
            aside.replace(self.path / name)
        finally:
            aside.unlink(missing_ok=True)


def scene_of(
    array: np.ndarray[Any, Any], *, nodata: float | None = None, transform: tuple[float, ...] | None = None, **more: Any
) -> ArrayScene:
    """An array (bands, rows, columns) as a scene of evenly spaced bands."""
    nm = [float(w) for w in np.linspace(420, 2400, len(array))]
    where = transform or (30.0, 0.0, 5e5, 0.0, -30.0, 5.4e6)
    return ArrayScene("made", array, plain_bands(len(array), nm, **more), UTM32, where, nodata)


@dataclass(frozen=True)
class Ready:
    """A task on a small simulated scene with a model that has its closed form, not trained further."""

    task: Classify
    data: Any
    split: Any
    fitted: dict[str, Any]
    model: Any


def ready(preset: str = SMALL, **options: Any) -> Ready:
    base: dict[str, Any] = {"simulated": SIMULATED, "split": {"block": 12}, "patch_radius": 3, "tile": 16}
    task = Classify(ClassifyOptions.model_validate({**base, **options}))
    data = task.open("simulated")
    split = task.split(data)
    fitted = task.fit(data, split)
    torch.manual_seed(0)
    model = task.build(fitted, parse_preset("small", preset))
    task.initialise(model, data, split)
    return Ready(task, data, split, fitted, model.eval())


@pytest.fixture(scope="session")
def small() -> Ready:
    return ready()


@pytest.fixture
def write_scene(tmp_path: Path) -> Callable[..., Path]:
    """Writes an array (bands, rows, columns) as a GeoTIFF with wavelengths; returns its path."""
    from domains.hyperspectral.data import copy_cube

    def write(array: np.ndarray[Any, Any], name: str = "scene.tif", **more: Any) -> Path:
        path = tmp_path / name
        copy_cube(scene_of(array, **more), path, str(array.dtype))
        return path

    return write
