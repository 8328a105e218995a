"""Stems: raw signals -> tokens and their Layout. A stem states the :class:`Tokens` that its backbone will see."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .backbone import Tokens
from .layout import Layout
from .merging import build_merge
from .positions import LearnedPositions


class VariateStem(nn.Module):
    """Each variate's whole look-back becomes one token: "iTransformer" (Liu et al. 2024).

    Missing steps count as zero and are announced to the token by a second linear map of the mask.
    """

    tokens: ClassVar[Tokens] = Tokens(rank=1, ordered=False)

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        self.embed = nn.Linear(length, dim)
        self.missing = nn.Linear(length, dim, bias=False)

    def forward(
        self, x: Float[Tensor, "B T V"], mask: Bool[Tensor, "B T V"] | None = None
    ) -> tuple[Float[Tensor, "B V C"], Layout]:
        """Series (B, T, V), mask True where observed -> (B, V, C) tokens of an unordered set."""
        if mask is None:
            return self.embed(x.mT), Layout(axes=(x.shape[2],), ordered=False)
        tokens = self.embed(x.masked_fill(~mask, 0.0).mT) + self.missing((~mask).mT.to(x.dtype))
        return tokens, Layout(axes=(x.shape[2],), ordered=False, mask=mask.any(1))


class PatchStem(nn.Module):
    """Spans of a sequence become tokens: "A Time Series is Worth 64 Words" (Nie et al. 2023).

    Spans of ``patch`` steps every ``stride``; the last step is repeated so that the end is always covered.
    A token is real when any of its steps is. With patch = stride = 1 it is a plain linear embedding.
    """

    tokens: ClassVar[Tokens] = Tokens(rank=1, provides=frozenset({"positions"}))

    def __init__(self, features: int, dim: int, patch: int = 16, stride: int = 8) -> None:
        super().__init__()
        self.patch, self.stride = patch, stride
        self.embed = nn.Linear(patch * features, dim)
        self.missing = nn.Linear(patch, dim, bias=False)

    def count(self, length: int) -> int:
        """Tokens made of ``length`` steps."""
        return max(0, -(-(length - self.patch) // self.stride)) + 1

    def forward(
        self, x: Float[Tensor, "B T F"], mask: Bool[Tensor, "B T"] | None = None
    ) -> tuple[Float[Tensor, "B N C"], Layout]:
        """Sequence (B, T, F), mask True where observed -> (B, N, C) tokens, positions in steps."""
        n = self.count(x.shape[1])
        pad = (n - 1) * self.stride + self.patch - x.shape[1]
        observed = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        x = F.pad(x.masked_fill(~observed[..., None], 0.0).mT, (0, pad), mode="replicate").mT
        observed = F.pad(observed, (0, pad), value=False)
        spans = x.unfold(1, self.patch, self.stride).flatten(2)  # (B, N, F * patch)
        seen = observed.unfold(1, self.patch, self.stride)  # (B, N, patch)
        tokens = self.embed(spans)
        if mask is not None:
            tokens = tokens + self.missing((~seen).to(x.dtype))
        centres = (torch.arange(n, device=x.device, dtype=x.dtype) * self.stride + (self.patch - 1) / 2)[None, :, None]
        return tokens, Layout(
            (n,), mask=None if mask is None else seen.any(2), positions=centres.expand(x.shape[0], n, 1)
        )


class ImageStem(nn.Module):
    """Convolutions turn an image (or a volume, or channels in time) into tokens on a coarser lattice.

    One layer of kernel = stride is the patch embedding of "An Image is Worth 16x16 Words" (Dosovitskiy et al. 2021);
    overlapping and stacked ones are the stems of the pyramids. Sizes need not be multiples of the stride: zeros stand
    beyond the edge, and every ``stride`` places have a token.

    layers: of each convolution its ``stride``, ``kernel`` (default: the stride), ``dim`` (the last one's is the
    model's), ``norm`` (default none), ``act``, ``bias``, ``before``; or ``merge``, another merge of ``MERGES`` with its
    own options. learned: adds learned positions, a table of so
    many places per axis that is interpolated to other sizes; 0 adds none.
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        layers: Sequence[Mapping[str, Any]] = ({"stride": 4},),
        learned: int = 0,
        rank: int = 2,
    ) -> None:
        super().__init__()
        self.tokens = Tokens(rank=rank)
        rows = [{"norm": "none", **row} for row in layers]
        widths = [channels, *(row.pop("dim", dim) for row in rows[:-1]), dim]
        rows[-1].pop("dim", None)
        self.convs = nn.ModuleList(
            build_merge(row.pop("merge", "conv"), a, b, rank=rank, **{"stride": 1, **row})
            for (a, b), row in zip(itertools.pairwise(widths), rows, strict=True)
        )
        self.positions = LearnedPositions(dim, learned, rank) if learned else None

    def forward(self, x: Float[Tensor, "B F *axes"]) -> tuple[Float[Tensor, "B N C"], Layout]:
        """Channel-first lattice -> tokens."""
        layout, x = Layout(tuple(x.shape[2:])), x.flatten(2).mT
        for conv in self.convs:
            x, layout = conv(x, layout)
        return (x if self.positions is None else self.positions(x, layout)), layout


