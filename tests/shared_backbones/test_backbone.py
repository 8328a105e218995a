"""Backbones: a schedule of layers over stages, merging between them, masks and positions all the way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from shared_backbones.backbone import Backbone, BackboneSpec, LayerSpec, StageSpec, Tokens, build_backbone, with_mixer
from shared_backbones.block import DropPath, LayerScale
from shared_backbones.errors import BadRequest
from shared_backbones.layout import Layout
from shared_backbones.merging import PatchMerge
from shared_backbones.mixers import MIXERS

MIXED = BackboneSpec(
    (
        StageSpec(8, (LayerSpec("pooling"), LayerSpec("window", {"window": 3}, "glu"))),
        StageSpec(
            12, (LayerSpec("attention", {"heads": 2}), LayerSpec("depthwise", {"kernel": 3}, "none")), "peri", "rms", 2
        ),
    ),
    layer_scale=0.1,
    drop_path=0.3,
)


def test_schedule_places_mixer_channel_width_and_stride() -> None:
    backbone = Backbone(MIXED, Tokens(rank=2)).eval()
    names = [type(b.mix.inner).__name__ for stage in backbone.stages for b in stage.blocks]  # type: ignore[union-attr]
    branches = [b.channel for stage in backbone.stages for b in stage.blocks]  # type: ignore[union-attr]
    channels = [None if branch is None else type(branch.inner).__name__ for branch in branches]  # type: ignore[union-attr]
    assert names == ["Pooling", "Window", "Attention", "Depthwise"]
    assert channels == ["MLP", "GLU", "MLP", None]
    rates = [m.rate for m in backbone.modules() if isinstance(m, DropPath)][::2]  # of the mixers
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert sum(isinstance(m, LayerScale) for m in backbone.modules()) == 7
    assert (backbone.dim_in, backbone.dim) == (8, 12)
    x, layout = backbone(torch.randn(2, 35, 8), Layout((5, 7)))
    assert layout.axes == (3, 4)
    assert x.shape == (2, 12, 12)


def naive_merge(merge: PatchMerge, x: Tensor, layout: Layout) -> tuple[Tensor, list[bool], Tensor | None]:
    """One item, place by place."""
    s, axes = merge.stride, layout.axes
    places = {p: i for i, p in enumerate(itertools.product(*map(range, axes)))}
    rows, flags, at = [], [], []
    for block in itertools.product(*(range(math.ceil(n / s)) for n in axes)):
        parts, real = [], []
        for step in itertools.product(range(s), repeat=len(axes)):
            i = places.get(tuple(b * s + k for b, k in zip(block, step, strict=True)))
            seen = i is not None and (layout.mask is None or bool(layout.mask[0, i]))
            parts.append(x[0, i] if seen and i is not None else torch.zeros_like(x[0, 0]))
            if seen and i is not None:
                real.append(i)
        v = torch.cat(parts)
        v = (v - v.mean()) / (v.var(unbiased=False) + 1e-5).sqrt() * merge.norm.weight + merge.norm.bias
        rows.append(merge.project.weight @ v + merge.project.bias)
        flags.append(bool(real))
        if layout.positions is not None:
            at.append(layout.positions[0, real].mean(0) if real else torch.zeros(layout.positions.shape[-1]))
    return torch.stack(rows), flags, torch.stack(at) if at else None


@pytest.mark.parametrize(("axes", "stride"), [((7,), 2), ((5, 4), 2), ((4, 5), 3), ((3, 2, 5), 2)])
@pytest.mark.parametrize("masked", [False, True])
def test_merge_equals_a_loop(axes: tuple[int, ...], stride: int, masked: bool) -> None:
    torch.manual_seed(1)
    merge, n = PatchMerge(4, 6, stride, len(axes)), math.prod(axes)
    mask = torch.rand(1, n) > 0.6 if masked else None
    layout = Layout(axes, mask=mask, positions=torch.randn(1, n, 2))
    x = torch.randn(1, n, 4)
    noisy = x if mask is None else torch.where(mask[..., None], x, torch.nan)
    y, merged = merge(noisy, layout)
    rows, flags, at = naive_merge(merge, x, layout)
    torch.testing.assert_close(y[0], rows)
    assert merged.axes == tuple(math.ceil(k / stride) for k in axes)
    assert (merged.mask is None) == (mask is None)
    assert merged.mask is None or merged.mask[0].tolist() == flags
    assert merged.positions is not None
    torch.testing.assert_close(merged.positions[0], at)


def ragged(
    items: Sequence[tuple[Tensor, tuple[int, ...]]], axes: tuple[int, ...], fill: float
) -> tuple[Tensor, Layout]:
    """Items of their own axes at the origin of one lattice."""
    n, c = math.prod(axes), items[0][0].shape[-1]
    x, mask = torch.full((len(items), n, c), fill), torch.zeros(len(items), n, dtype=torch.bool)
    for b, (item, own) in enumerate(items):
        at = torch.arange(n).reshape(axes)[tuple(slice(0, k) for k in own)].flatten()
        x[b, at], mask[b, at] = item, True
    return x, Layout(axes, mask=mask)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_ragged_batch_equals_single_items_through_a_pyramid(rank: int) -> None:
    torch.manual_seed(2)
    backbone = Backbone(MIXED, Tokens(rank=rank)).eval()
    sizes = [(5, 6, 4)[:rank], (3, 2, 5)[:rank]]
    items = [(torch.randn(math.prod(own), 8), own) for own in sizes]
    axes = (7, 6, 6)[:rank]
    y, layout = backbone(*ragged(items, axes, float("nan")))
    assert layout.mask is not None
    for b, (item, own) in enumerate(items):
        alone, _ = backbone(item[None], Layout(own))
        torch.testing.assert_close(y[b][layout.mask[b]], alone[0], atol=1e-5, rtol=1e-5)


def test_nan_at_masked_tokens_reaches_no_gradient() -> None:
    backbone = Backbone(MIXED, Tokens(rank=1))
    x, layout = ragged([(torch.randn(4, 8), (4,)), (torch.randn(7, 8), (7,))], (7,), float("nan"))
    y, merged = backbone(x, layout)
    assert merged.mask is not None
    y[merged.mask].sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in backbone.parameters() if p.grad is not None)


def test_features_give_every_stage() -> None:
    backbone = Backbone(MIXED, Tokens(rank=2)).eval()
    x = torch.randn(1, 35, 8)
    features = backbone.features(x, Layout((5, 7)))
    assert [(f.shape[1:], layout.axes) for f, layout in features] == [((35, 8), (5, 7)), ((12, 12), (3, 4))]
    assert torch.equal(features[-1][0], backbone(x, Layout((5, 7)))[0])


@pytest.mark.parametrize("mixer", ["identity", "pooling", "depthwise", "attention", "linear", "window", "fourier"])
def test_ladder_replaces_every_mixer(mixer: str) -> None:
    spec = with_mixer(MIXED, mixer)
    assert {layer.mixer for stage in spec.stages for layer in stage.layers} == {mixer}
    for rank in sorted(MIXERS[mixer].ranks):
        x = torch.randn(2, 4**rank, 8)
        y, _ = Backbone(spec, Tokens(rank=rank)).eval()(x, Layout((4,) * rank))
        assert bool(y.isfinite().all())


@pytest.mark.parametrize(
    ("spec", "tokens", "words"),
    [
        (BackboneSpec(()), Tokens(rank=1), "at least one stage"),
        (MIXED, Tokens(rank=1, ordered=False), "stride 1"),
        (BackboneSpec((StageSpec(8, (LayerSpec("atention"),)),)), Tokens(rank=1), "did you mean 'attention'"),
        (BackboneSpec((StageSpec(8, (LayerSpec("attention", {"head": 2}),)),)), Tokens(rank=1), "did you mean 'heads'"),
        (BackboneSpec((StageSpec(8, (LayerSpec("attention", {"heads": "2"}),)),)), Tokens(rank=1), "must be"),
        (BackboneSpec((StageSpec(8, (LayerSpec(channel="mpl"),)),)), Tokens(rank=1), "did you mean 'mlp'"),
        (BackboneSpec((StageSpec(8, (LayerSpec("message"),)),)), Tokens(rank=1), "needs .'edges'"),
        (
            BackboneSpec((StageSpec(8, (LayerSpec("fourier"),)),)),
            Tokens(rank=1, ordered=False),
            "Those that can: .*linear",
        ),
        (BackboneSpec((StageSpec(8, (LayerSpec("linear"),)),)), Tokens(rank=2, causal_axes=frozenset({1})), "causal"),
    ],
)
def test_impossible_requests_are_refused_when_built(spec: BackboneSpec, tokens: Tokens, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        Backbone(spec, tokens)


def test_causal_tokens_make_a_causal_backbone() -> None:
    spec = BackboneSpec((StageSpec(8, (LayerSpec("attention"), LayerSpec("linear"), LayerSpec("pooling"))),))
    backbone = Backbone(spec, Tokens(rank=1, causal_axes=frozenset({0}))).eval()
    x = torch.randn(1, 20, 8)
    changed = torch.cat([x[:, :10], torch.randn(1, 10, 8)], 1)
    a, b = backbone(x, Layout((20,)))[0], backbone(changed, Layout((20,)))[0]
    torch.testing.assert_close(a[:, :10], b[:, :10])
    assert not torch.allclose(a[:, 10:], b[:, 10:])


def test_a_stage_runs_again_with_the_same_weights() -> None:
    torch.manual_seed(3)
    layers = (LayerSpec("attention"), LayerSpec("pooling"))
    once = Backbone(BackboneSpec((StageSpec(8, layers),)), Tokens(rank=1)).eval()
    thrice = Backbone(BackboneSpec((StageSpec(8, layers, repeat=3),)), Tokens(rank=1)).eval()
    thrice.load_state_dict(once.state_dict())
    x, layout = torch.randn(2, 5, 8), Layout((5,))
    y = x
    for _ in range(3):
        y = once.stages[0](y, layout)
    torch.testing.assert_close(thrice(x, layout)[0], once.norm(y))


def test_a_layer_may_differ_from_its_stage() -> None:
    layers = (LayerSpec("convolution", channel="none", block={"norm": "none", "layer_scale": None}), LayerSpec())
    backbone = Backbone(BackboneSpec((StageSpec(8, layers, norm="rms"),), layer_scale=0.1), Tokens(rank=2))
    first, second = backbone.stages[0].blocks  # type: ignore[union-attr,misc]
    assert isinstance(first.mix.norm, nn.Identity)
    assert isinstance(first.mix.scale, nn.Identity)
    assert isinstance(second.mix.norm, nn.RMSNorm)
    assert isinstance(second.mix.scale, LayerScale)


def test_a_norm_over_all_tokens_cannot_be_causal() -> None:
    spec = BackboneSpec((StageSpec(8, (LayerSpec(),), norm="group"),))
    with pytest.raises(BadRequest, match="cannot be causal"):
        Backbone(spec, Tokens(rank=1, causal_axes=frozenset({0})))


U_SHAPED = BackboneSpec(
    (StageSpec(6, (LayerSpec("pooling"),)), StageSpec(8, (LayerSpec(),), stride=2), StageSpec(12, (), stride=3)),
    decoder=(StageSpec(8, (LayerSpec("pooling"),), stride=3), StageSpec(4, (LayerSpec(),), stride=2)),
)


@pytest.mark.parametrize("axes", [(13,), (7, 9), (5, 7, 3)])
def test_a_u_shaped_network_comes_back_to_its_lattice(axes: tuple[int, ...]) -> None:
    torch.manual_seed(4)
    net, n = build_backbone(U_SHAPED, Tokens(rank=len(axes))).eval(), math.prod(axes)
    mask = torch.rand(2, n) > 0.3
    x = torch.randn(2, n, 6)
    y, layout = net(torch.where(mask[..., None], x, torch.nan), Layout(axes, mask=mask))
    assert layout.axes == axes
    assert y.shape == (2, n, 4)
    assert bool(y.isfinite().all())
    again, _ = net(torch.where(mask[..., None], x, 7.0), Layout(axes, mask=mask))
    torch.testing.assert_close(again[mask], y[mask])


def test_a_decoder_climbs_the_strides_of_the_stages() -> None:
    with pytest.raises(BadRequest, match=r"climbs back the strides of the stages, \[3, 2\]"):
        build_backbone(replace(U_SHAPED, decoder=U_SHAPED.decoder[::-1]), Tokens(rank=1))
