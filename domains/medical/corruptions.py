"""What scanners, patients and archives do to images, at five levels each: how far does a model's answer hold?

    corrupted(images, "motion", level=3)        # (B, C, H, W) or (B, C, D, H, W), within 0 .. 1, and so is what returns

Each image is corrupted in its own way, drawn from ``seed`` alone. Effects of the scanner act along the last two axes.
Shapes: B images, C channels, then two or three axes of space.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from shared_backbones.errors import BadRequest, unknown

LEVELS = (1, 2, 3, 4, 5)
Images = Float[Tensor, "B C *space"]
Corrupt = Callable[[Tensor, int, torch.Generator], Tensor]


def _uniform(x: Images, random: torch.Generator, low: float = 0.0, high: float = 1.0) -> Float[Tensor, "B *ones"]:
    """One number per image, shaped to multiply it."""
    return (low + (high - low) * torch.rand(len(x), generator=random)).view(-1, *[1] * (x.ndim - 1))


def _sign(x: Images, random: torch.Generator) -> Float[Tensor, "B *ones"]:
    return torch.where(_uniform(x, random) < 0.5, -1.0, 1.0)


def noise(x: Images, level: int, random: torch.Generator) -> Images:
    """Rician: the length of the signal with complex white noise, as magnitude images of MRI have it."""
    deviation = (0.03, 0.06, 0.1, 0.15, 0.22)[level - 1]
    real, imaginary = (deviation * torch.randn(x.shape, generator=random) for _ in range(2))
    return ((x + real) ** 2 + imaginary**2).sqrt()


def blur(x: Images, level: int, random: torch.Generator) -> Images:
    """A Gaussian along every axis of space, of a deviation relative to the shortest one."""
    deviation = (0.012, 0.02, 0.03, 0.042, 0.06)[level - 1] * min(x.shape[2:])
    reach = max(1, math.ceil(3 * deviation))
    at = torch.arange(-reach, reach + 1, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (at / deviation) ** 2)
    kernel = kernel / kernel.sum()
    for axis in range(2, x.ndim):
        rows = x.movedim(axis, -1)
        flat = F.pad(rows.reshape(-1, 1, rows.shape[-1]), (reach, reach), mode="replicate")
        x = F.conv1d(flat, kernel[None, None]).reshape(rows.shape).movedim(-1, axis)
    return x


def contrast(x: Images, level: int, random: torch.Generator) -> Images:
    """Towards the image's mean."""
    share = (0.8, 0.65, 0.5, 0.35, 0.22)[level - 1]
    mean = x.mean(tuple(range(1, x.ndim)), keepdim=True)
    return (x - mean) * share + mean


def gamma(x: Images, level: int, random: torch.Generator) -> Images:
    """A power of the brightness, up or down."""
    power = (1.25, 1.5, 1.9, 2.4, 3.0)[level - 1]
    return x.clamp_min(0) ** (power ** _sign(x, random))


def bias_field(x: Images, level: int, random: torch.Generator) -> Images:
    """A smooth gain over the image, the exponential of a random polynomial of third order, as of a receiving coil."""
    strength = (0.2, 0.4, 0.6, 0.9, 1.3)[level - 1]
    axes = [torch.linspace(-1, 1, n) for n in x.shape[2:]]
    lattice = torch.meshgrid(*axes, indexing="ij")
    field = x.new_zeros(len(x), *x.shape[2:])
    for powers in _powers(len(axes), 3):
        weight = torch.randn(len(x), generator=random).view(-1, *[1] * len(axes))
        term = torch.ones_like(lattice[0])
        for coordinate, power in zip(lattice, powers, strict=True):
            term = term * coordinate**power
        field = field + weight * term
    rest = tuple(range(1, field.ndim))
    field = field / field.abs().amax(rest, keepdim=True).clamp_min(1e-9)
    gain = torch.exp(strength * field)
    return x * (gain / gain.mean(rest, keepdim=True))[:, None]


def _powers(axes: int, order: int) -> list[tuple[int, ...]]:
    """Exponents of all terms of total order 1 .. ``order``."""
    found: list[tuple[int, ...]] = [()]
    for _ in range(axes):
        found = [(*p, k) for p in found for k in range(order + 1 - sum(p))]
    return [p for p in found if sum(p)]


