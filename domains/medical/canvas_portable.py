"""The way of an image onto the canvas as plain arithmetic of tensors, so that it can be exported with a network.

The same as ``canvas.on_canvas``: where to cut and how to resize is computed, not branched on, so one exported program
takes images of any size. Resizing is a product with a matrix per image and axis.

Shapes: B images, H rows, W columns, N pixels along an axis, S side of the canvas, K channels of it.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .canvas import DARK, LEAST, LUMA, SEEN, as_levels, shares


def extent(lit: Bool[Tensor, "B N"]) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"], Bool[Tensor, "B"]]:
    """First and last + 1 of what is lit along an axis, and whether so much is lit that the rest may be cut."""
    n = lit.shape[1]
    at = torch.arange(n, dtype=torch.float64, device=lit.device)
    first = torch.where(lit, at, float(2**40)).amin(1)
    stop = torch.where(lit, at, -1.0).amax(1) + 1
    return first, stop, stop - first >= LEAST * (at[-1] + 1)


class PlainCanvas(nn.Module):
    """Images of any size -> canvases as a model takes them, within 0 .. 1 in steps of 1 / 255."""

    luma: Tensor

    def __init__(self, side: int, channels: int, crop: bool) -> None:
        super().__init__()
        self.side, self.grey, self.crop = side, channels == 1, crop
        self.register_buffer("luma", torch.from_numpy(LUMA.copy()).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K S S"]:
        x = image.double()
        grey = (x * self.luma).sum(1)
        rows, columns = (torch.arange(n, dtype=torch.float64, device=x.device) for n in image.shape[2:])
        height, width = rows[-1] + 1, columns[-1] + 1
        top = left = torch.zeros_like(grey[:, 0, 0])
        bottom, right = top + height, left + width
        if self.crop:
            bright = (grey > DARK).double()
            top_, bottom_, tall = extent(bright.sum(2) / width > SEEN)
            left_, right_, wide = extent(bright.sum(1) / height > SEEN)
            cut = tall & wide
            top, bottom = torch.where(cut, top_, top), torch.where(cut, bottom_, bottom)
            left, right = torch.where(cut, left_, left), torch.where(cut, right_, right)
        longer = torch.maximum(bottom - top, right - left)
        tall_, wide_ = ((self.side * n / longer).round().clamp_min(1.0) for n in (bottom - top, right - left))
        down = shares(top, bottom, tall_, rows, self.side)
        across = shares(left, right, wide_, columns, self.side)
        shown = grey[:, None] if self.grey else x
        return (as_levels(down[:, None] @ shown @ across[:, None].mT) / 255).float()
