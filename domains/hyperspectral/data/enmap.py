"""What the metadata file of an EnMAP product says about the bands of its spectral image."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from shared_backbones.errors import BadInput

from ..bands import Bands

IMAGE, METADATA = "SPECTRAL_IMAGE", "METADATA.XML"
LARGEST = 64 * 2**20  # bytes; those of real products are about 1 MB


def enmap_metadata(path: Path) -> Path | None:
    """The metadata file that belongs to a spectral image (``...-SPECTRAL_IMAGE.TIF``); None for other files."""
    if IMAGE not in path.name.upper():
        return None
    stem = path.name[: path.name.upper().index(IMAGE)]
    found = [p for p in path.parent.iterdir() if p.name.upper() == (stem + METADATA).upper()]
    return found[0] if found else None


def enmap_bands(path: Path, count: int) -> Bands:
    """Bands in order: centre and width in nm, gain and offset to reflectance. Raises BadInput where it is damaged."""
    if path.stat().st_size > LARGEST:
        raise BadInput(f"{path}: {path.stat().st_size >> 20} MB are too much for a metadata file")
    text = path.read_bytes()
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise BadInput(f"{path}: a metadata file has no DOCTYPE")
    try:
        rows = ET.fromstring(text).findall(".//bandCharacterisation/bandID")
        table = [
            tuple(float(row.findtext(tag, "")) for tag in
                  ("wavelengthCenterOfBand", "FWHMOfBand", "GainOfBand", "OffsetOfBand"))
            for row in rows
        ]  # fmt: skip
    except (ET.ParseError, ValueError) as e:
        raise BadInput(f"{path}: not the metadata of an EnMAP product: {e}") from e
    if len(table) != count:
        raise BadInput(f"{path}: describes {len(table)} bands, the image has {count}")
    nm, fwhm, gain, offset = (tuple(column) for column in zip(*table, strict=True))
    names = tuple(f"band {row.get('number', i + 1)}" for i, row in enumerate(rows))
    return Bands(nm, fwhm, (True,) * count, "reflectance", gain, offset, names)
