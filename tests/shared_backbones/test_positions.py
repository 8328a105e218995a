"""Positions mean the same on every size, in every batch and under every shift."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from shared_backbones.errors import BadRequest
from shared_backbones.layout import Layout
from shared_backbones.mixers import build_mixer
from shared_backbones.positions import (
    LearnedPositions,
    Table,
    alibi,
    build_position,
    coordinates,
    resize_relative,
    rotary,
)


def test_learned_positions_are_the_table_at_its_own_size() -> None:
    add = LearnedPositions(4, 5, rank=2).double()
    x = torch.zeros(2, 25, 4, dtype=torch.float64)
    torch.testing.assert_close(add(x, Layout((5, 5))), add.table.reshape(1, 25, 4).expand(2, -1, -1))


def test_learned_positions_agree_with_torch_interpolation() -> None:
    add = LearnedPositions(4, 5, rank=2).double()
    want = torch.nn.functional.interpolate(add.table.movedim(-1, 0)[None], (8, 3), mode="bilinear")
    got = add(torch.zeros(1, 24, 4, dtype=torch.float64), Layout((8, 3)))
    torch.testing.assert_close(got, want[0].flatten(1).T[None])


def test_padding_moves_no_learned_position() -> None:
    add = LearnedPositions(4, 6)
    x = torch.randn(1, 9, 4)
    wide = torch.cat([x, torch.randn(1, 3, 4)], 1)
    y = add(wide, Layout((12,), mask=torch.arange(12)[None] < 9))
    torch.testing.assert_close(y[:, :9], add(x, Layout((9,))))
    with pytest.raises(BadRequest, match="rank 1"):
        add(x, Layout((3, 3)))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_rotary_sees_differences_alone(k: int) -> None:
    q, key = torch.randn(2, 2, 3, 9, 14, dtype=torch.float64).unbind(0)
    at = 50 * torch.rand(2, 9, k, dtype=torch.float64)
    shift = torch.tensor([3.7, -1.0, 11.0], dtype=torch.float64)[:k]
    scores = [rotary(q, p) @ rotary(key, p).mT for p in (at, at + shift)]
    torch.testing.assert_close(scores[0], scores[1])
    assert (scores[0] - q @ key.mT).abs().max() > 0.1
    torch.testing.assert_close(rotary(q, at).norm(dim=-1), q.norm(dim=-1))


def test_rotary_turns_the_first_pair_once_per_shortest_period() -> None:
    q = torch.randn(1, 1, 1, 8, dtype=torch.float64)
    turned = rotary(q, torch.full((1, 1, 1), 3.0, dtype=torch.float64), shortest=12.0, longest=1200.0)
    a = 2 * math.pi * 3 / 12
    want = q[..., 0] * math.cos(a) - q[..., 4] * math.sin(a)
    torch.testing.assert_close(turned[..., 0], want)
    with pytest.raises(BadRequest, match="at least 6 channels"):
        rotary(torch.randn(1, 1, 2, 4), torch.rand(1, 2, 3))


def test_alibi_slopes() -> None:
    bias = alibi(torch.tensor([[[0.0], [1.0], [4.0]]]), 8)
    assert bias[0, 0, 0].tolist() == [0.0, -0.5, -2.0]
    assert bias[0, 7, 2].tolist() == [-4 / 256, -3 / 256, 0.0]


def test_coordinates_of_a_lattice_and_of_real_positions() -> None:
    x = torch.zeros(1, 6, 2)
    assert coordinates(Layout((2, 3)), x)[0].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    at = torch.rand(1, 6, 1)
    torch.testing.assert_close(coordinates(Layout((6,), positions=at), x), at)


def test_relative_tables_fit_other_windows() -> None:
    window = build_mixer("window", 8, rank=2, window=3, heads=2)
    same = resize_relative(window.table.detach(), 2, 3)
    torch.testing.assert_close(same, window.table.detach())
    linear = torch.arange(-2.0, 3.0)[:, None]  # offsets -2 .. 2 of a window of 3
    got = resize_relative(linear, 1, 5)[:, 0]
    torch.testing.assert_close(got, torch.linspace(-2.0, 2.0, 9))
    larger = build_mixer("window", 8, rank=2, window=5, heads=2)
    assert resize_relative(window.table.detach(), 2, 5).shape == larger.table.shape
    assert float(resize_relative(linear + 1, 1, 1)[0, 0]) == 1.0
    with pytest.raises(BadRequest, match="entries"):
        resize_relative(torch.zeros(6, 1), 1, 3)


@pytest.mark.parametrize(
    ("position", "request_", "words"),
    [
        ("rotery", {}, "did you mean 'rotary'"),
        ({"size": 3}, {}, "unknown position"),
        ({"kind": "table", "sizes": 3}, {}, "did you mean 'size'"),
        ({"kind": "table", "rank": 2}, {}, "unknown option"),
        ({"kind": "table", "size": 0}, {}, "size must be at least 1"),
        ({"kind": "alibi", "unit": -1.0}, {}, "unit must be positive"),
        ({"kind": "rotary", "longest": 1.0}, {}, "shortest < longest"),
        ("rotary", {"rank": 3}, "at least 6 channels"),
        ("table", {"ordered": False}, "stands on a lattice"),
        ("alibi", {"ordered": False, "provides": ()}, "needs positions"),
    ],
)
def test_positions_that_cannot_serve_are_refused(position: Any, request_: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        build_mixer("attention", 16, heads=4, position=position, **request_)


def test_a_set_without_coordinates_has_no_place() -> None:
    mixer = build_mixer("attention", 16, position="alibi")
    with pytest.raises(BadRequest, match="needs Layout"):
        mixer(torch.randn(1, 4, 16), Layout((4,), ordered=False))


def test_a_table_is_read_as_stored_at_its_size_and_stretched_elsewhere() -> None:
    position = build_position({"kind": "table", "size": 3}, heads=2, width=4, rank=1)
    assert isinstance(position, Table)
    table = position.table.detach()
    bias = position.bias(Layout((3,)), torch.zeros(1, 3, 8))
    assert bias is not None
    assert torch.equal(bias[0, :, 2, 0], table[:, 4])  # offset +2
    assert torch.equal(bias[0, :, 0, 1], table[:, 1])
    wide = position.bias(Layout((5,)), torch.zeros(1, 5, 8))
    assert wide is not None
    torch.testing.assert_close(wide[0, :, 4, 0], table[:, 4])
    torch.testing.assert_close(wide[0, :, 1, 0], (table[:, 2] + table[:, 3]) / 2)
