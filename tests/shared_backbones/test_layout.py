"""Layout and blocks: every view has its inverse, and says what the tokens stand for."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared_backbones.blocks import from_blocks, to_blocks, whole_blocks
from shared_backbones.layout import Layout

LATTICES = st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple)


@given(LATTICES)
def test_fold_and_unfold_are_inverse(axes: tuple[int, ...]) -> None:
    layout = Layout(axes)
    x = torch.randn(2, layout.size, 3)
    assert layout.fold(x).shape == (2, *axes, 3)
    assert torch.equal(layout.unfold(layout.fold(x)), x)
    assert (layout.rank, layout.size) == (len(axes), math.prod(axes))


@given(LATTICES, st.data())
def test_rows_along_axes_split_and_merge(axes: tuple[int, ...], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(axes) - 1), min_size=1, unique=True).map(sorted))
    layout = Layout(axes, mask=torch.rand(2, math.prod(axes)) > 0.3, positions=torch.randn(2, math.prod(axes), 1))
    view, x = layout.over(*chosen), torch.randn(2, layout.size, 3)
    rows = view.split(x)
    assert rows.shape == (2 * layout.size // view.size, view.size, 3)
    assert torch.equal(view.merge(rows), x)
    assert view.layout.axes == tuple(axes[a] for a in chosen)
    inner = view.layout
    assert inner.mask is not None
    assert inner.positions is not None
    assert layout.positions is not None
    assert inner.mask.sum() == layout.mask.sum()  # type: ignore[union-attr]
    assert torch.equal(view.merge(inner.positions), layout.positions)


def test_a_row_holds_the_tokens_of_its_line() -> None:
    x = torch.arange(12.0).reshape(1, 12, 1)
    rows = Layout((3, 4)).over(0).split(x)[..., 0]
    assert rows.tolist() == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]


def test_clean_drops_nan_and_its_gradient() -> None:
    x = torch.tensor([[[1.0], [float("nan")]]], requires_grad=True)
    layout = Layout((2,), mask=torch.tensor([[True, False]]))
    y = layout.clean(x)
    y.sum().backward()
    assert y.flatten().tolist() == [1.0, 0.0]
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [1.0, 0.0]
    assert Layout((2,)).clean(x) is x


def test_counts_real_tokens_and_never_zero() -> None:
    x = torch.zeros(2, 3, 1)
    layout = Layout((3,), mask=torch.tensor([[True, True, False], [False, False, False]]))
    assert layout.counts(x).flatten().tolist() == [2.0, 1.0]
    assert Layout((3,)).counts(x).flatten().tolist() == [3.0, 3.0]


def test_key_mask_is_not_expanded() -> None:
    assert Layout((3,)).key_mask() is None
    mask = Layout((3,), mask=torch.ones(2, 3, dtype=torch.bool)).key_mask()
    assert mask is not None
    assert mask.shape == (2, 1, 1, 3)


def test_to_moves_every_tensor() -> None:
    layout = Layout(
        (3,),
        mask=torch.ones(1, 3, dtype=torch.bool),
        positions=torch.zeros(1, 3, 1),
        edges=torch.zeros(2, 1, dtype=torch.long),
        edge_attr=torch.zeros(1, 2),
    ).to("meta")
    assert {
        t.device.type for t in (layout.mask, layout.positions, layout.edges, layout.edge_attr) if t is not None
    } == {"meta"}


def test_a_wrong_shape_is_refused_while_tests_check_shapes() -> None:
    with pytest.raises(Exception, match="mask"):
        Layout((3,), mask=torch.ones(3, dtype=torch.bool))


@given(LATTICES, st.data())
def test_blocks_hold_each_token_once_at_fixed_borders(axes: tuple[int, ...], data: st.DataObject) -> None:
    sizes = data.draw(st.tuples(*[st.integers(1, 4)] * len(axes)))
    front = tuple(data.draw(st.integers(0, size - 1)) for size in sizes)
    number = torch.arange(1.0, 1 + math.prod(axes)).reshape(1, *axes, 1)
    blocks = to_blocks(number, sizes, front)
    assert blocks.shape[1] == math.prod(whole_blocks(n + f, s) for n, s, f in zip(axes, sizes, front, strict=True))
    assert torch.equal(from_blocks(blocks, axes, sizes, front), number)
    found = [set(block.flatten().tolist()) - {0.0} for block in blocks[0]]
    want: dict[tuple[int, ...], set[float]] = {}
    for place in itertools.product(*map(range, axes)):
        home = tuple((p + f) // s for p, f, s in zip(place, front, sizes, strict=True))
        want.setdefault(home, set()).add(number[(0, *place, 0)].item())
    assert sorted(map(sorted, filter(None, found))) == sorted(map(sorted, want.values()))
