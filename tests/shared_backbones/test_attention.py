"""The attention family beyond its references: limits in which a variant is plain attention, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from shared_backbones.errors import BadRequest
from shared_backbones.layout import Layout
from shared_backbones.mixers import build_mixer
from shared_backbones.mixers.base import Mixer


def like_attention(name: str, dim: int = 16, **options: Any) -> tuple[Mixer, Mixer]:
    """A variant and plain attention with the same projections."""
    mixer, plain = build_mixer(name, dim, **options), build_mixer("attention", dim)
    kept = mixer.state_dict()
    plain.load_state_dict({key: kept[key] for key in plain.state_dict()})
    return mixer, plain


@pytest.mark.parametrize("shared", [0, 1, 2, 3])
def test_routed_heads_with_equal_scores_that_choose_all_are_attention(shared: int) -> None:
    mixer, plain = like_attention("routed_heads", shared=shared, chosen=4 - shared)
    for name, p in mixer.named_parameters():
        if name.split(".")[0] in ("router", "always", "kinds"):
            torch.nn.init.zeros_(p)
    x, layout = torch.randn(2, 5, 16), Layout((5,))
    torch.testing.assert_close(mixer(x, layout), plain(x, layout))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("attention", {"out": False, "head_dim": 3}, "must come to 16"),
        ("attention", {"head_dim": 3, "heads": 0}, "heads must be at least 1"),
        ("gated_heads", {"start": 1.0}, "start must lie between"),
        ("gated_heads", {"heads": 3, "head_dim": 4}, "must divide 16"),
        ("routed_heads", {"shared": 4}, "leaves 0 to route"),
        ("routed_heads", {"chosen": 3}, "chosen=3"),
        ("cascaded", {"kernels": (3, 5)}, "one for all heads or one for each of 4"),
        ("single_head", {"width": 17}, "at most 16"),
        ("reduced", {"how": "cnv"}, "did you mean 'conv'"),
        ("reduced", {"norm": "layr"}, "did you mean 'layer'"),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        build_mixer(name, 16, **options)
