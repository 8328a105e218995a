"""Sentences of small words equal what they spell out; requests that make no sense are refused in words."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from shared_backbones.activations import ACTIVATIONS, activation
from shared_backbones.errors import BadRequest
from shared_backbones.layout import Layout
from shared_backbones.mixers import build_mixer
from shared_backbones.mixers.fixed import RandomMixing
from shared_backbones.mixers.spectral import cosine, inverse_cosine
from shared_backbones.mixers.wavelet import haar

DIM = 16


def make(name: str, rank: int = 2, **options: Any) -> Any:
    torch.manual_seed(0)
    return build_mixer(name, DIM, rank=rank, **options).double().eval()


def test_a_convnext_block_is_a_sentence() -> None:
    block = make("serial", inner=[{"mixer": "convolution", "kernel": 7}, "norm", {"mixer": "feed_forward"}])
    x = torch.randn(2, 30, DIM, dtype=torch.float64)
    conv, norm, mlp = block.inner
    image = x.unflatten(1, (5, 6)).movedim(-1, 1)
    y = F.conv2d(image, conv.conv.conv.weight, conv.conv.conv.bias, padding=3, groups=DIM).flatten(2).mT
    y = F.layer_norm(y, (DIM,), norm.norm.weight, norm.norm.bias)
    y = mlp.inner.down(F.gelu(mlp.inner.up(y)))
    torch.testing.assert_close(block(x, Layout((5, 6))), y)


def test_large_kernel_is_a_residual_gate() -> None:
    far = {"mixer": "convolution", "kernel": 7, "dilation": 3}
    gate = {"mixer": "serial", "inner": [{"mixer": "convolution", "kernel": 5}, far, "pointwise"]}
    context = make("serial", inner=[{"mixer": "pointwise", "act": "gelu"}, gate])
    known = make("large_kernel")
    into, (near, wide, mix) = context.inner[0], context.inner[1].inner
    into.linear.linear.load_state_dict(known.into.state_dict())
    near.conv.load_state_dict(known.near.state_dict())
    wide.conv.load_state_dict(known.far.state_dict())
    mix.linear.linear.load_state_dict(known.gate.state_dict())
    x, layout = torch.randn(2, 80, DIM, dtype=torch.float64), Layout((8, 10))
    want = x + known.out(context(x, layout) * into(x, layout))
    torch.testing.assert_close(known(x, layout), want)


def test_a_global_filter_may_stand_in_for_the_convolution_of_recursive_gating() -> None:
    split = {"mixer": "split", "inner": ["convolution", {"mixer": "fourier", "size": 6}]}
    mixer = make("recursive_gated", order=1, context={"mixer": "serial", "inner": ["norm", split, "norm"]})
    y = mixer(torch.randn(2, 30, DIM, dtype=torch.float64), Layout((5, 6)))
    assert y.shape == (2, 30, DIM)
    assert not mixer.exports_mask  # as of the Fourier part


def test_a_token_gate_made_by_an_mlp_mixer() -> None:
    inner = [{"mixer": "residual", "norm": "layer", "inner": {"mixer": "token_mlp", "window": 4}},
             {"mixer": "residual", "norm": "layer", "inner": "feed_forward"}]  # fmt: skip
    mixer = make("product", inner=["pointwise", {"mixer": "serial", "inner": inner}])
    x, layout = torch.randn(2, 16, DIM, dtype=torch.float64), Layout((4, 4))
    value, context = mixer.inner
    torch.testing.assert_close(mixer(x, layout), value(x, layout) * context(x, layout))
    moved = x.clone()
    moved[:, 15] += 1.0  # one window holds all tokens, so every token sees every other
    assert (mixer(moved, layout) - mixer(x, layout)).abs().amax((0, 2)).min() > 0


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mbconv", {"squeeze": 0.5, "causal_axes": (0,)}, "cannot be causal"),
        ("mbconv", {"norm": "lyer"}, "did you mean 'layer'"),
        ("mbconv", {"act": "gellu"}, "did you mean 'gelu'"),
        ("norm", {"norm": "group", "causal_axes": (0,)}, "looks at all tokens"),
        ("feed_forward", {"layer": "mpl"}, "inside FeedForward.*did you mean 'mlp'"),
        ("feed_forward", {"layer": {"ratio": 4}}, "takes a channel layer such as"),
        ("token_mlp", {"layer": "conv"}, "inside TokenMLP.*ordered"),
        ("recursive_gated", {"order": 0}, "order must be at least 1"),
        ("recursive_gated", {"context": "message"}, "inside 'recursivegated'|needs"),
        ("polarised", {"arrangement": "both"}, "parallel or sequential"),
        ("inception", {"low": 4}, "heads of both kinds"),
        ("large_small", {"share": 3}, "heads must divide"),
        ("hyena", {"order": 1}, "order must be at least 2"),
        ("wavelet", {"levels": 0}, "levels must be at least 1"),
        ("cosine", {"bands": 1}, "bands must be at least 2"),
        ("token_mlp", {"window": 0}, "window must be at least 1"),
        ("convolution", {"dilation": 0}, "dilation must be at least 1"),
    ],
)
def test_refusals(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        build_mixer(name, DIM, rank=1, provides=(), **options)


def test_random_rows_look_uniform_and_differ_between_layers() -> None:
    torch.manual_seed(0)
    one, other = RandomMixing(4), RandomMixing(4)
    r, s = (m.scores(Layout((20, 20)), torch.float64).flatten() for m in (one, other))
    assert abs(float(r.mean()) - 0.5) < 0.005  # 160,000 draws: 7 standard errors
    assert abs(float(r.var()) - 1 / 12) < 0.001
    assert abs(float(torch.corrcoef(torch.stack([r, s]))[0, 1])) < 0.02
    assert abs(float(torch.corrcoef(torch.stack([r[1:], r[:-1]]))[0, 1])) < 0.02
    assert len(r.unique()) > 0.999 * len(r)


def test_random_rows_do_not_hang_on_the_size_of_the_lattice() -> None:
    mixer = RandomMixing(4)
    small, large = (mixer.scores(Layout(axes), torch.float64) for axes in ((3, 4), (5, 7)))
    at = [7 * i + j for i in range(3) for j in range(4)]
    torch.testing.assert_close(small, large[at][:, at])


def test_kept_random_rows_follow_the_lattice_and_loaded_weights() -> None:
    torch.manual_seed(0)
    one, other, layout = RandomMixing(4), RandomMixing(4), Layout((3, 4))
    before = one.scores(layout, torch.float64)
    assert one.scores(layout, torch.float64) is before
    assert one.scores(Layout((4, 3)), torch.float64).shape == (12, 12)
    torch.testing.assert_close(one.scores(layout, torch.float64), before)
    one.load_state_dict(other.state_dict())
    torch.testing.assert_close(one.scores(layout, torch.float64), other.scores(layout, torch.float64))
    assert (one.scores(layout, torch.float64) - before).abs().max() > 0.1


@pytest.mark.parametrize("n", [1, 2, 7, 12])
def test_cosine_transform_and_back(n: int) -> None:
    x = torch.randn(3, n, 2, dtype=torch.float64)
    k, j = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64) + 0.5
    matrix = torch.cos(torch.pi * k * j / n)
    torch.testing.assert_close(cosine(x, 1), matrix @ x)
    torch.testing.assert_close(inverse_cosine(cosine(x, 1), 1), x)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_haar_is_its_own_inverse(rank: int) -> None:
    matrix = haar(rank, torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(matrix @ matrix, torch.eye(2**rank, dtype=torch.float64))
    assert (matrix[0] > 0).all()


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations(name: str) -> None:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    want = {
        "none": x,
        "gelu": x * 0.5 * (1 + torch.erf(x / 2**0.5)),
        "relu": x.clamp_min(0),
        "silu": x / (1 + torch.exp(-x)),
        "hardswish": x * (x + 3).clamp(0, 6) / 6,
        "sigmoid": 1 / (1 + torch.exp(-x)),
        "squared_relu": x.clamp_min(0) ** 2,
        "star_relu": 0.8944 * x.clamp_min(0) ** 2 - 0.4472,
    }
    if name in want:  # others are tested beside their makers
        torch.testing.assert_close(activation(name)(x), want[name], rtol=1e-6, atol=1e-7)


def test_a_normal_input_of_star_relu_stays_normal() -> None:
    y = activation("star_relu")(torch.randn(200_000, generator=torch.Generator().manual_seed(0))).detach()
    assert abs(float(y.mean())) < 0.02
    assert abs(float(y.std()) - 1) < 0.02
