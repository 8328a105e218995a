"""Pairs of images and masks: two folders, or a table; volumes and flat images; checked against each other."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Shaped

from shared_backbones.errors import BadInput

from ...public import sha256_of
from ..geometry import Turn, canonical
from . import dicom
from .dicom import read_series
from .images import DICOMS
from .itk import ITK_ENDINGS, is_itk, read_itk, read_itk_header
from .volume import Volume, is_nifti, missing_extra, read_header, read_nifti

FLAT_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
FOLDERS = (("images", "masks"), ("image", "label"), ("images", "labels"), ("image", "mask"), ("imagesTr", "labelsTr"))
MASK_WORDS = re.compile(r"[_-](mask|masks|seg|segmentation|label|labels|gt|manual1?|0000)$", re.IGNORECASE)
GEOMETRY_MM = 1e-2  # how far apart image and mask may place the same voxel


@dataclass(frozen=True)
class Case:
    """One image and its mask, by path.

    patient: what is never divided; "" where nothing says so. fold, site: as a table says. second: another annotator's
    mask.
    """

    name: str
    image: Path
    mask: Path | None = None
    patient: str = ""
    fold: str = ""
    second: Path | None = None
    site: str = ""


@dataclass(frozen=True)
class Grid:
    """A case in memory, in canonical orientation.

    spacing: mm along each axis, or 1 pixel of a flat image. volume, turn: what leads back into the file's own geometry.
    """

    image: Shaped[np.ndarray, "C *axes"]
    labels: Int32[np.ndarray, "*axes"] | None
    spacing: tuple[float, ...]
    volume: Volume | None = None
    turn: Turn | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.image.shape[1:])


def by_number(name: str) -> list[tuple[int, int | str]]:
    """A key that puts 2 before 10."""
    return [(0, int(part)) if part.isdigit() else (1, part.lower()) for part in re.split(r"(\d+)", name) if part]


def stem_of(path: Path) -> str:
    """The file's name without its endings."""
    name = path.name
    return name[: -len(".nii.gz")] if name.lower().endswith(".nii.gz") else path.stem


def is_series(path: Path) -> bool:
    """Whether this is a folder that holds files of DICOM and none of another kind that is read here."""
    if not path.is_dir():
        return False
    files = [p for p in path.iterdir() if p.is_file() and not p.name.startswith(".")]
    return not any(readable(p) for p in files) and any(dicom.looks(p) for p in files)


def is_dicom(path: Path) -> bool:
    """Whether a name says that it holds DICOM: a file of many frames or a segmentation, or a folder of slices."""
    return path.suffix.lower() in DICOMS or path.is_dir()


def is_volume(path: Path) -> bool:
    """Whether a file's name says that it holds a volume with its place in space."""
    return is_nifti(path) or is_itk(path) or is_dicom(path)


def _extents(path: Path) -> tuple[int, ...]:
    """Of a volume, from headers."""
    if is_dicom(path):
        series = dicom.scan_series(path) if path.is_dir() else []
        return (series[0].columns, series[0].rows, len(series[0].files)) if series else read_series(path).shape
    return (read_header(path) if is_nifti(path) else read_itk_header(path)).shape


def _volume(path: Path, labels: bool = False) -> Volume:
    if is_dicom(path):
        return read_series(path)
    return read_nifti(path, labels=labels) if is_nifti(path) else read_itk(path, labels=labels)


def readable(path: Path) -> bool:
    """Whether a file's name says that it is an image of a kind that is read here, not of DICOM."""
    return not path.name.startswith(".") and (is_nifti(path) or is_itk(path) or path.suffix.lower() in FLAT_ENDINGS)


def digest_of(path: Path) -> str:
    """sha256 of a file, or of the files of a folder."""
    if path.is_file():
        return sha256_of(path)
    parts = [f"{p.name}:{sha256_of(p)}\n" for p in sorted(path.iterdir()) if p.is_file()]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def find_cases(source: Path) -> list[Case]:
    """The cases of a table (``.csv``), of a folder that holds ``manifest.csv``, or of two folders side by side.

    Raises BadInput where there are none, a folder is empty, or an image and its mask cannot be paired one to one.
    """
    if source.is_file() and source.suffix.lower() == ".csv":
        return _from_table(source)
    if not source.is_dir():
        raise BadInput(f"{source}: neither a folder of images and masks nor a .csv table of them")
    if (source / "manifest.csv").is_file():
        return _from_table(source / "manifest.csv")
    for images, masks in FOLDERS:
        for root in (source, source / "train"):
            if (root / images).is_dir() and (root / masks).is_dir():
                return _from_folders(root / images, root / masks)
    wanted = "; ".join(f"{a}/ and {b}/" for a, b in FOLDERS)
    raise BadInput(f"{source}: holds neither manifest.csv nor two folders of the same files ({wanted})")


