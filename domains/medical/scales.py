"""Tokens on (patch, scale): what each stage of a convolutional network sees of a patch.

The input of "DuoFormer: Leveraging Hierarchical Representations by Local and Global Attention" (Tang et al. 2025).
Shapes: B images, C channels, P patches, S tokens of a patch over all scales, D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from shared_backbones.backbone import Tokens
from shared_backbones.errors import BadRequest
from shared_backbones.layout import Layout
from shared_backbones.norms import BatchNorm


class ConvStage(nn.Module):
    """Halves the lattice: two convolutions with norms, and a residual past the second."""

    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(dim_in, dim, 3, 2, 1, bias=False)
        self.same = nn.Conv2d(dim, dim, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([BatchNorm(dim), BatchNorm(dim)])

    def _normed(self, i: int, x: Float[Tensor, "B D H W"]) -> Float[Tensor, "B D H W"]:
        layout = Layout(tuple(x.shape[2:]))
        return self.norms[i](x.flatten(2).mT, layout).mT.reshape(x.shape)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        x = F.relu(self._normed(0, self.down(x)))
        return F.relu(x + self._normed(1, self.same(x)))


class ScaleStem(nn.Module):
    """Stages of convolutions, each halving the image; the last ``scales`` of them are cut into the same patches.

    A patch is one place of the coarsest map; of the map 2^i times finer it has 4^i tokens, and one more that is learned
    and gathers them. Tokens stand on (patches, 1 + 1 + 4 + ...), coarsest first, with positions of place and of scale.

    dims: width after every halving; scales: how many of them are read; learned: side of the table of places.
    """

    tokens = Tokens(rank=2)

    def __init__(
        self,
        channels: int,
        dim: int,
        dims: Sequence[int] = (32, 48, 64, 96),
        scales: int = 3,
        learned: int = 6,
        rank: int = 2,
    ) -> None:
        super().__init__()
        if rank != 2:
            raise BadRequest(f"the stem scales reads images of rank 2, got {rank}")
        if not 1 <= scales <= len(dims):
            raise BadRequest(f"scales must be 1 to {len(dims)}, one per width in dims, got {scales}")
        self.scales = scales
        widths = [channels, *dims]
        self.stages = nn.ModuleList(ConvStage(a, b) for a, b in itertools.pairwise(widths))
        self.embeds = nn.ModuleList(nn.Linear(width, dim) for width in reversed(dims[-scales:]))
        per_patch = 1 + sum(4**i for i in range(scales))
        self.scale_places = nn.Parameter(0.02 * torch.randn(per_patch, dim))
        self.places = nn.Parameter(0.02 * torch.randn(dim, learned, learned))

    def forward(self, x: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B N D"], Layout]:
        maps = []
        step = 2 ** len(self.stages)
        x = F.pad(x, (0, -x.shape[3] % step, 0, -x.shape[2] % step))
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        coarse = maps[-1].shape[2:]
        parts = []
        for i, (embed, found) in enumerate(zip(self.embeds, reversed(maps[-self.scales :]), strict=True)):
            n = 2**i
            blocks = found.unfold(2, n, n).unfold(3, n, n)  # (B, C, h, w, n, n)
            parts.append(embed(blocks.permute(0, 2, 3, 4, 5, 1).flatten(3, 4).flatten(1, 2)))
        tokens = torch.cat([parts[0].new_zeros(parts[0].shape), *parts], 2) + self.scale_places
        places = F.interpolate(self.places[None], coarse, mode="bilinear", align_corners=False)
        tokens = tokens + places[0].flatten(1).mT[None, :, None]
        return tokens.flatten(1, 2), Layout((tokens.shape[1], tokens.shape[2]))
