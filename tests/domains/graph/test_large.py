"""Sampled and layer-wise passes against the whole graph in one batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from domains.graph.large import blocks_of, is_local, pieces_of, reach, sampled_tokens, whole_graph
from domains.graph.neighbours import csr
from domains.graph.sampling import Sampler
from shared_backbones.backbone import Backbone, BackboneSpec, LayerSpec, StageSpec, Tokens
from shared_backbones.errors import BadRequest
from shared_backbones.layout import Layout
from shared_backbones.mixers import MIXERS, build_mixer

TOKENS = Tokens(rank=1, ordered=False, provides=frozenset({"edges"}))


def backbone(*mixers: str, dim: int = 8) -> Backbone:
    torch.manual_seed(0)
    layers = tuple(LayerSpec(m, {"inner": ("message", "identity")} if m == "parallel" else {}) for m in mixers)
    return Backbone(BackboneSpec((StageSpec(dim, layers),)), TOKENS).eval()


def graph(nodes: int = 60, arcs: int = 240, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(0, nodes, (2, arcs)), random.normal(size=(nodes, 8)).astype(np.float32)


LOCAL = [("message", "message"), ("parallel", "identity", "message")]
if "graph_convolution" in MIXERS:
    LOCAL += [("graph_convolution", "graph_sum"), ("hops", "message")]


@pytest.mark.parametrize("mixers", LOCAL, ids=" ".join)
def test_layer_by_layer_is_the_whole_graph(mixers: tuple[str, ...]) -> None:
    edges, x = graph()
    net, stem, head = backbone(*mixers), nn.Linear(8, 8), nn.Linear(8, 3)
    with torch.no_grad():
        layout = Layout((60,), ordered=False, edges=torch.from_numpy(edges))
        want = head(net(stem(torch.from_numpy(x))[None], layout)[0][0]).numpy()
    for memory in (2**30, 0):  # tables in memory, and in files
        got = whole_graph(
            lambda at: stem(torch.from_numpy(x[at])), net, head, csr(edges, 60), rows=7, arcs=20, memory=memory
        )
        assert np.allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("mixers", LOCAL, ids=" ".join)
def test_full_neighbourhoods_give_the_seeds_what_the_whole_graph_gives(mixers: tuple[str, ...]) -> None:
    edges, x = graph()
    net = backbone(*mixers)
    hops = sum(reach(block.mix.inner) or 0 for block in blocks_of(net))  # type: ignore[arg-type]
    seeds = np.array([5, 59, 0])
    sample = Sampler(csr(edges, 60), [-1] * hops).sample(seeds, np.random.default_rng(0))
    with torch.no_grad():
        layout = Layout((60,), ordered=False, edges=torch.from_numpy(edges))
        want = net(torch.from_numpy(x)[None], layout)[0][0, seeds]
        got = sampled_tokens(net, torch.from_numpy(x[sample.n_id]), sample)
    assert torch.allclose(got, want, atol=1e-5)


def test_sampled_training_gives_gradients_to_all_blocks() -> None:
    edges, x = graph()
    net = backbone("message", "message", "message").train()
    sample = Sampler(csr(edges, 60), [3, 2]).sample(np.arange(10), np.random.default_rng(0))  # fewer hops than blocks
    sampled_tokens(net, torch.from_numpy(x[sample.n_id]), sample).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_a_global_mixer_is_refused_layer_by_layer() -> None:
    edges, x = graph()
    net = backbone("message", "attention")
    assert not is_local(net)
    with pytest.raises(BadRequest, match="reads all nodes"):
        whole_graph(lambda at: torch.from_numpy(x[at]), net, nn.Identity(), csr(edges, 60))
    sample = Sampler(csr(edges, 60), [-1]).sample(np.arange(4), np.random.default_rng(0))
    assert sampled_tokens(net, torch.from_numpy(x[sample.n_id]), sample).shape == (4, 8)


def test_reach_of_sentences() -> None:
    assert reach(build_mixer("serial", 8, inner=["message", "message"])) == 2
    assert reach(build_mixer("parallel", 8, inner=["message", "identity"])) == 1
    assert reach(build_mixer("parallel", 8, inner=["message", "virtual_node"])) is None


def test_pieces_are_bounded_and_cover_all() -> None:
    edges, _ = graph(40, 300)
    whole = csr(edges, 40)
    pieces = list(pieces_of(whole, rows=9, arcs=25))
    assert np.concatenate(pieces).tolist() == list(range(40))
    assert all(len(p) <= 9 and (len(p) == 1 or whole.degree[p].sum() <= 25) for p in pieces)
