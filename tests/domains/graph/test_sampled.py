"""graph/node on sampled neighbourhoods and on parts: equal to the whole graph where it should be."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from domains.checks import _Folder, check_law, subject
from domains.graph.data import read_graph
from domains.graph.data.assemble import Rules
from domains.graph.data.tables import Schema
from domains.graph.figures import influence
from domains.graph.node import Node
from domains.graph.sampled import PartNodes, SampledNodes, all_outputs
from domains.task import PARTS
from shared_backbones.errors import BadInput, BadRequest
from shared_backbones.presets import adjust, load_preset

SIZE: dict[str, Any] = {"simulated": {"nodes": 120, "words": 20}, "baselines": ("mlp",), "baseline_epochs": 2}
SAGE = load_preset("graph_sage")


def made(**options: Any) -> tuple[Any, ...]:
    task = Node(Node.Config(**{**SIZE, **options}))
    data = task.open("simulated")
    split = task.split(data)
    fitted = task.fit(data, split)
    torch.manual_seed(0)
    return task, data, split, fitted, task.build(fitted, SAGE).eval()


@pytest.mark.parametrize("options", [{"sample": (3, 2)}, {"part_nodes": 20}, {"sample": (-1,), "split": {"seed": 1}}])
def test_scores_are_those_of_the_whole_graph(options: dict[str, Any]) -> None:
    whole = Node(Node.Config(**SIZE, split=options.get("split", {})))
    task, data, split, fitted, model = made(**options)
    with torch.no_grad():
        want = whole.evidence(model, data, split, fitted, "test")
        got = task.evidence(model, data, split, fitted, "test")
    assert np.allclose(got.columns["nll"], want.columns["nll"], atol=1e-5)


def test_what_weighs_is_the_same_in_a_piece_and_within_reach_of_two_hops() -> None:
    task, data, split, fitted, model = made(sample=(-1, -1))
    pieces, whole = (t.items(data, split, fitted, "test") for t in (task, Node(Node.Config(**SIZE))))
    members = pieces.members(5)
    assert members[0] == split.parts["test"][5]
    got = np.bincount(members, influence(model, pieces.batch([5])), minlength=data.nodes)
    assert np.allclose(got, influence(model, whole.batch([5])), atol=1e-6)
    two = Node(Node.Config(**SIZE, two_hop=8))
    reads = two.build(fitted, load_preset("large_gt")).eval()
    items = two.items(data, split, fitted, "test")
    near = data.edges[0][data.edges[1] == items.members(5)[0]]
    within = {int(items.members(5)[0]), *near.tolist(), *data.edges[0][np.isin(data.edges[1], near)].tolist()}
    assert set(items.members(5).tolist()) <= within
    scored = {"model": two.evidence(reads, data, split, fitted, "test")}
    assert "What weighs for one node" in two.figures(reads, data, split, fitted, scored)


def test_all_neighbours_train_as_the_whole_graph_does() -> None:
    task, data, split, fitted, model = made(sample=(-1, -1))
    whole = Node(Node.Config(**SIZE))
    rows = list(range(10))
    losses = [
        t.loss(model, t.items(data, split, fitted, part).batch(rows))[0]
        for part in ("train", "val")
        for t in (task, whole)
    ]
    assert torch.allclose(losses[0], losses[1], atol=1e-5)
    assert torch.allclose(losses[2], losses[3], atol=1e-5)


@pytest.mark.parametrize("law", ["poison", "build", "loss", "gradients", "predict"])
def test_sampled_nodes_keep_the_laws(law: str) -> None:
    of = subject(Node, Node.Config(**SIZE, sample=(4, 3)), preset=SAGE)
    assert check_law(law, of)


def test_a_draw_follows_the_random_state() -> None:
    task, data, split, fitted, _ = made(sample=(2, 2))
    items = task.items(data, split, fitted, "train")
    assert isinstance(items, SampledNodes)
    edges = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        edges.append(items.batch(range(8))["edges"])
    assert torch.equal(edges[0], edges[1])
    assert edges[0].shape != edges[2].shape or not torch.equal(edges[0], edges[2])


def test_parts_train_every_node_once_an_epoch() -> None:
    task, data, split, fitted, model = made(part_nodes=20)
    items = task.items(data, split, fitted, "train")
    assert isinstance(items, PartNodes)
    batches = [items.batch([i]) for i in range(len(items))]
    assert sum(len(b["target"]) for b in batches) == len(split.parts["train"])
    both = items.batch([0, 1])
    assert both["x"].shape[1] == batches[0]["x"].shape[1] + batches[1]["x"].shape[1]
    assert both["edges"].shape[1] >= batches[0]["edges"].shape[1] + batches[1]["edges"].shape[1]
    loss, weight = task.loss(model, both)
    assert float(weight) == len(both["target"])
    loss.backward()


def test_what_is_scored_on_samples_says_so() -> None:
    task, data, _, _, model = made(sample=(3, 2))
    place = np.zeros((data.nodes, 0), np.float32)
    assert all_outputs(model, data, place, (3, 2))[1] == "all neighbours, layer by layer"
    torch.manual_seed(0)
    mixed = Node(task.config).build(task.fit(data, task.split(data)), adjust(SAGE, mixer="linear")).eval()
    with pytest.MonkeyPatch.context() as patch:
        assert all_outputs(mixed, data, place, (3, 2))[1] == "the whole graph at once"
        patch.setattr("domains.graph.sampled.MOST_QUADRATIC", 10)
        out, how = all_outputs(mixed, data, place, (3, 2))
    assert how == "sampled neighbourhoods, not all neighbours"
    assert out.shape == (data.nodes, len(data.classes))


def test_memory_is_said_and_refused_before_training(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, data, split, _, model = made(sample=(3, 2))
    logging.getLogger("cambium.train").propagate = True
    with caplog.at_level(logging.INFO, "cambium.train"):
        task.initialise(model, data, split)
    assert "memory: " in caplog.text
    monkeypatch.setattr("domains.graph.sampled.free_memory", lambda: 1000)
    with pytest.raises(BadRequest, match="training would need"):
        task.initialise(model, data, split)


def test_contradicting_options_are_refused() -> None:
    with pytest.raises(ValueError, match="set one of them"):
        Node.Config(sample=(3,), part_nodes=5)
    with pytest.raises(ValueError, match="at least 1"):
        Node.Config(sample=(0,))


def folder_of(path: Path, **instead: Any) -> Path:
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "features": random.normal(size=(50, 4)).astype(np.float32),
        "edges": random.integers(0, 50, (2, 150)),
        "target": random.integers(0, 3, 50),
        "split": np.repeat([0, 1, 2, -1, 0], 10),
    }
    for name, array in {**arrays, **instead}.items():
        np.save(path / f"{name}.npy", array)
    return path


def test_a_folder_of_arrays_stays_on_disk_and_is_predicted(tmp_path: Path) -> None:
    source = str(folder_of(tmp_path))
    task = Node(Node.Config(sample=(3, 2), scale="standard"))
    data = task.open(source)
    assert isinstance(data.features, np.memmap)
    split = task.split(data)
    assert [len(split.parts[p]) for p in PARTS] == [20, 10, 10]
    fitted = task.fit(data, split)
    assert np.allclose(fitted["mean"], data.features[split.parts["train"]].mean(0), atol=1e-6)
    model = task.build(fitted, SAGE).eval()
    (tmp_path / "out").mkdir()
    task.predict(model, fitted, source, _Folder(tmp_path / "out"))
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 50


@pytest.mark.parametrize(
    ("instead", "says"),
    [
        ({"edges": np.array([[0, 1], [1, 99]])}, r"edge 1 names node 99"),
        ({"edges": np.zeros((3, 5), np.int64)}, r"two ends per edge"),
        ({"edges": np.zeros((2, 5))}, r"edges\.npy: holds float64, and whole numbers"),
        ({"target": np.zeros(9, np.int64)}, r"target\.npy: shape \(9,\), and one number for each of 50 nodes"),
        ({"weight": np.ones(7)}, r"7 rows of edge weights for 150 edges"),
        ({"features": np.full((50, 4), np.nan, np.float32)}, r"feature 0 of node 0 is nan"),
    ],
)
def test_bad_arrays_are_refused(tmp_path: Path, instead: dict[str, Any], says: str) -> None:
    folder = folder_of(tmp_path, **instead)
    with pytest.raises(BadInput, match=says):
        read_graph(folder, Schema(), Rules())