def _from_folders(images: Path, masks: Path) -> list[Case]:
    found = {}
    for folder in (images, masks):
        files = sorted((p for p in folder.iterdir() if _is_case(p)), key=lambda p: by_number(p.name))
        if not files:
            raise BadInput(f"{folder}: is empty, or holds no .nii, .nii.gz, {', '.join((*ITK_ENDINGS, *FLAT_ENDINGS))}")
        found[folder] = {MASK_WORDS.sub("", stem_of(p)): p for p in files}
        if len(found[folder]) < len(files):
            raise BadInput(f"{folder}: holds two files for one case; name them apart, or write a manifest.csv")
    for a, b, what in ((images, masks, "mask"), (masks, images, "image")):
        alone = [found[a][name].name for name in found[a] if name not in found[b]]
        if alone:
            raise BadInput(
                f"{a}: {len(alone)} of its {len(found[a])} files have no {what} of that name in {b}, such as {alone[0]}"
            )
    return [Case(name, path, found[masks][name]) for name, path in found[images].items()]


def _is_case(path: Path) -> bool:
    """A file of a case, or a folder with the slices of one."""
    if path.name.startswith("."):
        return False
    return (readable(path) or path.suffix.lower() in DICOMS) if path.is_file() else is_series(path)


def _from_table(path: Path) -> list[Case]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        for needed in ("image", "mask"):
            if needed not in columns:
                raise BadInput(f"{path}: has no column {needed!r}; it has {', '.join(columns) or 'none'}")
        rows = list(reader)
    if not rows:
        raise BadInput(f"{path}: holds no row")
    cases = []
    for number, row in enumerate(rows, 2):
        files = [path.parent / (row[column] or "") for column in ("image", "mask")]
        for column, file_path in zip(("image", "mask"), files, strict=True):
            if not row[column] or not (file_path.is_file() or is_series(file_path)):
                raise BadInput(f"{path}, line {number}: the {column} {row[column]!r} is not there")
        name = MASK_WORDS.sub("", stem_of(files[0]))
        second = path.parent / row["second"] if row.get("second") else None
        if second is not None and not second.is_file():
            raise BadInput(f"{path}, line {number}: the second {row['second']!r} is not there")
        told = [row.get(column) or "" for column in ("patient", "fold", "site")]
        cases.append(Case(name, files[0], files[1], told[0], told[1], second, told[2]))
    names = [c.name for c in cases]
    if len(set(names)) < len(names):  # files of one name in several folders
        cases = [replace(c, name=str(c.image.relative_to(path.parent))) for c in cases]
    if any(c.patient for c in cases) and not all(c.patient for c in cases):
        number = next(i for i, c in enumerate(cases, 2) if not c.patient)
        raise BadInput(f"{path}, line {number}: no patient is given, but other lines have one")
    return cases


def header_of(path: Path) -> tuple[tuple[int, ...], int]:
    """(extents, channels) of an image before any voxel is read."""
    if is_volume(path):
        return _extents(path), 1
    with _flat(path) as image:
        return (image.height, image.width), 3 if image.mode in ("RGB", "RGBA", "P", "CMYK", "YCbCr") else 1


def _flat(path: Path) -> Any:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise missing_extra("pillow") from error
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    try:
        return Image.open(path)
    except (UnidentifiedImageError, OSError) as error:
        raise BadInput(f"{path}: is not a readable image ({error})") from error


def _pixels(path: Path, mode: str | None = None) -> Shaped[np.ndarray, "h w *c"]:
    with _flat(path) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise BadInput(f"{path}: holds {image.n_frames} images; write each to a file of its own, or use NIfTI")
        try:
            return np.array(image if mode is None else image.convert(mode))
        except (OSError, ValueError, SyntaxError) as error:
            raise BadInput(f"{path}: its pixels cannot be read, the file is damaged or cut ({error})") from error


