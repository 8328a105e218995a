"""What each graph system claims, on the preset that is its sentence; LargeGT, Todyformer, local augmentation and
Sparse-GIN tuning have files of their own beside this one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from domains.graph.data import Rules, assemble
from domains.graph.encodings import random_walk_encoding
from shared_backbones.backbone import Backbone, Tokens
from shared_backbones.flops import flop_counter
from shared_backbones.layout import Layout
from shared_backbones.mixers import build_mixer
from shared_backbones.mixers.neighborhood import ends
from shared_backbones.presets import load_preset


def both(pairs: Any) -> torch.Tensor:
    """Arcs both ways."""
    way = torch.tensor(pairs).T
    return torch.cat([way, way.flip(0)], 1)


def backbone(preset: str) -> Backbone:
    torch.manual_seed(0)
    return Backbone(load_preset(preset).backbone, Tokens(1, False, frozenset({"edges"}))).double().eval()


def mixer(name: str, dim: int = 16, **options: Any) -> Any:
    torch.manual_seed(0)
    built = build_mixer(name, dim, rank=1, ordered=False, provides=frozenset({"edges", "edge_attr"}), **options)
    return built.double().eval()


def felt(module: Any, n: int, edges: torch.Tensor, at: int = 0, edge_attr: torch.Tensor | None = None) -> list[int]:
    """Nodes whose change is felt at node ``at``."""
    dim = 32 if isinstance(module, Backbone) else 16
    torch.manual_seed(1)
    x = torch.randn(1, n, dim, dtype=torch.float64, requires_grad=True)
    out = module(x, Layout((n,), ordered=False, edges=edges, edge_attr=edge_attr))
    tokens = out[0] if isinstance(out, tuple) else out
    (grad,) = torch.autograd.grad(tokens[0, at].square().sum(), x)
    return (grad[0].abs().amax(-1) > 1e-12).nonzero().flatten().tolist()


def macs(name: str, n: int, **options: Any) -> int:
    """Multiply-adds of one mixer on a graph of degree 4."""
    edges = torch.stack([torch.arange(n).repeat(4), (torch.arange(n).repeat(4) * 7 + 1) % n])
    with flop_counter() as counter, torch.no_grad():
        mixer(name, **options)(torch.randn(1, n, 16, dtype=torch.float64), Layout((n,), ordered=False, edges=edges))
    return counter.get_total_flops()


PATH = both([(i, i + 1) for i in range(9)])


def test_gps_encodings_tell_apart_what_messages_cannot() -> None:
    """A ring of six and two rings of three: equal degrees, so messages alone see no difference; walks do."""
    ring = [(i, (i + 1) % 6) for i in range(6)]
    rings = [(6, 7), (7, 8), (8, 6), (9, 10), (10, 11), (11, 9)]
    graph = assemble("rings", np.ones((12, 1), np.float32), np.array(ring + rings).T, Rules())
    edges = torch.from_numpy(graph.edges)
    net = backbone("graph_gps")
    same = torch.randn(32, dtype=torch.float64).expand(1, 6, 32)
    way = torch.randn(32, dtype=torch.float64)  # as the stem maps an encoding
    halves = [torch.stack([e % 6 for e in edges[:, side]]) for side in (edges[0] < 6, edges[0] >= 6)]

    def read(code: torch.Tensor) -> list[torch.Tensor]:
        each = (code[:6], code[6:])
        return [
            net(same + c[None, :, :1] * way, Layout((6,), ordered=False, edges=e))[0].mean(1)
            for c, e in zip(each, halves, strict=True)
        ]

    plain = read(torch.zeros(12, 1, dtype=torch.float64))
    told = read(torch.from_numpy(random_walk_encoding(graph, 3))[:, 2:])
    torch.testing.assert_close(*plain)
    assert (told[0] - told[1]).abs().max() > 1e-3


def test_gps_with_a_linear_global_mixer_costs_as_many_times_more_as_there_are_nodes() -> None:
    linear = {"inner": [{"mixer": "message"}, {"mixer": "linear"}]}
    square = {"inner": [{"mixer": "message"}, {"mixer": "attention"}]}
    assert macs("parallel", 2048, **linear) == pytest.approx(8 * macs("parallel", 256, **linear), rel=0.02)
    assert macs("parallel", 2048, **square) > 20 * macs("parallel", 256, **square)


def test_edge_states_shape_attention_that_stays_on_the_edges() -> None:
    one = mixer("edge_stream", layers=1, edge_features=3)
    attr = torch.randn(PATH.shape[1], 3, dtype=torch.float64)
    assert felt(one, 10, PATH, 4, attr) == [3, 4, 5]
    two = mixer("edge_stream", layers=2, edge_features=3)
    assert felt(two, 10, PATH, 4, attr) == [2, 3, 4, 5, 6]
    x = torch.randn(1, 10, 16, dtype=torch.float64)
    other = attr.clone()
    other[0] += 1.0  # the arc 0 -> 1
    changed = two(x, Layout((10,), ordered=False, edges=PATH, edge_attr=other)) - two(
        x, Layout((10,), ordered=False, edges=PATH, edge_attr=attr)
    )
    moved = changed[0].abs().amax(-1) > 1e-12
    assert moved[1]
    assert not moved[4:].any()


def test_a_virtual_node_joins_what_no_path_joins_and_stays_linear() -> None:
    apart = both([(0, 1), (1, 2), (3, 4)])
    assert felt(mixer("graph_sum"), 5, apart) == [0, 1]
    assert felt(backbone("graph_virtual_node"), 5, apart) == [0, 1, 2, 3, 4]
    assert macs("virtual_node", 2048) <= 8.2 * macs("virtual_node", 256)


def test_top_attention_reads_m_tokens_wherever_they_stand() -> None:
    far = mixer("top_attention", m=3)
    n = 60
    path = both([(i, i + 1) for i in range(n - 1)])
    found = felt(far, n, path, at=20)
    assert set(found) >= {19, 20, 21}
    assert len(set(found) - {19, 20, 21}) <= 3
    assert any(abs(i - 20) > 5 for i in found)
    assert macs("top_attention", 2048, m=4) == pytest.approx(8 * macs("top_attention", 256, m=4), rel=0.02)


def test_graph_mamba_reads_far_to_near_and_all_nodes_in_both_directions() -> None:
    near = mixer("neighbor_tokens", hops=3)
    assert felt(near, 10, PATH, 4) == [1, 2, 3, 4, 5, 6, 7]
    layout = Layout((10,), ordered=False, edges=PATH)
    x = torch.randn(10, 16, dtype=torch.float64)
    tokens = near.tokens(x, layout)
    assert torch.equal(tokens[:, -1], x)  # the nearest is read last: itself
    assert torch.allclose(tokens[5, -2], (x[4] + x[6]) / 2)
    apart = both([(i, i + 1) for i in range(4)] + [(i, i + 1) for i in range(5, 9)])
    assert felt(backbone("graph_mamba"), 10, apart, at=7) == list(range(10))
    assert macs("ordered", 2048, inner="scan") <= 8.2 * macs("ordered", 256, inner="scan")


def test_hierarchy_puts_like_neighbours_side_by_side_at_every_scale() -> None:
    """Four cliques that a ring joins, their nodes shuffled: each clique is one stretch of the sequence."""
    rng = np.random.default_rng(0)
    place = rng.permutation(24)
    clique = [(place[6 * c + i], place[6 * c + j]) for c in range(4) for i in range(6) for j in range(i)]
    edges = both([(int(a), int(b)) for a, b in clique] + [(int(place[6 * c]), int(place[6 * c - 6])) for c in range(4)])
    home = np.empty(24, int)
    home[place] = np.arange(24) // 6
    centre = 3.0 * torch.eye(16, dtype=torch.float64)[home]
    x = centre + 0.1 * torch.from_numpy(rng.normal(size=(24, 16)))
    layer = mixer("ordered", by="hierarchy", levels=3)
    layout = Layout((24,), ordered=False, edges=edges)
    order: torch.Tensor | None = None
    for key in layer.keys(x[None], layout):
        step = (key if order is None else key.gather(1, order)).argsort(stable=True, dim=-1)
        order = step if order is None else order.gather(1, step)
    assert order is not None
    line = home[order[0].numpy()]
    assert (np.diff(line) != 0).sum() == 3
    merged = [len(torch.unique(k)) for k in layer.hierarchy(x, layer.score(x)[:, 0], ends(layout))]
    assert merged == sorted(merged, reverse=True)
    assert felt(backbone("graph_hierarchy"), 24, edges) == list(range(24))
