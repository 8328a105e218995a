"""A graph as a folder of .npy arrays: what exceeds memory stays on disk.

``features.npy`` (N, F) floats, mapped and never read as a whole; ``edges.npy`` (2, E) or (E, 2) whole numbers; where
there are any, ``target.npy`` (N,) classes (below 0: unknown) or values, ``split.npy`` (N,) with 0 train, 1 validation,
2 test and -1 none, ``weight.npy``, ``time.npy`` (E,) and ``edge_attr.npy`` (E, K).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from shared_backbones.errors import BadInput

from ..store import open_rows
from .assemble import Rules, assemble
from .graph import Given, Graph
from .plain import classes_of


def is_arrays(folder: Path) -> bool:
    """Whether a folder has this layout."""
    return (folder / "features.npy").is_file() and (folder / "edges.npy").is_file()


def _array(path: Path, kinds: str) -> Shaped[np.ndarray, "..."] | None:
    if not path.is_file():
        return None
    try:
        found: Any = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: not a plain .npy array ({error})") from None
    if found.dtype.kind not in kinds:
        raise BadInput(f"{path}: holds {found.dtype}, and {'whole ' if kinds == 'iu' else ''}numbers are wanted")
    return np.asarray(found)


def _one_per(array: Shaped[np.ndarray, "..."] | None, count: int, path: Path, what: str) -> None:
    if array is not None and (array.ndim != 1 or len(array) != count):
        raise BadInput(f"{path}: shape {array.shape}, and one number for each of {count} {what} is wanted")


def read_arrays(folder: Path, rules: Rules) -> Graph:
    """The graph of such a folder, its features a memory map. Raises BadInput naming the array that is wrong."""
    features = open_rows(folder / "features.npy")
    edges = _array(folder / "edges.npy", "iu")
    if edges is None or edges.ndim != 2 or 2 not in edges.shape:
        raise BadInput(f"{folder}/edges.npy: two ends per edge are wanted, got shape {getattr(edges, 'shape', None)}")
    pairs = edges if edges.shape[0] == 2 else edges.T
    label = _array(folder / "target.npy", "iuf")
    part = _array(folder / "split.npy", "iu")
    _one_per(label, len(features), folder / "target.npy", "nodes")
    _one_per(part, len(features), folder / "split.npy", "nodes")
    target, classes = (None, ()) if label is None else classes_of(folder / "target.npy", label)
    given = None
    if part is not None:
        names = dict(enumerate(("train", "val", "test")))
        given = Given("split.npy", ({name: np.flatnonzero(part == code) for code, name in names.items()},))
    optional = {name: _array(folder / f"{name}.npy", "iuf") for name in ("weight", "time", "edge_attr")}
    floats: Any = {name: None if a is None else a.astype(np.float64) for name, a in optional.items()}
    return assemble(str(folder), features, pairs, rules, target=target, classes=classes, given=given, **floats)
