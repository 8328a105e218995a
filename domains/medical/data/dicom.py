"""A folder of slices, a file of many frames or a segmentation -> one volume in space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

from shared_backbones.errors import BadInput

from .dicom_file import (
    SEGMENTATION,
    Plane,
    discreet,
    frame_group,
    open_file,
    planes_of,
    pseudonym,
    read_dicom,
    require_pixels,
    stored_pixels,
)
from .images import DICOMS
from .volume import Volume

TURN = 1e-3  # cosine by which axes of one series may differ
NEAR = 1e-3  # mm: slices nearer than that stand at one place
UNEVEN = 0.05  # of the distance between slices, by which one may differ
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class SeriesFacts:
    """What the headers of one series say, without identities. key: a pseudonym that names the series."""

    key: str
    modality: str
    files: tuple[Path, ...]
    rows: int
    columns: int
    pixels: bool


@dataclass(frozen=True)
class Slice:
    """One frame at its place."""

    values: Shaped[np.ndarray, "H W"]
    plane: Plane
    where: str


def scan_series(folder: Path) -> list[SeriesFacts]:
    """The series of a folder and below, from headers alone, in order of their first files. Raises BadInput."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and looks(p))
    if not files:
        raise BadInput(f"{folder}: no DICOM file in this folder or below it")
    found: dict[str, list[tuple[Path, Any]]] = {}
    for path in files:
        header = open_file(path, pixels=False)
        found.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((path, header))
    return [
        SeriesFacts(
            f"series-{pseudonym(uid) or 'unnamed'}",
            str(rows[0][1].get("Modality", "") or "not stated")[:9],
            tuple(path for path, _ in rows),
            int(rows[0][1].get("Rows", 0) or 0),
            int(rows[0][1].get("Columns", 0) or 0),
            rows[0][1].get("Rows") is not None,
        )
        for uid, rows in found.items()
    ]


def looks(path: Path) -> bool:
    """By its name, or by the four letters behind the preamble."""
    if path.suffix.lower() in DICOMS:
        return True
    with path.open("rb") as f:
        return f.read(132)[128:] == b"DICM"


def read_series(source: Path) -> Volume:
    """One series as voxels (i along rows, j along columns, k across slices) with their affine in RAS mm.

    Of a folder, or of one file with many frames, or of a segmentation (whose voxels are the numbers of segments).
    Raises BadInput: several series, slices of mixed geometry, missing or contradicting ones, no pixels, no place.
    """
    if source.is_file():
        header = open_file(source, pixels=False)
        require_pixels_of(source)
        if str(header.get("SOPClassUID", "")) == SEGMENTATION:
            return read_segments(source)
        return stacked(_slices(source), str(source))
    if not source.is_dir():
        raise BadInput(f"{source}: no such file or folder")
    series = scan_series(source)
    if len(series) > 1:
        said = ", ".join(f"{s.modality} of {len(s.files)} files ({s.columns} x {s.rows})" for s in series[:6])
        raise BadInput(f"{source}: {len(series)} series ({said}). Give each series a folder of its own")
    return stacked([s for path in series[0].files for s in _slices(path)], str(source))


def require_pixels_of(path: Path) -> None:
    """Raises BadInput for a file without pixels."""
    require_pixels(path, open_file(path))


def _slices(path: Path) -> list[Slice]:
    found = read_dicom(path)
    if found.colour:
        raise BadInput(f"{path}: a colour image, which is no slice of a volume")
    if not found.planes:
        raise BadInput(
            f"{path}: does not say where it stands (position, orientation and spacing). It is no slice of a volume"
        )
    many = len(found.planes) > 1
    return [
        Slice(values, plane, f"{path}, frame {i + 1}" if many else str(path))
        for i, (values, plane) in enumerate(zip(found.values, found.planes, strict=True))
    ]


def _same_grid(slices: Sequence[Slice]) -> None:
    """Raises BadInput for the first slice whose geometry differs from the first one's."""
    first = slices[0]
    for other in slices[1:]:
        a, b = first.plane, other.plane
        turned = min(float(a.across @ b.across), float(a.down @ b.down))
        for what, ours, theirs, same in (
            ("pixels", first.values.shape, other.values.shape, first.values.shape == other.values.shape),
            ("spacing", a.spacing, b.spacing, bool(np.allclose(a.spacing, b.spacing, rtol=1e-3))),
            ("orientation", 1.0, round(turned, 4), turned > 1 - TURN),
        ):
            if not same:
                raise BadInput(
                    f"{other.where}: mixed geometry, {what} {theirs} beside {ours} of {first.where}. Part the series"
                )


