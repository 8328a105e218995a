"""The brightness of a colour image as the field of super-resolution scores it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared_backbones.errors import BadInput

from ..bands import Bands, plain_bands
from .scene import Cube, Scene, Seen, Through

WEIGHTS = np.array([65.481, 128.553, 24.966]) / 255  # BT.601
BLACK = 16.0


@dataclass(frozen=True)
class Luma(Through):
    """Luma (16 to 235 of 255, rounded) of red, green, blue and perhaps alpha; of a grey image, of its one band."""

    @property
    def bands(self) -> Bands:
        return plain_bands(1)

    def read(self, rows: slice, cols: slice) -> tuple[Cube, Seen]:
        values, seen = self.inner.read(rows, cols)
        if len(values) in (1, 2):
            values, seen = np.repeat(values[:1], 3, 0), np.repeat(seen[:1], 3, 0)
        luma = np.round(BLACK + np.tensordot(WEIGHTS, values[:3].astype(np.float64), 1)).astype(np.float32)
        return luma[None], np.logical_and.reduce(seen[:3], axis=0, keepdims=True)


def luma_of(scene: Scene) -> Luma:
    """Raises BadInput where the bands are not those of an image."""
    if not 1 <= len(scene.bands) <= 4:
        raise BadInput(f"{scene.where}: {len(scene.bands)} bands; luma is that of grey or colour images (1 to 4 bands)")
    return Luma(scene)