def read_image(path: Path, channels: int) -> Grid:
    """An image without a mask: flat ones with 1 (grey) or 3 (colour) channels, volumes with one."""
    if is_volume(path):
        stored = _volume(path)
        inside, turn = canonical(stored)
        return Grid(inside.voxels[None], None, inside.spacing, stored, turn)
    x = _pixels(path)
    if x.ndim == 3 or x.dtype == bool or channels == 3:  # colour, transparency, palette or bits: as people see it
        x = _pixels(path, "RGB" if channels == 3 else "L")
    x = x[None] if x.ndim == 2 else np.moveaxis(x, -1, 0)
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise BadInput(f"{path}: holds NaN or infinite pixels: fill them first")
    return Grid(x, None, (1.0, 1.0))


def read_labels(path: Path) -> tuple[Int32[np.ndarray, "*axes"], Volume | None]:
    """Labels as they are stored (flat), or in canonical orientation with the volume that they came in."""
    if is_volume(path):
        stored = _volume(path, labels=True)
        if stored.voxels.dtype != np.int32:  # slices of DICOM
            if (stored.voxels != np.round(stored.voxels)).any():
                raise BadInput(f"{path}: a label is a whole number, got {stored.voxels[stored.voxels % 1 != 0][0]:g}")
            stored = replace(stored, voxels=stored.voxels.astype(np.int32))
        return canonical(stored)[0].voxels, stored
    x = _pixels(path)
    if x.ndim == 3:
        x = x[..., :3]
        if not (x == x[..., :1]).all():
            raise BadInput(f"{path}: a mask is grey or has a palette, this one has colours: write class numbers")
        x = x[..., 0]
    if x.dtype.kind == "f" and (x != np.round(x)).any():
        raise BadInput(f"{path}: a label is a whole number, got {x[x != np.round(x)][0]:g}")
    return x.astype(np.int32), None


def read_case(case: Case, channels: int) -> Grid:
    """A case with its labels where it has a mask. Raises BadInput where the two do not lie on one grid."""
    grid = read_image(case.image, channels)
    if case.mask is None:
        return grid
    labels, stored = read_labels(case.mask)
    if stored is not None and grid.volume is not None and is_dicom(case.mask):
        stored = embedded(stored, grid.volume)
        labels = canonical(stored)[0].voxels
    _same_grid(case, grid.volume, stored, grid.shape, labels.shape)
    return Grid(grid.image, labels, grid.spacing, grid.volume, grid.turn)


def embedded(mask: Volume, image: Volume) -> Volume:
    """A mask that holds only some slices of its image, as segmentations of DICOM do, on the image's whole grid.

    One that lies otherwise is given back as it is.
    """
    step = np.linalg.solve(image.affine, mask.affine)
    start = np.round(step[:3, 3]).astype(int)
    stop = start + mask.shape
    apart = np.abs(step[:3] - np.column_stack([np.eye(3), start]))[:, :3].max() * max(mask.shape)
    apart = max(float(apart), float(np.abs(step[:3, 3] - start).max())) * max(image.spacing)
    if apart > GEOMETRY_MM or (start < 0).any() or (stop > image.shape).any() or mask.shape == image.shape:
        return mask
    voxels = np.zeros(image.shape, mask.voxels.dtype)
    voxels[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = mask.voxels
    return Volume(voxels, image.affine, mask.where, mask.stored)


def _same_grid(
    case: Case, image: Volume | None, mask: Volume | None, shape: Sequence[int], mask_shape: Sequence[int]
) -> None:
    if (image is None) != (mask is None):
        raise BadInput(f"{case.mask}: is flat and {case.image} is not, or the other way round")
    if image is not None and mask is not None:
        shape, mask_shape = image.shape, mask.shape
    if tuple(shape) != tuple(mask_shape):
        raise BadInput(f"{case.mask}: has {tuple(mask_shape)} voxels, its image {case.image} {tuple(shape)}")
    if image is None or mask is None:
        return
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * [*shape, 1]
    apart = float(np.abs((image.affine - mask.affine) @ corners.T).max())
    if apart > GEOMETRY_MM:
        raise BadInput(
            f"{case.mask}: its voxels lie up to {apart:.3g} mm from those of {case.image} (allowed {GEOMETRY_MM:g}): "
            f"spacing {_rounded(mask.spacing)} against {_rounded(image.spacing)} mm; resample the mask onto its image"
        )


def _rounded(spacing: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(s, 4) for s in spacing)
