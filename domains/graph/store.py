"""Node features that stay on disk: rows are read where they are needed, and statistics are taken in pieces.

N nodes, F features. Anything that is indexed like an array serves, a memory map above all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Float64, Int

from shared_backbones.errors import BadInput

ROWS_AT_ONCE = 65_536


def write_rows(path: Path, blocks: Iterable[Float[np.ndarray, "_ F"]], rows: int, features: int) -> Path:
    """A matrix (rows, features) of float32 written block by block, aside first; returns ``path``.

    Raises BadInput where the blocks do not make up that many rows.
    """
    aside = path.with_name(path.name + ".part")
    try:
        out = np.lib.format.open_memmap(aside, "w+", np.float32, (rows, features))
        at = 0
        for block in blocks:
            if at + len(block) > rows:
                break
            out[at : at + len(block)] = block
            at += len(block)
        out.flush()
        if at != rows:
            raise BadInput(f"{path}: expected {rows} rows of node features, got blocks of another number in all")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def open_rows(path: Path) -> Float[np.ndarray, "N F"]:
    """A memory map of a feature matrix; nothing is read yet. Raises BadInput where it is no numeric matrix."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as a matrix of numbers (.npy): {error}") from None
    if found.ndim != 2 or found.dtype.kind != "f":
        raise BadInput(f"{path}: node features are a matrix of floats, got {found.dtype} of shape {found.shape}")
    return np.asanyarray(found)


def rows_of(features: Float[np.ndarray, "N F"], nodes: Int[np.ndarray, "n"]) -> Float32[np.ndarray, "n F"]:
    """Features of some nodes in their order; read in the order of the disk, so that a page is touched once."""
    order = np.argsort(nodes, kind="stable")
    out = np.empty((len(nodes), features.shape[1]), np.float32)
    out[order] = features[nodes[order]]
    return out


def pieces(nodes: Int[np.ndarray, "n"], size: int = ROWS_AT_ONCE) -> Iterator[Int[np.ndarray, "m"]]:
    """Nodes in pieces of at most ``size``."""
    for at in range(0, len(nodes), size):
        yield nodes[at : at + size]


def moments(
    features: Float[np.ndarray, "N F"], nodes: Int[np.ndarray, "n"]
) -> tuple[Float64[np.ndarray, "F"], Float64[np.ndarray, "F"]]:
    """Mean and standard deviation of each feature over some nodes, in two passes of pieces.

    Raises BadInput naming the first node and feature where one is not a finite number.
    """
    nodes = np.sort(nodes)
    mean = np.zeros(features.shape[1])
    for piece in pieces(nodes):
        block = rows_of(features, piece).astype(np.float64)
        if not np.isfinite(block).all():
            row, column = (int(v[0]) for v in np.nonzero(~np.isfinite(block)))
            raise BadInput(
                f"feature {column} of node {int(piece[row])} is {block[row, column]}; fill it or leave it out"
            )
        mean += block.sum(0) / len(nodes)
    variance = np.zeros(features.shape[1])
    for piece in pieces(nodes):
        variance += ((rows_of(features, piece).astype(np.float64) - mean) ** 2).sum(0) / len(nodes)
    return mean, np.sqrt(variance)
