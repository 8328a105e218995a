"""From a source (path, URL, public name, ``simulated``) to validated data with a manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Int64

from shared_backbones.errors import BadInput, BadRequest, unknown

from ..public import locate, sha256_of
from ..task import Manifest
from .config import ClassifyOptions
from .data import (
    ArrayScene,
    Cube,
    Labels,
    Member,
    Scene,
    Seen,
    beside,
    conditions,
    crs_name,
    members,
    mosaic,
    open_scene,
    read_labels,
)
from .datasets import SCENES
from .simulate import CLASS_NAMES, simulate

SIMULATED = "simulated"
_SIMULATED_OPTIONS = {"seed", "rows", "cols", "bands", "noise", "pixels_per_field", "rotation"}


@dataclass(frozen=True)
class SceneData:
    """A labelled scene. ``index`` holds a class's position in ``class_ids`` for every pixel, -1 where unlabelled."""

    scene: Scene
    index: Int32[np.ndarray, "rows cols"]
    polygons: Int32[np.ndarray, "rows cols"] | None
    class_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    manifest: Manifest
    given: Int32[np.ndarray, "rows cols"] | None = None  # 0 train, 1 validation, 2 test, where the data say so
    unit_name: str = "polygons"  # what ``polygons`` are, in the plural
    absurd: Int64[np.ndarray, "n"] | None = None  # flat indices of pixels whose spectra are replaced (see poison)

    def read(self, rows: slice, cols: slice) -> tuple[Cube, Seen]:
        """A window of the scene; see :meth:`~.data.scene.Scene.read`."""
        values, seen = self.scene.read(rows, cols)
        if self.absurd is not None:
            hit = self._absurd_map[rows, cols]
            values = np.where(hit, np.float32(1e30), values)
            seen = seen | hit
        return values, seen

    @cached_property
    def _absurd_map(self) -> Any:
        flat = np.zeros(self.index.size, dtype=bool)
        if self.absurd is not None:
            flat[self.absurd] = True
        return flat.reshape(self.index.shape)

    def poisoned(self, labels: Int64[np.ndarray, "n"], values: Int64[np.ndarray, "m"]) -> SceneData:
        """The same data with other labels and absurd spectra at these pixels (flat indices)."""
        index = self.index.copy()
        index.flat[labels] = (index.flat[labels] + 1) % len(self.class_ids)
        return replace(self, index=index, absurd=values)


@dataclass(frozen=True)
class Found:
    """A scene and what its source says about it."""

    scene: Scene
    labels: Labels | None
    names: Mapping[int, str]
    files: tuple[Path, ...]  # empty for a simulated scene
    licence: str = "not stated"
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def local_file(source: str) -> Path:
    """A path on this machine for a path or URL; what a URL names is fetched once into a temporary file by fsspec."""
    if "://" not in source:
        return Path(source).expanduser()
    import fsspec

    try:
        cached = fsspec.open_local(f"simplecache::{source}", simplecache={"same_names": False})
    except (OSError, ValueError, ImportError) as e:
        raise BadInput(f"{source}: cannot be fetched: {e}") from e
    path = Path(str(cached))
    named = path.with_name(path.name + Path(source).suffix)  # readers go by the ending
    if not named.exists():
        named.symlink_to(path)
    return named


def find(source: str, options: ClassifyOptions, *, labelled: bool) -> Found:
    """The scene that a source names, with its labels where ``labelled``. Raises BadInput."""
    if source == SIMULATED:
        return _simulated(options)
    if source in SCENES:
        return _public(source)
    if "://" not in source and "/" not in source and "." not in source and not Path(source).exists():
        hint = unknown("data", source, [SIMULATED, *SCENES])
        raise BadInput(f"{hint}, or the path of a scene")
    path = local_file(source)
    scene = open_scene(path, variable=options.variable, wavelengths=options.wavelengths)
    if not labelled:
        return Found(scene, None, {}, (path,))
    if options.labels is None:
        raise BadInput(f"{source}: which labels? Name a raster or vector file with --set labels=FILE")
    label_path = local_file(options.labels)
    labels = read_labels(
        label_path,
        scene,
        attribute=options.label_attribute,
        unlabelled=options.unlabelled,
        variable=options.label_variable,
    )
    return Found(scene, labels, labels.names, (path, label_path), notes=labels.notes)


def _simulated(options: ClassifyOptions) -> Found:
    chosen = dict(options.simulated)
    for name in chosen:
        if name not in _SIMULATED_OPTIONS:
            raise unknown("option of the simulator", name, _SIMULATED_OPTIONS)
    seed = int(chosen.pop("seed", 0))
    shape = int(chosen.pop("rows", 128)), int(chosen.pop("cols", 128))
    made = simulate(seed, shape=shape, bands=int(chosen.pop("bands", 64)), **chosen)
    facts = {"simulated": {"seed": seed, **options.simulated}}
    return Found(made.scene, Labels(made.ids, names=CLASS_NAMES), CLASS_NAMES, (), "own simulation", facts=facts)


