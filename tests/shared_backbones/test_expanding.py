"""Ways back up, against loops over tokens."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from shared_backbones.backbone import Tokens, UNet, build_backbone
from shared_backbones.errors import BadRequest
from shared_backbones.expanding import AttentionExpand, InterpolatedExpand, build_expand
from shared_backbones.layout import Layout
from shared_backbones.presets import load_preset


def places(axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, axes)))


@pytest.mark.parametrize(("coarse", "fine"), [((3, 5), (6, 9)), ((5,), (10,)), ((3, 2, 3), (5, 4, 6))])
def test_attention_is_over_the_coarse_tokens_of_the_window(coarse: tuple[int, ...], fine: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    rank, window = len(coarse), 2
    expand = AttentionExpand(6, 8, 2, rank, skip=5, heads=2, window=window).double()
    n, m = len(places(coarse)), len(places(fine))
    x, skip = torch.randn(2, n, 6).double(), torch.randn(2, m, 5).double()
    mask = torch.rand(2, n) > 0.3
    mask[:, 0] = True
    got = expand.attended(x, Layout(coarse, mask=mask), Layout(fine), skip)
    key, value = expand.key_value(expand.norm_coarse(x * mask[..., None])).chunk(2, -1)
    query = expand.query(expand.norm_fine(skip))
    for b in range(2):
        for i, at in enumerate(places(fine)):
            block = tuple(a // (2 * window) for a in at)
            near = [j for j, c in enumerate(places(coarse)) if tuple(a // window for a in c) == block and mask[b, j]]
            if not near:
                continue  # a window without any token: finite, and of no meaning
            heads = []
            for h in range(2):
                part = slice(4 * h, 4 * h + 4)
                weight = (key[b, near, part] @ query[b, i, part] / 2).softmax(0)
                heads.append(weight @ value[b, near, part])
            torch.testing.assert_close(got[b, i], expand.out(torch.cat(heads)), rtol=1e-6, atol=1e-9)
    assert torch.isfinite(got).all()


def test_interpolation_is_that_of_torch_cut_to_the_finer_lattice() -> None:
    x = torch.randn(2, 12, 6)
    expand = InterpolatedExpand(6, 4, 2, 2)
    got = expand(x, Layout((3, 4)), Layout((6, 7)))
    lattice = expand.project(x).reshape(2, 3, 4, 4).movedim(-1, 1)
    wanted = F.interpolate(lattice, (6, 8), mode="bilinear", align_corners=False)[..., :7]
    torch.testing.assert_close(got, wanted.flatten(2).mT)


def test_the_sentence_chooses_and_wrong_words_are_refused() -> None:
    net = build_backbone(load_preset("attention_unet").backbone, Tokens(rank=2))
    assert isinstance(net, UNet)
    assert all(isinstance(expand, AttentionExpand) for expand in net.expands)
    y, _ = net(torch.randn(1, 13 * 10, 32), Layout((13, 10)))
    assert y.shape == (1, 130, 32)
    y.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.expands.parameters())
    for name, options, says in (
        ("atention", {}, "attention"),
        ("patch", {"heads": 2}, "heads"),
        ("attention", {"heads": 3}, "divide"),
    ):
        with pytest.raises(BadRequest, match=says):
            build_expand(name, 8, 8, 2, 2, 8, **options)
