"""The memory estimate: what it counts, and that it refuses in time."""

from __future__ import annotations

import pytest

from domains.graph.budget import budget, free_memory, refuse_beyond, sampled_size
from shared_backbones.backbone import Backbone, BackboneSpec, LayerSpec, StageSpec, Tokens
from shared_backbones.errors import BadRequest


def backbone() -> Backbone:
    tokens = Tokens(rank=1, ordered=False, provides=frozenset({"edges"}))
    return Backbone(BackboneSpec((StageSpec(16, (LayerSpec("message"),) * 2),)), tokens)


def test_a_sample_is_bounded_by_fan_outs_degrees_and_the_graph() -> None:
    assert sampled_size(10**6, 10**7, 100, [5, 2]) == (100 + 500 + 1000, 1500)
    assert sampled_size(10**6, 10**7, 100, [-1, 50]) == (100 + 1000 + 10_000, 11_000)
    assert sampled_size(50, 100, 100, [-1, -1]) == (50, 100)


def test_the_whole_graph_grows_with_it_and_a_sample_does_not() -> None:
    net = backbone()
    small, large = budget(10**4, 10**5, 10, net), budget(10**6, 10**7, 10, net)
    assert 90 < large.step / small.step < 110
    few = budget(10**6, 10**7, 10, net, seeds=100, fanouts=[5, 2])
    assert few.step < large.step / 100
    assert few.features == large.features == 4 * 10**7
    assert "1600 nodes and 1500 arcs" in str(few)


def test_what_cannot_fit_is_refused_with_a_way_out() -> None:
    found = budget(10**6, 10**7, 10, backbone())
    refuse_beyond(found, found.resident)
    with pytest.raises(BadRequest, match=r"training would need .* GiB of the .*sample=\[10,5\]"):
        refuse_beyond(found, found.resident - 1)
    assert free_memory() > 0
