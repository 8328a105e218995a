"""Residual blocks: where the norm stands, layer scale, drop path."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from shared_backbones.block import PLACEMENTS, Block, DropPath, LayerScale
from shared_backbones.channel import build_channel
from shared_backbones.errors import BadRequest
from shared_backbones.layout import Layout
from shared_backbones.mixers import build_mixer

LAYOUT = Layout((5,))


class Double(nn.Module):
    """A branch that is easy to follow."""

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return 2 * x


def norm(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize(
    ("placement", "branch"),
    [
        ("pre", lambda x: x + 2 * norm(x)),
        ("post", lambda x: norm(x + 2 * x)),
        ("peri", lambda x: x + norm(2 * norm(x))),
    ],
)
def test_norm_stands_where_the_placement_says(placement: str, branch: object) -> None:
    x = torch.randn(2, 5, 8)
    block = Block(8, Double(), Double(), placement)
    torch.testing.assert_close(block(x, LAYOUT), branch(branch(x)))  # type: ignore[operator]


def test_without_norm_and_with_layer_scale() -> None:
    x = torch.randn(2, 5, 8)
    block = Block(8, Double(), Double(), norm="none", layer_scale=0.5)
    torch.testing.assert_close(block(x, LAYOUT), 4 * x)  # (1 + 0.5 * 2)^2
    scales = [m for m in block.modules() if isinstance(m, LayerScale)]
    assert len(scales) == 2
    assert all(s.gamma.requires_grad for s in scales)


def test_identity_mixer_leaves_the_channel_part_alone() -> None:
    x, channel = torch.randn(2, 5, 8), build_channel("mlp", 8)
    block = Block(8, build_mixer("identity", 8), channel)
    torch.testing.assert_close(block(x, LAYOUT), x + channel(block.channel.norm(x), LAYOUT))


def test_drop_path_drops_whole_items_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 3, 2)
    y = drop(x)
    kept = y[:, 0, 0] > 0
    assert torch.equal(y[kept], x[kept] / 0.75)
    assert torch.equal(y[~kept], torch.zeros_like(y[~kept]))
    assert abs(kept.float().mean().item() - 0.75) < 0.03  # five standard errors
    assert torch.equal(drop.eval()(x), x)


@pytest.mark.parametrize("placement", sorted(PLACEMENTS))
def test_gradients_reach_every_weight(placement: str) -> None:
    block = Block(8, build_mixer("attention", 8), build_channel("glu", 8), placement, "rms", 1e-2, 0.1).train()
    torch.manual_seed(0)
    block(torch.randn(16, 5, 8), LAYOUT).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in block.parameters())


@pytest.mark.parametrize(("key", "near"), [("placement", "peri"), ("norm", "layer")])
def test_unknown_words_suggest_the_nearest(key: str, near: str) -> None:
    with pytest.raises(BadRequest, match=near):
        Block(8, Double(), Double(), **{key: near[:-1]})
