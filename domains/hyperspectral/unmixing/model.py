"""The unmixing model: a least-squares solver inside, a network that corrects it from the pixel's surroundings.

Shapes: B windows, b bands, p endmembers, n pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from shared_backbones.presets import Preset

from ..model import SceneFeatures
from .solvers import non_negative, shares

STEPS = 60  # of the solver inside; its start is good, and training goes through all of them
DRIFT = 10.0  # endmembers learn this much faster than the network's weights, in logarithms
LEAST_SHARE = 1e-4  # what the network can multiply up


class Unmixer(SceneFeatures):
    """Cubes -> abundances of every pixel, at least 0 and of sum 1 by construction.

    a = softmax(log(solver's shares) + correction). The solver fits x = s (a e) with any brightness s > 0 of the pixel.
    The endmembers are start * exp(drift): never negative; those of a library do not drift. Abundances are shares
    under endmembers whose largest value is ``peak``, which is 1 unless it is measured in the scene.
    """

    start: Tensor
    peak: Tensor
    level: Tensor
    draw: Tensor

    def __init__(
        self,
        nm: Sequence[float],
        mean: Sequence[float],
        std: Sequence[float],
        level: float,
        endmembers: int,
        library: Float[Tensor, "p b"] | None,
        preset: Preset,
        patch_radius: int,
    ) -> None:
        super().__init__(nm, mean, std, preset, patch_radius)
        blank = torch.ones(endmembers, len(nm)) if library is None else library
        self.register_buffer("start", blank)
        self.register_buffer("peak", torch.ones(endmembers))
        self.register_buffer("level", torch.tensor(level))
        self.register_buffer("draw", torch.randint(0, 2**31 - 1, ()))  # what the first endmembers are voted with
        self.drift = nn.Parameter(torch.zeros_like(blank), requires_grad=library is None)
        self.head = nn.Linear(self.width, endmembers)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def reach(self) -> int:
        """How far (pixels) the answer for a pixel depends on others."""
        return self.spatial_reach

    def directions(self) -> Float[Tensor, "p b"]:
        """Endmembers of length one."""
        return F.normalize(self.start * (DRIFT * self.drift).exp(), dim=1)

    def endmembers(self) -> Float[Tensor, "p b"]:
        """Endmembers whose largest value is ``peak``."""
        u = self.directions()
        return u / u.amax(1, keepdim=True) * self.peak[:, None]

    def loads(
        self, x: Float[Tensor, "n b"], u: Float[Tensor, "p b"], seen: Bool[Tensor, "n b"] | None = None
    ) -> Float[Tensor, "n p"]:
        """Non-negative multiples of the directions u that add up to the pixels, over the bands that were measured."""
        if seen is None or bool(seen.all()):
            return non_negative(x / self.level, u, STEPS, exact=False)
        return masked_non_negative(x / self.level, u, seen, STEPS)

    def solved(self, loads: Float[Tensor, "n p"], u: Float[Tensor, "p b"]) -> Float[Tensor, "n p"]:
        """The solver's abundances: a multiple of a direction is a multiple of an endmember of another length."""
        return shares(loads * u.amax(1) / self.peak)

    def corrected(
        self,
        solved: Float[Tensor, "n p"],
        x: Float[Tensor, "n b"],
        seen: Bool[Tensor, "n b"],
        valid: Bool[Tensor, "B rows cols"],
    ) -> Float[Tensor, "n p"]:
        """Abundances after the network's correction of the solver's."""
        moments, real = self.moments(x, seen)
        logits = self.head(self.features(moments, real, valid))
        return ((solved + LEAST_SHARE).log() + logits).softmax(1)

    def forward(
        self, cube: Float[Tensor, "B b rows cols"], seen: Bool[Tensor, "B b rows cols"]
    ) -> Float[Tensor, "B p rows cols"]:
        """Abundances; 0 for all at a pixel of which no band was measured."""
        valid = seen.any(1)
        x, there = pixels(cube, seen, valid)
        u = self.directions()
        a = self.corrected(self.solved(self.loads(x, u, there), u), x, there, valid)
        out = a.new_zeros(*valid.shape, a.shape[1])
        out[valid] = a
        return out.movedim(-1, 1)


def pixels(
    cube: Float[Tensor, "B b rows cols"], seen: Bool[Tensor, "B b rows cols"], which: Bool[Tensor, "B rows cols"]
) -> tuple[Float[Tensor, "n b"], Bool[Tensor, "n b"]]:
    """Spectra of some pixels, and what of them was measured."""
    return cube.movedim(1, -1)[which], seen.movedim(1, -1)[which]


def masked_non_negative(
    x: Float[Tensor, "n b"], u: Float[Tensor, "p b"], seen: Bool[Tensor, "n b"], steps: int
) -> Float[Tensor, "n p"]:
    """Non-negative least squares where every pixel has its own measured bands."""
    w = seen.to(x.dtype)
    gram = torch.einsum("pb,nb,qb->npq", u, w, u)
    cross = (x * w) @ u.T
    rate = 1 / torch.linalg.matrix_norm(gram, ord=float("inf")).clamp_min(1e-9)[:, None]
    a = y = (cross / gram.diagonal(dim1=1, dim2=2).clamp_min(1e-9)).clamp_min(0) / len(u)
    t = 1.0
    for _ in range(steps):
        new = (y - rate * ((gram @ y[..., None])[..., 0] - cross)).clamp_min(0)
        after = (1 + (1 + 4 * t * t) ** 0.5) / 2
        y, a, t = new + (t - 1) / after * (new - a), new, after
    return a


def misfit(
    x: Float[Tensor, "n b"], made: Float[Tensor, "n b"], weigh: Bool[Tensor, "n b"], floor: float | Tensor
) -> Float[Tensor, "n"]:
    """Length of each pixel's residual over the weighed bands, as a share of its brightness (or of ``floor``).

    A sum of lengths, not of squares: few strange pixels do not bend the endmembers (the L2,1 norm).
    """
    w = weigh.to(x.dtype)
    residual = ((x - made).square() * w).sum(1)
    return (residual + 1e-12 * floor**2).sqrt() / ((x.square() * w).sum(1) + floor**2).sqrt()


def volume(u: Float[Tensor, "p b"]) -> Float[Tensor, ""]:
    """Logarithm of the squared volume that the directions span: smaller draws the endmembers to the data."""
    return torch.logdet(u @ u.T + 1e-4 * torch.eye(len(u), dtype=u.dtype, device=u.device))
