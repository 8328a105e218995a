"""Plain convolutions, pooling and pointwise maps: what attention is measured against, and the small words of sentences.

Shapes: B items, N tokens, C channels, H hidden channels.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..activations import ACTIVATIONS as ACTIVATIONS
from ..activations import activation as activation  # what others of this package take from here
from ..errors import BadRequest, unknown
from ..layout import Layout
from ..norms import ACROSS_TOKENS, NORMS, normalise
from .base import Mixer, at_least
from .gating import CONV, reach


def norm_of(name: str, dim: int, causal: frozenset[int] = frozenset()) -> nn.Module:
    """A norm by name; raises BadRequest for an unknown one, or one that would let a causal mixer see the future."""
    if name not in NORMS:
        raise unknown("norm", name, NORMS)
    if causal and name in ACROSS_TOKENS:
        raise BadRequest(f"norm {name!r} looks at all tokens, so nothing with it can be causal")
    return NORMS[name](dim)


class NormedLinear(nn.Module):
    """norm(W x); the bias of W is left out where a norm follows."""

    def __init__(self, dim: int, dim_out: int, norm: str, causal: frozenset[int] = frozenset()) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(dim, dim_out, bias=norm == "none"), norm_of(norm, dim_out, causal)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N K"]:
        return normalise(self.norm, self.linear(x), layout)


class LatticeConv(nn.Module):
    """norm(conv(x)): filters of kernel^rank places over the real tokens of a lattice, in ``groups`` of channels.

    Zeros stand outside. The places are ``dilation`` tokens apart; the bias is left out where a norm follows. A kernel
    may also be given by its width along each axis.
    """

    def __init__(
        self,
        dim: int,
        kernel: int | tuple[int, ...],
        rank: int,
        causal: frozenset[int],
        dilation: int = 1,
        norm: str = "none",
        groups: int = 1,
    ) -> None:
        super().__init__()
        kernels = (kernel,) * rank if isinstance(kernel, int) else kernel
        self.causal = causal
        self.width = tuple((at_least("kernel", k, 1) - 1) * at_least("dilation", dilation, 1) + 1 for k in kernels)
        self.conv = CONV[rank](dim, dim, kernels, groups=groups, dilation=dilation, bias=norm == "none")
        self.norm = norm_of(norm, dim, causal)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        lattice = layout.fold(layout.clean(x)).movedim(-1, 1)
        y = layout.unfold(self.conv(reach(lattice, self.width, self.causal)).movedim(1, -1))
        return normalise(self.norm, y, layout)


class DepthwiseConv(LatticeConv):
    """norm(DWConv(x)): one filter per channel, which reads no other channel."""

    def __init__(
        self,
        dim: int,
        kernel: int | tuple[int, ...],
        rank: int,
        causal: frozenset[int],
        dilation: int = 1,
        norm: str = "none",
    ) -> None:
        super().__init__(dim, kernel, rank, causal, dilation, norm, groups=dim)


class Convolution(Mixer):
    """y = act(norm(DWConv(x))), one filter per channel and no mixing of channels.

    As a layer of its own before attention it tells tokens where they stand: "Conditional Positional Encodings for
    Vision Transformers" (Chu et al. 2023).

    kernel: width along every axis, in places that are ``dilation`` tokens apart.
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    cost: ClassVar[str] = "O(N k^r d)"
    conv_of: ClassVar[type[LatticeConv]] = DepthwiseConv

    def __init__(
        self,
        dim: int,
        kernel: int = 3,
        dilation: int = 1,
        norm: str = "none",
        act: str = "none",
        causal_axes: tuple[int, ...] = (),
        rank: int = 1,
    ) -> None:
        super().__init__()
        self.causal, self.rank, self.act = frozenset(causal_axes), rank, activation(act)
        self.conv = self.conv_of(dim, kernel, rank, self.causal, dilation, norm)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        return self.act(self.conv(x, layout))


class FullConvolution(Convolution):
    """y = act(norm(conv(x))): every channel reads all channels of its neighbours, with zeros outside the lattice.

    The convolution of "U-Net" (Ronneberger et al. 2015) and of every residual network.
    """

    cost: ClassVar[str] = "O(N k^r d^2)"
    conv_of: ClassVar[type[LatticeConv]] = LatticeConv


class Separable(Mixer):
    """y = W2 DWConv(act(W1 x)) with ratio * C hidden channels.

    ratio 1 without activation is the local relation aggregator of "UniFormer" (Li et al. 2022), a learned affinity
    a_(i-j) in place of a computed one; ratio 2 is the mixer of ConvFormer in "MetaFormer Baselines for Vision" (Yu et
    al. 2022).
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    cost: ClassVar[str] = "O(N d^2 + N k^r d)"

    def __init__(
        self,
        dim: int,
        kernel: int = 5,
        ratio: float = 1.0,
        act: str = "none",
        causal_axes: tuple[int, ...] = (),
        rank: int = 1,
    ) -> None:
        super().__init__()
        self.causal, self.rank = frozenset(causal_axes), rank
        hidden, self.act = max(1, round(ratio * dim)), activation(act)
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.conv = DepthwiseConv(hidden, kernel, rank, self.causal)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        return self.down(self.conv(self.act(self.up(layout.clean(x))), layout))


def maximum(x: Float[Tensor, "B N C"], layout: Layout, window: int, causal: frozenset[int]) -> Float[Tensor, "B N C"]:
    """Largest value over the real tokens within window^rank around each, channel by channel; 0 at masked tokens."""
    floor = torch.finfo(x.dtype).min
    lattice = x if layout.mask is None else x.masked_fill(~layout.mask[..., None], floor)
    lattice = reach(layout.fold(lattice).movedim(-1, 1), window, causal, floor)
    for axis in range(2, lattice.ndim):  # the maximum over a cube is the maximum along each axis in turn
        lattice = lattice.unfold(axis, window, 1).amax(-1)
    return layout.clean(layout.unfold(lattice.movedim(1, -1)))


class MaxPooling(Mixer):
    """y_i = max of x over the real tokens within window^rank around i, channel by channel."""

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    cost: ClassVar[str] = "O(N w d)"

    def __init__(self, dim: int, window: int = 3, causal_axes: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.window, self.causal = at_least("window", window, 1), frozenset(causal_axes)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        return maximum(x, layout, self.window, self.causal)


class Pointwise(Mixer):
    """y = act(norm(W x)): no mixing of tokens, for use between the parts of a sentence."""

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    sets: ClassVar[bool] = True
    cost: ClassVar[str] = "O(N d^2)"

    def __init__(self, dim: int, norm: str = "none", act: str = "none", causal_axes: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.causal, self.act = frozenset(causal_axes), activation(act)
        self.linear = NormedLinear(dim, dim, norm, self.causal)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        return self.act(self.linear(layout.clean(x), layout))
