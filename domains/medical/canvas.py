"""Images of any size on one square canvas, proportions kept.

Shapes: B images, C channels, H rows, W columns, S side of the canvas.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from .data.images import Pixels, as_bytes, luminance

DARK = 0.06  # of full scale: margins that never rise above it hold nothing
LEAST = 0.3  # of a side that is left, at least, when margins are cut


def cropped(pixels: Pixels) -> Float32[np.ndarray, "h w C"]:
    """Without the dark margins around what is there; whole where there are none or next to nothing would stay."""
    bright = luminance(pixels) > DARK
    rows, columns = (np.flatnonzero(bright.mean(axis) > 0.02) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return pixels
    (top, bottom), (left, right) = (rows[0], rows[-1] + 1), (columns[0], columns[-1] + 1)
    h, w = pixels.shape[:2]
    if bottom - top < LEAST * h or right - left < LEAST * w:
        return pixels
    return pixels[top:bottom, left:right]


def letterbox(x: Float[Tensor, "B C H W"], side: int) -> Float[Tensor, "B C S S"]:
    """Resized (bilinear, with anti-aliasing) so that the longer side fits, centred, zeros beside the shorter one."""
    h, w = x.shape[2:]
    if h == side and w == side:
        return x
    longer = max(h, w)
    size = (max(1, round(side * h / longer)), max(1, round(side * w / longer)))
    x = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
    top, left = (side - size[0]) // 2, (side - size[1]) // 2
    return F.pad(x, (left, side - size[1] - left, top, side - size[0] - top))


def on_canvas(pixels: Pixels, side: int, channels: int, crop: bool) -> UInt8[np.ndarray, "K S S"]:
    """One image as the model takes it: margins cut, grey or colour, brought to the side."""
    if crop:
        pixels = cropped(pixels)
    if channels == 1:
        pixels = luminance(pixels)[..., None]
    elif pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, 2)
    x = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
    return as_bytes(letterbox(x, side)[0].numpy())


def as_tensor(canvases: UInt8[np.ndarray, "B C S S"]) -> Float[Tensor, "B C S S"]:
    """Within 0 .. 1."""
    return torch.from_numpy(np.ascontiguousarray(canvases)).float() / 255
