"""Between stages: fewer tokens of another width. A merge is ``forward(x, layout) -> (x, layout)``.

Shapes: B items, N tokens before, M after, C channels before, K after.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .blocks import pooled, to_blocks, whole_blocks
from .errors import BadRequest, unknown
from .layout import Layout
from .mixers.base import at_least
from .mixers.convolution import NormedLinear, activation, norm_of
from .mixers.gating import CONV
from .mixers.mobile import SqueezeExcite
from .mixers.reduced import Thinned
from .norms import NORMS, normalise
from .options import as_declared, check_options, options_of


def coarser(layout: Layout, like: Tensor, stride: int, axes: tuple[int, ...] | None = None) -> Layout:
    """The lattice after stride^rank neighbours became one token, which is real when any of its parts is.

    Its position is the mean over its real parts; edges do not carry over. ``axes``: the extents, where they are known.
    """
    if stride == 1:
        return layout
    sizes = (stride,) * layout.rank
    mask, positions = layout.mask, layout.positions
    if mask is not None or positions is not None:
        real = like.new_ones(like.shape[:2]) if mask is None else mask.to(like.dtype)
        weights = to_blocks(layout.fold(real[..., None]), sizes)
        mask = None if mask is None else weights.amax((2, 3)) > 0
        if positions is not None:
            total = (to_blocks(layout.fold(layout.clean(positions)), sizes) * weights).sum(2)
            positions = total / weights.sum(2).clamp_min(1)
    axes = tuple(whole_blocks(n, stride) for n in layout.axes) if axes is None else axes
    return Layout(axes=axes, mask=mask, positions=positions, source=layout.source)


class PatchMerge(nn.Module):
    """Lays stride^rank neighbours side by side, then a norm and a linear map: "Swin Transformer" (Liu et al. 2021).

    Masked parts count as zero.
    """

    def __init__(self, dim_in: int, dim_out: int, stride: int, rank: int) -> None:
        super().__init__()
        self.stride, self.rank = stride, rank
        self.norm = nn.LayerNorm(dim_in * stride**rank)
        self.project = nn.Linear(dim_in * stride**rank, dim_out)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> tuple[Float[Tensor, "B M K"], Layout]:
        parts = to_blocks(layout.fold(layout.clean(x)), (self.stride,) * self.rank)
        return self.project(self.norm(parts.flatten(2))), coarser(layout, x, self.stride)


class ConvMerge(nn.Module):
    """act(norm(conv(x))), a strided convolution whose kernel may reach over the stride; or conv(norm(x)).

    With kernel = stride and the norm before, the downsampling of "A ConvNet for the 2020s" (Liu et al. 2022); with
    kernel 3, stride 2 and the norm after, that of "CSWin Transformer" (Dong et al. 2022) and many others. Zeros stand
    outside the lattice and at masked tokens.

    kernel: its width along every axis; None takes the stride. before: whether the norm comes first. depthwise: each
    channel is convolved by itself, as many times as there are channels after for one before.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        stride: int,
        rank: int,
        kernel: int | None = None,
        norm: str = "layer",
        before: bool = False,
        act: str = "none",
        bias: bool = True,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise unknown("norm", norm, NORMS)
        self.stride, self.kernel = at_least("stride", stride, 1), at_least("kernel", kernel or stride, 1)
        self.before, self.act = before, activation(act)
        self.norm = NORMS[norm](dim_in if before else dim_out)
        groups = math.gcd(dim_in, dim_out) if depthwise else 1
        self.conv = CONV[rank](dim_in, dim_out, self.kernel, stride=stride, groups=groups, bias=bias)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> tuple[Float[Tensor, "B M K"], Layout]:
        if self.before:
            x = normalise(self.norm, x, layout)
        lattice = layout.fold(layout.clean(x)).movedim(-1, 1)
        y = self.conv(F.pad(lattice, self.pads(lattice)))
        merged = coarser(layout, x, self.stride, tuple(y.shape[2:]))
        y = y.flatten(2).mT
        return self.act(y if self.before else normalise(self.norm, merged.clean(y), merged)), merged

    def pads(self, lattice: Float[Tensor, "B C *axes"]) -> list[int]:
        """Zeros around, so that one window stands at every stride-th place, centred on the block that it replaces."""
        ahead = max(0, (self.kernel - self.stride + 1) // 2)
        pads: list[int] = []
        for n in reversed(lattice.shape[2:]):
            pads += [ahead, (whole_blocks(n, self.stride) - 1) * self.stride + self.kernel - n - ahead]
        return pads


class CrossScaleMerge(nn.Module):
    """norm of [conv_1(x), ... conv_k(x)]: convolutions of one stride and several kernels share the channels.

    The cross-scale embedding of "CrossFormer: A Versatile Vision Transformer Hinging on Cross-scale Attention" (Wang et
    al. 2022). The first kernel gets half of the channels, each further one half of the rest, the last all that is left.

    kernels: widths along every axis. norm, before: as of :class:`ConvMerge`.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        stride: int,
        rank: int,
        kernels: tuple[int, ...] = (2, 4),
        norm: str = "layer",
        before: bool = False,
    ) -> None:
        super().__init__()
        if not kernels or dim_out < 2 ** (len(kernels) - 1):
            raise BadRequest(
                f"kernels must be 1 to {dim_out.bit_length()} widths for {dim_out} channels, got {kernels}"
            )
        widths = [dim_out >> (i + 1) for i in range(len(kernels) - 1)]
        self.before, self.norm = before, norm_of(norm, dim_in if before else dim_out)
        self.convs = nn.ModuleList(
            ConvMerge(dim_in, width, stride, rank, kernel, "none")
            for kernel, width in zip(kernels, [*widths, dim_out - sum(widths)], strict=True)
        )

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> tuple[Float[Tensor, "B M K"], Layout]:
        if self.before:
            x = normalise(self.norm, x, layout)
        parts = [conv(x, layout) for conv in self.convs]
        y, merged = torch.cat([part for part, _ in parts], -1), parts[0][1]
        return (y if self.before else normalise(self.norm, y, merged)), merged


class MBConvMerge(nn.Module):
    """y = W3 SE(act(norm(DWConv_s(act(norm(W1 norm(x))))))) + W4 mean(x): a strided inverted residual.

    The entry of a stage of "MaxViT" (Tu et al. 2022) and "MOAT" (Yang et al. 2023); without the shortcut that of
    "EfficientViT" (Liu et al. 2023). The mean is over the real parts of each block.

    ratio: hidden over the channels before. squeeze: width of the channel gate SE over the channels after, 0 for none.
    before: whether a norm comes first. shortcut: whether the mean is added.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        stride: int,
        rank: int,
        kernel: int = 3,
        ratio: float = 4.0,
        act: str = "gelu",
        norm: str = "batch",
        squeeze: float = 0.0,
        before: bool = True,
        shortcut: bool = True,
    ) -> None:
        super().__init__()
        hidden = max(1, round(ratio * dim_in))
        self.enter = norm_of(norm if before else "none", dim_in)
        self.up, self.act = NormedLinear(dim_in, hidden, norm), activation(act)
        self.conv, self.act2 = Thinned(hidden, stride, kernel, norm, rank, groups=hidden), activation(act)
        self.squeeze = SqueezeExcite(hidden, max(1, round(squeeze * dim_out))) if squeeze else None
        self.down = nn.Linear(hidden, dim_out)
        self.skip = nn.Linear(dim_in, dim_out) if shortcut else None
        self.sizes = (stride,) * rank

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> tuple[Float[Tensor, "B M K"], Layout]:
        x = layout.clean(x)
        hidden = self.act(self.up(layout.clean(normalise(self.enter, x, layout)), layout))
        y, merged = self.conv(hidden, layout)
        y = self.act2(y)
        y = self.down(y if self.squeeze is None else self.squeeze(y, merged))
        return (y if self.skip is None else y + self.skip(pooled(x, layout, self.sizes)[0])), merged


