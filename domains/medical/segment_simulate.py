"""Made images and volumes with known structures: ellipsoids in each other, noise, a bias field, any orientation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, Int32

from shared_backbones.errors import unknown

from .data.pairs import Grid
from .data.volume import Volume
from .geometry import canonical

DEFAULTS = {"dimensions": 2, "cases": 20, "size": 64, "structures": 2, "seed": 0}
THICK = 2.0  # mm of a simulated slice, whose pixels are 1 mm


def simulated(options: Mapping[str, int]) -> list[Grid]:
    """Cases with labels 0 (background), 1, 2 ... ``structures``. Raises BadRequest for unknown options."""
    for name in options:
        if name not in DEFAULTS:
            raise unknown("option of simulated", name, DEFAULTS)
    o = {**DEFAULTS, **options}
    rng = np.random.default_rng(o["seed"])
    made = []
    for i in range(o["cases"]):
        base = o["size"] + int(rng.integers(-o["size"] // 8, o["size"] // 8 + 1))
        shape = (base, o["size"], o["size"] // 2)[: o["dimensions"]]
        image, labels = _scene(rng, shape, o["structures"])
        made.append(Grid(image[None], labels, (1.0, 1.0)) if len(shape) == 2 else _stored(image, labels, i))
    return made


def _stored(image: Float32[np.ndarray, "i j k"], labels: Int32[np.ndarray, "i j k"], number: int) -> Grid:
    """A volume as a scanner might store it: every other one feet first, with its axes in another order."""
    affine = np.diag([1.0, 1.0, THICK, 1.0])
    if number % 2:
        image, labels = image[:, :, ::-1].transpose(2, 0, 1), labels[:, :, ::-1].transpose(2, 0, 1)
        affine = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [-THICK, 0, 0, 0], [0, 0, 0, 1.0]])
    volume = Volume(image, affine, f"simulated case {number}")
    inside, turn = canonical(volume)
    return Grid(inside.voxels[None], turn.forth(labels), inside.spacing, volume, turn)


def _scene(
    rng: np.random.Generator, shape: tuple[int, ...], structures: int
) -> tuple[Float32[np.ndarray, "*axes"], Int32[np.ndarray, "*axes"]]:
    """Intensities and labels: of each structure a few ellipsoids, darker or brighter than what is around."""
    at = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    labels = np.zeros(shape, np.int32)
    for structure in range(1, structures + 1):
        for _ in range(2):
            centre = rng.uniform(0.2, 0.8, len(shape)) * shape
            radius = rng.uniform(0.1, 0.22, len(shape)) * shape
            labels[(((at - centre) / radius) ** 2).sum(-1) < 1] = structure
    level = np.linspace(0, 1.5, structures + 1)[labels]
    bias = 1 + 0.2 * np.sin(at[..., 0] / shape[0] * np.pi + rng.uniform(0, np.pi))
    image = 100 * (1 + level * bias) + rng.normal(0, 25, shape)
    return image.astype(np.float32), labels