def _without_copies(slices: Sequence[Slice], at: Float64[np.ndarray, "n"]) -> list[int]:
    """Places of the slices kept, in order along the normal. Raises BadInput for different slices at one place."""
    kept: list[int] = []
    for i in np.argsort(at, kind="stable").tolist():
        if kept and at[i] - at[kept[-1]] < NEAR:
            if not np.array_equal(slices[i].values, slices[kept[-1]].values):
                raise BadInput(
                    f"{slices[i].where} and {slices[kept[-1]].where}: two different images at one place (a time "
                    "series, or several echoes?). Give each its own folder"
                )
            continue
        kept.append(i)
    return kept


def stacked(slices: Sequence[Slice], where: str) -> Volume:
    """Slices in order along their normal. Exact copies are dropped. Raises BadInput."""
    _same_grid(slices)
    plane = slices[0].plane
    for axis in (plane.across, plane.down):
        if abs(float(axis @ axis) - 1) > 1e-2 or abs(float(plane.across @ plane.down)) > TURN:
            raise BadInput(f"{slices[0].where}: its orientation is not two unit vectors at right angles")
    at = np.array([float(plane.normal @ s.plane.position) for s in slices])
    order = _without_copies(slices, at)
    along = at[order]
    if len(order) == 1:
        if plane.thickness is None:
            raise BadInput(f"{where}: one slice of unknown thickness makes no volume")
        step = plane.normal * plane.thickness
    else:
        gaps = np.diff(along)
        usual = float(np.median(gaps))
        off = np.flatnonzero(np.abs(gaps - usual) > max(UNEVEN * usual, 10 * NEAR))
        if len(off):
            i = int(off[0])
            missing = round(float(gaps[i]) / usual) - 1
            said = f"about {missing} missing" if missing >= 1 else "uneven"
            raise BadInput(
                f"{where}: {gaps[i]:.3g} mm between {Path(slices[order[i]].where).name} and "
                f"{Path(slices[order[i + 1]].where).name}, {usual:.3g} mm between others: {said}. Complete the series"
            )
        first, last = slices[order[0]].plane.position, slices[order[-1]].plane.position
        step = (last - first) / (len(order) - 1)
    start = slices[order[0]].plane
    voxels = np.stack([slices[i].values.T for i in order], 2)
    return Volume(
        np.ascontiguousarray(voxels), placed(start, step), where, {"copies_dropped": len(slices) - len(order)}
    )


def placed(plane: Plane, step: Float64[np.ndarray, "3"]) -> Float64[np.ndarray, "4 4"]:
    """Affine of voxels (column, row, slice) in RAS mm. DICOM counts towards left and posterior."""
    affine = np.eye(4)
    affine[:3, 0] = plane.across * plane.spacing[1]
    affine[:3, 1] = plane.down * plane.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = plane.position
    return LPS_TO_RAS @ affine


def read_segments(path: Path) -> Volume:
    """A segmentation as numbers of segments, 0 outside. stored["segments"]: what each is called. Raises BadInput."""
    found = open_file(path)
    require_pixels(path, found)
    frames = int(found.get("NumberOfFrames", 1) or 1)
    stored = stored_pixels(path, found).reshape(frames, int(found.Rows), int(found.Columns))
    with discreet():
        planes = planes_of(found, frames)
    if not planes:
        raise BadInput(f"{path}: does not say where its frames stand")
    top = float(found.get("MaximumFractionalValue", 1) or 1)
    slices: dict[int, tuple[Any, Plane]] = {}
    normal = planes[0].normal
    for i, plane in enumerate(planes):
        number = _segment(path, found, i)
        place = round(float(normal @ plane.position) / (10 * NEAR))
        held, _ = slices.setdefault(place, (np.zeros(stored.shape[1:], np.int32), plane))
        inside = stored[i] >= 0.5 * top
        if (held[inside] != 0).any():
            raise BadInput(
                f"{path}: segments overlap in frame {i + 1}, and a voxel has one label. "
                "Write them to files of their own"
            )
        held[inside] = number
    volume = stacked([Slice(v, p, f"{path}, frame") for v, p in slices.values()], str(path))
    names = {
        int(s.SegmentNumber): str(s.get("SegmentLabel", "") or "")[:64] for s in found.get("SegmentSequence") or []
    }
    return Volume(volume.voxels, volume.affine, str(path), {**volume.stored, "segments": names})


def _segment(path: Path, found: Any, frame: int) -> int:
    group = frame_group(found, frame, "SegmentIdentificationSequence")
    if group is None:
        raise BadInput(f"{path}: does not say which segment frame {frame + 1} shows")
    return int(group.ReferencedSegmentNumber)


__all__ = ["SeriesFacts", "read_segments", "read_series", "scan_series", "stacked"]
