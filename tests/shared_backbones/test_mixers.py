"""The registry: names, facts, options, and requests that are refused with the mixers that can."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from shared_backbones.checks import check_mixer
from shared_backbones.errors import BadRequest
from shared_backbones.layout import Layout
from shared_backbones.mixers import MIXERS, build_mixer, list_mixers, options_of
from shared_backbones.mixers.base import Mode, State, StateMixer, heads_of, join_heads, split_heads


def test_list_mixers_gives_plain_facts_of_all() -> None:
    found = list_mixers()
    assert list(found) == list(MIXERS)
    assert found["decay"]["needs"] == ["positions"]
    assert found["linear"]["state"]
    assert not found["attention"]["state"]
    assert found["fourier"]["causal_axes"] == []


@pytest.mark.parametrize(
    ("name", "request_", "words"),
    [
        ("atention", {}, "did you mean 'attention'"),
        ("attention", {"head": 2}, "did you mean 'heads'"),
        ("attention", {"heads": 5}, "heads=5 and dim=16"),
        ("attention", {"heads": 2.0}, "must be int"),
        ("attention", {"heads": True}, "must be int"),
        ("linear", {"decay": 1, "causal_axes": (0,)}, "must be bool"),
        ("linear", {"decay": True}, "causal"),
        ("linear", {"causal_axes": (1,), "rank": 2}, "causal along axes .0., not .1.*Those that can: .*attention"),
        ("attention", {"causal_axes": (1,), "rank": 1}, "has no axis 1"),
        ("attention", {"causal_axes": (0,), "ordered": False}, "no axis to be causal along"),
        ("window", {"ordered": False}, "ordered tokens.*Those that can: .*message"),
        ("message", {"provides": ("positions",)}, "needs .'edges'"),
        ("window", {"shift": 7}, "shift must lie in"),
        ("window", {"window": 0}, "window must be at least 1"),
        ("decay", {"decay": -1.0}, "decay must be positive"),
        ("depthwise", {"rank": 4}, "rank .1, 2, 3., not 4"),
    ],
)
def test_impossible_requests_say_what_would_do(name: str, request_: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        build_mixer(name, 16, **request_)


def test_options_of_a_mixer_with_their_defaults() -> None:
    assert options_of(MIXERS["pooling"]) == {"window": 3, "causal_axes": ()}


@pytest.mark.parametrize(("dim", "heads"), [(16, 4), (24, 4), (30, 3), (10, 2), (7, 1), (1, 1)])
def test_default_heads_always_divide(dim: int, heads: int) -> None:
    assert heads_of(dim, None) == heads


def test_heads_split_and_join() -> None:
    x = torch.randn(2, 5, 12)
    heads = split_heads(x, 3)
    assert torch.equal(heads[:, 1], x[..., 4:8])
    assert torch.equal(join_heads(heads), x)


def test_state_sizes_are_what_is_kept_per_item() -> None:
    causal: dict[str, Any] = {"rank": 1, "causal_axes": (0,)}
    assert build_mixer("attention", 16, **causal).state_size(10) == 2 * 10 * 16
    assert build_mixer("decay", 16, **causal).state_size(10) == 2 * 10 * 16
    assert build_mixer("linear", 16, heads=2, **causal).state_size(10) == 2 * 8 * 9
    assert build_mixer("depthwise", 16, kernel=5, **causal).state_size(10) == 4 * 16
    assert build_mixer("attention", 16).state_size(10) == build_mixer("linear", 16).state_size(10) == 0


def test_a_layout_of_another_rank_than_built_for_is_refused() -> None:
    with pytest.raises(BadRequest, match="built for rank 2"):
        build_mixer("window", 8, rank=2)(torch.randn(1, 4, 8), Layout((4,)))


def test_a_gate_without_edge_features_is_refused() -> None:
    layout = Layout((4,), False, edges=torch.zeros(2, 1, dtype=torch.long))
    with pytest.raises(BadRequest, match="edge_attr"):
        build_mixer("message", 8, edge_features=2)(torch.randn(1, 4, 8), layout)


def test_causal_time_needs_its_coordinate() -> None:
    mixer = build_mixer("decay", 8, rank=2, causal_axes=(1,))
    with pytest.raises(BadRequest, match="coordinates"):
        mixer(torch.randn(1, 4, 8), Layout((2, 2), positions=torch.randn(1, 4, 1)))


class Average(StateMixer):
    """y_t = W (mean of x up to t): a state mixer of one's own, with the least that one must write."""

    ranks: ClassVar[frozenset[int]] = frozenset({1})
    causal_axes: ClassVar[frozenset[int]] = frozenset({0})

    def __init__(self, dim: int, causal_axes: tuple[int, ...] = (0,)) -> None:
        super().__init__()
        self.causal, self.out = frozenset(causal_axes), nn.Linear(dim, dim)

    def forward(self, x: Tensor, layout: Layout, mode: Mode = "chunk") -> Tensor:
        self.check(layout)
        real = x.new_ones(x.shape[:2]) if layout.mask is None else layout.mask.to(x.dtype)
        total, count = layout.clean(x), real[..., None]
        if self.causal:
            total, count = total.cumsum(1), count.cumsum(1)
        else:
            total, count = total.sum(1, keepdim=True).expand_as(x), count.sum(1, keepdim=True)
        return self.out(total / count.clamp_min(1))

    def init_state(self, batch: int) -> State:
        zero = self.out.weight.new_zeros(batch, self.out.in_features + 1)
        return {"sum": zero}

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        total = state["sum"] + torch.cat([x_t, x_t.new_ones(len(x_t), 1)], -1)
        return self.out(total[:, :-1] / total[:, -1:]), {"sum": total}

    def state_size(self, n: int) -> int:
        return self.out.in_features + 1


def test_a_state_mixer_of_ones_own_streams_by_default() -> None:
    found = check_mixer(Average, causal_axes=(0,))
    assert found["modes"]
    assert build_mixer(Average, 8, rank=1, causal_axes=(0,)).causal == {0}