def sinusoidal(at: Float[Tensor, "*n"], dim: int, shortest: float, longest: float) -> Float[Tensor, "*n dim"]:
    """Sines and cosines of real coordinates, periods spaced geometrically from shortest to longest (same unit)."""
    half = (dim + 1) // 2
    steps = torch.linspace(0, 1, half, device=at.device, dtype=torch.float64)
    periods = shortest * (longest / shortest) ** steps
    angle = at[..., None].to(torch.float64) * (2 * math.pi / periods)
    return torch.cat([angle.sin(), angle.cos()], -1)[..., :dim].to(at.dtype)


class SpectrumStem(nn.Module):
    """A spectrum on any bands becomes tokens at fixed wavelengths.

    Token j reads the bands near its centre c_j (nm) through ``basis`` Gaussian-windowed moments, normalised by
    the weight of the bands that are there:  m_jk = sum_b w_jb phi_k((l_b - c_j)/s) x_b / sum_b w_jb,
    w_jb = exp(-((l_b - c_j)/s)^2 / 2), s = the spacing of the centres. So band count, order and gaps are free, a
    missing band only lowers a weight, and a token without any band within 3 s is masked.
    """

    tokens: ClassVar[Tokens] = Tokens(rank=1, provides=frozenset({"positions"}))
    centres: Tensor
    place: Tensor

    def __init__(
        self, dim: int, centres: int = 32, shortest_nm: float = 400.0, longest_nm: float = 2500.0, basis: int = 4
    ) -> None:
        super().__init__()
        self.basis = basis
        self.register_buffer("centres", torch.linspace(shortest_nm, longest_nm, centres))
        self.spacing = (longest_nm - shortest_nm) / max(1, centres - 1)
        self.embed = nn.Linear(basis, dim)
        self.register_buffer("place", sinusoidal(self.centres, dim, 2 * self.spacing, 2 * (longest_nm - shortest_nm)))

    def response(
        self, wavelengths: Float[Tensor, "bands"], mask: Bool[Tensor, "*B bands"]
    ) -> tuple[Float[Tensor, "*B J K bands"], Bool[Tensor, "*B J"]]:
        """Linear map from bands to moments, and which tokens have a band near them."""
        offset = (wavelengths - self.centres[:, None]) / self.spacing  # (J, bands)
        weight = (torch.exp(-0.5 * offset**2) * (offset.abs() <= 3)) * mask[..., None, :]
        total = weight.sum(-1, keepdim=True)
        phi = torch.stack([torch.cos(k * math.pi * (offset + 3) / 6) for k in range(self.basis)], 1)  # (J, K, bands)
        return (weight / total.clamp_min(1e-12))[..., None, :] * phi, total[..., 0] > 1e-6

    def forward(
        self,
        x: Float[Tensor, "B bands"],
        wavelengths: Float[Tensor, "bands"],
        mask: Bool[Tensor, "B bands"] | None = None,
    ) -> tuple[Float[Tensor, "B J C"], Layout]:
        """Spectra (B, bands) on ``wavelengths`` (nm), mask True where valid -> tokens, positions in nm."""
        shared = torch.ones_like(wavelengths, dtype=torch.bool) if mask is None else mask
        to_moments, real = self.response(wavelengths, shared)
        x = x if mask is None else x.masked_fill(~mask, 0.0)
        moments = torch.einsum("jkb,nb->njk" if mask is None else "njkb,nb->njk", to_moments, x)
        tokens = self.embed(moments) + self.place
        positions = self.centres[None, :, None].expand(len(x), -1, 1)
        return tokens, Layout((len(self.centres),), mask=real.expand(x.shape[0], -1), positions=positions)


class ChannelTokens(nn.Module):
    """Vectors that already stand on a lattice (or are a set) become tokens, channel-wise: W x + b."""

    def __init__(self, features: int, dim: int, rank: int = 1, ordered: bool = True) -> None:
        super().__init__()
        self.tokens = Tokens(rank=rank, ordered=ordered)
        self.embed = nn.Linear(features, dim)

    def forward(
        self, x: Float[Tensor, "B *axes F"], layout: Layout | None = None
    ) -> tuple[Float[Tensor, "B N C"], Layout]:
        """Vectors on their lattice, or (B, N, F) with the layout that says what they stand for -> tokens."""
        if layout is None:
            layout = Layout(tuple(x.shape[1:-1]), ordered=self.tokens.ordered)
        return self.embed(layout.clean(x.flatten(1, -2))), layout
