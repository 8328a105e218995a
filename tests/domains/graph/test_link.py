"""Links: nothing leaks between parts, negatives are none, similarity scores against plain sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.checks import _Folder
from domains.graph.data import Graph, both_ways
from domains.graph.link import Link
from domains.graph.link_items import LinkItems, allowed, message_graph
from domains.graph.pairs import Similarity, arcs_of, known_links, negatives, pair_table, split_pairs
from domains.graph.ranking import ranks
from domains.task import Manifest
from shared_backbones.errors import BadInput
from shared_backbones.presets import load_preset


def made(nodes: int, pairs: np.ndarray, directed: bool, time: np.ndarray | None = None) -> Graph:
    """A graph from pairs, with random features."""
    edges, (time,) = (pairs, [time]) if directed else both_ways(pairs, time)
    x = np.random.default_rng(0).random((nodes, 3)).astype(np.float32)
    return Graph(x, np.ascontiguousarray(edges), directed, Manifest("made", ""), time=time)


SHAPES = st.tuples(st.integers(12, 25), st.integers(40, 90), st.booleans(), st.integers(0, 999))


def drawn(nodes: int, edges: int, directed: bool, seed: int) -> Graph:
    """A graph with loops, duplicates and, where directed, edges that have their reverse."""
    random = np.random.default_rng(seed)
    pairs = random.integers(0, nodes, (2, edges))
    pairs = np.concatenate([pairs, pairs[::-1, :10], pairs[:, :5]], 1)
    return made(nodes, pairs, directed, random.random(pairs.shape[1]))


@given(SHAPES, st.booleans(), st.integers(0, 9))
@settings(max_examples=40)
def test_no_edge_and_no_reverse_straddles_parts(shape: Any, by_time: bool, seed: int) -> None:
    graph = drawn(*shape)
    split = split_pairs(graph, (0.6, 0.2, 0.2), seed, by_time)
    found = {p: {frozenset(row) for row in split.parts[p].tolist()} for p in split.parts}
    assert len(set.union(*found.values())) == sum(map(len, found.values()))
    rows = [tuple(r) for p in split.parts.values() for r in p.tolist()]
    assert len(set(rows)) == len(rows)
    assert {frozenset(r) for r in rows} == {frozenset(e) for e in graph.edges.T.tolist() if e[0] != e[1]}
    messages = {frozenset(e) for e in message_graph(graph, split).edges.T.tolist()}
    assert not messages & (found["val"] | found["test"])
    assert messages == found["train"]
    if by_time:
        assert graph.time is not None
        first: dict[frozenset[int], float] = {}
        for edge, t in zip(graph.edges.T.tolist(), graph.time, strict=True):
            first[frozenset(edge)] = min(t, first.get(frozenset(edge), np.inf))
        assert max(first[e] for e in found["train"]) <= min(first[e] for e in found["test"])


@given(SHAPES, st.integers(0, 9))
@settings(max_examples=30)
def test_negatives_are_no_known_links_and_training_never_asks_for_test_links(shape: Any, seed: int) -> None:
    graph = drawn(*shape)
    split = split_pairs(graph, (0.6, 0.2, 0.2), seed, False)
    random = np.random.default_rng(seed)
    for part in ("train", "val", "test"):
        others, there = negatives(split.parts[part][:, 0], 5, graph.nodes, allowed(graph, split, part), random)
        parts = {"train": ["train"], "val": ["train", "val"], "test": ["train", "val", "test"]}[part]
        links = {tuple(r) for p in parts for r in split.parts[p].tolist()}
        links |= set() if graph.directed else {(j, i) for i, j in links}
        for i, row, real in zip(split.parts[part][:, 0], others, there, strict=True):
            assert all((int(i), int(j)) not in links and i != j for j in row[real])
    fewer = graph.only_arcs(~arcs_of(graph, split.parts["test"]))
    assert np.array_equal(allowed(fewer, split, "val"), allowed(graph, split, "val"))


def test_a_hub_without_any_other_node_has_no_negative() -> None:
    pairs = np.array([[0, 1], [0, 2], [0, 3]])
    graph = made(4, pairs.T, False)
    others, there = negatives(np.array([0, 1]), 3, 4, known_links(graph, pairs), np.random.default_rng(0))
    assert not there[0].any()
    assert there[1].all()
    assert set(others[1].tolist()) <= {2, 3}


@given(SHAPES)
@settings(max_examples=20)
def test_similarity_scores_are_those_of_plain_sets(shape: Any) -> None:
    graph = drawn(*shape)
    near: list[set[int]] = [set() for _ in range(graph.nodes)]
    for i, j in graph.edges.T.tolist():
        if i != j:
            near[i].add(j)
            near[j].add(i)
    pairs = np.stack(np.triu_indices(graph.nodes, 1), 1)
    got = Similarity.of(graph).scores(pairs)
    x = graph.features.astype(np.float64)
    for (i, j), row in zip(pairs.tolist(), got, strict=True):
        common = near[i] & near[j]
        own = int(j in near[i])
        want = [
            len(common),
            sum(1 / np.log(len(near[k])) for k in common),
            sum(1 / len(near[k]) for k in common),
            (len(near[i]) - own) * (len(near[j]) - own),
            x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j]),
        ]
        assert np.allclose(row, want)
    assert Similarity.of(graph).edge_bank(pairs).tolist() == [float(j in near[i]) for i, j in pairs.tolist()]


def test_ranks_give_a_constant_score_the_middle() -> None:
    there = np.array([[True, True, True], [True, True, False]])
    rank, below = ranks(np.zeros(2), np.zeros((2, 3)), there)
    assert rank.tolist() == [2.5, 2.0]
    assert below.tolist() == [0.5, 0.5]
    rank, below = ranks(np.array([1.0, 5.0]), np.array([[2.0, 1.0, 0.0], [4.0, 3.0, 9.0]]), there)
    assert rank.tolist() == [2.5, 1.0]
    assert below[1] == 1.0


def subject(**options: Any) -> tuple[Link, Any, Any, Any]:
    task = Link(Link.Config(**{"simulated": {"nodes": 150, "words": 30}, "negatives": 10, **options}))
    data = task.open("simulated")
    split = task.split(data)
    return task, data, split, task.fit(data, split)


def test_a_training_batch_does_not_pass_messages_along_its_own_links() -> None:
    task, data, split, fitted = subject()
    items: LinkItems = task.items(data, split, fitted, "train")
    torch.manual_seed(0)
    batch = items.batch([3, 4, 5])
    links = {frozenset(row) for row in split.parts["train"][[3, 4, 5]].tolist()}
    assert not links & {frozenset(e) for e in batch["edges"].T.tolist()}
    assert batch["edges"].shape[1] == items.train.arcs - 6
    assert task.items(data, split, fitted, "val").batch([0])["edges"].shape[1] == items.train.arcs


def test_audits_find_a_leak() -> None:
    task, data, split, _ = subject()
    assert all(a.passed is not False for a in task.audit(data, split))
    leaky = dict(split.parts)
    leaky["train"] = np.concatenate([leaky["train"], leaky["test"][:3, ::-1]])
    found = {a.name: a for a in task.audit(data, type(split)(split.protocol, leaky))}
    assert found["links or their reverses in two parts"].value == 3
    assert found["links or their reverses in two parts"].passed is False


def test_the_share_of_the_network_is_chosen_on_validation() -> None:
    task, data, split, fitted = subject()
    torch.manual_seed(0)
    model = task.build(fitted, load_preset("graph_link"))
    task.initialise(model, data, split)
    task.calibrate(model, data, split, fitted)
    start = task.metrics(task.evidence(model, data, split, fitted, "val"))["mrr"]
    model.gate.fill_(1.0)
    assert task.metrics(task.evidence(model, data, split, fitted, "val"))["mrr"] <= start


def test_predicted_links_are_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, data, _, fitted = subject(top=3)
    model = task.build(fitted, load_preset("graph_link")).eval()
    known = {frozenset(e) for e in data.edges.T.tolist()}
    for most in (3000, 10):  # every pair; within two hops
        monkeypatch.setattr("domains.graph.link_predicting.ALL_PAIRS", most)
        facts = task.predict(model, fitted, "simulated", _Folder(tmp_path))
        table = pd.read_csv(tmp_path / "links.csv")
        assert facts["links"] == len(table)
        assert not known & {frozenset(row) for row in table[["source", "target"]].to_numpy().tolist()}
        assert (table["source"] != table["target"]).all()
        assert table.groupby("source").size().max() <= 3
    assert facts["candidates"] == "pairs within two hops"


def test_bad_input_is_refused() -> None:
    with pytest.raises(BadInput, match="without edges"):
        split_pairs(made(5, np.zeros((2, 0), np.int64), True), (0.8, 0.1, 0.1), 0, False)
    few = made(5, np.array([[0, 1, 2], [1, 2, 3]]), True)
    with pytest.raises(BadInput, match="3 edges are too few"):
        split_pairs(few, (0.8, 0.1, 0.1), 0, False)
    with pytest.raises(BadInput, match="needs a time"):
        split_pairs(few, (0.3, 0.35, 0.35), 0, True)
    task, data, split, fitted = subject()
    model = task.build(fitted, load_preset("graph_link"))
    with pytest.raises(BadInput, match="links of the test part are no edges"):
        task.evidence(model, task.poison(data, split), split, fitted, "test")
    assert len(pair_table(data)[0]) == sum(map(len, split.parts.values()))
