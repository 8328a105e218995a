"""Graphs in ``.npz`` archives, in the two layouts that benchmarks share."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from shared_backbones.errors import BadInput

from .assemble import Rules, assemble
from .graph import Given, Graph
from .plain import classes_of, pairs_of, rows_of_numbers

_MASKS = ("train", "val", "test")


def read_npz(path: Path, rules: Rules) -> Graph:
    """A graph from ``node_features, node_labels, edges[, train_masks, val_masks, test_masks]`` or from the sparse
    layout ``adj_data, adj_indices, adj_indptr, adj_shape, attr_*, labels``. Raises BadInput where it is neither.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            objects = [name for name in archive.files if _objects(archive, name)]
            parts = {name: archive[name] for name in archive.files if name not in objects}
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile):  # an .npy is an array, and no archive
        raise BadInput(f"{path}: not an npz archive of plain arrays: damaged, or of another format") from None
    if "edges" in parts and "node_features" in parts:
        return _masked(path, parts, rules)
    if "adj_indptr" in parts:
        return _sparse(path, parts, rules)
    left = f" ({', '.join(objects)} holds Python objects, which are never read: save plain numbers)" if objects else ""
    raise BadInput(
        f"{path}: no known layout: it holds {', '.join(sorted(parts)) or 'nothing'}{left}. Known: node_features, "
        "node_labels, edges (with masks), or adj_data, adj_indices, adj_indptr, adj_shape, attr_*, labels"
    )


def _objects(archive: Any, name: str) -> bool:
    """Whether an array would have to be unpickled; such ones (names of nodes and classes) are left out."""
    try:
        archive[name]
    except ValueError:
        return True
    return False


def _masked(path: Path, parts: dict[str, Any], rules: Rules) -> Graph:
    edges = pairs_of(path, "edges", parts["edges"])
    features = rows_of_numbers(path, "node_features", parts["node_features"])
    target: Any = None
    classes: tuple[str, ...] = ()
    if "node_labels" in parts:
        target, classes = classes_of(path, parts["node_labels"])
        if target is not None and len(target) != len(features):
            raise BadInput(f"{path}: {len(target)} node_labels for {len(features)} rows of node_features")
    given = None
    if all(f"{m}_masks" in parts for m in _MASKS):
        masks = {m: np.atleast_2d(parts[f"{m}_masks"]) for m in _MASKS}
        for m, mask in masks.items():
            if mask.shape[1] != len(features):
                raise BadInput(f"{path}: {m}_masks are {mask.shape[1]} long for {len(features)} nodes")
            if len(mask) != len(masks["train"]):
                raise BadInput(
                    f"{path}: {len(masks['train'])} train_masks and {len(mask)} {m}_masks; give as many of each"
                )
        splits = tuple({m: np.flatnonzero(masks[m][s]) for m in _MASKS} for s in range(len(masks["train"])))
        given = Given(f"{len(splits)} fixed masks", splits)
    return assemble(
        str(path),
        features,
        edges,
        rules,
        target=target,
        classes=classes,
        given=given,
        edge_attr=rows_of_numbers(path, "edge_features", parts["edge_features"]) if "edge_features" in parts else None,
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
        rows_of_numbers(path, "attr_matrix", np.asarray(features)),
        np.stack([adjacency.row, adjacency.col]),
        rules,
        target=target,
        classes=classes,
        weight=None if plain else adjacency.data.astype(np.float32),
    )
