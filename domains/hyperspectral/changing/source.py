"""From a source to pairs of scenes of one place, with the change mask where there is one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32
from rasterio.crs import CRS

from shared_backbones.errors import BadInput, unknown

from ...task import Manifest
from ..bands import Bands, difference
from ..data import Labels, Member, Mosaic, Scene, beside, conditions, crs_name, members, mosaic, open_scene, read_labels
from ..data.scene import Cube, Seen
from ..source import SIMULATED, SceneData, content_of, digest_of, grouped, is_tiled, local_file
from .config import ChangeOptions
from .simulate import simulate_pair

ROLES = {
    "before": ("before", "a", "t1", "date1", "pre"),
    "after": ("after", "b", "t2", "date2", "post"),
    "change": ("change", "label", "labels", "mask", "masks", "cm", "gt"),
}
WARP = "bring it onto the grid of the other date (rio warp after.tif out.tif --like before.tif)"
NAMES = ("unchanged", "changed")
SUBPIXEL = 0.01  # of a pixel: grids that differ by less are one
_SIMULATED = {"seed", "rows", "cols", "bands", "noise", "pixels_per_field", "changed"}


@dataclass(frozen=True)
class PairScene:
    """Two dates on one grid as one scene: the bands of the first date, then those of the second."""

    before: Scene
    after: Scene

    @property
    def where(self) -> str:
        return f"{self.before.where} and {self.after.where}"

    @property
    def shape(self) -> tuple[int, int]:
        return self.before.shape

    @property
    def bands(self) -> Bands:
        return doubled(self.before.bands, self.after.bands)

    @property
    def crs(self) -> str | None:
        return self.before.crs or self.after.crs

    @property
    def transform(self) -> tuple[float, ...] | None:
        return self.before.transform or self.after.transform

    @property
    def nodata(self) -> float | None:
        return None

    @property
    def block(self) -> tuple[int, int]:
        return self.before.block

    def read(self, rows: slice, cols: slice) -> tuple[Cube, Seen]:
        (x, a), (y, b) = self.before.read(rows, cols), self.after.read(rows, cols)
        return np.concatenate([x, y]), np.concatenate([a, b])


def doubled(a: Bands, b: Bands) -> Bands:
    """The bands of two dates, one after the other."""

    def joined(x: Any, y: Any) -> Any:
        return None if x is None or y is None else (*x, *y)

    return Bands(
        joined(a.wavelength_nm, b.wavelength_nm),
        joined(a.fwhm_nm, b.fwhm_nm),
        (*a.good, *b.good),
        a.unit,
        (*a.scale, *b.scale),
        (*a.offset, *b.offset),
        (*(f"before: {n}" for n in a.names), *(f"after: {n}" for n in b.names)),
    )


def paired(before: Scene, after: Scene) -> PairScene:
    """Both dates as one scene. Raises BadInput where they lie on different grids or have different bands."""
    if before.shape != after.shape:
        raise BadInput(
            f"{after.where}: is {after.shape[0]} x {after.shape[1]} px, {before.where} is {before.shape[0]} x "
            f"{before.shape[1]}; {WARP}"
        )
    if before.crs and after.crs and CRS.from_user_input(before.crs) != CRS.from_user_input(after.crs):
        raise BadInput(
            f"{after.where}: is in {crs_name(after.crs)}, {before.where} is in {crs_name(before.crs)}; {WARP}"
        )
    if before.transform and after.transform:
        a, b = np.array(before.transform), np.array(after.transform)
        pixel = max(abs(a[0]) + abs(a[1]), abs(a[3]) + abs(a[4]))
        rows, cols = before.shape
        corners = np.array([[0, 0, 1], [cols, 0, 1], [0, rows, 1], [cols, rows, 1]])
        off = np.abs(corners @ (a - b).reshape(2, 3).T).max() / pixel
        if off > SUBPIXEL:
            raise BadInput(
                f"{after.where}: lies up to {off:.3g} px away from {before.where} (transform {tuple(b)} instead of "
                f"{tuple(a)}); co-register the dates first, for shifted edges look like change"
            )
    other = difference(before.bands, after.bands)
    if other is not None:
        said = other.replace("the model was trained on", "the first date has").replace("in training", "at the first")
        raise BadInput(f"{after.where}: {said}; bring both dates onto the same bands")
    return PairScene(before, after)


def _open_pair(before: Path, after: Path, options: ChangeOptions) -> PairScene:
    first, second = (
        open_scene(path, variable=options.variable, wavelengths=options.wavelengths) for path in (before, after)
    )
    return paired(first, second)


def pairs_of(source: str, options: ChangeOptions) -> list[tuple[str, Callable[[], PairScene]]]:
    """Names and openers of the pairs of a source, without their masks. Raises BadInput."""
    if source == SIMULATED:
        made = _simulated(options)
        return [(SIMULATED, lambda: PairScene(made.before, made.after))]
    return [
        (m.name, partial(_open_pair, m.files["before"], m.files["after"], options))
        for m in _members(source, options, ("before", "after"))
    ]


def _simulated(options: ChangeOptions) -> Any:
    chosen = dict(options.simulated)
    for name in chosen:
        if name not in _SIMULATED:
            raise unknown("option of the simulator", name, _SIMULATED)
    seed, shape = int(chosen.pop("seed", 0)), (int(chosen.pop("rows", 96)), int(chosen.pop("cols", 96)))
    return simulate_pair(seed, shape=shape, bands=int(chosen.pop("bands", 48)), **chosen)


def _members(source: str, options: ChangeOptions, needed: Sequence[str]) -> list[Member]:
    if is_tiled(source):
        return members(Path(source), ROLES, needed)
    if "://" not in source and "/" not in source and "." not in source and not Path(source).exists():
        hint = unknown("data", source, [SIMULATED])
        raise BadInput(f"{hint}, or a folder with before/, after/ and change/, or a CSV list of them")
    before = local_file(source)
    if not before.exists():
        raise BadInput(f"{source}: no such file")
    if options.after is None:
        raise BadInput(
            f"{source}: which scene is the second date? Name it with --set after=FILE, or give a CSV list with the "
            "columns before, after, change"
        )
    files = {"before": before, "after": local_file(options.after)}
    if "change" in needed:
        if options.labels is None:
            raise BadInput(f"{source}: which mask says what changed? Name it with --set labels=FILE")
        files["change"] = local_file(options.labels)
    return [Member(before.stem, files)]


def companions(source: str, options: ChangeOptions) -> list[Path]:
    """The files that a list of pairs, or the option ``after``, adds to an input; none where it cannot be read."""
    if source == SIMULATED:
        return []
    try:
        found = _members(source, options, ("before", "after"))
    except BadInput:
        return []
    files = [m.files[role] for m in found for role in ("before", "after")]
    return [p for f in files for p in (f, *beside(f)) if p.is_file()]


def load(source: str, options: ChangeOptions) -> SceneData:
    """Pairs with their masks on one lattice. Raises BadInput where they cannot be used to train."""
    if source == SIMULATED:
        made = _simulated(options)
        both = made.before.array.tobytes() + made.after.array.tobytes() + made.mask.tobytes()
        return _data(source, PairScene(made.before, made.after), made.mask, hashlib.sha256(both).hexdigest(), [])
    found = _members(source, options, ("before", "after", "change"))
    openers = [partial(_open_pair, m.files["before"], m.files["after"], options) for m in found]
    masks, notes = [], []
    for m, opener in zip(found, openers, strict=True):
        labels = read_labels(
            m.files["change"], opener().before, attribute=options.label_attribute, unlabelled=options.unlabelled,
            variable=options.label_variable, empty=True,
        )  # fmt: skip
        masks.append(_mask(labels, options))
        notes += [n for n in labels.notes if n not in notes]
    if len(found) == 1:
        whole, digest = openers[0](), "".join(content_of(p) for _, p in sorted(found[0].files.items()))
        return _data(source, whole, masks[0], hashlib.sha256(digest.encode()).hexdigest(), notes)
    laid = mosaic(source, openers, max(1, options.patch_radius))
    units, parts = grouped(Path(source), found)
    data = _data(source, laid, laid.laid(masks, -1), digest_of(found), notes, len(found))

    def spread(values: Sequence[int]) -> Int32[np.ndarray, "rows cols"]:
        return laid.laid([np.full(t.shape, v) for t, v in zip(laid.tiles, values, strict=True)], -1)

    if parts is None and len(set(units)) < 4:
        return data  # too few to deal out whole: blocks
    given = None if parts is None else spread(parts)
    return replace(data, polygons=spread(units), given=given, unit_name="scenes")


def _mask(labels: Labels, options: ChangeOptions) -> Int32[np.ndarray, "rows cols"]:
    """1 changed, 0 not, -1 not labelled."""
    mask = np.full(labels.ids.shape, -1, dtype=np.int32)
    mask[np.isin(labels.ids, options.unchanged)] = 0
    mask[np.isin(labels.ids, options.changed)] = 1
    return mask


def _data(
    source: str,
    scene: PairScene | Mosaic,
    mask: Int32[np.ndarray, "rows cols"],
    digest: str,
    notes: list[str],
    pairs: int = 1,
) -> SceneData:
    counts = [int((mask == c).sum()) for c in (0, 1)]
    if scene.bands.wavelength_nm is None:
        raise BadInput(
            f"{scene.where}: states no wavelengths, and the models here place every band in the spectrum; give --set "
            "wavelengths=400-2500 for evenly spaced bands (nm)"
        )
    if min(counts) == 0:
        raise BadInput(
            f"{source}: the mask holds {counts[0]} px without and {counts[1]} px with change; both are needed. Which "
            "ids mean what is set by unchanged and changed (--set changed=[1])"
        )
    facts: dict[str, Any] = {
        "pairs": pairs,
        "rows": scene.shape[0],
        "columns": scene.shape[1],
        "bands": len(scene.bands) // 2,
        "unit": scene.bands.unit or "not stated",
        "crs": crs_name(scene.crs),
        "transform": None if scene.transform is None else list(scene.transform),
        "pixels": dict(zip(NAMES, counts, strict=True)),
        "notes": notes,
        **conditions(scene),
    }
    licence = "own simulation" if source == SIMULATED else "not stated"
    return SceneData(scene, mask, None, (0, 1), NAMES, Manifest(source, digest, licence, facts))
