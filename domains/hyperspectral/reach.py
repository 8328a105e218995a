"""How far a module on a lattice looks, measured: what a buffer between parts and a halo between windows must cover."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from shared_backbones.errors import BadRequest

Mix = Callable[[Float[Tensor, "1 C rows cols"]], Float[Tensor, "1 K rows cols"]]


def measured_reach(mix: Mix, channels: int, limit: int) -> int:
    """The Chebyshev distance (pixels) over which an output depends on inputs, by the gradient of one output.

    Raises BadRequest where it depends on more than ``limit``, or on where the pixel lies (windows on a fixed grid):
    such a module would give other classes at the seams of windows.
    """
    side, centre = 2 * limit + 5, limit + 2
    generator = torch.Generator().manual_seed(0)
    reach = 0
    for shift in (0, 1):
        x = torch.randn(1, channels, side + shift, side + shift, generator=generator, dtype=torch.float64)
        x.requires_grad_()
        y = mix(x)
        at = centre + shift
        weights = torch.randn(y.shape[1], generator=generator, dtype=torch.float64)
        (slope,) = torch.autograd.grad((y[0, :, at, at] * weights).sum(), x)
        rows, cols = torch.nonzero(slope[0].abs().sum(0), as_tuple=True)
        if len(rows):
            reach = max(reach, int(torch.maximum((rows - at).abs(), (cols - at).abs()).max()))
    if reach > limit:
        raise BadRequest(
            f"this preset mixes pixels more than {limit} apart, and patch_radius={limit} is all that the split's "
            "buffer covers. Raise patch_radius, or use fewer layers, smaller kernels, or local mixers "
            "(identity, pooling, depthwise)"
        )
    x = torch.randn(1, channels, side + 1, side + 1, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        there, moved = mix(x)[0, :, centre, centre], mix(x[..., 1:, 1:])[0, :, centre - 1, centre - 1]
    if not torch.allclose(there, moved, rtol=1e-7, atol=1e-9):
        raise BadRequest(
            "this preset's answer for a pixel depends on where the pixel lies in the window (windows on a fixed grid); "
            "use local mixers for scenes: identity, pooling, depthwise"
        )
    return reach
