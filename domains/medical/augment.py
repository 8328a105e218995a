"""Other positions, other scanners, other exposures, from the images at hand. Draws come from torch's generator.

Shapes: B images, C channels, S side.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .classify_config import ImageAugmentOptions

Images = Float[Tensor, "B C S S"]


def _within(b: int, reach: float) -> Float[Tensor, "B"]:
    """Uniform in 1 - reach .. 1 + reach."""
    return 1 + reach * (2 * torch.rand(b) - 1)


def moved(x: Images, options: ImageAugmentOptions) -> Images:
    """Turned, scaled, shifted and mirrored, each image in its own way; black where nothing was."""
    b = len(x)
    angle = math.radians(options.turn) * (2 * torch.rand(b) - 1)
    size_y, size_x = _within(b, options.scale), _within(b, options.scale)
    shift = 2 * options.shift * (2 * torch.rand(b, 2) - 1)
    across = torch.where(torch.rand(b) < 0.5 * options.flip, -1.0, 1.0)
    down = torch.where(torch.rand(b) < 0.5 * options.upside_down, -1.0, 1.0)
    theta = torch.zeros(b, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = across * angle.cos() / size_x, -angle.sin() / size_x
    theta[:, 1, 0], theta[:, 1, 1] = angle.sin() / size_y, down * angle.cos() / size_y
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def exposed(x: Images, options: ImageAugmentOptions) -> Images:
    """Another gamma, contrast and brightness for each image, and noise."""
    b, each = len(x), (-1, 1, 1, 1)
    x = x.clamp(1e-6, 1) ** _within(b, options.contrast).view(each)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * _within(b, options.contrast).view(each) + mean
    x = x + (options.brightness * (2 * torch.rand(b) - 1)).view(each) * (x > 0.02)
    deviation = (options.noise * torch.rand(b)).view(each)
    return (x + deviation * torch.randn(x.shape)).clamp(0, 1)


def erased(x: Images, share: float) -> Images:
    """A rectangle of each image, up to ``share`` of its sides, becomes the image's mean."""
    b, side = len(x), x.shape[-1]
    size = share * side * torch.rand(b, 2)
    start = torch.rand(b, 2) * (side - size)
    at = torch.arange(side)
    rows = (at >= start[:, :1]) & (at < (start + size)[:, :1])
    columns = (at >= start[:, 1:]) & (at < (start + size)[:, 1:])
    inside = (rows[:, None, :, None] & columns[:, None, None, :]) & (torch.rand(b) < 0.5).view(-1, 1, 1, 1)
    return torch.where(inside, x.mean((2, 3), keepdim=True), x)


def augmented(x: Images, options: ImageAugmentOptions) -> Images:
    """One batch, changed by all that ``options`` ask for."""
    x = exposed(moved(x, options), options)
    return erased(x, options.erase) if options.erase else x


def mixed(
    x: Images, target: Float[Tensor, "B L"], alpha: float
) -> tuple[Float[Tensor, "B C S S"], Float[Tensor, "B L"]]:
    """Each image blended with another one of the batch, its target too: "mixup" (Zhang et al. 2018).

    What is not known of either is not known of the blend.
    """
    share = torch.distributions.Beta(alpha, alpha).sample((len(x),))
    share = torch.maximum(share, 1 - share)
    other = torch.randperm(len(x))
    weight = share.view(-1, 1, 1, 1)
    return weight * x + (1 - weight) * x[other], share[:, None] * target + (1 - share[:, None]) * target[other]


def views(x: Images, count: int, options: ImageAugmentOptions) -> list[Images]:
    """The images themselves and ``count - 1`` variations of them: the same for every image and at every call."""
    fixed = options.model_copy(update={"noise": 0.0, "brightness": 0.0, "contrast": 0.4 * options.contrast})
    found = [x]
    with torch.random.fork_rng(devices=[]):
        for view in range(1, count):
            rows = []
            for row in x.split(1):
                torch.manual_seed(view)
                rows.append(exposed(moved(row, fixed), fixed))
            found.append(torch.cat(rows))
    return found
