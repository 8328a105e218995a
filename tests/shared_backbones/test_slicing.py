"""Narrow networks inside wide ones: what is cut is what it should be, and gradients reach the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from shared_backbones.backbone import BackboneSpec, LayerSpec, StageSpec, Tokens, build_backbone
from shared_backbones.errors import BadRequest
from shared_backbones.layout import Layout
from shared_backbones.mixers.attention import Attention
from shared_backbones.slicing import first, narrowed, sliced

INNER = [{"mixer": "attention", "heads": 2}, "pointwise"]
LAYERS = (
    LayerSpec("attention", {"heads": 4, "position": "rotary"}),
    LayerSpec("serial", {"inner": INNER}),
    LayerSpec("separable", {"kernel": 3}),
)
SPEC = BackboneSpec(
    (StageSpec(32, LAYERS), StageSpec(64, LAYERS[:1], stride=2)), decoder=(StageSpec(32, (), stride=2),)
)


def test_channels_and_heads_shrink_and_a_head_stays_as_wide() -> None:
    small = narrowed(SPEC, 0.5)
    assert [s.dim for s in (*small.stages, *small.decoder)] == [16, 32, 16]
    assert small.stages[0].layers[0].mixer_options == {"heads": 2, "position": "rotary"}
    assert small.stages[0].layers[1].mixer_options["inner"][0]["heads"] == 1
    assert small.stages[1].stride == 2
    assert narrowed(SPEC, 1.0) is SPEC
    widths = [m.head for m in build_backbone(small, Tokens(1)).modules() if isinstance(m, Attention)]
    assert widths == [m.head for m in build_backbone(SPEC, Tokens(1)).modules() if isinstance(m, Attention)]


@pytest.mark.parametrize(("share", "says"), [(0.0, "within"), (1.2, "within"), (0.3, r"9\.6 of 32 channels")])
def test_widths_that_cannot_be(share: float, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        narrowed(SPEC, share)


@given(st.integers(0, 50))
def test_the_first_heads_of_attention_are_its_own_heads(seed: int) -> None:
    """With the other heads' outputs cut off, wide attention on zero-padded channels is the narrow one."""
    torch.manual_seed(seed)
    wide, small = Attention(16, heads=4), Attention(8, heads=2)
    small.load_state_dict(sliced(wide.state_dict(), small))
    x = torch.randn(2, 5, 8)
    padded = torch.cat([x, torch.zeros_like(x)], -1)
    q, k, v = wide.project(padded, Layout((5,)))
    for one, other in zip((q, k, v), small.project(x, Layout((5,))), strict=True):
        torch.testing.assert_close(one[:, :2], other)


def test_what_is_cut_is_a_view_and_teaches_the_whole() -> None:
    torch.manual_seed(0)
    big: nn.Module = build_backbone(SPEC, Tokens(1)).eval()
    small: nn.Module = build_backbone(narrowed(SPEC, 0.5), Tokens(1)).eval()
    x, layout = torch.randn(2, 6, 16), Layout((6,))
    cut: dict[str, Any] = sliced(dict(big.named_parameters()), small)
    y, _ = functional_call(small, cut, (x, layout))
    y.square().sum().backward()
    grads = {name: p.grad for name, p in big.named_parameters()}
    assert all(g is not None for g in grads.values())
    assert all(p.grad is None for p in small.parameters())
    up = grads["encoder.stages.0.blocks.0.channel.inner.up.weight"]
    assert up is not None
    assert up[:64, :16].abs().max() > 0
    assert up[64:].abs().max() == up[:, 16:].abs().max() == 0
    small.load_state_dict({name: value.detach().clone() for name, value in cut.items()})
    torch.testing.assert_close(small(x, layout)[0], y)


def test_what_does_not_fit_stays() -> None:
    small = nn.Linear(4, 3)
    wide = {"weight": torch.randn(10, 8), "bias": torch.randn(10), "other": torch.randn(2)}
    assert sliced(wide, small)["weight"].shape == (3, 4)
    kept = sliced(wide, small, whole=("weight", "bias"))
    assert kept["weight"].shape == (10, 8)
    assert kept["bias"] is wide["bias"]
    assert sliced({"weight": torch.randn(2, 8)}, small)["weight"].shape == (2, 8)
    assert first(torch.arange(6).view(2, 3), (1, 2)).tolist() == [[0, 1]]
    assert first(torch.arange(6), (3,), (1, 2)).tolist() == [0, 2, 3]