def _public(name: str) -> Found:
    entry = SCENES[name]
    files = locate(entry.data)
    cube, labels = files[entry.cube], files[entry.labels]
    scene = open_scene(cube, variable=entry.cube_variable, wavelengths=entry.wavelength_nm)
    found = read_labels(labels, scene, variable=entry.label_variable)
    return Found(scene, found, entry.class_names, (cube, labels), entry.data.licence, entry.notes)


def load(source: str, options: ClassifyOptions) -> SceneData:
    """Validated data of a source. Raises BadInput where it cannot be used to train a classifier."""
    if is_tiled(source):
        return load_tiles(Path(source), options)
    found = find(source, options, labelled=True)
    scene, labels = found.scene, found.labels
    assert labels is not None
    _placed(scene)
    index, class_ids, class_names = _classes(source, labels.ids, {**found.names, **options.class_names}, options)
    manifest = Manifest(source, _content(found), found.licence, _facts(found, labels, index, class_ids, class_names))
    return SceneData(scene, index, labels.polygons, tuple(int(c) for c in class_ids), class_names, manifest)


def _placed(scene: Scene) -> None:
    if scene.bands.wavelength_nm is None:
        raise BadInput(
            f"{scene.where}: states no wavelengths, and the models here place every band in the spectrum. Write them "
            f'into {Path(scene.where).stem}.json beside it as {{"wavelength": [...]}}, or give --set '
            "wavelengths=400-2500 for evenly spaced bands (nm)"
        )


def _classes(source: str, ids: Any, names: Mapping[int, str], options: ClassifyOptions) -> tuple[Any, Any, Any]:
    """Positions of classes (-1 unlabelled), the class ids and their names."""
    class_ids = np.unique(ids[ids >= 0])
    if len(class_ids) < 2:
        raise BadInput(
            f"{source}: labels hold one class only ({int(class_ids[0])}); at least two are needed. "
            f"Ids that count as unlabelled: {list(options.unlabelled)} (change with --set unlabelled=[])"
        )
    index = np.where(ids >= 0, np.searchsorted(class_ids, ids), -1).astype(np.int32)
    return index, class_ids, tuple(names.get(int(c), str(int(c))) for c in class_ids)


IMAGES = {
    "image": ("images", "image", "img", "cubes", "input"),
    "label": ("labels", "label", "gt", "masks", "mask", "annotations"),
}


def is_tiled(source: str) -> bool:
    """Whether a source is a folder of tiles or a list of them, and not one scene."""
    path = Path(source)
    return (path.is_dir() and path.suffix.lower() != ".zarr") or (path.suffix.lower() == ".csv" and path.is_file())


def load_tiles(source: Path, options: ClassifyOptions) -> SceneData:
    """Tiles with label tiles as one lattice, ``patch_radius`` rows apart. A scene's tiles are never divided, and a
    tile without a named scene is one of its own. Raises BadInput.
    """
    found = members(source, IMAGES, ("image", "label"))
    openers = [_opener(m.files["image"], options) for m in found]
    whole = mosaic(str(source), openers, max(1, options.patch_radius))
    _placed(whole)
    names: dict[int, str] = {}
    pieces, notes = [], []
    for member, opener in zip(found, openers, strict=True):
        labels = read_labels(
            member.files["label"],
            opener(),
            attribute=options.label_attribute,
            unlabelled=options.unlabelled,
            variable=options.label_variable,
            empty=True,
        )
        pieces.append(labels.ids)
        names |= labels.names
        notes += [n for n in labels.notes if n not in notes]
    ids = whole.laid(pieces, -1)
    if not (ids >= 0).any():
        raise BadInput(f"{source}: no pixel of its {len(found)} tiles has a label")
    index, class_ids, class_names = _classes(str(source), ids, {**names, **options.class_names}, options)
    units, parts = grouped(source, found)
    shown = Found(whole, None, {}, ())
    facts = {**_facts(shown, Labels(ids), index, class_ids, class_names), "tiles": len(found), "notes": notes}
    manifest = Manifest(str(source), digest_of(found), "not stated", facts)
    return SceneData(
        whole,
        index,
        whole.laid([np.full(t.shape, u) for t, u in zip(whole.tiles, units, strict=True)], -1),
        tuple(int(c) for c in class_ids),
        class_names,
        manifest,
        None
        if parts is None
        else whole.laid([np.full(t.shape, p) for t, p in zip(whole.tiles, parts, strict=True)], -1),
        "scenes" if any(m.scene for m in found) else "tiles",
    )


