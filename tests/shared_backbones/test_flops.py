"""Counts equal what can be worked out by hand, and grow as they should."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_backbones.errors import BadRequest
from shared_backbones.flops import count_flops, elements_written_in_backward, flops_of, growth
from shared_backbones.layout import Layout
from shared_backbones.mixers import build_mixer


def test_softmax_attention_grows_fourfold_when_n_doubles() -> None:
    def cost(n: int) -> int:
        q = torch.randn(1, 2, n, 8)
        return flops_of(lambda: F.scaled_dot_product_attention(q, q, q))

    assert cost(64) == 4 * 2 * 64 * 64 * 8
    assert cost(128) == 4 * cost(64)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_counts_the_same_with_and_without_gradients_or_masks(causal: bool) -> None:
    q = torch.randn(2, 3, 16, 8)
    mask = torch.ones(16, 16, dtype=torch.bool)
    bias = torch.randn(16, 16, requires_grad=True)  # a learned bias takes another kernel, of plain products
    plain = flops_of(lambda: F.scaled_dot_product_attention(q, q, q, is_causal=causal))
    assert plain == flops_of(lambda: F.scaled_dot_product_attention(q, q, q, attn_mask=mask))
    assert plain == flops_of(lambda: F.scaled_dot_product_attention(q, q, q, attn_mask=bias))


def test_attention_backward_counts_five_products_for_two() -> None:
    q, k, v = (torch.randn(1, 1, 16, 8, requires_grad=True) for _ in range(3))
    both = flops_of(lambda: F.scaled_dot_product_attention(q, k, v).sum().backward())
    assert both == 2 * (2 + 5) * 16 * 16 * 8


def solve(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(a, b, upper=False)


BY_HAND: list[tuple[str, Callable[[], object], int]] = [
    ("real fft", lambda: torch.fft.rfft(torch.randn(3, 64)), round(2.5 * 3 * 64 * 6)),
    ("inverse", lambda: torch.fft.irfft(torch.randn(3, 33, dtype=torch.complex64), n=64), round(2.5 * 3 * 64 * 6)),
    ("complex fft", lambda: torch.fft.fft(torch.randn(3, 64, dtype=torch.complex64)), 5 * 3 * 64 * 6),
    ("solve", lambda: solve(torch.eye(8), torch.randn(2, 8, 5)), 2 * 8 * 5 * 8),
    ("cumsum", lambda: torch.randn(4, 9).cumsum(1), 36),
    ("average, rank 1", lambda: F.avg_pool1d(torch.randn(2, 3, 10), 3, 1), 2 * 3 * 8 * 3),
    ("average, rank 2", lambda: F.avg_pool2d(torch.randn(2, 3, 10, 10), 3, 1), 2 * 3 * 64 * 9),
    ("average, rank 3", lambda: F.avg_pool3d(torch.randn(2, 3, 5, 5, 5), 3, 1), 2 * 3 * 27 * 27),
    ("maximum", lambda: F.max_pool2d(torch.randn(2, 3, 10, 10), 2), 2 * 3 * 25 * 4),
    ("top-k", lambda: torch.randn(5, 16).topk(2), 5 * 16 * 4),
    ("sort", lambda: torch.randn(5, 16).sort(), 5 * 16 * 4),
    ("gathered", lambda: torch.zeros(4, 3).index_add(0, torch.tensor([0, 1, 1]), torch.ones(3, 3)), 9),
]


@pytest.mark.parametrize(("run", "want"), [(r, w) for _, r, w in BY_HAND], ids=[n for n, _, _ in BY_HAND])
def test_formula_equals_a_count_by_hand(run: Callable[[], object], want: int) -> None:
    assert flops_of(run) == want


def test_grouped_convolution_backward_is_counted_per_group() -> None:
    conv, x = nn.Conv1d(6, 6, 5, groups=6), torch.randn(2, 6, 30, requires_grad=True)
    forward = flops_of(lambda: conv(x))
    assert forward == 2 * 2 * 6 * 26 * 5
    assert flops_of(lambda: conv(x).sum().backward()) == 3 * forward  # one forward, two gradients


def test_count_flops_of_a_linear_layer_and_leaves_it_as_it_was() -> None:
    layer = nn.Sequential(nn.Linear(7, 5), nn.Dropout()).train()
    assert count_flops(layer, torch.randn(3, 7)) == 2 * 3 * 7 * 5
    assert layer.training


def test_indexing_a_stacked_tensor_makes_backward_quadratic() -> None:
    def written(n: int, blocks: Callable[[Tensor], list[Tensor]]) -> int:
        x = torch.randn(n, 4, requires_grad=True)
        return elements_written_in_backward(lambda: sum((b * b).sum() for b in blocks(x)))  # type: ignore[arg-type, return-value]

    def indexed(x: Tensor) -> list[Tensor]:
        stacked = x.reshape(-1, 8, 4)
        return [stacked[i] for i in range(len(stacked))]

    def unbound(x: Tensor) -> list[Tensor]:
        return list(x.reshape(-1, 8, 4).unbind(0))

    assert written(512, unbound) / written(256, unbound) == pytest.approx(2, rel=0.02)
    assert written(512, indexed) / written(256, indexed) > 3.5


def test_views_write_nothing() -> None:
    x, y = torch.randn(2, 4, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    plain = elements_written_in_backward(lambda: (2 * x).sum())
    assert elements_written_in_backward(lambda: (2 * y)[None].flatten().sum()) == plain


@pytest.mark.parametrize(
    ("cost", "n", "want"),
    [
        ("O(1)", 100, 1),
        ("O(N d^2)", 100, 2),
        ("O(N^2 d)", 100, 4),
        ("O(N log N d)", 256, 2 * 9 / 8),
        ("O(N^1.5 d)", 100, 2**1.5),
        ("O(N d^2 + E d)", 100, 2),
        ("O(N w^r d)", 100, 2),
        ("O(N^2 d + N d^2)", 32, (64 * 64 * 32 + 64 * 1024) / (32 * 32 * 32 + 32 * 1024)),
    ],
)
def test_growth_is_read_from_the_cost(cost: str, n: int, want: float) -> None:
    assert growth(cost, n, d=32) == pytest.approx(want)


@pytest.mark.parametrize("cost", ["N^2", "O()", "O(N*d)", "O(N^^2)", ""])
def test_a_cost_that_cannot_be_read_is_refused(cost: str) -> None:
    with pytest.raises(BadRequest, match="cost"):
        growth(cost, 10)


def test_linear_attention_stays_linear_at_many_blocks() -> None:
    mixer = build_mixer("linear", 16, rank=1, causal_axes=(0,), decay=True)

    def written(n: int) -> int:
        x = torch.randn(1, n, 16, requires_grad=True)
        return elements_written_in_backward(lambda: mixer(x, Layout((n,))).sum())

    assert written(2048) / written(1024) == pytest.approx(2, rel=0.02)
    assert math.isclose(growth(mixer.cost, 1024), 2)
