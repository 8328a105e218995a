"""Positional and structural encodings of nodes: computed once, deterministic, kept by content.

Shapes: N nodes, E arcs, k columns.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import scipy.sparse.csgraph as csgraph
from jaxtyping import Float

from .config import EncodingOptions
from .data import Graph

VERSION = "2"  # of what is kept; another one is computed anew
DENSE = 400  # components up to this size are solved densely
RESTARTS = 100  # of Lanczos' method before a factorisation is made
COLUMNS = 512  # of a power of the transition matrix at a time
FILLED = 0.02  # share of non-zeros from which a power is cheaper dense


def adjacency(graph: Graph) -> sp.csr_matrix:
    """Weights (1 where there are none) at [target, source], float64; equal arcs are summed."""
    weight = np.ones(graph.arcs) if graph.weight is None else graph.weight.astype(np.float64)
    return sp.csr_matrix((weight, (graph.edges[1], graph.edges[0])), shape=(graph.nodes, graph.nodes))


def _eigenvectors(laplacian: sp.csr_matrix, k: int) -> Float[np.ndarray, "n j"]:
    """The eigenvectors of the j <= k smallest eigenvalues but the first, of one component."""
    n = laplacian.shape[0]
    wanted = min(k, n - 1)
    if wanted < 1:
        return np.zeros((n, 0))
    if n <= DENSE or wanted + 1 >= n:
        values, vectors = np.linalg.eigh(laplacian.toarray())
    else:
        start = np.cos(np.arange(n, dtype=np.float64))  # fixed, and orthogonal to nothing in particular
        values, vectors = _smallest(laplacian, wanted + 1, start)
    order = np.argsort(values, kind="stable")[1 : wanted + 1]
    vectors = vectors[:, order]
    sign = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(wanted)])
    return vectors * np.where(sign == 0, 1, sign) * np.sqrt(n)


def _smallest(laplacian: sp.csr_matrix, count: int, start: Float[np.ndarray, "n"]) -> tuple[Any, Any]:
    """The smallest eigenvalues and their vectors of a normalised Laplacian, whose eigenvalues lie in 0 .. 2.

    Products alone find them soon where the graph mixes well, and there a factorisation would fill in; where it mixes
    badly (a path, a grid) they do not, and there a factorisation stays sparse.
    """
    try:
        flipped = sp.csr_matrix(2 * sp.eye(laplacian.shape[0]) - laplacian)
        values, vectors = sp.linalg.eigsh(flipped, count, which="LA", v0=start, tol=1e-10, maxiter=RESTARTS)
        return 2 - values, vectors
    except sp.linalg.ArpackNoConvergence:
        return sp.linalg.eigsh(laplacian.tocsc(), count, sigma=-1e-2, which="LM", v0=start, tol=1e-10)


def laplacian_encoding(graph: Graph, k: int) -> Float[np.ndarray, "N k"]:
    """Eigenvectors of I - D^-1/2 A D^-1/2 of every component by itself, of unit mean square; zeros beyond its size.

    Directed arcs count as edges. The sign is fixed: the entry of the largest size is positive. Where eigenvalues
    coincide any basis of their space is right; ours is always the same one.
    """
    import scipy.sparse.linalg  # noqa: F401  sp.linalg is there once this was imported

    a = adjacency(graph)
    a = a.maximum(a.T) if graph.directed else a
    a.setdiag(0)
    count, home = csgraph.connected_components(a, directed=False)
    order = np.argsort(home, kind="stable")
    bounds = np.concatenate([[0], np.cumsum(np.bincount(home, minlength=count))])
    found = np.zeros((graph.nodes, k))
    for c in range(count):
        nodes = order[bounds[c] : bounds[c + 1]]
        if len(nodes) < 2:
            continue
        part = a[nodes][:, nodes]
        scale = sp.diags(1 / np.sqrt(np.maximum(np.asarray(part.sum(1)).ravel(), 1e-12)))
        vectors = _eigenvectors(sp.csr_matrix(sp.eye(len(nodes)) - scale @ part @ scale), k)
        found[nodes, : vectors.shape[1]] = vectors
    return found


def _sparse_enough(matrix: Any) -> bool:
    return bool(matrix.nnz <= FILLED * matrix.shape[0] * matrix.shape[1])


def random_walk_encoding(graph: Graph, steps: int) -> Float[np.ndarray, "N steps"]:
    """Probability to be back after 1 .. ``steps`` steps of a random walk along the arcs.

    Undirected: P = D^-1 A is similar to the symmetric S, and diag(S^(a+b)) = sum_j S^a_ij S^b_ij: half the powers do.
    Powers stay sparse while they are, then go column block by column block: memory grows with N x 512, not N x N.
    """
    a = adjacency(graph)
    n = graph.nodes
    found = np.zeros((n, steps))
    if graph.directed:
        out = np.asarray(a.sum(0)).ravel()
        return _walk_directed(sp.csr_matrix(a @ sp.diags(1 / np.where(out > 0, out, 1))), steps)
    degree = np.asarray(a.sum(1)).ravel()
    root = sp.diags(1 / np.sqrt(np.where(degree > 0, degree, 1)))
    s = sp.csr_matrix(root @ a @ root)
    found[:, 0] = s.diagonal()
    power, m = s, 1
    while True:  # sparse powers: power = S^m
        if 2 * m <= steps:
            found[:, 2 * m - 1] = np.asarray(power.multiply(power).sum(1)).ravel()
        if 2 * m >= steps:
            return found
        if not _sparse_enough(power):
            break
        following = sp.csr_matrix(s @ power)
        if 2 * m + 1 <= steps:
            found[:, 2 * m] = np.asarray(power.multiply(following).sum(1)).ravel()
        power, m = following, m + 1
    for start in range(0, n, COLUMNS):
        _walk_columns(s, power[:, start : start + COLUMNS].toarray(), m, steps, found[start : start + COLUMNS])
    return found


def _walk_columns(s: sp.csr_matrix, block: Any, m: int, steps: int, into: Any) -> None:
    """The rest of the steps for the columns ``block`` of S^m."""
    while 2 * m < steps:
        following = s @ block
        into[:, 2 * m] = np.einsum("ij,ij->j", block, following)
        if 2 * m + 2 <= steps:
            into[:, 2 * m + 1] = np.einsum("ij,ij->j", following, following)
        block, m = following, m + 1


def _walk_directed(p: sp.csr_matrix, steps: int) -> Float[np.ndarray, "N steps"]:
    n = p.shape[0]
    found = np.zeros((n, steps))
    for start in range(0, n, COLUMNS):
        columns = np.arange(start, min(n, start + COLUMNS))
        block = np.zeros((n, len(columns)))
        block[columns, np.arange(len(columns))] = 1
        for k in range(steps):
            block = p @ block
            found[columns, k] = block[columns, np.arange(len(columns))]
    return found


def degree_encoding(graph: Graph) -> Float[np.ndarray, "N 1"]:
    """log(1 + arcs that end at the node)."""
    return np.log1p(graph.degree().astype(np.float64))[:, None]


def distance_encoding(graph: Graph, anchors: int) -> Float[np.ndarray, "N anchors"]:
    """1 / (1 + steps to the anchor), 0 out of reach. Anchor r is its graph's node of the r-th largest degree."""
    degree, hops = graph.degree(), adjacency(graph).T
    ranked = np.lexsort((np.arange(graph.nodes), -degree, graph.graph_of()))
    found = np.zeros((graph.nodes, anchors))
    for r in range(anchors):
        starts = ranked[graph.offsets[:-1][graph.sizes > r] + r]
        if len(starts):
            steps = csgraph.dijkstra(hops, directed=True, indices=starts, unweighted=True, min_only=True)
            found[:, r] = np.where(np.isfinite(steps), 1 / (1 + steps), 0)
    return found


