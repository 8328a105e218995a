"""NRRD and MetaImage volumes (.nrrd, .nhdr, .mha, .mhd) through SimpleITK: shape and place first, voxels when asked."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float64

from shared_backbones.errors import BadInput

from .volume import Header, Volume, checked, missing_extra

ITK_ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd")
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's axes point to the left and back


def is_itk(path: Path) -> bool:
    """By its name alone."""
    return path.name.lower().endswith(ITK_ENDINGS)


def _itk() -> ModuleType:
    try:
        import SimpleITK
    except ImportError as error:
        raise missing_extra("SimpleITK") from error
    found: ModuleType = SimpleITK
    return found


def _reader(path: Path) -> Any:
    """With the header read."""
    itk = _itk()
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    reader = itk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.SetImageIO("NrrdImageIO" if path.suffix.lower() in (".nrrd", ".nhdr") else "MetaImageIO")
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise BadInput(f"{path}: is not a readable {path.suffix[1:].upper()} file ({_said(error)})") from None
    return reader


def _said(error: Exception) -> str:
    """The last line: what went wrong, without places in a library's source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:160] if lines else type(error).__name__


def _affine(size: int, spacing: Any, direction: Any, origin: Any) -> Float64[np.ndarray, "4 4"]:
    found = np.eye(4)
    found[:3, :3] = np.array(direction, np.float64).reshape(size, size)[:3, :3] * np.array(spacing, np.float64)[:3]
    found[:3, 3] = np.array(origin, np.float64)[:3]
    return LPS_TO_RAS @ found


def read_itk_header(path: Path) -> Header:
    """Shape, affine and type without voxels. Raises BadInput."""
    reader = _reader(path)
    shape = tuple(int(n) for n in reader.GetSize())
    _refuse(path, shape, int(reader.GetNumberOfComponents()))
    affine = _affine(3, reader.GetSpacing(), reader.GetDirection(), reader.GetOrigin())
    return Header(shape, affine, _itk().GetPixelIDValueAsString(reader.GetPixelID()), str(path))


def _refuse(path: Path, shape: tuple[int, ...], components: int) -> None:
    if components != 1:
        raise BadInput(f"{path}: holds {components} values per voxel; allowed is one")
    if len(shape) != 3:
        raise BadInput(
            f"{path}: has the shape {shape}, a volume has three axes. "
            + ("Write each of its volumes to a file of its own" if len(shape) > 3 else "A flat image is not one")
        )


def read_itk(path: Path, *, labels: bool = False) -> Volume:
    """A volume as it stands in the file, its affine in RAS mm; types and refusals as of ``volume.read_nifti``."""
    reader = _reader(path)
    _refuse(path, tuple(int(n) for n in reader.GetSize()), int(reader.GetNumberOfComponents()))
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise BadInput(f"{path}: its voxels cannot be read, the file is damaged or cut ({_said(error)})") from None
    voxels = _itk().GetArrayFromImage(image)
    if voxels.dtype.kind not in "iuf":
        raise BadInput(f"{path}: holds {voxels.dtype} voxels; allowed are whole and real numbers")
    affine = _affine(3, image.GetSpacing(), image.GetDirection(), image.GetOrigin())
    return Volume(checked(voxels.transpose(2, 1, 0), str(path), labels), affine, str(path))
