"""MedMNIST archives (.npz): arrays ``train_images``, ``train_labels`` and so on, with the official split."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from shared_backbones.errors import BadInput

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Archive:
    """images: (n, H, W, 1 or 3); labels: (n, 1) class numbers, or (n, L) of 0 and 1; parts: of every image."""

    images: UInt8[np.ndarray, "n H W C"]
    labels: Shaped[np.ndarray, "n L"]
    parts: tuple[str, ...]

    @property
    def several(self) -> bool:
        """Whether there are several labels per image."""
        return self.labels.shape[1] > 1


def read_archive(path: Path) -> Archive:
    """Every image of the three parts, in order. Nothing in the file is executed. Raises BadInput."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file. Give a MedMNIST archive (.npz)")
    try:
        with np.load(path, allow_pickle=False) as archive:
            wanted = [f"{part}_{what}" for part in PARTS for what in ("images", "labels")]
            missing = [name for name in wanted if name not in archive.files]
            if missing:
                raise BadInput(f"{path}: no array {', '.join(missing)}; an archive has {', '.join(wanted)}")
            images = [archive[f"{part}_images"] for part in PARTS]
            labels = [archive[f"{part}_labels"] for part in PARTS]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path}: not an archive that can be read ({error}). Fetch it again") from None
    for part, x, y in zip(PARTS, images, labels, strict=True):
        _check(path, part, x, y)
    shapes = {x.shape[1:] for x in images} | {(y.shape[1:],) for y in labels}
    if len(shapes) != 2:
        raise BadInput(f"{path}: its parts hold images or labels of several shapes: {sorted(map(str, shapes))}")
    pixels = np.concatenate(images)
    return Archive(
        pixels if pixels.ndim == 4 else pixels[..., None],
        np.concatenate([y.reshape(len(y), -1) for y in labels]),
        tuple(part for part, x in zip(PARTS, images, strict=True) for _ in range(len(x))),
    )


def _check(path: Path, part: str, x: Shaped[np.ndarray, "..."], y: Shaped[np.ndarray, "..."]) -> None:
    flat = x.ndim == 3 or (x.ndim == 4 and x.shape[3] in (1, 3))
    if x.dtype != np.uint8 or not flat or not len(x):
        raise BadInput(
            f"{path}: {part}_images must be flat uint8 images (n, H, W) or (n, H, W, 3), got {x.dtype} {x.shape}"
            + ("; the 3-D sets are volumes, which this task does not take" if x.ndim in (4, 5) else "")
        )
    if len(y) != len(x) or y.ndim > 2 or y.dtype.kind not in "iub":
        raise BadInput(f"{path}: {part}_labels must be whole numbers, one row per image, got {y.dtype} {y.shape}")
    if y.size and (int(y.min()) < 0 or (y.ndim == 2 and y.shape[1] > 1 and int(y.max()) > 1)):
        raise BadInput(f"{path}: {part}_labels must be class numbers from 0, or 0 and 1 for several labels")


def archive_labels(archive: Archive) -> tuple[tuple[str, ...], Float32[np.ndarray, "n L"]]:
    """Names and 0/1 values: one column per class, or the labels themselves."""
    if archive.several:
        return tuple(f"label {i}" for i in range(archive.labels.shape[1])), archive.labels.astype(np.float32)
    number = archive.labels[:, 0].astype(np.int64)
    count = int(number.max()) + 1
    return tuple(map(str, range(count))), np.eye(count, dtype=np.float32)[number]
