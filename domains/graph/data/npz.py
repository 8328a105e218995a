"""Graphs in ``.npz`` archives, in the two layouts that benchmarks share."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Shaped

from shared_backbones.errors import BadInput

from .assemble import Rules, assemble
from .graph import Given, Graph

_MASKS = ("train", "val", "test")


def read_npz(path: Path, rules: Rules) -> Graph:
    """A graph from ``node_features, node_labels, edges[, train_masks, val_masks, test_masks]`` or from the sparse
    layout ``adj_data, adj_indices, adj_indptr, adj_shape, attr_*, labels``. Raises BadInput where it is neither.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            parts = {name: archive[name] for name in archive.files if not _objects(archive, name)}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path}: not an npz archive of plain arrays ({error})") from None
    if "edges" in parts and "node_features" in parts:
        return _masked(path, parts, rules)
    if "adj_indptr" in parts:
        return _sparse(path, parts, rules)
    raise BadInput(
        f"{path}: no known layout: it holds {', '.join(sorted(parts)) or 'nothing'}. Known: node_features, "
        "node_labels, edges (with masks), or adj_data, adj_indices, adj_indptr, adj_shape, attr_*, labels"
    )


def _objects(archive: Any, name: str) -> bool:
    """Whether an array would have to be unpickled; such ones (names of nodes and classes) are left out."""
    try:
        archive[name]
    except ValueError:
        return True
    return False


def classes_of(path: Path | str, labels: Shaped[np.ndarray, "n"]) -> tuple[Any, tuple[str, ...]]:
    """Class positions and names from whole numbers (below 0: unknown); real values are a regression target."""
    if labels.ndim != 1:
        raise BadInput(f"{path}: one target per node is wanted, got shape {labels.shape}")
    if labels.dtype.kind == "f" and not np.array_equal(labels, np.round(labels), equal_nan=False):
        return labels.astype(np.float64), ()
    found = np.unique(labels[labels >= 0])
    position = np.where(labels >= 0, np.searchsorted(found, np.maximum(labels, found[0] if len(found) else 0)), -1)
    return position.astype(np.int64), tuple(str(int(c)) for c in found)


def _masked(path: Path, parts: dict[str, Any], rules: Rules) -> Graph:
    edges, features = parts["edges"], parts["node_features"]
    if edges.ndim != 2 or 2 not in edges.shape:
        raise BadInput(f"{path}: 'edges' must be (E, 2), got {edges.shape}")
    edges = edges.T if edges.shape[1] == 2 else edges
    target: Any = None
    classes: tuple[str, ...] = ()
    if "node_labels" in parts:
        target, classes = classes_of(path, parts["node_labels"])
        if len(target) != len(features):
            raise BadInput(f"{path}: {len(target)} node_labels for {len(features)} rows of node_features")
    given = None
    if all(f"{m}_masks" in parts for m in _MASKS):
        masks = {m: np.atleast_2d(parts[f"{m}_masks"]) for m in _MASKS}
        for m, mask in masks.items():
            if mask.shape[1] != len(features):
                raise BadInput(f"{path}: {m}_masks are {mask.shape[1]} long for {len(features)} nodes")
        splits = tuple({m: np.flatnonzero(masks[m][s]) for m in _MASKS} for s in range(len(masks["train"])))
        given = Given(f"{len(splits)} fixed masks", splits)
    return assemble(
        str(path),
        features.astype(np.float32),
        edges,
        rules,
        target=target,
        classes=classes,
        given=given,
        edge_attr=parts["edge_features"].astype(np.float32) if "edge_features" in parts else None,
    )


def _sparse(path: Path, parts: dict[str, Any], rules: Rules) -> Graph:
    def matrix(name: str) -> Any:
        try:
            keys = (f"{name}_data", f"{name}_indices", f"{name}_indptr")
            return sp.csr_matrix(tuple(parts[k] for k in keys), shape=tuple(int(v) for v in parts[f"{name}_shape"]))
        except (KeyError, ValueError) as error:
            raise BadInput(f"{path}: the sparse matrix {name!r} is incomplete or damaged ({error})") from None

    adjacency = matrix("adj").tocoo()
    features = matrix("attr").toarray() if "attr_data" in parts else parts.get("attr_matrix")
    if features is None:
        features = np.ones((adjacency.shape[0], 1), np.float32)
    target, classes = classes_of(path, parts["labels"]) if "labels" in parts else (None, ())
    plain = bool((adjacency.data == 1).all())
    return assemble(
        str(path),
        np.asarray(features, np.float32),
        np.stack([adjacency.row, adjacency.col]),
        rules,
        target=target,
        classes=classes,
        weight=None if plain else adjacency.data.astype(np.float32),
    )
