"""Parts of a graph, and features that stay on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domains.graph.neighbours import csr
from domains.graph.partition import both_ways, cut_share, part_batches, partition
from domains.graph.store import moments, open_rows, rows_of, write_rows
from shared_backbones.errors import BadInput, BadRequest


def clusters(count: int = 8, size: int = 25, seed: int = 0) -> np.ndarray:
    """Edges of dense clusters with few edges between them."""
    random = np.random.default_rng(seed)
    inside = random.integers(0, size, (2, count * size * 4)) + np.repeat(np.arange(count), size * 4) * size
    between = random.integers(0, count * size, (2, count * size // 10))
    return random.permutation(count * size)[np.concatenate([inside, between], 1)]


@given(st.integers(1, 30), st.integers(0, 60), st.integers(1, 9), st.sampled_from(["bfs", "labels"]), st.integers(0, 9))
def test_parts_cover_every_node_once_and_are_of_bounded_size(
    nodes: int, edges: int, size: int, method: str, seed: int
) -> None:
    graph = csr(both_ways(np.random.default_rng(seed).integers(0, nodes, (2, edges))), nodes)
    part = partition(graph, size, method, seed)  # type: ignore[arg-type]
    assert part.shape == (nodes,)
    counts = np.bincount(part)
    assert counts.min() >= 1
    assert counts.max() <= max(size, int(1.1 * size))
    assert np.array_equal(part, partition(graph, size, method, seed))  # type: ignore[arg-type]
    batches = list(part_batches(graph, part, 2, seed))
    assert sorted(np.concatenate([b.n_id for b in batches]).tolist()) == list(range(nodes))
    seen = sum(len(b.e_id) for b in part_batches(graph, part, 1, seed))
    assert seen == round((1 - cut_share(graph, part)) * 2 * edges)


@pytest.mark.parametrize("method", ["bfs", "labels"])
def test_parts_follow_clusters(method: str) -> None:
    graph = csr(both_ways(clusters()), 200)
    by_chance = cut_share(graph, np.random.default_rng(0).permutation(np.repeat(np.arange(8), 25)))
    share = cut_share(graph, partition(graph, 25, method))  # type: ignore[arg-type]
    assert share < 0.55 * by_chance
    if method == "labels":
        assert share < cut_share(graph, partition(graph, 25, "bfs"))


def test_a_part_of_nothing_is_refused() -> None:
    with pytest.raises(BadRequest, match="size of 0"):
        partition(csr(np.zeros((2, 0), np.int64), 3), 0)


def test_rows_on_disk_are_those_in_memory(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(3, 2, (500, 7)).astype(np.float32)
    path = write_rows(tmp_path / "x.npy", (x[i : i + 64] for i in range(0, 500, 64)), 500, 7)
    store = open_rows(path)
    assert isinstance(store, np.memmap)
    nodes = np.array([499, 3, 3, 0, 77])
    assert np.array_equal(rows_of(store, nodes), x[nodes])
    mean, std = moments(store, np.arange(100, 400))
    assert np.allclose(mean, x[100:400].mean(0, dtype=np.float64), rtol=1e-9)
    assert np.allclose(std, x[100:400].astype(np.float64).std(0), rtol=1e-9)
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]


def test_bad_features_are_named(tmp_path: Path) -> None:
    x = np.zeros((5, 2), np.float32)
    x[3, 1] = np.nan
    with pytest.raises(BadInput, match="feature 1 of node 3 is nan"):
        moments(x, np.arange(5))
    with pytest.raises(BadInput, match="expected 6 rows"):
        write_rows(tmp_path / "a.npy", [x], 6, 2)
    assert not list(tmp_path.iterdir())
    np.save(tmp_path / "b.npy", np.arange(3))
    with pytest.raises(BadInput, match=r"b\.npy.*int64"):
        open_rows(tmp_path / "b.npy")
    np.save(tmp_path / "c.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(BadInput, match=r"c\.npy"):
        open_rows(tmp_path / "c.npy")
