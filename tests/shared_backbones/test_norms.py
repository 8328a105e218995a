"""Norms and their rewrites: the same function in another form."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from shared_backbones.backbone import Backbone, BackboneSpec, LayerSpec, StageSpec, Tokens
from shared_backbones.errors import BadRequest
from shared_backbones.layout import Layout
from shared_backbones.norms import (
    Centre,
    ProgressiveBatchNorm,
    ShiftedRMSNorm,
    centre_linear,
    crms_norm,
    folded,
    reparametrise,
    to_rms,
)


def trained(spec: BackboneSpec, rank: int = 2) -> Backbone:
    """Weights of every kind away from where they start."""
    torch.manual_seed(0)
    net = Backbone(spec, Tokens(rank=rank)).double().eval()
    with torch.no_grad():
        for p in net.parameters():
            p += 0.3 * torch.randn_like(p)
    return net


@pytest.mark.parametrize("layer_scale", [None, 0.1])
@pytest.mark.parametrize("pyramid", [False, True])
def test_rms_rewrite_is_the_same_function(layer_scale: float | None, pyramid: bool) -> None:
    layers = (LayerSpec("attention"), LayerSpec("pooling", channel="glu"))  # pooling ends in no linear layer
    stages = (StageSpec(12, layers), StageSpec(16, layers, stride=2))[: 2 if pyramid else 1]
    net = trained(BackboneSpec(stages, layer_scale))
    x, layout = torch.randn(2, 30, 12, dtype=torch.float64) + 3.0, Layout((5, 6), mask=torch.rand(2, 30) > 0.2)
    want, left = net(x, layout)
    rms = to_rms(net)
    got, _ = rms(x, layout)
    assert left.mask is not None
    torch.testing.assert_close(got[left.mask], want[left.mask])
    kept = sum(isinstance(m, nn.LayerNorm) for m in rms.modules())
    assert kept == (5 if pyramid else 0)  # the stage before the merge, and the merge, read means
    torch.testing.assert_close(net(x, layout)[0][left.mask], want[left.mask])  # the original is untouched


def test_a_stem_can_take_the_centring_in() -> None:
    net = trained(BackboneSpec((StageSpec(12, (LayerSpec("attention"),)),)), rank=1)
    stem, x = nn.Linear(3, 12).double(), torch.randn(2, 7, 3, dtype=torch.float64)
    want, _ = net(stem(x), Layout((7,)))
    rms = to_rms(net)
    centre_linear(stem)
    torch.testing.assert_close(rms.inner(stem(x), Layout((7,)))[0], want)


@pytest.mark.parametrize("change", [{"placement": "post"}, {"placement": "peri"}, {"norm": "rms"}])
def test_other_blocks_cannot_be_rewritten(change: dict) -> None:
    net = Backbone(BackboneSpec((StageSpec(12, (LayerSpec("attention"),), **change),)), Tokens(rank=1))
    with pytest.raises(BadRequest, match="only pre-norm"):
        to_rms(net)


def test_crms_norm_is_the_rms_norm_with_one_channel_left_out() -> None:
    x = Centre()(torch.randn(4, 9, 8, dtype=torch.float64))
    want = ShiftedRMSNorm(nn.LayerNorm(8).double())(x)
    torch.testing.assert_close(crms_norm(x[..., :-1]), want[..., :-1])
    torch.testing.assert_close(-crms_norm(x[..., :-1]).sum(-1), want[..., -1])
    torch.testing.assert_close(nn.functional.layer_norm(x, (8,)), want)


def test_progressive_norm_starts_as_layer_norm_and_ends_as_one_linear_map() -> None:
    norm, linear = ProgressiveBatchNorm(6, steps=3).double(), nn.Linear(6, 4).double()
    x, layout = 2 + 3 * torch.randn(5, 8, 6, dtype=torch.float64), Layout((8,))
    norm.eval()
    torch.testing.assert_close(norm(x, layout), nn.functional.layer_norm(x, (6,)))
    with pytest.raises(BadRequest, match="100"):
        folded(norm, linear)
    norm.train()
    for _ in range(4):
        norm(x, layout)
    norm.eval()
    assert float(norm.share()) == 0.0
    torch.testing.assert_close(folded(norm, linear)(x), linear(norm(x, layout)))


def test_progressive_norm_agrees_with_torch_batch_norm_on_real_tokens_only() -> None:
    norm, oracle = ProgressiveBatchNorm(6, steps=1).double(), nn.BatchNorm1d(6).double()
    norm.step += 1  # no layer norm left
    mask = torch.rand(5, 8) > 0.4
    x = torch.randn(5, 8, 6, dtype=torch.float64).masked_fill(~mask[..., None], torch.nan)
    y = norm(x, Layout((8,), mask=mask))
    torch.testing.assert_close(y[mask], oracle(x[mask]) + x[mask])
    torch.testing.assert_close((norm.mean, norm.variance), (oracle.running_mean, oracle.running_var))


def test_progressive_norm_serves_in_a_backbone() -> None:
    net = Backbone(BackboneSpec((StageSpec(12, (LayerSpec("attention"),), norm="progressive"),)), Tokens(rank=1))
    x, mask = torch.randn(2, 9, 12), torch.arange(9)[None] < torch.tensor([[9], [5]])
    net(x, Layout((9,), mask=mask))
    net.eval()
    y, _ = net(x, Layout((9,), mask=mask))
    torch.testing.assert_close(y[1:, :5], net(x[1:, :5], Layout((5,)))[0])


def test_spectral_reparametrisation() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4))
    before = [m.weight.detach().clone() for m in (model[0], model[2])]
    reparametrise(model)
    for layer, old in zip((model[0], model[2]), before, strict=True):
        torch.testing.assert_close(layer.weight, old / torch.linalg.matrix_norm(old, 2))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        (model(torch.randn(8, 6)) - 1).square().mean().backward()
        optimiser.step()
    model.eval()
    layer = model[0]
    gamma = layer.parametrizations.weight[0].gamma.detach()
    assert float(gamma) != 1.0
    assert float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) == pytest.approx(float(gamma.abs()), rel=1e-2)
    want = layer.weight.detach().clone()
    parametrize.remove_parametrizations(layer, "weight")
    torch.testing.assert_close(layer.weight.detach(), want)
