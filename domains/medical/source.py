"""From a source as the user names it to labelled cases: a path, a public data set's name, or ``simulated``."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from shared_backbones.errors import BadInput

from .canvas import on_canvas
from .cases import DEFAULT_SIDE, Cases, Labels, cases_of, labels_of
from .classify_config import ImageOptions
from .data.entries import Entry, entries_of, with_patients
from .data.images import DICOM, DICOMS, PICTURES, Picture, as_bytes, content_key, luminance, read_image
from .data.medmnist import archive_labels, read_archive
from .datasets import IMAGE_SETS
from .duplicates import grouped, perceptual_hash
from .simulate import simulated

SIMULATED = "simulated"
SUFFIXES = (*PICTURES, *DICOMS)
OWN_SIZE = 64  # up to this side, images that are all of one square size keep it


def read_any(path: Path, options: ImageOptions) -> Picture:
    """One image, DICOM or other. Raises BadInput."""
    if path.suffix.lower() in DICOMS:
        from .data.dicom_file import read_picture

        return read_picture(path, options.window)
    return read_image(path)


def open_cases(source: str, options: ImageOptions, labelled: bool = True) -> Cases:
    """Checked cases to train on. Raises BadInput.

    labelled: every case must have labels; else they may be missing, and are left out where they cannot be read.
    """
    if source == SIMULATED:
        return _simulated(options)
    if source.lower().endswith(".npz"):
        return _archive(Path(source), options)
    near = difflib.get_close_matches(source, [*IMAGE_SETS, SIMULATED], n=2, cutoff=0.6)
    if near and source not in IMAGE_SETS and not Path(source).exists():
        raise BadInput(f"{source}: no such file; did you mean the data set {' or '.join(map(repr, near))}?")
    base, licence = Path(source), "not stated"
    if source in IMAGE_SETS:
        base, licence = IMAGE_SETS[source].folder(), IMAGE_SETS[source].data.licence
    entries = with_patients(entries_of(base, SUFFIXES, options.label_columns), options.patient_pattern, base)
    if not labelled:
        return _cases(source, licence, entries, _labels_if_any(source, entries, options), base, options)
    unlabelled = [e for e in entries if not e.labels]
    if unlabelled:
        raise BadInput(
            f"{unlabelled[0].where}: no label, as {len(unlabelled)} of {len(entries)} images of {source}. Give one by "
            "folder (a folder per class), or in a manifest's label columns"
        )
    return _cases(source, licence, entries, _labels(source, entries, options), base, options)


def _labels(source: str, entries: Sequence[Entry], options: ImageOptions) -> Labels:
    rows, where = [dict(e.labels) for e in entries], [e.where for e in entries]
    return labels_of(source, rows, where, options.separator, options.positive)


def _labels_if_any(source: str, entries: Sequence[Entry], options: ImageOptions) -> Labels:
    none = Labels((), np.zeros((len(entries), 0), np.float32), False)
    if not all(e.labels for e in entries):
        return none
    try:
        found = _labels(source, entries, options)
    except BadInput:
        return none
    return found if len(found.names) > 1 or not found.exclusive else none


def _cases(
    source: str, licence: str, entries: Sequence[Entry], labels: Labels, base: Path, options: ImageOptions
) -> Cases:
    pictures = [read_any(e.path, options) for e in entries]
    names = [str(e.path.relative_to(base)) if e.path.is_relative_to(base) else e.path.name for e in entries]
    patients = [e.patient or p.patient for e, p in zip(entries, pictures, strict=True)]
    said: dict[str, Sequence[str]] = {
        "names": [n if p.mode != DICOM else p.key for n, p in zip(names, pictures, strict=True)],
        "patients": _numbered(patients),
        "sites": [e.site for e in entries],
        "parts": [e.split or e.fold for e in entries],
        "folds": [e.fold for e in entries],
    }  # fmt: skip
    return assembled(source, licence, pictures, labels, said, options)


def _numbered(patients: Sequence[str]) -> list[str]:
    """p1, p2 ... in order of appearance: enough to keep them apart, and no identity; "" stays."""
    order = {who: f"p{i}" for i, who in enumerate(dict.fromkeys(p for p in patients if p), 1)}
    return [order.get(p, "") for p in patients]


def assembled(
    source: str,
    licence: str,
    pictures: Sequence[Picture],
    labels: Labels,
    said: dict[str, Sequence[str]],
    options: ImageOptions,
) -> Cases:
    """Cases of images that were read: hashed, grouped, brought to one canvas."""
    keys = [content_key(as_bytes(luminance(p.pixels))) for p in pictures]
    found = grouped(keys, [perceptual_hash(p.pixels) for p in pictures], said["patients"], labels.target, options.alike)
    if options.channels == "auto":
        channels = 1 if all(p.grey for p in pictures) else 3
    else:
        channels = 1 if options.channels == "grey" else 3
    sizes = Counter(p.pixels.shape[:2] for p in pictures)
    side = options.size or _side(sizes)
    canvases = np.stack([on_canvas(p.pixels, side, channels, options.crop) for p in pictures])
    rows, columns = np.array(list(sizes)).T
    facts = {
        "colour_modes": dict(sorted(Counter(p.mode for p in pictures).items())),
        "sizes": f"{len(sizes)}: {columns.min()} to {columns.max()} wide, {rows.min()} to {rows.max()} high",
    }
    return cases_of(source, licence, canvases, labels, keys, found, said, facts)


def _side(sizes: Counter[tuple[int, int]]) -> int:
    (h, w), *more = sizes
    return h if not more and h == w and h <= OWN_SIZE else DEFAULT_SIDE


def _simulated(options: ImageOptions) -> Cases:
    made = simulated(options.simulated)
    labels = labels_of(SIMULATED, [m.truth for m in made], [m.name for m in made], None)
    said: dict[str, Sequence[str]] = {
        "names": [m.name for m in made], "patients": [m.patient for m in made], "sites": [m.site for m in made],
        "parts": [""] * len(made), "folds": [""] * len(made),
    }  # fmt: skip
    return assembled(
        SIMULATED, "simulated, free of rights", [Picture(m.pixels, "L") for m in made], labels, said, options
    )


def _archive(path: Path, options: ImageOptions) -> Cases:
    archive = read_archive(path)
    names, target = archive_labels(archive)
    n, h, w, c = archive.images.shape
    channels = {"auto": c, "grey": 1, "colour": 3}[options.channels]
    canvases = archive.images.transpose(0, 3, 1, 2)
    if options.size not in (None, h) or h != w or channels != c:
        side = options.size or max(h, w)
        canvases = np.stack([on_canvas(pixels, side, channels, False) for pixels in _pixels(archive.images)])
    hashes, keys = [], []
    for pixels in _pixels(archive.images):
        hashes.append(perceptual_hash(pixels))
        keys.append(content_key(as_bytes(luminance(pixels))))
    found = grouped(keys, [0] * n, [""] * n, target, 0)  # 784 pixels are too few for hashes of likeness to mean much
    said: dict[str, Sequence[str]] = {
        "names": [f"{part} {i}" for i, part in enumerate(archive.parts)], "patients": [""] * n, "sites": [""] * n,
        "parts": list(archive.parts), "folds": [""] * n,
    }  # fmt: skip
    facts: dict[str, Any] = {"sizes": f"1: {w} wide, {h} high", "archive": "MedMNIST"}
    return cases_of(
        str(path), "see MedMNIST", canvases, Labels(names, target, not archive.several), keys, found, said, facts
    )


def _pixels(images: UInt8[np.ndarray, "n H W C"]) -> Iterator[Any]:
    return (image.astype(np.float32) / 255 for image in images)


__all__ = ["SIMULATED", "SUFFIXES", "open_cases", "read_any"]
