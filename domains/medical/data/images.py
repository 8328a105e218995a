"""Flat images on disk: PNG, JPEG, TIFF and BMP in any colour mode, as values within 0 .. 1."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from shared_backbones.errors import BadInput

from .volume import missing_extra

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
DICOMS = (".dcm", ".dicom", ".ima")
DICOM = "DICOM"  # mode of an image that came in one
SMALLEST = 8  # pixels along a side
GREY = 8.0 / 255  # a colour image whose channels differ by less on average holds no colour
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. 601
Pixels = Float32[np.ndarray, "H W C"]


@dataclass(frozen=True)
class Picture:
    """One image. pixels: (H, W, 1 or 3) within 0 .. 1; mode: how the file holds it; key: stands for it in outputs."""

    pixels: Pixels
    mode: str
    key: str = ""
    patient: str = ""  # pseudonym, where the file itself names a patient

    @property
    def grey(self) -> bool:
        """Whether it holds no colour to speak of."""
        if self.pixels.shape[2] == 1:
            return True
        return bool(np.abs(self.pixels - self.pixels.mean(2, keepdims=True)).mean() < GREY)


def _pillow() -> Any:
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError:
        raise missing_extra("pillow") from None
    return PIL


def content_key(pixels: Any) -> str:
    """Of the pixels, not of the file: the same image in another file is found."""
    return hashlib.sha256(
        f"{pixels.shape}{pixels.dtype.str}".encode() + np.ascontiguousarray(pixels).tobytes()
    ).hexdigest()


def read_image(path: Path) -> Picture:
    """One image of a file. Raises BadInput for one that is missing, empty, cut, not an image, tiny or has pages."""
    pil = _pillow()
    if not path.is_file():
        raise BadInput(f"{path}: no such file. Give an image ({', '.join(PICTURES + DICOMS)}), a manifest or a folder")
    if path.stat().st_size == 0:
        raise BadInput(f"{path}: the file is empty. Copy it again, or leave it out")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pil.Image.DecompressionBombWarning)
            with pil.Image.open(path) as image:
                pages = getattr(image, "n_frames", 1)
                if pages > 1:
                    raise BadInput(f"{path}: {pages} pages or frames, one is needed. Write each to a file of its own")
                image.load()
                mode = image.mode
                pixels = _pixels(path, pil.ImageOps.exif_transpose(image))
    except (pil.UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        said = str(error).replace(str(path), "it")
        raise BadInput(f"{path}: not an image that can be read ({said}). Copy it again, or leave it out") from None
    except (pil.Image.DecompressionBombError, pil.Image.DecompressionBombWarning):
        raise BadInput(f"{path}: more pixels than an image of this kind has. Cut it into parts first") from None
    if min(pixels.shape[:2]) < SMALLEST:
        raise BadInput(f"{path}: {pixels.shape[1]} x {pixels.shape[0]} pixels; at least {SMALLEST} along each side")
    return Picture(pixels, mode, content_key(pixels))


def _pixels(path: Path, image: Any) -> Pixels:
    """Within 0 .. 1: of the type's full scale, or of the image's own range where the file holds real numbers."""
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        x = np.asarray(image)
        if mode == "F":
            return own_range(path, x)
        full = 65535.0 if mode.startswith("I;16") or x.max(initial=0) <= 65535 else float(x.max())
        if x.min(initial=0) < 0:
            return own_range(path, x)
        return (x / full).astype(np.float32)[..., None]
    if mode in ("1", "L"):
        return np.asarray(image.convert("L"), np.float32)[..., None] / 255
    if mode in ("LA", "La"):
        grey, alpha = (np.asarray(image.convert("LA"), np.float32) / 255).transpose(2, 0, 1)
        return (grey * alpha)[..., None]
    x = np.asarray(image.convert("RGBA"), np.float32) / 255  # palettes may hold a transparent colour
    return x[..., :3] * x[..., 3:]  # what is transparent is black


def own_range(path: Path, x: Any) -> Pixels:
    """Values without a full scale, (H, W): the 0.5th to the 99.5th percentile of the image becomes 0 .. 1."""
    x = np.asarray(x, np.float32)
    if not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0]
        raise BadInput(f"{path}: pixel in row {row}, column {column} is no number (NaN or infinite). Repair it")
    low, high = np.percentile(x, (0.5, 99.5))
    return (np.clip((x - low) / max(float(high - low), 1e-12), 0, 1)).astype(np.float32)[..., None]


def luminance(pixels: Pixels) -> Float32[np.ndarray, "H W"]:
    """One value per pixel."""
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels @ LUMA


def as_bytes(pixels: Any) -> UInt8[np.ndarray, "..."]:
    """0 .. 1 as 0 .. 255, rounded."""
    return np.clip(np.rint(pixels * 255), 0, 255).astype(np.uint8)
