"""Volumes with their place in space, and NIfTI files in and out."""

from __future__ import annotations

import gzip
import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

from shared_backbones.errors import BadInput

NIFTI_ENDINGS = (".nii", ".nii.gz")
SHEAR = 1e-3  # cosine between two axes of a grid from which on it is skewed, not merely rotated


@dataclass(frozen=True)
class Volume:
    """Voxels on a regular grid, and where the grid stands in the patient.

    affine: voxel (i, j, k, 1) -> millimetres (right, anterior, superior, 1). where: the file, for messages only.
    stored: what a file says besides and what goes back into one (qform and sform codes, units); never identities.
    Raises BadInput where the voxels are not three-dimensional or the affine cannot be inverted.
    """

    voxels: Shaped[np.ndarray, "i j k"]
    affine: Float64[np.ndarray, "4 4"]
    where: str = "volume"
    stored: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.voxels.ndim != 3 or 0 in self.voxels.shape:
            raise BadInput(f"{self.where}: a volume has three axes with voxels on each, got {self.voxels.shape}")
        check_affine(self.affine, self.where)

    @property
    def shape(self) -> tuple[int, int, int]:
        i, j, k = self.voxels.shape
        return i, j, k

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance (mm) between neighbours along each of the grid's own axes."""
        return spacing_of(self.affine)


@dataclass(frozen=True)
class Header:
    """What a file says of a volume before any voxel is read."""

    shape: tuple[int, ...]
    affine: Float64[np.ndarray, "4 4"]
    dtype: str
    where: str

    @property
    def spacing(self) -> tuple[float, float, float]:
        return spacing_of(self.affine)


def spacing_of(affine: Float64[np.ndarray, "4 4"]) -> tuple[float, float, float]:
    """Millimetres per voxel along each axis of a grid."""
    a, b, c = np.sqrt((affine[:3, :3] ** 2).sum(0)).tolist()
    return a, b, c


def check_affine(affine: Float64[np.ndarray, "4 4"], where: str) -> None:
    """Raises BadInput where an affine is not finite, flattens an axis, or skews the grid (a gantry tilt)."""
    axes = affine[:3, :3]
    if not np.isfinite(affine).all() or not np.array_equal(affine[3], [0, 0, 0, 1]):
        raise BadInput(f"{where}: the affine must be finite with the last row 0 0 0 1, got {affine.tolist()}")
    lengths = np.sqrt((axes**2).sum(0))
    if lengths.min() <= 0 or abs(np.linalg.det(axes / np.maximum(lengths, 1e-300))) < 1e-6:
        raise BadInput(f"{where}: two axes of the affine coincide or one has no length: spacing {lengths.tolist()} mm")
    cosines = (axes / lengths).T @ (axes / lengths) - np.eye(3)
    if abs(cosines).max() > SHEAR:
        raise BadInput(
            f"{where}: its axes are not at right angles (cosine {abs(cosines).max():.3g}; allowed {SHEAR:g}), as after "
            "a tilt of the gantry: resample the file onto a straight grid first"
        )


def missing_extra(package: str) -> BadInput:
    """The error for a package of the extra ``medical`` that is not installed."""
    return BadInput(f"reading this needs the package {package}: pip install 'cambium[medical]'")


def _nibabel() -> ModuleType:
    try:
        import nibabel
    except ImportError as error:
        raise missing_extra("nibabel") from error
    return nibabel


def is_nifti(path: Path) -> bool:
    """By its name alone."""
    return path.name.lower().endswith(NIFTI_ENDINGS)


def _opened(path: Path) -> Any:
    nibabel = _nibabel()
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    try:
        image = nibabel.load(path)
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError, *DAMAGE) as error:
        raise BadInput(f"{path}: is not a readable NIfTI file ({error})") from error
    shape = tuple(int(n) for n in image.shape)
    if len(shape) > 3 and set(shape[3:]) == {1}:
        return image.slicer[..., *[0] * (len(shape) - 3)]
    return image


