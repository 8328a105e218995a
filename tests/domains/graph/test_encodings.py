"""Encodings equal dense references, are the same in every run, and are kept by content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.graph import encodings as module
from domains.graph.config import EncodingOptions
from domains.graph.data import Graph, Rules, assemble


def random_graph(n: int, edges: int, seed: int = 0, directed: bool = False, graphs: int = 1) -> Graph:
    rng = np.random.default_rng(seed)
    offsets = np.linspace(0, n, graphs + 1).astype(int)
    home = rng.integers(0, graphs, edges)
    low, high = offsets[home], np.maximum(offsets[home + 1], offsets[home] + 1)
    pairs = np.stack([rng.integers(low, high), rng.integers(low, high)])
    rules = Rules(directed=directed, edgeless=True)
    return assemble("random", np.ones((n, 1), np.float32), pairs, rules, offsets=offsets)


def dense_walks(graph: Graph, steps: int) -> np.ndarray:
    a = np.zeros((graph.nodes, graph.nodes))
    np.add.at(a, (graph.edges[1], graph.edges[0]), 1)
    out = a.sum(0)
    p = a / np.where(out > 0, out, 1)
    power, found = np.eye(graph.nodes), []
    for _ in range(steps):
        power = power @ p
        found.append(np.diag(power).copy())
    return np.stack(found, 1)


@settings(max_examples=15)
@given(
    n=st.integers(2, 60),
    share=st.floats(0, 4),
    steps=st.integers(1, 9),
    directed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_walks_equal_dense_powers(n: int, share: float, steps: int, directed: bool, seed: int) -> None:
    graph = random_graph(n, int(n * share), seed, directed)
    got = module.random_walk_encoding(graph, steps)
    assert np.allclose(got, dense_walks(graph, steps), atol=1e-9)


def test_walks_in_blocks_equal_dense_powers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COLUMNS", 7)
    monkeypatch.setattr(module, "FILLED", 0.0)
    graph = random_graph(50, 120)
    assert np.allclose(module.random_walk_encoding(graph, 8), dense_walks(graph, 8), atol=1e-9)


def test_walks_equal_pyg() -> None:
    transforms = pytest.importorskip("torch_geometric.transforms")
    import torch
    from torch_geometric.data import Data

    graph = random_graph(80, 200)
    data = Data(edge_index=torch.from_numpy(graph.edges), num_nodes=graph.nodes)
    want = transforms.AddRandomWalkPE(6, attr_name="pe")(data).pe.numpy()
    assert np.allclose(module.random_walk_encoding(graph, 6), want, atol=1e-6)


@pytest.mark.parametrize(("dense", "restarts"), [(5, 100), (5, 1), (1000, 100)])
def test_laplacian_columns_are_eigenvectors_of_each_component(
    monkeypatch: pytest.MonkeyPatch, dense: int, restarts: int
) -> None:
    monkeypatch.setattr(module, "DENSE", dense)
    monkeypatch.setattr(module, "RESTARTS", restarts)
    graph = random_graph(90, 400, graphs=2)
    found = module.laplacian_encoding(graph, 4)
    a = module.adjacency(graph).toarray()
    degree = a.sum(1)
    root = np.diag(1 / np.sqrt(np.maximum(degree, 1e-12)))
    laplacian = np.eye(graph.nodes) - root @ a @ root
    for g in range(2):
        part = slice(*graph.offsets[g : g + 2])
        if (degree[part] == 0).any():
            continue
        values = np.linalg.eigvalsh(laplacian[part, part])[1:5]
        v = found[part]
        assert np.allclose(laplacian[part, part] @ v, v * values, atol=1e-6)
        assert np.allclose(v.T @ v, np.eye(4) * len(v), atol=1e-5)


def test_laplacian_is_padded_where_a_component_is_small() -> None:
    graph = assemble("two", np.ones((5, 1), np.float32), np.array([[0, 2, 3], [1, 3, 4]]), Rules())
    found = module.laplacian_encoding(graph, 6)
    assert found.shape == (5, 6)
    assert not found[:2, 1:].any()
    assert found[:2, 0].any()
    assert not found[2:, 2:].any()


def test_distance_is_to_the_own_graphs_anchor() -> None:
    pairs = np.array([[0, 1, 2, 4, 4], [1, 2, 3, 5, 6]])
    graph = assemble("line and star", np.ones((8, 1), np.float32), pairs, Rules(), offsets=np.array([0, 4, 8]))
    assert np.allclose(module.distance_encoding(graph, 1)[:, 0], [1 / 2, 1, 1 / 2, 1 / 3, 1, 1 / 2, 1 / 2, 0])


ALL = EncodingOptions(laplacian=3, random_walk=4, degree=True, distance=2)


def test_two_computations_are_bit_identical() -> None:
    graph = random_graph(500, 1500)
    assert module.compute(graph, ALL).tobytes() == module.compute(graph, ALL).tobytes()


def test_the_second_time_nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = random_graph(40, 100)
    first = module.encodings(graph, ALL)
    monkeypatch.setattr(module, "compute", lambda *_: pytest.fail("computed again"))
    assert np.array_equal(module.encodings(graph, ALL), first)


def test_other_content_is_another_entry_and_a_damaged_one_is_made_again() -> None:
    graph, other = random_graph(40, 100), random_graph(40, 100, seed=1)
    assert module.key_of(graph, ALL) != module.key_of(other, ALL)
    first = module.encodings(graph, ALL)
    (path,) = Path(module.cache_folder()).glob("*.npy")
    path.write_bytes(b"damaged")
    assert np.array_equal(module.encodings(graph, ALL), first)


def test_no_encoding_asks_for_nothing() -> None:
    assert module.encodings(random_graph(9, 9), EncodingOptions()).shape == (9, 0)