def motion(x: Images, level: int, random: torch.Generator) -> Images:
    """The head moves while lines of k-space are read: stretches of lines belong to shifted images."""
    reach = (0.01, 0.02, 0.035, 0.05, 0.075)[level - 1]
    h, w = x.shape[-2:]
    lines = torch.fft.fftfreq(h)
    k = torch.fft.fft2(x)
    stretches = 6
    step = torch.randn(len(x), stretches, 2, generator=random).cumsum(1)
    step = step / step.abs().amax((1, 2), keepdim=True).clamp_min(1e-9) * reach * torch.tensor([h, w])
    step[:, stretches // 2] = 0  # the middle of k-space, which holds the brightness, is read at rest
    order = (torch.fft.fftshift(lines).argsort().argsort() * stretches // h).clamp_max(stretches - 1)
    order = torch.fft.ifftshift(order)
    shift = step[:, order]  # (B, h, 2)
    phase = shift[..., 0, None] * lines[:, None] + shift[..., 1, None] * torch.fft.fftfreq(w)
    turn = torch.exp(-2j * math.pi * phase).view(len(x), *[1] * (x.ndim - 3), h, w)
    return torch.fft.ifft2(k * turn).abs()


def ghosting(x: Images, level: int, random: torch.Generator) -> Images:
    """Every n-th line of k-space is weaker: faint copies stand n-ths of the image apart."""
    strength = (0.15, 0.3, 0.45, 0.6, 0.8)[level - 1]
    h = x.shape[-2]
    every = torch.randint(2, 6, (len(x),), generator=random).view(-1, 1)
    line = torch.arange(h)[None]
    middle = (torch.fft.fftfreq(h).abs() < 0.02)[None]
    gain = torch.where((line % every == 0) & ~middle, 1 - strength, 1.0)
    return torch.fft.ifft2(torch.fft.fft2(x) * gain.view(len(x), *[1] * (x.ndim - 3), h, 1)).abs()


def down_sampling(x: Images, level: int, random: torch.Generator) -> Images:
    """Taken at a coarser resolution and brought back."""
    factor = (1.5, 2.0, 3.0, 4.0, 6.0)[level - 1]
    size = [max(2, round(n / factor)) for n in x.shape[2:]]
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    return F.interpolate(F.interpolate(x, size, mode="area"), x.shape[2:], mode=mode, align_corners=False)


LUMINANCE = torch.tensor([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62], [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
], dtype=torch.float32)  # fmt: skip  # ITU-T T.81, table K.1


def cosine_basis(n: int = 8) -> Float[Tensor, "n n"]:
    """Rows of the orthonormal cosine transform."""
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)[None]
    basis = torch.cos(math.pi * (2 * i + 1) * k / (2 * n)) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    return basis.float()


def jpeg(x: Images, level: int, random: torch.Generator) -> Images:
    """Blocks of 8 x 8 through the cosine transform and the quantisation of JPEG; every channel as luminance."""
    quality = (40, 25, 15, 9, 5)[level - 1]
    scale = (5000 / quality if quality < 50 else 200 - 2 * quality) / 100
    table = (LUMINANCE * scale).clamp(1, 255).round()
    h, w = x.shape[-2:]
    flat = x.reshape(-1, 1, h, w) * 255 - 128
    flat = F.pad(flat, (0, -w % 8, 0, -h % 8), mode="replicate")
    blocks = flat.unfold(2, 8, 8).unfold(3, 8, 8)  # (n, 1, rows, columns, 8, 8)
    basis = cosine_basis()
    kept = (basis @ blocks @ basis.mT / table).round() * table
    back = (basis.mT @ kept @ basis).permute(0, 1, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3)
    return ((back[..., :h, :w] + 128) / 255).reshape(x.shape)


CORRUPTIONS: dict[str, Corrupt] = {
    "noise": noise, "blur": blur, "contrast": contrast, "gamma": gamma, "bias_field": bias_field, "motion": motion,
    "ghosting": ghosting, "down_sampling": down_sampling, "jpeg": jpeg,
}  # fmt: skip


def corrupted(x: Images, name: str, level: int, seed: int = 0) -> Images:
    """Images corrupted at a level of 1 .. 5. Raises BadRequest for an unknown name or level."""
    if name not in CORRUPTIONS:
        raise unknown("corruption", name, CORRUPTIONS)
    if level not in LEVELS:
        raise BadRequest(f"a corruption has the levels 1 to {LEVELS[-1]}, got {level}")
    random = torch.Generator().manual_seed(seed)
    return CORRUPTIONS[name](x, level, random).clamp(0, 1)