def _opener(path: Path, options: ClassifyOptions) -> Callable[[], Scene]:
    return lambda: open_scene(path, variable=options.variable, wavelengths=options.wavelengths)


def grouped(source: Path, found: Sequence[Member]) -> tuple[list[int], list[int] | None]:
    """The unit that each member belongs to (its scene, or itself), and its part where the data say so.

    Raises BadInput where a scene would be divided.
    """
    keys = [m.scene or f"\0{m.name}" for m in found]
    units = [sorted(set(keys)).index(k) for k in keys]
    if found[0].part is None:
        return units, None
    of: dict[str, int] = {}
    for key, m in zip(keys, found, strict=True):
        if of.setdefault(key, int(m.part or 0)) != m.part:
            raise BadInput(f"{source}: scene {m.scene} is in two parts (tile {m.name}); a scene is never divided")
    return units, [int(m.part or 0) for m in found]


def digest_of(found: Sequence[Member]) -> str:
    """sha256 over all files with their roles, and the parts that are named."""
    h = hashlib.sha256()
    for m in found:
        for role, path in sorted(m.files.items()):
            h.update(f"{m.name}:{role}:{content_of(path)}:{m.part}:{m.scene}\n".encode())
    return h.hexdigest()


def content_of(path: Path) -> str:
    """sha256 of a file, with the files that describe it where there are any; of all files of a store that is a folder,
    with their names."""
    h = hashlib.sha256()
    if not path.is_dir():
        own, others = sha256_of(path), beside(path)
        h.update("".join([own, *(f"\n{p.name}:{sha256_of(p)}" for p in others)]).encode())
        return h.hexdigest() if others else own
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        h.update(f"{file.relative_to(path)}:{sha256_of(file)}\n".encode())
    return h.hexdigest()


def _content(found: Found) -> str:
    """sha256 over the bytes of the files, or of a simulated array."""
    if not found.files:
        assert isinstance(found.scene, ArrayScene)
        return hashlib.sha256(np.ascontiguousarray(found.scene.array).tobytes()).hexdigest()
    digests = [content_of(f) for f in found.files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _facts(found: Found, labels: Labels, index: Any, class_ids: Any, names: tuple[str, ...]) -> dict[str, Any]:
    scene, bands = found.scene, found.scene.bands
    nm = bands.wavelength_nm
    counts = np.bincount(index[index >= 0], minlength=len(class_ids))
    return {
        "rows": scene.shape[0],
        "columns": scene.shape[1],
        "bands": len(bands),
        "wavelengths_nm": None if nm is None else [min(nm), max(nm)],
        "bad_bands": sum(not g for g in bands.good),
        "unit": bands.unit or "not stated",
        "crs": crs_name(scene.crs),
        "transform": None if scene.transform is None else list(scene.transform),
        "nodata": scene.nodata,
        "classes": {
            str(int(c)): {"name": n, "pixels": int(k)} for c, n, k in zip(class_ids, names, counts, strict=True)
        },
        "polygons": None if labels.polygons is None else int(labels.polygons.max()) + 1,
        "notes": [*found.notes],
        **conditions(scene),
        **found.facts,
    }


def spectra(data: SceneData, at: Int64[np.ndarray, "n"]) -> tuple[Float32[np.ndarray, "n bands"], Any]:
    """Spectra (n, bands) at flat pixel indices, and True where measured (n, bands); windows are read once each."""
    bands = len(data.scene.bands)
    values = np.zeros((len(at), bands), dtype=np.float32)
    seen = np.zeros((len(at), bands), dtype=bool)
    if not len(at):
        return values, seen
    rows, cols = np.divmod(at, data.index.shape[1])
    side = 64
    tiles = (rows // side) * (data.index.shape[1] // side + 1) + cols // side
    order = np.argsort(tiles, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(tiles[order])) + 1):
        top, left = int(rows[group].min()), int(cols[group].min())
        window = slice(top, int(rows[group].max()) + 1), slice(left, int(cols[group].max()) + 1)
        cube, measured = data.read(*window)
        values[group] = cube[:, rows[group] - top, cols[group] - left].T
        seen[group] = measured[:, rows[group] - top, cols[group] - left].T
    return values, seen


def refuse_leak(allowed: bool) -> None:
    """Raise BadRequest unless the user has permitted a leaking split."""
    if not allowed:
        raise BadRequest(
            "a random pixel split leaks: the patches of test pixels hold training pixels, and a classifier of "
            "coordinates alone scores above the spectra. Use split.by=blocks, or permit it with --set "
            "split.allow_leak=true"
        )
