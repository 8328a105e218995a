"""Tokenizers: shapes on any size, masks, and the first layer's step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shared_backbones.errors import BadRequest
from shared_backbones.layout import Layout
from shared_backbones.tokenizers import ActivationStepLinear, ConvTokenizer, PerChannelStem, SequencePool, TokensToToken


@pytest.mark.parametrize(("rank", "axes", "want"), [(1, (13,), (4,)), (2, (32, 9), (8, 3)), (3, (5, 4, 8), (2, 1, 2))])
def test_conv_tokenizer(rank: int, axes: tuple[int, ...], want: tuple[int, ...]) -> None:
    stem = ConvTokenizer(3, 10, layers=2, rank=rank)
    tokens, layout = stem(torch.randn(2, 3, *axes))
    assert layout.axes == want
    assert tokens.shape == (2, layout.size, 10)


def test_conv_tokenizer_has_the_parameters_of_cct_7_3x1() -> None:
    assert sum(p.numel() for p in ConvTokenizer(3, 256).parameters()) == 3 * 256 * 9


@pytest.mark.parametrize(
    ("rank", "axes", "want"), [(1, (50,), (4,)), (2, (32, 17), (2, 2)), (3, (16, 5, 33), (1, 1, 3))]
)
def test_tokens_to_token(rank: int, axes: tuple[int, ...], want: tuple[int, ...]) -> None:
    stem = TokensToToken(3, 10, hidden=8, learned=2, rank=rank)
    tokens, layout = stem(torch.randn(2, 3, *axes))
    assert layout.axes == want
    assert tokens.shape == (2, layout.size, 10)
    with pytest.raises(BadRequest, match="one number for each round"):
        TokensToToken(3, 10, kernels=(7, 3))
    with pytest.raises(BadRequest, match="must cover their strides"):
        TokensToToken(3, 10, kernels=(3, 3), strides=(4, 2))


def test_one_round_of_tokens_to_token_is_unfold_and_attention_by_hand() -> None:
    torch.manual_seed(0)
    stem, x = TokensToToken(2, 5, kernels=(3, 3), strides=(2, 2), hidden=4).double(), torch.randn(1, 2, 8, 12).double()
    rows = nn.functional.unfold(x, 3, padding=1, stride=2).mT
    got, axes = stem.windows(x, 3, 2)
    assert axes == (4, 6)
    torch.testing.assert_close(got, rows)
    mix = stem.rounds[0]
    q, k, v = mix.qkv(mix.norm(rows))[0].chunk(3, -1)
    weight = (nn.functional.elu(q) + 1) @ (nn.functional.elu(k) + 1).mT
    y = v + mix.out(weight / (weight.sum(1, keepdim=True) + 1e-6) @ v)
    y = y + mix.mlp.down(nn.functional.gelu(mix.mlp.up(mix.norm2(y))))
    want = stem.project(nn.functional.unfold(y.mT.reshape(1, 4, 4, 6), 3, padding=1, stride=2).mT)
    torch.testing.assert_close(stem(x)[0], want)


def test_sequence_pool_by_hand() -> None:
    pool, x = SequencePool(4), torch.randn(2, 6, 4)
    mask = torch.tensor([[True] * 6, [True, False, True, False, False, False]])
    y = pool(x.masked_fill(~mask[..., None], torch.nan), Layout((6,), mask=mask))
    for b in range(2):
        own = x[b, mask[b]]
        torch.testing.assert_close(y[b], (pool.score(own).softmax(0) * own).sum(0))


def test_per_channel_tokens_by_hand() -> None:
    stem, x = PerChannelStem(3, 5, patch=2).eval(), torch.randn(2, 3, 4, 6)
    tokens, layout = stem(x)
    assert layout.axes == (3, 2, 3)
    patch = x[1, 2, 2:4, 4:6].flatten()
    torch.testing.assert_close(layout.fold(tokens)[1, 2, 1, 2], stem.embed(patch) + stem.channel[2])


def test_missing_channels_are_masked() -> None:
    stem, x = PerChannelStem(3, 5, patch=2).eval(), torch.randn(2, 3, 4, 4)
    present = torch.tensor([[True, False, True], [True, True, True]])
    noisy = x.masked_fill(~present[..., None, None], torch.nan)
    tokens, layout = stem(noisy, present)
    assert layout.mask is not None
    assert layout.mask[0].tolist() == [True] * 4 + [False] * 4 + [True] * 4
    torch.testing.assert_close(tokens[layout.mask], stem(x)[0][layout.mask])


def test_training_draws_channels_and_their_own_embeddings() -> None:
    torch.manual_seed(0)
    stem, x = PerChannelStem(4, 5, patch=2), torch.randn(1, 4, 2, 2)
    counts = {stem(x)[1].axes[0] for _ in range(60)}
    assert counts == {1, 2, 3, 4}
    full = stem.eval()(x)[0][0]
    kept = stem.train()(x)[0][0]
    assert all(bool((full - row).abs().amax(1).min() < 1e-6) for row in kept)
    with pytest.raises(BadRequest, match="rank may be 1 or 2"):
        PerChannelStem(4, 5, rank=3)


def test_activation_step_is_the_regularised_least_squares_step() -> None:
    torch.manual_seed(0)
    layer, plain = ActivationStepLinear(5, 3, damping=0.2).double(), nn.Linear(5, 3).double()
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(4, 7, 5, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    torch.testing.assert_close(y, plain(x))
    g = torch.randn_like(y)
    got = torch.autograd.grad(y, [x, layer.weight, layer.bias], g)
    want = torch.autograd.grad(plain(x), [x, plain.weight, plain.bias], g)
    torch.testing.assert_close((got[0], got[2]), (want[0], want[2]))
    rows, flat = x.detach().flatten(0, 1), g.flatten(0, 1)
    # the change dW that minimises |X dW^T - b G|^2 / b + lambda |dW|^2, G the step of the activations
    a = torch.cat([rows / 28**0.5, 0.2**0.5 * torch.eye(5, dtype=torch.float64)])
    b = torch.cat([28 * flat / 28**0.5, torch.zeros(5, 3, dtype=torch.float64)])
    torch.testing.assert_close(got[1], torch.linalg.lstsq(a, b).solution.T)
