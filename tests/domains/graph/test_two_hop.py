"""LargeGT's claim: four hops are felt from two-hop operations; and draws that no batch changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from domains.checks import _Folder, check_law, subject
from domains.graph.data import Graph, both_ways
from domains.graph.neighbours import csr
from domains.graph.node import Node
from domains.graph.two_hop import TwoHopNodes, carried, drawn, uniform
from domains.task import Manifest
from shared_backbones.presets import load_preset

SMALL: dict[str, Any] = {
    "simulated": {"nodes": 100, "words": 20}, "two_hop": 8, "baselines": ("mlp",), "baseline_epochs": 2,
}  # fmt: skip


def path_graph(nodes: int = 10) -> Graph:
    edges, _ = both_ways(np.stack([np.arange(nodes - 1), np.arange(1, nodes)]))
    x = np.random.default_rng(0).normal(size=(nodes, 3)).astype(np.float32)
    return Graph(x, edges, False, Manifest("path", ""), target=np.arange(nodes) % 2, classes=("a", "b"))


def test_tokens_are_within_two_hops_and_carry_means() -> None:
    graph = path_graph()
    lists = csr(graph.edges, graph.nodes)
    tokens, there, hop = drawn(lists, np.arange(10), 41, seed=0)
    assert there.all()
    assert hop.tolist() == [0] + [1] * 21 + [2] * 20
    distance = np.abs(tokens - np.arange(10)[:, None])
    assert (distance[:, hop == 1] == 1).all()
    assert np.isin(distance[:, hop == 2], (0, 2)).all()
    assert (distance[:, hop == 2] == 2).any(1).all()
    x = graph.features
    got = carried(graph, lists)
    assert np.allclose(got[4, 3:6], (x[3] + x[5]) / 2, atol=1e-6)
    assert np.allclose(got[4, 6:9], (x[2] + 2 * x[4] + x[6]) / 4, atol=1e-6)


def test_four_hops_are_felt_and_not_five() -> None:
    graph = path_graph()
    task = Node(Node.Config(two_hop=40, scale="none"))
    fitted = {
        "columns": ["a", "b", "c"], "edge_columns": [], "scale": "none", "sparse": False, "mean": [0.0] * 3,
        "std": [1.0] * 3, "edge_mean": [], "edge_std": [], "encodings": {"laplacian": 0}, "encoding_width": 0,
        "classes": ["a", "b"], "target_mean": 0.0, "target_std": 1.0,
    }  # fmt: skip
    torch.manual_seed(0)
    model = task.build(fitted, load_preset("large_gt")).eval()
    zero = np.array([0])
    start = TwoHopNodes(graph, zero, 40, False).outputs(model, zero)
    felt = []
    for far in range(1, 7):
        x = graph.features.copy()
        x[far] += 3.0
        changed = TwoHopNodes(replace(graph, features=x), zero, 40, False).outputs(model, zero)
        felt.append(bool(np.abs(changed - start).max() > 1e-6))
    assert felt == [True, True, True, True, False, False]


def test_draws_depend_on_seed_and_node_alone() -> None:
    nodes = np.array([5, 0, 123_456])
    values = uniform(3, nodes, 6)
    assert np.array_equal(values[1:2], uniform(3, nodes[1:2], 6))
    assert not np.array_equal(values, uniform(4, nodes, 6))
    many = uniform(0, np.arange(20_000), 5)
    assert abs(many.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(many.T) - np.eye(5)).max() < 0.03
    assert np.bincount((many * 10).astype(int).ravel()).min() > 9500


def test_a_node_alone_sees_itself() -> None:
    lists = csr(np.array([[0], [1]]), 3)
    tokens, there, _ = drawn(lists, np.array([0, 1]), 4, seed=0)
    assert there.tolist() == [[True] + [False] * 4, [True, True, True, False, False]]
    assert tokens[1, 1:3].tolist() == [0, 0]
    tokens, there, _ = drawn(csr(np.zeros((2, 0), np.int64), 3), np.array([2]), 4, seed=0)
    assert there.tolist() == [[True, False, False, False, False]]
    assert tokens[0, 0] == 2


@pytest.mark.parametrize("law", ["poison", "build", "loss", "gradients", "evidence", "predict"])
def test_two_hop_nodes_keep_the_laws(law: str) -> None:
    assert check_law(law, subject(Node, Node.Config(**SMALL), preset=load_preset("large_gt")))


def test_a_source_is_predicted(tmp_path: Path) -> None:
    task = Node(Node.Config(**SMALL))
    data = task.open("simulated")
    fitted = task.fit(data, task.split(data))
    model = task.build(fitted, load_preset("large_gt")).eval()
    assert task.predict(model, fitted, "simulated", _Folder(tmp_path))["rows"] == 100