class Expand(nn.Module):
    """One token becomes stride^rank of another width: a linear map laid out in space, the inverse of merging.

    The patch expanding of "Swin-Unet" (Cao et al. 2022), cut to the finer lattice that is given.
    """

    def __init__(self, dim_in: int, dim_out: int, stride: int, rank: int) -> None:
        super().__init__()
        self.stride, self.rank, self.dim = stride, rank, dim_out
        self.project = nn.Linear(dim_in, dim_out * stride**rank)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout, finer: Layout) -> Float[Tensor, "B M K"]:
        """Tokens on ``layout`` -> tokens on ``finer``, whose places outside stay away."""
        y = layout.fold(self.project(layout.clean(x))).unflatten(-1, ((self.stride,) * self.rank + (self.dim,)))
        for axis, n in enumerate(finer.axes):
            y = y.movedim(1 + self.rank, 2 + axis).flatten(1 + axis, 2 + axis)
            if torch.compiler.is_exporting():  # a narrowed tensor would fix whether the lattice was whole blocks
                y = y.index_select(1 + axis, torch.arange(n, device=y.device))
            else:
                y = y.narrow(1 + axis, 0, n)
        return y.flatten(1, self.rank)


MERGES: dict[str, type[nn.Module]] = {
    "patch": PatchMerge,
    "conv": ConvMerge,
    "cross_scale": CrossScaleMerge,
    "mbconv": MBConvMerge,
}


def build_merge(name: str, dim_in: int, dim_out: int, stride: int, rank: int, **options: Any) -> nn.Module:
    """A merge by name; raises BadRequest for an unknown name or option."""
    if name not in MERGES:
        raise unknown("merge", name, MERGES)
    cls, what = MERGES[name], f"merge {name!r}"
    allowed = list(options_of(cls))[3:]  # after the two widths, the stride and the rank, which the stage decides
    for option in options:
        if option not in allowed:
            raise unknown(f"option of {what}", option, allowed)
    check_options(what, cls, options)
    return cls(dim_in, dim_out, at_least("stride", stride, 1), rank, **as_declared(cls, options))


__all__ = ["MERGES", "ConvMerge", "CrossScaleMerge", "Expand", "MBConvMerge", "PatchMerge", "build_merge", "coarser"]
