"""DICOM files: pixels as what they mean, and nothing that says whose they are.

Names, ids and dates of the header are never kept, shown or put into messages: a patient is a pseudonym and an image is
called after its pixels. pydicom's own warnings and messages may quote header values, so none is passed on.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Shaped

from shared_backbones.errors import BadInput

from .images import DICOM, SMALLEST, Picture, Pixels, as_bytes, content_key, own_range
from .volume import missing_extra

SECRET = "CAMBIUM_PSEUDONYM_KEY"  # environment variable; with it pseudonyms are the same from run to run
_ONCE = secrets.token_bytes(32)
DAMAGE = (
    ValueError, AttributeError, KeyError, IndexError, EOFError, OSError, NotImplementedError, RuntimeError, TypeError,
    struct.error,
)  # fmt: skip
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT", "PALETTE COLOR")
GREYS = ("MONOCHROME1", "MONOCHROME2")


@dataclass(frozen=True)
class Plane:
    """Where a frame stands, in the patient's own axes (mm, towards left, posterior, superior)."""

    position: Float64[np.ndarray, "3"]  # of the centre of the first pixel
    across: Float64[np.ndarray, "3"]  # unit vector along a row
    down: Float64[np.ndarray, "3"]  # unit vector along a column
    spacing: tuple[float, float]  # between rows, between columns
    thickness: float | None  # or the distance to the next slice, where the file says one

    @property
    def normal(self) -> Float64[np.ndarray, "3"]:
        return np.cross(self.across, self.down)


@dataclass(frozen=True)
class Dicom:
    """The pixels of one file. values: (F, H, W) in the file's own unit, or (F, H, W, 3) colours as uint8."""

    path: Path
    modality: str
    values: Shaped[np.ndarray, "F H W ..."]
    colour: bool
    inverted: bool  # MONOCHROME1: the lowest value is white
    window: tuple[float, float] | None  # centre, width
    planes: tuple[Plane, ...]  # one per frame; empty where the file says nothing of its place
    patient: str  # a pseudonym; "" where the file names none


def _pydicom() -> Any:
    try:
        import pydicom
    except ImportError:
        raise missing_extra("pydicom") from None
    return pydicom


def pseudonym(identity: str) -> str:
    """Stands for an identity and does not give it away; the same in every run only where SECRET is set."""
    if not identity:
        return ""
    key = os.environ.get(SECRET, "").encode()[:64] or _ONCE
    return hashlib.blake2b(identity.encode(), key=key, digest_size=8).hexdigest()