DAMAGE = (OSError, EOFError, ValueError, zlib.error)  # what a broken or cut file raises on the way


def read_header(path: Path) -> Header:
    """Shape, affine and type of a NIfTI file without its voxels. Raises BadInput for a file that is none."""
    image = _opened(path)
    affine = np.asarray(image.affine, dtype=np.float64)
    return Header(tuple(int(n) for n in image.shape), affine, str(image.get_data_dtype()), str(path))


def read_nifti(path: Path, *, labels: bool = False) -> Volume:
    """A volume from ``.nii`` or ``.nii.gz``, of any byte order, as it stands in the file.

    Integers stay as they are stored where the file does not scale them, all else is float32; with ``labels`` they are
    int32. Trailing axes of size 1 are dropped. Raises BadInput for files that are damaged or cut, of another number of
    axes than three, with colours or complex numbers, NaN or infinite voxels, or labels that are not whole numbers.
    """
    image = _opened(path)
    if len(image.shape) != 3:
        raise BadInput(
            f"{path}: has the shape {tuple(image.shape)}, a volume has three axes. "
            + ("Write each of its volumes to a file of its own" if len(image.shape) > 3 else "A flat image is not one")
        )
    kind = image.get_data_dtype()
    if kind.kind not in "biuf":
        raise BadInput(f"{path}: holds {kind} voxels; allowed are whole and real numbers")
    try:
        voxels = np.asanyarray(image.dataobj)
        if path.name.lower().endswith(".gz"):
            _check_gzip(path)
    except DAMAGE as error:
        raise BadInput(f"{path}: its voxels cannot be read, the file is damaged or cut ({error})") from error
    header = image.header
    stored = {
        "qform": int(header["qform_code"]),
        "sform": int(header["sform_code"]),
        "units": int(header["xyzt_units"]),
    }
    affine = np.asarray(image.affine, dtype=np.float64)
    return Volume(checked(voxels, str(path), labels), affine, str(path), stored)


def _check_gzip(path: Path) -> None:
    """Reads to the checksum at the end, which a reader that stops after the last voxel never sees."""
    with gzip.open(path) as stream:
        while stream.read(1 << 22):
            pass


def checked(voxels: Shaped[np.ndarray, "i j k"], where: str, labels: bool) -> Shaped[np.ndarray, "i j k"]:
    """Voxels as they are kept: native byte order; float32 unless stored as whole numbers; finite."""
    whole = voxels.dtype.kind in "iub"
    if not whole:
        bad = ~np.isfinite(voxels)
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            raise BadInput(f"{where}: {int(bad.sum())} voxels are NaN or infinite, the first at {at}: fill them first")
    if labels:
        if not whole and (voxels != np.round(voxels)).any():
            at = tuple(int(i) for i in np.argwhere(voxels != np.round(voxels))[0])
            raise BadInput(f"{where}: a label is a whole number, got {voxels[at]:g} at {at}")
        return voxels.astype(np.int32)
    return voxels.astype(voxels.dtype.newbyteorder("="), copy=False) if whole else voxels.astype(np.float32)


def write_nifti(path: Path, volume: Volume) -> None:
    """Write a volume as NIfTI-1 (gzip by its name); booleans as uint8. Replaces ``path`` only when it is whole."""
    nibabel = _nibabel()
    voxels = volume.voxels.astype(np.uint8) if volume.voxels.dtype == bool else volume.voxels
    image = nibabel.Nifti1Image(voxels, volume.affine, dtype=voxels.dtype)
    image.set_sform(volume.affine, code=volume.stored.get("sform") or 1)
    image.set_qform(volume.affine, code=volume.stored.get("qform") or 1)
    image.header["xyzt_units"] = volume.stored.get("units") or 2  # 2: millimetres
    aside = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        nibabel.save(image, aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
