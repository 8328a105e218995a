"""The attention family beyond its references: limits in which a variant is plain attention, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from shared_backbones.backbone import Backbone, BackboneSpec, LayerSpec, StageSpec, Tokens
from shared_backbones.errors import BadRequest
from shared_backbones.flops import count_flops
from shared_backbones.layout import Layout
from shared_backbones.mixers import build_mixer, sparse_attention
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
        ("attention", {"kv_heads": 3}, "kv_heads must divide heads"),
        ("attention", {"qk_norm": "batch"}, "norm of queries and keys"),
        ("gated_heads", {"start": 1.0}, "start must lie between"),
        ("gated_heads", {"heads": 3, "head_dim": 4}, "must divide 16"),
        ("routed_heads", {"shared": 4}, "leaves 0 to route"),
        ("routed_heads", {"chosen": 3}, "chosen=3"),
        ("cascaded", {"kernels": (3, 5)}, "one for all heads or one for each of 4"),
        ("single_head", {"width": 17}, "at most 16"),
        ("clipped", {"zeta": 0.5}, "zeta >= 1"),
        ("top_k", {"keep": 0}, "keep must be at least 1"),
        ("subsampled", {"keep": 0.0}, "keep must lie in"),
        ("subsampled", {"position": "alibi"}, "not add to scores"),
        ("prob_sparse", {"factor": 0.0}, "factor must be positive"),
        ("prob_sparse", {"position": "table"}, "not add to scores"),
        ("subspace", {"key_dim": 2}, "are one"),
        ("subspace", {"kv_heads": 2}, "are one"),
        ("manhattan", {"start": 0.0}, "start > 0"),
        ("manhattan_axes", {"position": "table"}, "do not carry over"),
        ("reduced", {"how": "cnv"}, "did you mean 'conv'"),
        ("reduced", {"norm": "layr"}, "did you mean 'layer'"),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        build_mixer(name, 16, **options)


def test_the_places_of_convit_start_as_a_convolution() -> None:
    mixer = build_mixer("positional", 9, rank=2, heads=9, strength=50.0, qkv_bias=False)
    torch.nn.init.constant_(mixer.gate, 50.0)  # type: ignore[arg-type]
    torch.nn.init.eye_(mixer.out.weight)  # type: ignore[union-attr,arg-type]
    torch.nn.init.zeros_(mixer.out.bias)  # type: ignore[union-attr,arg-type]
    x = torch.randn(1, 25, 9)
    y = mixer(x, Layout((5, 5))).reshape(5, 5, 9)
    for head, (i, j) in enumerate((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
        torch.testing.assert_close(y[2, 2, head], x.reshape(5, 5, 9)[2 + i, 2 + j, head])


@pytest.mark.parametrize("causal", [(), (0,)])
def test_subsampled_keys_in_training_are_attention_to_those_keys(causal: tuple[int, ...]) -> None:
    mixer = build_mixer("subsampled", 16, rank=1, keep=0.4, causal_axes=causal).train()
    mask = torch.rand(2, 10, generator=torch.Generator().manual_seed(0)) > 0.2
    x, layout = torch.randn(2, 10, 16), Layout((10,), mask=mask)
    torch.manual_seed(5)
    y = mixer(x, layout)
    torch.manual_seed(5)
    chosen = torch.rand(2, 10).masked_fill(~mask, -1.0).topk(4, -1).indices
    kept = torch.zeros_like(mask).scatter(1, chosen, True) & mask
    q, k, v = mixer.project(x, layout)  # type: ignore[operator]
    seen = kept[:, None, None].expand(2, 1, 10, 10)
    seen = seen & torch.ones(10, 10, dtype=torch.bool).tril() if causal else seen
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    torch.testing.assert_close(y, mixer.out(want.transpose(1, 2).flatten(2)))  # type: ignore[operator]


def test_informer_computes_few_scores() -> None:
    x, layout = torch.randn(1, 4096, 16), Layout((4096,))
    dense, few = (count_flops(build_mixer(name, 16), x, layout) for name in ("attention", "prob_sparse"))
    assert few < dense / 20


@pytest.mark.parametrize("full", [0, 10**9])  # copies of the sampled keys, or the scores of all
def test_sampled_scores_are_those_of_the_keys(full: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_attention, "_FULL", full)
    monkeypatch.setattr(sparse_attention, "_HELD", 100)
    q, k, keys = torch.randn(3, 2, 9, 4), torch.randn(3, 2, 9, 4), torch.randint(9, (3, 9, 5))
    got = sparse_attention.sampled_scores(q, k, keys)
    for b in range(3):
        for i in range(9):
            torch.testing.assert_close(got[b, :, :, i], torch.einsum("hk,hsk->hs", q[b, :, i], k[b][:, keys[b, i]]))


def test_white_box_blocks_replace_the_tokens() -> None:
    sentence = [
        {"mixer": "residual", "norm": "layer", "inner": {"mixer": "subspace"}},
        {"mixer": "norm"},
        {"mixer": "feed_forward", "layer": "ista"},
    ]
    layer = LayerSpec("serial", {"inner": sentence}, "none", {}, {"placement": "plain", "norm": "none"})
    backbone = Backbone(BackboneSpec((StageSpec(16, (layer,) * 2),)), Tokens(rank=1)).eval()
    x, layout = torch.randn(2, 5, 16), Layout((5,))
    y = x
    for block in backbone.stages[0].blocks:  # type: ignore[union-attr]
        attend, norm, ista = block.mix.inner.inner
        z = norm(y + attend.inner(attend.norm(y), layout), layout)
        d = ista.inner.dictionary
        y = torch.relu(z + 0.1 * (z - z @ d.T) @ d - 0.01)
    torch.testing.assert_close(backbone(x, layout)[0], backbone.norm(y))


@pytest.mark.parametrize("options", [{"position": "table"}, {"position": "rotary"}, {"position": "alibi"}])
@pytest.mark.parametrize("name", ["attention", "multiplied", "manhattan", "sigmoid", "clipped", "top_k"])
def test_a_causal_token_does_not_know_how_long_the_sequence_is(name: str, options: dict[str, Any]) -> None:
    mixer = build_mixer(name, 16, rank=1, causal_axes=(0,), **options).double().eval()
    for p in mixer.parameters():
        torch.nn.init.normal_(p)
    x = torch.randn(1, 20, 16, dtype=torch.float64)
    torch.testing.assert_close(mixer(x[:, :7], Layout((7,))), mixer(x, Layout((20,)))[:, :7])