@contextmanager
def discreet() -> Iterator[None]:
    """No warning of pydicom, which may quote what a header says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_file(path: Path, *, pixels: bool = True) -> Any:
    """The data set of a file, without its pixels where they are not asked for. Raises BadInput."""
    pydicom = _pydicom()
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise BadInput(f"{path}: the file is empty. Copy it again, or leave it out")
    before = pydicom.config.settings.reading_validation_mode
    try:
        pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
        with discreet():
            found = pydicom.dcmread(path, stop_before_pixels=not pixels)
            found.get("Rows")
        return found
    except pydicom.errors.InvalidDicomError:
        raise BadInput(f"{path}: not a DICOM file (its header is missing). Name it rightly, or leave it out") from None
    except DAMAGE as error:
        raise BadInput(f"{path}: damaged or cut ({type(error).__name__} in its header). Copy it again") from None
    finally:
        pydicom.config.settings.reading_validation_mode = before


def kind_of(found: Any) -> str:
    """What a file holds, in words without any identity: its class of objects and its modality."""
    uid = found.get("SOPClassUID")
    known = getattr(uid, "name", "") if uid is not None else ""
    name = known if known and known != str(uid) else "unknown class"
    return f"{name}, modality {_modality(found)}"


def _modality(found: Any) -> str:
    text = str(found.get("Modality", "") or "")
    return text if text.isalnum() and text.isupper() and len(text) <= 9 else "not stated"


def require_pixels(path: Path, found: Any) -> None:
    """Raises BadInput for a plan, a report, a waveform: whatever holds no image."""
    if "WaveformSequence" in found:
        raise BadInput(f"{path}: holds a waveform and no pixels ({kind_of(found)}). Read it with medical/signal")
    if found.get("Rows") is None or not any(
        name in found for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
    ):
        raise BadInput(f"{path}: holds no pixels ({kind_of(found)}). Leave it out")


def read_dicom(path: Path) -> Dicom:
    """Pixels in their own unit: rescaled, palettes and colour spaces resolved. Raises BadInput with the reason."""
    found = open_file(path)
    require_pixels(path, found)
    if str(found.get("SOPClassUID", "")) == SEGMENTATION:
        raise BadInput(f"{path}: a segmentation, not an image. Give it as a mask (medical/segment)")
    kind = str(found.get("PhotometricInterpretation", ""))
    if kind not in (*GREYS, *COLOURS):
        raise BadInput(f"{path}: colours of a kind that is not read; allowed are {', '.join((*GREYS, *COLOURS))}")
    stored = stored_pixels(path, found)
    frames = int(found.get("NumberOfFrames", 1) or 1)
    stored = stored.reshape(frames, *stored.shape[1 if frames > 1 and stored.shape[0] == frames else 0 :])
    colour = kind in COLOURS
    with discreet():
        try:
            if kind == "PALETTE COLOR":
                values = _palette(path, stored, found)
            elif colour:
                values = _as_uint8(stored, int(found.get("BitsStored", 8)))
            else:
                values = _rescaled(stored, found, frames)
            planes = planes_of(found, frames)
        except DAMAGE as error:
            raise BadInput(f"{path}: its header contradicts its pixels ({type(error).__name__})") from None
    if not np.isfinite(values).all():
        raise BadInput(f"{path}: pixels that are no number (NaN or infinite). Repair it")
    return Dicom(path, _modality(found), values, colour, kind == "MONOCHROME1", _window(found), planes, _patient(found))


def _patient(found: Any) -> str:
    return pseudonym("|".join(str(found.get(n, "") or "") for n in ("PatientID", "IssuerOfPatientID")).strip("|"))


def stored_pixels(path: Path, found: Any) -> Any:
    """As decoded: (H, W), (F, H, W), (H, W, 3) or (F, H, W, 3); colours as RGB. Raises BadInput."""
    pydicom = _pydicom()
    try:
        with discreet():
            return pydicom.pixels.pixel_array(found)
    except DAMAGE as error:
        syntax = getattr(getattr(found, "file_meta", None), "TransferSyntaxUID", None)
        if syntax is not None and syntax.is_compressed and isinstance(error, RuntimeError):
            raise BadInput(
                f"{path}: compressed as {syntax.name}, for which no decoder is installed or which is damaged. "
                "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg, or decompress it first"
            ) from None
        raise BadInput(f"{path}: its pixels are damaged or cut ({type(error).__name__}). Copy it again") from None


def _palette(path: Path, stored: Any, found: Any) -> Any:
    from pydicom.pixels import apply_color_lut

    return _as_uint8(apply_color_lut(stored, found), int(found.RedPaletteColorLookupTableDescriptor[2]))


def _as_uint8(x: Any, bits: int) -> Any:
    return (
        x.astype(np.uint8) if bits <= 8 else (x.astype(np.float32) * (255.0 / (2**bits - 1))).round().astype(np.uint8)
    )


def _rescaled(stored: Any, found: Any, frames: int) -> Float32[np.ndarray, "F H W"]:
    """Slope and intercept (of each frame where it has its own), or the table of values; padding gets the lowest."""
    from pydicom.pixels import apply_modality_lut

    padding = _padding(stored, found)
    values = np.empty(stored.shape, np.float32)
    for i in range(frames):
        group = frame_group(found, i, "PixelValueTransformationSequence")
        if group is None:
            values[i] = apply_modality_lut(stored[i], found)
        else:
            values[i] = stored[i] * float(group.RescaleSlope) + float(group.RescaleIntercept)
    if padding is not None and padding.any() and not padding.all():
        values[padding] = values[~padding].min()
    return values


def _padding(stored: Any, found: Any) -> Any:
    value, limit = found.get("PixelPaddingValue"), found.get("PixelPaddingRangeLimit")
    if value is None:
        return None
    low, high = sorted((int(value), int(value if limit is None else limit)))
    return (stored >= low) & (stored <= high)


def _window(found: Any) -> tuple[float, float] | None:
    """The first window that the file states."""
    centre, width = found.get("WindowCenter"), found.get("WindowWidth")
    group = frame_group(found, 0, "FrameVOILUTSequence")
    if centre is None and group is not None:
        centre, width = group.get("WindowCenter"), group.get("WindowWidth")
    if centre is None or width is None:
        return None
    first = [v[0] if hasattr(v, "__len__") and not isinstance(v, str) else v for v in (centre, width)]
    c, w = float(first[0]), float(first[1])
    return (c, w) if np.isfinite((c, w)).all() and w >= 1 else None


def frame_group(found: Any, frame: int, name: str) -> Any:
    """What a multi-frame file says of one frame, or of all of them; None where it says nothing."""
    per_frame = found.get("PerFrameFunctionalGroupsSequence") or []
    shared = found.get("SharedFunctionalGroupsSequence") or []
    for group in (*per_frame[frame : frame + 1], *shared[:1]):
        if group.get(name):
            return group.get(name)[0]
    return None


def planes_of(found: Any, frames: int) -> tuple[Plane, ...]:
    """Place of every frame; empty where the file does not state position, orientation and spacing of all."""
    planes = []
    for i in range(frames):
        groups = [
            frame_group(found, i, n)
            for n in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
        ]
        position, orientation, measures = (found if g is None else g for g in groups)
        if frames > 1 and groups[0] is None:
            return ()
        at, axes = position.get("ImagePositionPatient"), orientation.get("ImageOrientationPatient")
        spacing = measures.get("PixelSpacing")
        if at is None or axes is None or spacing is None:
            return ()
        between = measures.get("SpacingBetweenSlices")
        thick = between if between not in (None, "") else measures.get("SliceThickness")
        turned = np.array([float(v) for v in axes], np.float64)
        planes.append(
            Plane(
                np.array([float(v) for v in at], np.float64), turned[:3], turned[3:],
                (float(spacing[0]), float(spacing[1])), float(thick) if thick not in (None, "") else None,
            )
        )  # fmt: skip
    return tuple(planes)


def windowed(values: Float32[np.ndarray, "H W"], centre: float, width: float) -> Float32[np.ndarray, "H W"]:
    """0 below the window, 1 above it, linear between: (x - (c - 0.5)) / (w - 1) + 0.5, as PS3.3 C.11.2.1.2 has it."""
    return np.clip((values - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5, 0, 1).astype(np.float32)


def rendered(found: Dicom, frame: int = 0, window: tuple[float, float] | None = None) -> Pixels:
    """One frame as a viewer shows it: by the window asked for, else the file's own, else its own range of values."""
    values = found.values[frame]
    if found.colour:
        return values.astype(np.float32) / 255
    asked = window or found.window
    shown = own_range(found.path, values) if asked is None else windowed(values, *asked)[..., None]
    return (1 - shown).astype(np.float32) if found.inverted else shown


def read_picture(path: Path, window: tuple[float, float] | None = None) -> Picture:
    """A file of one frame as an image. Raises BadInput."""
    found = read_dicom(path)
    if len(found.values) > 1:
        raise BadInput(f"{path}: {len(found.values)} frames, one is needed. Write each to a file of its own")
    pixels = rendered(found, 0, window)
    if min(pixels.shape[:2]) < SMALLEST:
        raise BadInput(f"{path}: {pixels.shape[1]} x {pixels.shape[0]} pixels; at least {SMALLEST} along each side")
    return Picture(pixels, DICOM, "image-" + content_key(as_bytes(pixels))[:16], found.patient)
