"""Merges beside the plain one: against torch's own modules, masked, and on lattices that are no whole blocks."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shared_backbones.errors import BadRequest
from shared_backbones.layout import Layout
from shared_backbones.merging import CrossScaleMerge, MBConvMerge, build_merge


def test_cross_scale_merge_is_its_convolutions_side_by_side() -> None:
    torch.manual_seed(0)
    merge, x = CrossScaleMerge(3, 11, 4, 2, kernels=(4, 8, 16)).double(), torch.randn(2, 8 * 12, 3).double()
    y, merged = merge(x, Layout((8, 12)))
    image = x.mT.unflatten(2, (8, 12))
    parts = [F.conv2d(image, c.conv.weight, c.conv.bias, 4, (c.kernel - 4) // 2) for c in merge.convs]
    want = F.layer_norm(torch.cat(parts, 1).flatten(2).mT, (11,), merge.norm.weight, merge.norm.bias)
    assert [part.shape[1] for part in parts] == [5, 2, 4]
    assert merged.axes == (2, 3)
    torch.testing.assert_close(y, want)
    with pytest.raises(BadRequest, match="1 to 2 widths for 2 channels"):
        CrossScaleMerge(3, 2, 4, 2, kernels=(4, 8, 16))


@pytest.mark.parametrize("shortcut", [True, False])
def test_strided_inverted_residual_against_torch_modules(shortcut: bool) -> None:
    torch.manual_seed(0)
    merge = MBConvMerge(4, 6, 2, 2, ratio=3.0, squeeze=0.5, shortcut=shortcut).double().eval()
    x = torch.randn(2, 8 * 6, 4).double()
    y, merged = merge(x, Layout((8, 6)))

    def scaled(norm: nn.Module, z: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(z, norm.mean, norm.variance, norm.weight, norm.bias)

    image = x.mT.unflatten(2, (8, 6))
    h = scaled(merge.enter, image)
    h = F.gelu(scaled(merge.up.norm, F.conv2d(h, merge.up.linear.weight[..., None, None])))
    h = F.gelu(scaled(merge.conv.norm, F.conv2d(h, merge.conv.conv.weight, None, 2, 1, groups=12)))
    h = h * merge.squeeze.gate(h.mean((2, 3)))[..., None, None]
    want = F.conv2d(h, merge.down.weight[..., None, None], merge.down.bias)
    if shortcut:
        want = want + F.conv2d(F.avg_pool2d(image, 2), merge.skip.weight[..., None, None], merge.skip.bias)
    assert merged.axes == (4, 3)
    torch.testing.assert_close(y, want.flatten(2).mT)


def test_depthwise_merge_convolves_each_channel_by_itself() -> None:
    torch.manual_seed(0)
    merge = build_merge("conv", 4, 8, 2, 2, kernel=3, norm="none", depthwise=True)
    x = torch.randn(1, 6 * 6, 4)
    changed = x.clone()
    changed[..., 1] += 1.0
    moved = (merge(changed, Layout((6, 6)))[0] - merge(x, Layout((6, 6)))[0]).abs().amax((0, 1)) > 1e-6
    assert moved.tolist() == [False, False, True, True, False, False, False, False]


@pytest.mark.parametrize("name", ["mbconv", "cross_scale", "conv"])
@pytest.mark.parametrize("axes", [(7,), (5, 4), (3, 4, 5)])
def test_padding_changes_no_merged_token(name: str, axes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    options = {"squeeze": 0.5} if name == "mbconv" else {}
    merge = build_merge(name, 4, 6, 2, len(axes), **options).eval()
    x = torch.randn(1, math.prod(axes), 4)
    want, own = merge(x, Layout(axes))
    wide = tuple(n + 3 for n in axes)
    mask = torch.zeros(1, *wide, dtype=torch.bool)
    box = (0, *(slice(0, n) for n in axes))
    mask[box] = True
    padded = torch.full((1, *wide, 4), torch.nan)
    padded[box] = Layout(axes).fold(x)[0]
    y, merged = merge(padded.flatten(1, -2), Layout(wide, mask=mask.flatten(1)))
    assert merged.mask is not None
    assert int(merged.mask.sum()) == own.size
    torch.testing.assert_close(y[merged.mask], want[0], atol=1e-5, rtol=1e-5)
