"""Between stages: fewer tokens of another width. A merge is ``forward(x, layout) -> (x, layout)``.

Shapes: B items, N tokens before, M after, C channels before, K after.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .blocks import to_blocks, whole_blocks
from .errors import unknown
from .layout import Layout
from .mixers.base import at_least
from .mixers.convolution import activation
from .mixers.gating import CONV
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

    kernel: its width along every axis; None takes the stride. before: whether the norm comes first.
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
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise unknown("norm", norm, NORMS)
        self.stride, self.kernel = at_least("stride", stride, 1), at_least("kernel", kernel or stride, 1)
        self.before, self.act = before, activation(act)
        self.norm = NORMS[norm](dim_in if before else dim_out)
        self.conv = CONV[rank](dim_in, dim_out, self.kernel, stride=stride, bias=bias)

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
            y = y.index_select(1 + axis, torch.arange(n, device=y.device))
        return y.flatten(1, self.rank)


MERGES: dict[str, type[nn.Module]] = {"patch": PatchMerge, "conv": ConvMerge}


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


__all__ = ["MERGES", "ConvMerge", "Expand", "PatchMerge", "build_merge", "coarser"]