def compute(graph: Graph, options: EncodingOptions) -> Float[np.ndarray, "N k"]:
    """All encodings asked for, side by side, float32: Laplacian first, then walks, degree, distance."""
    parts = [np.zeros((graph.nodes, 0))]
    if options.laplacian:
        parts.append(laplacian_encoding(graph, options.laplacian))
    if options.random_walk:
        parts.append(random_walk_encoding(graph, options.random_walk))
    if options.degree:
        parts.append(degree_encoding(graph))
    if options.distance:
        parts.append(distance_encoding(graph, options.distance))
    return np.concatenate(parts, 1).astype(np.float32)


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/cambium/encodings``."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "cambium" / "encodings"


def key_of(graph: Graph, options: EncodingOptions) -> str:
    """Names the result: all that it depends on, the arcs, the graphs and the options, and nothing else."""
    h = hashlib.sha256(f"{VERSION} {graph.directed} {graph.nodes} {options.model_dump_json()}".encode())
    for array in (graph.edges, graph.offsets, graph.weight):
        h.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
    return h.hexdigest()


def encodings(graph: Graph, options: EncodingOptions) -> Float[np.ndarray, "N k"]:
    """As :func:`compute`, found again by content the next time. A cache that cannot be written is done without."""
    if not options.width:
        return np.zeros((graph.nodes, 0), np.float32)
    path = cache_folder() / f"{key_of(graph, options)}.npy"
    try:
        found: Any = np.load(path, allow_pickle=False)
        if found.shape == (graph.nodes, options.width):
            return found
    except (OSError, ValueError):
        pass  # not there, or damaged: computed and written again
    found = compute(graph, options)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        with aside.open("wb") as f:
            np.save(f, found)
        aside.replace(path)
    except OSError:
        pass
    return found
