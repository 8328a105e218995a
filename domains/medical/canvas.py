"""Images of any size on one square canvas, proportions kept.

Shapes: B images, C channels, H rows, W columns, S side of the canvas, N pixels along an axis.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, UInt8
from torch import Tensor

from .data.images import Pixels

DARK = 0.06  # of full scale: margins that never rise above it hold nothing
SEEN = 0.02  # of a row or column that must be brighter
LUMA = np.array([0.299, 0.587, 0.114])  # Rec. 601, so that the sum of a grey pixel's channels is the pixel
LEAST = 0.3  # of a side that is left, at least, when margins are cut


def cropped(pixels: Pixels) -> Float32[np.ndarray, "h w C"]:
    """Without the dark margins around what is there; whole where there are none or next to nothing would stay."""
    bright = _grey(pixels)[..., 0] > DARK
    rows, columns = (np.flatnonzero(bright.mean(axis) > SEEN) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return pixels
    (top, bottom), (left, right) = (rows[0], rows[-1] + 1), (columns[0], columns[-1] + 1)
    h, w = pixels.shape[:2]
    if bottom - top < LEAST * h or right - left < LEAST * w:
        return pixels
    return pixels[top:bottom, left:right]


def shares(
    first: Float[Tensor, "B"], stop: Float[Tensor, "B"], size: Float[Tensor, "B"], pixels: Float[Tensor, "N"], side: int
) -> Float[Tensor, "B S N"]:
    """What each pixel of an axis gives to each place of the canvas: pixels first .. stop become ``size`` in the middle.

    A triangle over the pixels that a place covers, at least two pixels wide: bilinear, with anti-aliasing.
    """
    place = torch.arange(side, dtype=torch.float64, device=pixels.device) - ((side - size) / 2).floor()[:, None]
    scale = ((stop - first) / size)[:, None]
    centre = first[:, None] + scale * (place + 0.5)
    away = (pixels + 0.5 - centre[..., None]).abs() / scale.clamp_min(1.0)[..., None]
    inside = (pixels >= first[:, None, None]) & (pixels < stop[:, None, None])
    weight = (1 - away).clamp_min(0.0) * inside
    used = (place >= 0) & (place < size[:, None])
    return weight / weight.sum(2, keepdim=True).clamp_min(1e-12) * used[..., None]


def letterbox(x: Float[Tensor, "B C H W"], side: int) -> Float[Tensor, "B C S S"]:
    """Resized (bilinear, with anti-aliasing) so that the longer side fits, centred, zeros beside the shorter one.

    Not by torch's own: that is wrong where one column is left.
    """
    h, w = x.shape[2:]
    if h == side and w == side:
        return x
    sizes = torch.tensor([[n, max(1, round(side * n / max(h, w)))] for n in (h, w)], dtype=torch.float64)
    none = torch.zeros(1, dtype=torch.float64)
    down, across = (shares(none, n[:1], n[1:], torch.arange(int(n[0]), dtype=torch.float64), side).to(x) for n in sizes)
    return down @ x @ across.mT


def _grey(pixels: Pixels) -> Float64[np.ndarray, "H W 1"]:
    """One value per pixel. In double, here and below: then canvases do not depend on the order of a sum."""
    x = pixels.astype(np.float64)
    return x if pixels.shape[2] == 1 else (x @ LUMA)[..., None]


def as_levels(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """0 .. 1 as whole numbers 0 .. 255. Halves go up, also those that a sum missed by its last digits."""
    return (x * 255 + (0.5 + 1e-6)).floor().clamp(0, 255)


def on_canvas(pixels: Pixels, side: int, channels: int, crop: bool) -> UInt8[np.ndarray, "K S S"]:
    """One image as the model takes it: margins cut, grey or colour, brought to the side."""
    if crop:
        pixels = cropped(pixels)
    x = _grey(pixels) if channels == 1 else pixels.astype(np.float64)
    if channels == 3 and x.shape[2] == 1:
        x = np.repeat(x, 3, 2)
    canvas = letterbox(torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1)))[None], side)
    return as_levels(canvas)[0].to(torch.uint8).numpy()


def as_tensor(canvases: UInt8[np.ndarray, "B C S S"]) -> Float[Tensor, "B C S S"]:
    """Within 0 .. 1."""
    return torch.from_numpy(np.ascontiguousarray(canvases)).float() / 255
