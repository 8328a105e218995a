"""Counted memory, against sums made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from shared_backbones.footprint import peak_bytes

KILO = 4 * 1000  # bytes of a row of X
X = torch.randn(100, 1000)
LINEARS = nn.Sequential(*[nn.Linear(1000, 1000) for _ in range(3)])


def _replaced() -> None:
    for _ in range(5):
        y = X + 1  # the former y lives until the next one stands
    del y


def _dropped() -> None:
    for _ in range(5):
        y = X + 1
        del y


@pytest.mark.parametrize(
    ("run", "rows"),
    [
        (lambda: (X * 2).relu_(), 100),
        (lambda: [X + 1 for _ in range(3)], 300),
        (lambda: X.view(-1)[7:].reshape(-1), 0),
        (lambda: X[:10].clone(), 10),
        (_replaced, 200),
        (_dropped, 100),
    ],
    ids=["in place", "kept", "a view of what was there", "a part", "replaced", "dropped"],
)
def test_live_bytes(run: Callable[[], Any], rows: int) -> None:
    assert peak_bytes(run) == rows * KILO


def test_without_gradients_a_chain_holds_two_layers_and_with_them_all() -> None:
    with torch.no_grad():
        assert peak_bytes(lambda: LINEARS(X)) == 200 * KILO
    assert peak_bytes(lambda: LINEARS(X)) == 300 * KILO
