"""Local augmentation's claim: what is drawn looks as the neighbours of a node do, anew at every step."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from domains.checks import check_law, subject
from domains.graph import augment
from domains.graph.augment import NeighbourFeatures, disagreement, fit_neighbours
from domains.graph.graphs import Graphs
from domains.graph.node import Node
from domains.graph.simulate import citations, molecules
from shared_backbones.errors import BadRequest
from shared_backbones.presets import load_preset

PRESET = load_preset("graph_local_augmentation")
SMALL: dict[str, Any] = {"simulated": {"nodes": 100, "words": 20}, "baselines": (), "baseline_epochs": 2}


def test_draws_are_of_the_neighbours_of_a_node() -> None:
    """A planted law: a neighbour's features are the node's own, mirrored, with noise of deviation 0.5."""
    rng = np.random.default_rng(0)
    own = rng.normal(size=(400, 6)).astype(np.float32)
    mirrored = (-own + 0.5 * rng.normal(size=own.shape)).astype(np.float32)
    edges = np.stack([np.arange(400, 800), np.arange(400)])  # the mirrored one is felt at the node
    graph = replace(citations({"nodes": 60}), features=np.concatenate([own, mirrored]), edges=edges)
    torch.manual_seed(0)
    generator = NeighbourFeatures(6, 4)
    fit_neighbours(generator, lambda x: x, graph)
    fresh = torch.from_numpy(rng.normal(size=(300, 6)).astype(np.float32))
    with torch.no_grad():
        mean = generator.eval().draw(generator.centre(fresh))
        draws = torch.stack([generator.train().draw(generator.centre(fresh)) for _ in range(20)])
    assert float((mean + fresh).square().mean()) < 0.25  # 1 for a generator that does not look at the node
    assert torch.corrcoef(torch.stack([draws.flatten(), -fresh.expand_as(draws).flatten()]))[0, 1] > 0.8
    assert not any(p.requires_grad for p in generator.parameters())


def test_fitting_does_not_follow_the_random_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "STEPS", 5)
    torch.manual_seed(0)
    first = NeighbourFeatures(20, 4)
    second = copy.deepcopy(first)
    graph = citations({"nodes": 60, "words": 20})
    fit_neighbours(first, lambda x: x, graph)
    state = torch.get_rng_state()
    torch.rand(5)
    fit_neighbours(second, lambda x: x, graph)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(torch.get_rng_state(), state)  # the draw above alone moved it


def test_anew_in_training_and_at_the_mean_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "STEPS", 5)
    model = subject(Node, Node.Config(**SMALL), preset=PRESET).model
    task = Node(Node.Config(**SMALL))
    data = task.open("simulated")
    split = task.split(data)
    inputs = task.items(data, split, task.fit(data, split), "train").batch([0, 1, 2])
    model.stem.options = {**model.stem.options, "input_dropout": 0.0, "dropout": 0.0}
    assert torch.equal(model.eval().embedding(inputs), model.embedding(inputs))
    assert not torch.equal(model.train().embedding(inputs), model.embedding(inputs))


def test_agreement_is_what_sharpens() -> None:
    one = torch.tensor([[[4.0, 0.0]], [[4.0, 0.0]]])
    apart = torch.tensor([[[4.0, 0.0]], [[0.0, 4.0]]])
    assert disagreement(one) < 0.01 < disagreement(apart)


@pytest.mark.parametrize("law", ["poison", "build", "loss", "gradients"])
def test_augmented_nodes_keep_the_laws(law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "STEPS", 5)
    assert check_law(law, subject(Node, Node.Config(**SMALL), preset=PRESET))


def test_graphs_refuse_it() -> None:
    task = Graphs(Graphs.Config())
    graph = molecules({"graphs": 30})
    with pytest.raises(BadRequest, match=r"model.augment draws features of neighbours for graph/node"):
        task.build(task.fit(graph, task.split(graph)), PRESET)
