"""Labels: a raster of class ids, or polygons with a class attribute, on the lattice of a scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Shaped
from rasterio.crs import CRS
from rasterio.features import rasterize, shapes
from rasterio.transform import Affine
from rasterio.warp import transform_geom

from shared_backbones.errors import BadInput, unknown

from .arrays import load_mat, load_npy
from .raster import RasterScene, crs_name, gdal
from .scene import Scene

UNLABELLED = -1
VECTOR_ENDINGS = (".geojson", ".gpkg", ".shp", ".fgb", ".gml", ".kml")


@dataclass(frozen=True)
class Labels:
    """Class ids on a scene's lattice.

    ids: (rows, columns), the file's own class ids (0 or above), ``UNLABELLED`` where there is none.
    polygons: which polygon a pixel belongs to (``UNLABELLED`` where none); None where labels are a raster.
    names: class id -> name, where the file names its classes.
    notes: what a user should know about how the file was read.
    """

    ids: Int32[np.ndarray, "rows cols"]
    polygons: Int32[np.ndarray, "rows cols"] | None = None
    names: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_labels(
    path: str | Path,
    scene: Scene,
    *,
    attribute: str | None = None,
    unlabelled: Sequence[int] = (0,),
    variable: str | None = None,
    empty: bool = False,
) -> Labels:
    """Labels of a scene from a raster, .mat, .npy or vector file. Ids in ``unlabelled`` and below 0 count as none.

    Raises BadInput for another shape, CRS or transform than the scene's, for values that are not class ids, and,
    unless ``empty``, where no label lies on the scene.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such label file")
    suffix = path.suffix.lower()
    if suffix in VECTOR_ENDINGS:
        labels = _from_polygons(path, scene, attribute)
    elif suffix in (".npy", ".mat"):
        array = load_npy(path) if suffix == ".npy" else load_mat(path, 2, variable)
        labels = _from_array(path, array, scene)
    else:
        labels = _from_raster(path, scene)
    ids = labels.ids
    ids[np.isin(ids, list(unlabelled)) | (ids < 0)] = UNLABELLED
    if not empty and (ids == UNLABELLED).all():
        raise BadInput(f"{path}: no pixel of {scene.where} has a label (unlabelled ids: {list(unlabelled)})")
    return labels


def _from_array(path: Path, array: Shaped[np.ndarray, "..."], scene: Scene, nodata: float | None = None) -> Labels:
    if array.shape != scene.shape:
        raise BadInput(f"{path}: labels are {_size(array.shape)}, the scene {scene.where} is {_size(scene.shape)}")
    missing = ~np.isfinite(array) if array.dtype.kind == "f" else np.zeros(array.shape, dtype=bool)
    if nodata is not None:
        missing |= array == nodata
    values = np.where(missing, 0, array)
    odd = np.argwhere(values != np.round(values))
    if len(odd):
        row, col = (int(v) for v in odd[0])
        raise BadInput(
            f"{path}: labels must be whole class ids, got {values[row, col]:g} at row {row}, column {col}; "
            "is this a map of measurements?"
        )
    if values.max() > 2**31 - 1:
        raise BadInput(f"{path}: class ids go up to 2147483647, got {int(values.max())}")
    ids = values.astype(np.int32)
    notes = () if not (ids < 0).any() else ("negative label ids count as unlabelled",)
    ids[missing] = UNLABELLED
    return Labels(ids, notes=notes)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)


def _from_raster(path: Path, scene: Scene) -> Labels:
    raster = RasterScene(path)
    try:
        if len(raster.bands) != 1:
            raise BadInput(f"{path}: a label raster has one band, got {len(raster.bands)}")
        if raster.shape != scene.shape:
            raise BadInput(f"{path}: labels are {_size(raster.shape)}, the scene {scene.where} is {_size(scene.shape)}")
        note = _same_place(path, raster, scene)
        with gdal():
            array = raster.raw()[0]
        labels = _from_array(path, array, scene, raster.nodata)
        return Labels(labels.ids, notes=labels.notes + note)
    finally:
        raster.close()


def _same_place(path: Path, labels: RasterScene, scene: Scene) -> tuple[str, ...]:
    """Notes about the georeference of a label raster; raises BadInput where it contradicts the scene's."""
    if labels.crs and scene.crs and CRS.from_user_input(labels.crs) != CRS.from_user_input(scene.crs):
        raise BadInput(
            f"{path}: labels are in {crs_name(labels.crs)}, the scene {scene.where} is in {crs_name(scene.crs)}; "
            "warp the labels onto the scene's grid (rio warp labels.tif out.tif --like scene.tif)"
        )
    if labels.transform and scene.transform:
        a, b = np.array(labels.transform), np.array(scene.transform)
        pixel = max(abs(b[0]) + abs(b[1]), abs(b[3]) + abs(b[4]))
        if np.abs(a - b).max() > 0.01 * pixel:
            raise BadInput(
                f"{path}: labels lie on another grid than {scene.where}: transform {tuple(a)} instead of {tuple(b)}; "
                "warp them onto the scene's grid (rio warp labels.tif out.tif --like scene.tif)"
            )
    if scene.crs and not labels.crs:
        return (f"{path.name} has no CRS; it has the scene's size and was taken to lie on its grid",)
    return ()


