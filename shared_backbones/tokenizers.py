"""More stems: convolutional tokens, windows of windows, tokens per channel, a first layer that steps in activation
space; pooling.

Shapes: B items, F channels of the signal, N tokens, C channels of a token, K = patch^rank places of a patch.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .backbone import Tokens
from .blocks import to_blocks, whole_blocks
from .channel.mlp import MLP
from .errors import BadRequest
from .layout import Layout
from .mixers.base import at_least
from .mixers.gating import CONV
from .mixers.kernels import contract
from .mixers.sequence import elu1
from .positions import LearnedPositions

POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


class ConvTokenizer(nn.Module):
    """Layers of convolution, relu and max-pooling by 2: "Escaping the Big Data Paradigm with Compact
    Transformers" (Hassani et al. 2021). Neighbouring tokens overlap, and the size of the input is free.

    learned: places per axis of a table of learned positions, which is interpolated to other sizes; 0 adds none.
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        layers: int = 1,
        kernel: int = 3,
        hidden: int = 64,
        learned: int = 0,
        rank: int = 2,
    ) -> None:
        super().__init__()
        widths = [channels, *[hidden] * (at_least("layers", layers, 1) - 1), dim]
        self.tokens = Tokens(rank=rank)
        self.convs = nn.ModuleList(
            CONV[rank](a, b, kernel, padding=kernel // 2, bias=False) for a, b in itertools.pairwise(widths)
        )
        self.positions = LearnedPositions(dim, learned, rank) if learned else None

    def forward(self, x: Float[Tensor, "B F *axes"]) -> tuple[Float[Tensor, "B N C"], Layout]:
        """Channel-first lattice -> tokens on a lattice of half the size per layer, rounded up."""
        for conv in self.convs:
            x = POOL[self.tokens.rank](F.relu(conv(x)), 3, stride=2, padding=1)
        tokens, layout = x.flatten(2).mT, Layout(tuple(x.shape[2:]))
        return (tokens if self.positions is None else self.positions(tokens, layout)), layout


class _Regroup(nn.Module):
    """Overlapping windows of a lattice, laid side by side, mixed by linear attention of one head through ``dim``
    channels: y = v + W_o attention(q, k, v), y + MLP(norm(y)), with q, k, v = W norm(window).
    """

    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        self.norm, self.norm2 = nn.LayerNorm(dim_in), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim_in, 3 * dim, bias=False), nn.Linear(dim, dim)
        self.mlp = MLP(dim, ratio=1.0)

    def forward(self, x: Float[Tensor, "B N K"], layout: Layout) -> Float[Tensor, "B N C"]:
        q, k, v = (part[:, None] for part in self.qkv(self.norm(x)).chunk(3, -1))
        y = v[:, 0] + self.out(contract(elu1(q), elu1(k), v)[:, 0])
        return y + self.mlp(self.norm2(y), layout)


class TokensToToken(nn.Module):
    """Rounds of laying overlapping neighbours side by side and mixing what results, then a linear map to the tokens.

    "Tokens-to-Token ViT: Training Vision Transformers from Scratch on ImageNet" (Yuan et al. 2021), with the features
    elu + 1 in place of random ones. Zeros stand beyond the edge; every ``stride`` places have a token.

    kernels, strides: of each round; the last one ends in the linear map. hidden: width between. learned: as of
    :class:`ConvTokenizer`.
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        kernels: tuple[int, ...] = (7, 3, 3),
        strides: tuple[int, ...] = (4, 2, 2),
        hidden: int = 64,
        learned: int = 0,
        rank: int = 2,
    ) -> None:
        super().__init__()
        if not kernels or len(kernels) != len(strides):
            raise BadRequest(f"kernels and strides have one number for each round, got {kernels} and {strides}")
        if any(stride < 1 or kernel < stride for kernel, stride in zip(kernels, strides, strict=True)):
            raise BadRequest(f"windows must cover their strides of at least 1, got {kernels} and {strides}")
        self.channels, self.kernels, self.strides = channels, kernels, strides
        self.tokens = Tokens(rank=rank)
        widths = [channels * kernels[0] ** rank, *(hidden * kernel**rank for kernel in kernels[1:])]
        self.rounds = nn.ModuleList(_Regroup(width, hidden) for width in widths[:-1])
        self.project = nn.Linear(widths[-1], dim)
        self.positions = LearnedPositions(dim, learned, rank) if learned else None

    def windows(
        self, x: Float[Tensor, "B F *axes"], kernel: int, stride: int
    ) -> tuple[Float[Tensor, "B N K"], tuple[int, ...]]:
        """Every window of kernel^rank places as one row, and the lattice of the windows."""
        axes = tuple(whole_blocks(n, stride) for n in x.shape[2:])
        ahead, pads = (kernel - stride + 1) // 2, []
        for n, count in zip(reversed(x.shape[2:]), reversed(axes), strict=True):
            pads += [ahead, (count - 1) * stride + kernel - n - ahead]
        x = F.pad(x, pads)
        for axis in range(2, x.ndim):
            x = x.unfold(axis, kernel, stride)
        return x.movedim(1, 1 + len(axes)).flatten(1 + len(axes)).flatten(1, -2), axes

    def forward(self, x: Float[Tensor, "B F *axes"]) -> tuple[Float[Tensor, "B N C"], Layout]:
        """Channel-first lattice -> tokens."""
        for mix, kernel, stride in zip(self.rounds, self.kernels, self.strides, strict=False):
            rows, axes = self.windows(x, kernel, stride)
            x = mix(rows, Layout(axes)).mT.unflatten(2, axes)
        rows, axes = self.windows(x, self.kernels[-1], self.strides[-1])
        tokens, layout = self.project(rows), Layout(axes)
        return (tokens if self.positions is None else self.positions(tokens, layout)), layout


class SequencePool(nn.Module):
    """softmax(x w)^T x over the real tokens, a learned average in place of a class token (Hassani et al. 2021)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B C"]:
        x = layout.clean(x)
        scores = self.score(x)
        if layout.mask is not None:
            scores = scores.masked_fill(~layout.mask[..., None], 0.5 * torch.finfo(scores.dtype).min)
        return (scores.softmax(1) * x).sum(1)


