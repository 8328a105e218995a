"""Groups and neighbourhoods: where two mixers must agree, what is refused, and what only training does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from shared_backbones.errors import BadRequest
from shared_backbones.layout import Layout
from shared_backbones.mixers import attend as core
from shared_backbones.mixers import build_mixer


def same_weights(name: str, options: dict[str, Any], other: str, others: dict[str, Any]) -> None:
    """Two mixers of rank 2 with the same weights give the same."""
    a, b = build_mixer(name, 8, rank=2, **options), build_mixer(other, 8, rank=2, **others)
    b.load_state_dict(a.state_dict())
    x, layout = torch.randn(2, 12 * 8, 8), Layout((12, 8))
    torch.testing.assert_close(a(x, layout), b(x, layout), rtol=1e-4, atol=1e-5)


def test_strides_as_wide_as_the_window_are_blocks() -> None:
    same_weights("neighborhood", {"window": 4, "stride": 4}, "window", {"window": 4})


def test_a_window_over_everything_is_attention_on_all() -> None:
    whole: dict[str, Any] = {"window": 12, "bias": "none"}
    same_weights("neighborhood", whole, "attention", {})
    same_weights("window", whole, "attention", {})
    same_weights("stripes", {"width": 12, "kernel": 0}, "attention", {})
    same_weights("regions", {"window": 2, "top": 24, "kernel": 0}, "attention", {})


@pytest.mark.parametrize("tile", [1, 3, (5, 2), 64])
def test_the_tile_changes_no_number(tile: int | tuple[int, ...]) -> None:
    same_weights("neighborhood", {"window": (5, 3)}, "neighborhood", {"window": (5, 3), "tile": tile})
    sparse: dict[str, Any] = {"window": 3, "dilation": 3}
    same_weights("neighborhood", sparse, "neighborhood", {**sparse, "tile": tile})


def test_parts_of_the_scores_join_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    mixer, x, layout = build_mixer("neighborhood", 8, rank=2, window=3), torch.randn(2, 400, 8), Layout((20, 20))
    whole = mixer(x, layout)
    for most in (1, 64 * 100, 3 * 64 * 100, 2 * 20 * 64 * 100):
        monkeypatch.setattr(core, "AT_ONCE", most)
        torch.testing.assert_close(mixer(x, layout), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("window", {"window": (7, 7, 7)}, "window must be at least 1, or 2 of them"),
        ("window", {"bias": "tabel"}, "did you mean 'table'"),
        ("window", {"halo": -1}, "halo must be at least 0"),
        ("neighborhood", {"window": 3, "stride": 4}, "stride must not exceed window"),
        ("sorted", {"window": 0.0}, "window must be positive"),
        ("routing", {"decay": 2.0}, "decay must lie in"),
        ("shift", {"axis": 3}, "axis must lie in"),
        ("shift", {"steps": -1, "causal_axes": (0,)}, "shows the future"),
    ],
)
def test_requests_without_sense_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        build_mixer(name, 16, rank=2, **options)


def test_sorting_needs_its_coordinate() -> None:
    layout = Layout((4,), ordered=False, positions=torch.rand(1, 4, 1))
    with pytest.raises(BadRequest, match="axis 1 of 'sorted'"):
        build_mixer("sorted", 8, axis=1)(torch.randn(1, 4, 8), layout)


def test_centroids_follow_the_real_tokens_in_training_only() -> None:
    mixer: Any = build_mixer("routing", 8, heads=1, clusters=1, decay=0.0)
    x, before = torch.randn(1, 6, 8), mixer.centroids.clone()
    mask = torch.tensor([[True] * 4 + [False] * 2])
    mixer.eval()(x, Layout((6,), mask=mask))
    assert torch.equal(mixer.centroids, before)
    mixer.train()(x, Layout((6,), mask=mask))
    q, k, _ = mixer.qkv(x[:, :4]).chunk(3, -1)
    mean = torch.nn.functional.layer_norm(torch.cat([q, k], 1), (8,)).mean(1)
    torch.testing.assert_close(mixer.centroids[0], mean)