def _from_polygons(path: Path, scene: Scene, attribute: str | None) -> Labels:
    import pyogrio.raw
    import shapely

    if scene.transform is None:
        raise BadInput(f"{path}: polygons need a georeferenced scene, and {scene.where} has no transform")
    try:
        meta, _, geometries, columns = pyogrio.raw.read(path)
    except Exception as e:  # pyogrio raises several kinds
        raise BadInput(f"{path}: not a vector file that can be read: {e}") from e
    fields = [str(f) for f in meta["fields"]]
    chosen = attribute or (fields[0] if len(fields) == 1 else "class" if "class" in fields else None)
    if chosen is None:
        raise BadInput(
            f"{path}: which attribute is the class? Name it with --set label_attribute=NAME ({', '.join(fields)})"
        )
    if chosen not in fields:
        raise BadInput(f"{path}: {unknown('attribute', chosen, fields)}")
    ids, names = _class_ids(path, chosen, columns[fields.index(chosen)])
    polygons = shapely.from_wkb(geometries)
    kinds = {g.geom_type for g in polygons if g is not None}
    if not kinds <= {"Polygon", "MultiPolygon"}:
        raise BadInput(f"{path}: labels must be polygons, got {', '.join(sorted(kinds))}")
    mapped, notes = _onto(path, [shapely.geometry.mapping(g) for g in polygons], meta.get("crs"), scene)
    place = Affine(*scene.transform)
    numbered = [(g, i) for i, g in enumerate(mapped)]
    groups = rasterize(numbered, out_shape=scene.shape, fill=UNLABELLED, transform=place, dtype="int32")
    if (groups == UNLABELLED).all():
        raise BadInput(f"{path}: none of its {len(mapped)} polygons covers the centre of a pixel of {scene.where}")
    lookup = np.append(ids, UNLABELLED).astype(np.int32)  # the last entry answers to UNLABELLED = -1
    return Labels(lookup[groups], groups, names, notes)


def _class_ids(path: Path, attribute: str, values: Shaped[np.ndarray, "n"]) -> tuple[Any, dict[int, str]]:
    """Class ids of an attribute: whole numbers as they are, words numbered from 1 in alphabetical order."""
    if values.dtype.kind in "iu" or (values.dtype.kind == "f" and np.array_equal(values, np.round(values))):
        return values.astype(np.int32), {}
    if any(not isinstance(v, str) for v in values):
        raise BadInput(f"{path}: attribute {attribute!r} must hold words or whole numbers, without gaps")
    words = sorted(set(values))
    number = {word: i + 1 for i, word in enumerate(words)}
    return np.array([number[v] for v in values], dtype=np.int32), {i: w for w, i in number.items()}


def _onto(path: Path, geometries: list[Any], crs: str | None, scene: Scene) -> tuple[list[Any], tuple[str, ...]]:
    """Geometries in the scene's CRS, with a note on what was done."""
    if crs is None:
        return geometries, (f"{path.name} has no CRS; its coordinates were taken to be the scene's",)
    if scene.crs is None:
        raise BadInput(f"{path}: polygons are in {crs_name(crs)}, but the scene {scene.where} has no CRS")
    if CRS.from_user_input(crs) == CRS.from_user_input(scene.crs):
        return geometries, ()
    with gdal():
        moved = [transform_geom(crs, scene.crs, g) for g in geometries]
    return moved, (f"polygons were transformed from {crs_name(crs)} to {crs_name(scene.crs)}",)


def outlines(ids: Int32[np.ndarray, "rows cols"], transform: tuple[float, ...]) -> list[tuple[dict[str, Any], int]]:
    """The areas of equal id as polygons (GeoJSON-like mappings) with their id; ``UNLABELLED`` left out."""
    found = shapes(ids, mask=ids != UNLABELLED, transform=Affine(*transform))
    return [(geometry, int(value)) for geometry, value in found]


def write_polygons(
    path: Path, areas: Sequence[tuple[dict[str, Any], Any]], crs: str | None, attribute: str = "class"
) -> None:
    """Polygons with one attribute, in the format that the path's ending names (.geojson, .gpkg ...)."""
    import pyogrio.raw
    import shapely

    geometry = np.array([shapely.to_wkb(shapely.geometry.shape(g)) for g, _ in areas], dtype=object)
    values = np.array([v for _, v in areas])
    values = values.astype(object) if values.dtype.kind in "US" else values
    pyogrio.raw.write(path, geometry, [values], [attribute], geometry_type="Polygon", crs=crs)
