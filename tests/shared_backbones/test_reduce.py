"""Reduced tokens come back to where they stood, and an item is reduced in a batch as it is alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_backbones.errors import BadRequest
from shared_backbones.layout import Layout
from shared_backbones.reduce import Reduction, merge, prune


def test_the_most_similar_pair_is_merged() -> None:
    x = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [-1.0, 0.0], [0.3, -1.0]]])
    x = torch.cat([x, x.new_tensor([[[1.0, 0.0]]])], 1)  # token 0 equals token 5
    found = merge(x, Layout((6,)), 0.2)  # one of six
    assert found.target.tolist() == [[4, 0, 1, 2, 3, 4]]
    assert found.sizes[0, :, 0].tolist() == [1, 1, 1, 1, 2]
    torch.testing.assert_close(found.restore(found.x), x)  # equal tokens lose nothing


def test_sizes_of_earlier_merging_weigh() -> None:
    x = torch.tensor([[[1.0, 0.0], [3.0, 0.0]]])
    found = merge(x, Layout((2,)), 0.5, sizes=torch.tensor([[[3.0], [1.0]]]))
    assert found.x[0, 0, 0] == pytest.approx(1.5)
    assert found.sizes.flatten().tolist() == [4.0]


def test_nothing_is_merged_at_share_zero() -> None:
    x = torch.randn(2, 7, 4)
    found = merge(x, Layout((7,)), 0.0)
    torch.testing.assert_close(found.x, x)
    torch.testing.assert_close(prune(x, Layout((7,)), x[..., 0], 0.0).x, x)


def both(x: torch.Tensor, layout: Layout, share: float) -> list[Reduction]:
    return [merge(x, layout, share), prune(x, layout, x[..., 0], share)]


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    share=st.sampled_from([0.1, 0.25, 0.33, 0.5]),
    seed=st.integers(0, 99),
)
def test_ragged_equals_single(lengths: list[int], share: float, seed: int) -> None:
    torch.manual_seed(seed)
    n = max(lengths) + 3
    mask = torch.stack([torch.randperm(n) < length for length in lengths])
    x = torch.randn(len(lengths), n, 3)
    positions = torch.rand(len(lengths), n, 2)
    noisy = x.masked_fill(~mask[..., None], torch.nan)
    batch = both(noisy, Layout((n,), mask=mask, positions=positions), share)
    for b, length in enumerate(lengths):
        alone = both(x[b, mask[b]][None], Layout((length,), positions=positions[b, mask[b]][None]), share)
        for many, one in zip(batch, alone, strict=True):
            m = one.x.shape[1]
            torch.testing.assert_close(many.x[b, :m], one.x[0])
            assert many.layout.mask is not None
            assert many.layout.mask[b].tolist() == [True] * m + [False] * (many.x.shape[1] - m)
            torch.testing.assert_close(many.layout.positions[b, :m], one.layout.positions[0])  # type: ignore[index]
            assert many.target[b, mask[b]].tolist() == one.target[0].tolist()
            assert many.target[b, ~mask[b]].tolist() == [-1] * (n - length)
            assert m == length - int(length * round(share * 100) // 100)
            torch.testing.assert_close(many.restore(many.x)[b, mask[b]], one.restore(one.x)[0])


def test_pruned_tokens_pass_unchanged() -> None:
    x = torch.randn(1, 8, 3)
    found = prune(x, Layout((2, 4)), torch.arange(8.0)[None], 0.5)
    assert found.target.tolist() == [[-1] * 4 + [0, 1, 2, 3]]
    assert not found.layout.ordered  # no lattice any more
    y = found.restore(found.x * 2, fill=x)
    torch.testing.assert_close(y[:, :4], x[:, :4])
    torch.testing.assert_close(y[:, 4:], 2 * x[:, 4:])
    assert found.restore(found.x)[:, :4].abs().max() == 0


def test_gradients_reach_every_merged_token() -> None:
    x = torch.randn(1, 9, 4, requires_grad=True)
    found = merge(x, Layout((9,)), 0.5)
    found.restore(found.x**2).sum().backward()
    assert x.grad is not None
    assert bool((x.grad.abs().sum(-1) > 0).all())


def test_refusals() -> None:
    with pytest.raises(BadRequest, match=r"0 \.\. 0\.5"):
        merge(torch.randn(1, 4, 2), Layout((4,)), 0.6)
    with pytest.raises(BadRequest, match=r"0 \.\. 0\.99"):
        prune(torch.randn(1, 4, 2), Layout((4,)), torch.randn(1, 4), 1.0)
