"""Linear attention with other kernels: y_i = sum_j w_ij v_j, with weights whose sum over keys is taken first.

Shapes: B items, N tokens, C channels, H heads, D = C / H, M features of a key, P = F // 2 pairs of channels.
"""

from __future__ import annotations

import itertools
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import BadRequest
from ..layout import Layout
from .base import Mixer, at_least, heads_of
from .gating import CONV, reach
from .retention import turn
from .scans import full, full_precision
from .sequence import elu1, join_heads, split_heads

EPS = 1e-6


def real_keys(k: Float[Tensor, "B H N M"], layout: Layout) -> Float[Tensor, "B H N M"]:
    """Zero features at masked tokens: no weight."""
    return k if layout.mask is None else k.masked_fill(~layout.mask[:, None, :, None], 0.0)


def contract(
    q: Float[Tensor, "B H N M"], k: Float[Tensor, "B H N M"], v: Float[Tensor, "B H N D"]
) -> Float[Tensor, "B H N D"]:
    """sum_j (q_i^T k_j) v_j / sum_j q_i^T k_j, the sums over j first: no N x N."""
    return q @ (k.mT @ v) / (q @ k.sum(2)[..., None] + EPS)


class Kernel(Mixer):
    """What the mixers here share: projections in and out, heads, and zeros in place of masked tokens."""

    cost: ClassVar[str] = "O(N d^2)"

    def __init__(self, dim: int, heads: int | None = None) -> None:
        super().__init__()
        self.heads = heads_of(dim, heads)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def project(self, x: Float[Tensor, "B N C"], layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v (B, H, N, D)."""
        self.check(layout)
        q, k, v = (split_heads(t, self.heads) for t in self.qkv(layout.clean(x)).chunk(3, -1))
        return q, k, real_keys(v, layout)


class ReluLinear(Kernel):
    """y = W_o (contract(relu(q), relu(k), v) + DWConv(v)).

    "SLAB: Efficient Transformers with Simplified Linear Attention and Progressive Re-parameterized Batch
    Normalization" (Guo et al. 2024).

    kernel: width of the depthwise convolution along every axis.
    """

    def __init__(self, dim: int, heads: int | None = None, kernel: int = 3, rank: int = 1) -> None:
        super().__init__(dim, heads)
        self.rank, self.kernel = rank, at_least("kernel", kernel, 1)
        self.conv = CONV[rank](dim, dim, kernel, groups=dim)

    def local(self, v: Float[Tensor, "B H N D"], layout: Layout) -> Float[Tensor, "B N C"]:
        """The depthwise convolution of the values over the lattice."""
        lattice = layout.fold(join_heads(v)).movedim(-1, 1)
        return layout.unfold(self.conv(reach(lattice, self.kernel, frozenset())).movedim(1, -1))

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        q, k, v = self.project(x, layout)
        y = contract(F.relu(q), real_keys(F.relu(k), layout), v)
        return self.out(join_heads(y) + self.local(v, layout))


class RankAugmented(ReluLinear):
    """y = W_o (W_g x * (sum_j a_j (R_i f(q_i))^T R_j f(k_j) v_j / sum_j f(q_i)^T f(k_j) + DWConv(v)_i)), f = elu + 1.

    "Breaking the Low-Rank Dilemma of Linear Attention" (Fan et al. 2024): a_j = N softmax_j(mean(f(q))^T f(k_j) /
    sqrt(D)) makes the summed keys richer, the gate W_g x the outputs. R turns pairs of channels by the token's place,
    pairs taking the axes of the lattice in turn.
    """

    def __init__(self, dim: int, heads: int | None = None, kernel: int = 5, rank: int = 1) -> None:
        super().__init__(dim, heads, kernel, rank)
        self.gate = nn.Linear(dim, dim)

    def angles(self, layout: Layout, like: Float[Tensor, "B H N D"]) -> Float[Tensor, "1 N P"]:
        """How far each pair of channels is turned at each place of the lattice."""
        pairs, rank = like.shape[-1] // 2, layout.rank
        grids = torch.meshgrid(*(torch.arange(n, device=like.device) for n in layout.axes), indexing="ij")
        pair = torch.arange(pairs, device=like.device)
        speed = 10000.0 ** -(pair.div(rank, rounding_mode="floor").double() * rank / max(pairs, 1))
        return (torch.stack([g.flatten() for g in grids], -1)[:, pair % rank] * speed)[None]

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        q, k, v = self.project(x, layout)
        q, k = real_keys(elu1(q), layout), real_keys(elu1(k), layout)
        count = layout.counts(x)[..., None].to(q.dtype)
        score = k @ (q.sum(2) / count[..., 0]).unsqueeze(-1) * k.shape[-1] ** -0.5
        if layout.mask is not None:
            score = score.masked_fill(~layout.mask[:, None, :, None], torch.finfo(score.dtype).min)
        angle, total = self.angles(layout, q), q @ k.sum(2)[..., None]
        y = turn(q, angle) @ (turn(k * score.softmax(2) * count, angle).mT @ v) / (total + EPS)
        return self.out((join_heads(y) + self.local(v, layout)) * self.gate(layout.clean(x)))


class HeadLinear(nn.Module):
    """W_h x_h + b_h: a linear map per head, from its own share of the channels."""

    def __init__(self, dim: int, dim_out: int, heads: int) -> None:
        super().__init__()
        bound = (dim // heads) ** -0.5
        self.weight = nn.Parameter(torch.empty(heads, dim_out // heads, dim // heads).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(dim_out))

    def forward(self, x: Float[Tensor, "B C"]) -> Float[Tensor, "B K"]:
        return torch.einsum("bhc,hkc->bhk", x.unflatten(-1, (len(self.weight), -1)), self.weight).flatten(1) + self.bias


class Injective(Kernel):
    """w_ij = q_i^T k_j - mean_s q_i^T k_s + 1/N, so y_i = q_i^T sum_j k_j v_j^T + (1 - N q_i^T mean(k)) mean(v), plus
    a local convolution of v whose taps per channel an MLP of each head reads off the mean token.

    "Bridging the Divide: Reconsidering Softmax and Linear Attention" (Han et al. 2024): weights sum to 1 by
    subtraction, so that different queries get different weights. q is scaled by 1 / (N sqrt(D)).

    kernel: width of the local convolution along every axis.
    """

    def __init__(self, dim: int, heads: int | None = None, kernel: int = 3, rank: int = 1) -> None:
        super().__init__(dim, heads)
        self.rank, self.kernel = rank, at_least("kernel", kernel, 1)
        wide = dim * kernel**rank
        self.taps = nn.Sequential(HeadLinear(dim, dim, self.heads), nn.GELU(), HeadLinear(dim, wide, self.heads))

    def local(self, x: Float[Tensor, "B N C"], v: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        """sum over offsets o of tap_o * v shifted by o."""
        taps = self.taps(layout.clean(x).sum(1) / layout.counts(x)[:, 0]).unflatten(-1, (x.shape[-1], -1))
        padded = reach(layout.fold(v).movedim(-1, 1), self.kernel, frozenset())
        y = torch.zeros_like(layout.fold(v).movedim(-1, 1))
        for tap, offset in zip(taps.unbind(-1), itertools.product(range(self.kernel), repeat=layout.rank), strict=True):
            seen = padded
            for axis, start in enumerate(offset):
                seen = seen.narrow(2 + axis, start, layout.axes[axis])
            y = y + tap.reshape(*tap.shape, *(1,) * layout.rank) * seen
        return layout.unfold(y.movedim(1, -1))

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        q, k, v = self.project(x, layout)
        k, count = real_keys(k, layout), layout.counts(x)[..., None].to(q.dtype)
        q = q * q.shape[-1] ** -0.5 / count
        total = v.sum(2, keepdim=True)
        y = q @ (k.mT @ v) + (1 / count - q @ (k.sum(2)[..., None] / count)) * total
        return self.out(join_heads(y) + self.local(x, join_heads(v), layout))


class Correlation(Kernel):
    """y_i = W_o (v_i + sum_j w_ij v_j / sum_j w_ij), w = 1 + r + r^2 / 2, r_ij the correlation of q_i and k_j over the
    channels of a head.

    The spectral correlation kernel of "ESSAformer: Efficient Transformer for Hyperspectral Image Super-resolution"
    (Zhang et al. 2023): exp(r) cut off after ``order`` terms is a product of 1 + D + D^2 features and stays positive.

    order: highest power of r, 1 or 2.
    """

    sets: ClassVar[bool] = True

    def __init__(self, dim: int, heads: int | None = None, order: int = 2) -> None:
        super().__init__(dim, heads)
        if order not in (1, 2):
            raise BadRequest(f"order of correlation is 1 or 2, got {order}")
        self.order = order

    def features(self, x: Float[Tensor, "B H N D"]) -> Float[Tensor, "B H N M"]:
        """phi with phi(q)^T phi(k) = w."""
        x = F.normalize(x - x.mean(-1, keepdim=True), dim=-1)
        terms = [torch.ones_like(x[..., :1]), x]
        if self.order == 2:
            terms.append((x[..., None] * x[..., None, :]).flatten(-2) * 0.5**0.5)
        return torch.cat(terms, -1)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        q, k, v = self.project(x, layout)
        y = contract(self.features(q), real_keys(self.features(k), layout), v)
        return self.out(join_heads(v + y))


class Hashed(Kernel):
    """w_ij = 1 + H(q_i)^T H(k_j) / bits with codes H(x) = sign(sum_s a_s (g(x, p_s) - mean)), y = sum w v / sum w.

    "EcoFormer: Energy-Saving Attention with Linear Complexity" (Liu et al. 2022): kernelised hash functions with
    ``supports`` points p and a Gaussian kernel g, so that w falls with the Hamming distance of the codes. The sign
    passes gradients as tanh does; the paper's separate fit of a to attention maps is training, not part of the mixer.

    bits: length of a code. supports: points per head.
    """

    sets: ClassVar[bool] = True

    def __init__(self, dim: int, heads: int | None = None, bits: int = 16, supports: int = 16) -> None:
        super().__init__(dim, heads)
        self.bits, head = at_least("bits", bits, 1), dim // self.heads
        self.points = nn.Parameter(torch.randn(self.heads, at_least("supports", supports, 2), head) * 0.5)
        self.mix = nn.Parameter(torch.randn(self.heads, supports, bits))

    def codes(self, x: Float[Tensor, "B H N D"]) -> Float[Tensor, "B H N M"]:
        """The code and a 1, scaled: products of two are 1 + the mean agreement of bits."""
        apart = (x * x).sum(-1, keepdim=True) - 2 * x @ self.points.mT + (self.points**2).sum(-1)[:, None]
        near = torch.exp(-apart / (2 * x.shape[-1]))
        z = (near - near.mean(-1, keepdim=True)) @ self.mix
        soft = torch.tanh(z)
        code = soft + (torch.where(z >= 0, 1.0, -1.0) - soft).detach()
        return F.pad(code * self.bits**-0.5, (0, 1), value=1.0)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        q, k, v = full(*self.project(x, layout))
        with full_precision(q):
            y = contract(self.codes(q), real_keys(self.codes(k), layout), v)
        return self.out(join_heads(y).to(x.dtype))


class Relative(Kernel):
    """y_i = sum_j exp(b_(j-i)) f(q_i)^T f(k_j) v_j / sum_j exp(b_(j-i)) f(q_i)^T f(k_j), b learned per head and offset.

    "Stable, Fast and Accurate: Kernelized Attention with Relative Positional Encoding" (Luo et al. 2021): exp(b) is a
    Toeplitz matrix, so the sums over j are convolutions of the f(k_j) v_j^T, by FFT. f are positive random features
    of q and k scaled to length 1. On a lattice b adds up over the axes, and the convolution runs axis by axis.

    features: M, the number of random features. size: offsets up to size - 1 have a b of their own, farther ones share.
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    cost: ClassVar[str] = "O(N d^2 + N log N d)"
    directions: Tensor

    def __init__(
        self,
        dim: int,
        heads: int | None = None,
        features: int = 16,
        size: int = 64,
        causal_axes: tuple[int, ...] = (),
        rank: int = 1,
    ) -> None:
        super().__init__(dim, heads)
        self.rank, self.size, self.causal = rank, at_least("size", size, 1), frozenset(causal_axes)
        self.table = nn.Parameter(torch.randn(rank, self.heads, 2 * size - 1) * 0.02)
        self.register_buffer(
            "directions", torch.randn(self.heads, dim // self.heads, at_least("features", features, 1))
        )

    def features(self, x: Float[Tensor, "B H N D"]) -> Float[Tensor, "B H N M"]:
        """Positive random features: the mean of f(q)^T f(k) over directions is exp(q^T k)."""
        width = self.directions.shape[-1]
        return torch.exp(F.normalize(x, dim=-1) @ self.directions - 0.5) * width**-0.5

    def along(self, x: Float[Tensor, "B *axes H K"], axis: int) -> Float[Tensor, "B *axes H K"]:
        """y_i = sum_j exp(b_(j-i)) x_j along one axis."""
        n = x.shape[1 + axis]
        apart = torch.arange(1 - n, n, device=x.device)  # j - i
        weight = self.table[axis][:, apart.clamp(1 - self.size, self.size - 1) + self.size - 1].exp()
        if axis in self.causal:
            weight = weight * (apart <= 0)
        x = x.movedim(1 + axis, -1)
        spectrum = torch.fft.rfft(weight.flip(-1).to(x.dtype), 3 * n)[:, None]  # over i - j + n - 1
        y = torch.fft.irfft(torch.fft.rfft(x, 3 * n) * spectrum, 3 * n)[..., n - 1 : 2 * n - 1]
        return y.movedim(-1, 1 + axis)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        q, k, v = full(*self.project(x, layout))
        with full_precision(q):
            k = real_keys(self.features(k), layout)
            held = k[..., None] * F.pad(v, (0, 1), value=1.0)[..., None, :]  # (B, H, N, M, D + 1)
            held = held.transpose(1, 2).flatten(3).unflatten(1, layout.axes)
            for axis in range(layout.rank):
                held = self.along(held, axis)
            held = held.flatten(1, layout.rank).unflatten(-1, (k.shape[-1], -1)).transpose(1, 2)
            y = (self.features(q)[..., None, :] @ held)[..., 0, :]
            y = y[..., :-1] / (y[..., -1:] + EPS)
        return self.out(join_heads(y).to(x.dtype))
