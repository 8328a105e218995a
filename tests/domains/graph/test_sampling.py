"""Laws of sampled neighbourhoods, each against a search written plainly."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domains.graph.neighbours import before, csr, draw
from domains.graph.sampling import Sampled, Sampler, induced, shuffled
from shared_backbones.errors import BadInput, BadRequest


@st.composite
def graphs(draw_: Any) -> tuple[int, np.ndarray, np.ndarray]:
    """Nodes, edges (loops and duplicates too) and times with ties."""
    nodes = draw_(st.integers(1, 12))
    pairs = draw_(st.lists(st.tuples(*[st.integers(0, nodes - 1)] * 2), max_size=40))
    times = draw_(st.lists(st.integers(0, 6), min_size=len(pairs), max_size=len(pairs)))
    return nodes, np.array(pairs, np.int64).reshape(-1, 2).T, np.array(times, np.float64)


fanouts = st.lists(st.integers(-1, 4), min_size=1, max_size=3)


def hops(edges: np.ndarray, seeds: np.ndarray, k: int) -> list[set[int]]:
    """Nodes within 0, 1, ... k steps against the edges."""
    found = [set(seeds.tolist())]
    for _ in range(k):
        found.append(found[-1] | {int(s) for s, t in edges.T if int(t) in found[-1]})
    return found


def check_shape(got: Sampled, edges: np.ndarray, seeds: np.ndarray, limits: list[int]) -> None:
    assert got.batch_size == len(seeds)
    assert got.n_id[: len(seeds)].tolist() == seeds.tolist()
    assert sum(got.num_sampled_nodes) == len(got.n_id)
    assert sum(got.num_sampled_edges) == len(got.e_id)
    assert np.array_equal(edges[:, got.e_id], got.n_id[got.edge_index])  # every edge is that edge of the graph
    bounds = np.cumsum((0, *got.num_sampled_nodes))
    at = np.cumsum((0, *got.num_sampled_edges))
    for hop, limit in enumerate(limits):
        sources, targets = got.edge_index[:, at[hop] : at[hop + 1]]
        assert ((targets >= bounds[hop]) & (targets < bounds[hop + 1])).all()  # an edge points to the hop before
        assert (sources < bounds[hop + 2]).all()
        if limit >= 0:
            assert max(Counter(targets.tolist()).values(), default=0) <= limit


@given(graphs(), fanouts, st.integers(0, 99), st.data())
def test_a_sample_is_a_part_of_the_graph(graph: Any, limits: list[int], seed: int, data: Any) -> None:
    nodes, edges, _ = graph
    seeds = np.array(data.draw(st.lists(st.integers(0, nodes - 1), unique=True, min_size=1)))
    sampler = Sampler(csr(edges, nodes), limits)
    got = sampler.sample(seeds, np.random.default_rng(seed))
    check_shape(got, edges, seeds, limits)
    assert len(set(got.n_id.tolist())) == len(got.n_id)
    assert len(set(got.e_id.tolist())) == len(got.e_id)  # without replacement
    degree = np.bincount(edges[1], minlength=nodes)
    drawn = Counter(got.n_id[got.edge_index[1]].tolist())
    first = limits[0]
    assert all(drawn[int(s)] == (degree[s] if first < 0 else min(degree[s], first)) for s in seeds)
    again = sampler.sample(seeds, np.random.default_rng(seed))
    assert np.array_equal(again.e_id, got.e_id)
    assert np.array_equal(again.n_id, got.n_id)


@given(graphs(), st.integers(1, 3), st.data())
def test_full_fanout_is_the_k_hop_subgraph(graph: Any, k: int, data: Any) -> None:
    nodes, edges, _ = graph
    seeds = np.array(data.draw(st.lists(st.integers(0, nodes - 1), unique=True, min_size=1)))
    whole = csr(edges, nodes)
    got = Sampler(whole, [-1] * k).sample(seeds, np.random.default_rng(0))
    within = hops(edges, seeds, k)
    assert set(got.n_id.tolist()) == within[k]
    reached = within[k - 1]  # whose incoming edges a k-layer model reads
    assert sorted(got.e_id.tolist()) == [i for i, (_, t) in enumerate(edges.T) if int(t) in reached]
    both = induced(whole, got.n_id)
    assert sorted(both.e_id.tolist()) == [i for i, (s, t) in enumerate(edges.T) if {int(s), int(t)} <= within[k]]
    assert np.array_equal(edges[:, both.e_id], both.n_id[both.edge_index])


@given(graphs(), fanouts, st.sampled_from(["uniform", "last"]), st.integers(0, 99), st.data())
def test_no_edge_of_the_future(graph: Any, limits: list[int], which: Any, seed: int, data: Any) -> None:
    nodes, edges, times = graph
    seeds = np.array(data.draw(st.lists(st.integers(0, nodes - 1), min_size=1, max_size=5)))
    at = np.array(data.draw(st.lists(st.integers(0, 7), min_size=len(seeds), max_size=len(seeds))), np.float64)
    got = Sampler(csr(edges, nodes, times), limits, which).sample_before(seeds, at, np.random.default_rng(seed))
    check_shape(got, edges, seeds, limits)
    assert got.batch is not None
    owner = got.batch[got.edge_index]
    assert np.array_equal(owner[0], owner[1])  # neighbourhoods never mix
    assert (times[got.e_id] < at[owner[0]]).all()
    pairs = list(zip(got.batch.tolist(), got.n_id.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    for i, (node, now) in enumerate(zip(seeds, at, strict=True)):
        past = np.flatnonzero((edges[1] == node) & (times < now))
        mine = got.e_id[: got.num_sampled_edges[0]][got.edge_index[1, : got.num_sampled_edges[0]] == i]
        assert set(mine.tolist()) <= set(past.tolist())
        assert len(mine) == (len(past) if limits[0] < 0 else min(len(past), limits[0]))
        if which == "last" and len(mine):
            assert times[mine].min() >= np.delete(times[past], np.searchsorted(past, np.sort(mine))).max(initial=-1)


@given(graphs(), st.data())
def test_before_counts_what_is_earlier(graph: Any, data: Any) -> None:
    nodes, edges, times = graph
    asked = np.array(data.draw(st.lists(st.integers(0, nodes - 1), min_size=1)))
    at = np.array(data.draw(st.lists(st.integers(0, 7), min_size=len(asked), max_size=len(asked))), np.float64)
    got = before(csr(edges, nodes, times), asked, at)
    assert got.tolist() == [int(((edges[1] == n) & (times < t)).sum()) for n, t in zip(asked, at, strict=True)]


@pytest.mark.parametrize(("degree", "fanout"), [(7, 3), (80, 70)])
def test_every_neighbour_is_drawn_equally_often(degree: int, fanout: int) -> None:
    row, place = draw(np.full(4000, degree), fanout, np.random.default_rng(1))
    assert len(row) == 4000 * fanout
    assert (np.diff(place)[np.diff(row) == 0] > 0).all()
    share = np.bincount(place, minlength=degree) / 4000
    assert abs(share - fanout / degree).max() < 5 * np.sqrt(fanout / degree * (1 - fanout / degree) / 4000)


def test_epochs_hold_every_node_once_and_are_repeatable() -> None:
    first = [seeds.tolist() for seeds, _ in shuffled(np.arange(10), 4, seed=3)]
    assert [len(b) for b in first] == [4, 4, 2]
    assert sorted(node for batch in first for node in batch) == list(range(10))
    assert first == [seeds.tolist() for seeds, _ in shuffled(np.arange(10), 4, seed=3)]
    assert first != [seeds.tolist() for seeds, _ in shuffled(np.arange(10), 4, seed=3, epoch=1)]


def test_bad_requests_say_what_is_wrong() -> None:
    edges = np.array([[0, 1, 9, 2], [1, 2, 0, 7]])
    with pytest.raises(BadInput, match=r"2 of 4 edges name an unknown node; the first is edge 2: 9 -> 0, .* 0 to 2"):
        csr(edges, 3)
    graph = csr(edges[:, :2], 3)
    sampler = Sampler(graph, [2])
    with pytest.raises(BadRequest, match="1 of 3 seeds"):
        sampler.sample(np.array([1, 1, 2]), np.random.default_rng(0))
    assert sampler.sample(np.array([2, 1]), np.random.default_rng(0)).n_id.tolist() == [2, 1, 0]  # and goes on
    with pytest.raises(BadRequest, match="has none"):
        sampler.sample_before(np.array([1]), np.array([1.0]), np.random.default_rng(0))
    with pytest.raises(BadRequest, match="has none"):
        Sampler(graph, [2], "last")
    with pytest.raises(BadRequest, match="at least one"):
        Sampler(graph, [])
    with pytest.raises(BadRequest, match="-1 for all"):
        draw(np.array([3]), -2, np.random.default_rng(0))