class PerChannelStem(nn.Module):
    """Every channel of an image is cut into patches of its own: tokens W x + e_channel, one W for all channels.

    "Channel Vision Transformers: An Image Is Worth C x 16 x 16 Words" (Bao et al. 2024).

    The lattice is (channels, *patches). While training with ``sample``, a number of channels drawn from 1 .. F and then
    that many of them are kept, once per batch, so that the model bears missing channels.
    """

    def __init__(self, channels: int, dim: int, patch: int = 16, sample: bool = True, rank: int = 2) -> None:
        super().__init__()
        if rank > 2:
            raise BadRequest(f"channels are one more axis of the lattice: rank may be 1 or 2, got {rank}")
        self.patch, self.sample, self.rank = at_least("patch", patch, 1), sample, rank
        self.tokens = Tokens(rank=rank + 1)
        self.embed = nn.Linear(patch**rank, dim)
        self.channel = nn.Parameter(torch.randn(channels, dim) * 0.02)

    def drawn(self, channels: int) -> list[int]:
        """The channels to use, ascending: a draw while training, else all."""
        if not (self.training and self.sample):
            return list(range(channels))
        count = int(torch.randint(1, channels + 1, ()))
        return sorted(torch.randperm(channels)[:count].tolist())

    def forward(
        self, x: Float[Tensor, "B F *axes"], present: Bool[Tensor, "B F"] | None = None
    ) -> tuple[Float[Tensor, "B N C"], Layout]:
        """Channel-first lattice, ``present`` True where an item has the channel -> tokens (channel, *patches)."""
        used = self.drawn(x.shape[1])
        sizes = (self.patch,) * self.rank
        patches = to_blocks(x[:, used].flatten(0, 1)[..., None], sizes)[..., 0]  # (B F, P, K)
        patches = patches.unflatten(0, (x.shape[0], len(used)))
        mask = None
        if present is not None:
            here = present[:, used]
            patches = patches.masked_fill(~here[..., None, None], 0.0)
            mask = here[..., None].expand(-1, -1, patches.shape[2]).flatten(1)
        tokens = self.embed(patches) + self.channel[used, None]
        axes = (len(used), *(-(-n // self.patch) for n in x.shape[2:]))
        return tokens.flatten(1, 2), Layout(axes, mask=mask)


class _ActivationStep(torch.autograd.Function):
    """x W^T whose gradient in W is G (X^T X / b + lambda I)^-1, G the plain one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, damping: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.damping = damping
        return x @ weight.mT

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, None]:
        (grad,), (x, weight) = grads, ctx.saved_tensors
        rows, flat = x.flatten(0, -2), grad.flatten(0, -2)
        gram = rows.mT @ rows / len(rows) + ctx.damping * torch.eye(rows.shape[1], dtype=x.dtype, device=x.device)
        step = torch.linalg.solve(gram, rows.mT @ flat).mT
        return (grad @ weight if ctx.needs_input_grad[0] else None), step, None


class ActivationStepLinear(nn.Linear):
    """A linear first layer that learns as if its outputs were stepped: "TrAct: Making First-layer Pre-Activations
    Trainable" (Petersen et al. 2024).

    The same values as nn.Linear; the weight's gradient is multiplied by (X^T X / b + damping I)^-1 over the b rows of
    the batch, so that a dark input moves the weights as much as a bright one. To use it, replace a stem's ``embed``.
    """

    def __init__(self, features: int, dim: int, bias: bool = True, damping: float = 0.1) -> None:
        super().__init__(features, dim, bias)
        if damping <= 0:
            raise BadRequest(f"damping must be positive, got {damping}")
        self.damping = damping

    def forward(self, input: Float[Tensor, "*rows F"]) -> Float[Tensor, "*rows C"]:  # noqa: A002 - nn.Linear's name
        y = _ActivationStep.apply(input, self.weight, self.damping)
        return y if self.bias is None else y + self.bias


__all__ = ["ActivationStepLinear", "ConvTokenizer", "PerChannelStem", "SequencePool", "TokensToToken"]
