"""Abundances for known endmembers, and factorisations that find both. Rows are pixels: x (n, b), e (p, b), a (n, p).

Everything is batched over pixels and works on their Gram matrices, so a scene costs about its own reading.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

ENOUGH = 1e-10  # relative step at which an exact solver stops
MOST = 1000  # its most steps
GROUND = 1e-9
BAND_FLOOR = 0.1  # of the mean residual of a band: keeps bands without any residual from ruling the others


def simplex(v: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
    """The nearest point with non-negative entries that sum to one, by sorting (Held, Wolfe and Crowder 1974)."""
    top = v.sort(1, descending=True).values
    excess = (top.cumsum(1) - 1) / torch.arange(1, v.shape[1] + 1, dtype=v.dtype, device=v.device)
    count = (top > excess).sum(1, keepdim=True)
    return (v - excess.gather(1, count - 1)).clamp_min(0)


def _descend(gram: Tensor, cross: Tensor, start: Tensor, project: object, steps: int, exact: bool) -> Tensor:
    """Projected gradient descent with momentum (Beck and Teboulle 2009) on a G a / 2 - c a."""
    assert callable(project)
    rate = 1 / torch.linalg.matrix_norm(gram, 2).clamp_min(GROUND)
    a, y, t = start, start, 1.0
    for _ in range(steps):
        new = project(y - rate * (y @ gram - cross))
        if exact and ((y - new) * (new - a)).sum() > 0:
            t = 1.0  # the momentum points uphill: begin it anew (O'Donoghue and Candes 2015)
        after = (1 + (1 + 4 * t * t) ** 0.5) / 2
        y = new + (t - 1) / after * (new - a)
        if exact and float((new - a).abs().max()) < ENOUGH * max(1.0, float(new.abs().max())):
            return new
        a, t = new, after
    return a


def fully_constrained(x: Float[Tensor, "n b"], e: Float[Tensor, "p b"], steps: int = MOST) -> Float[Tensor, "n p"]:
    """min ||x - a e||^2 with a >= 0 and sum a = 1: fully constrained least squares (Heinz and Chang 2001)."""
    start = x.new_full((len(x), len(e)), 1 / len(e))
    return _descend(e @ e.T, x @ e.T, start, simplex, steps, True)


def non_negative(
    x: Float[Tensor, "n b"], e: Float[Tensor, "p b"], steps: int = MOST, exact: bool = True
) -> Float[Tensor, "n p"]:
    """min ||x - a e||^2 with a >= 0. With ``exact`` False it takes just that many steps, all differentiable."""
    gram, cross = e @ e.T, x @ e.T
    start = (cross / gram.diagonal()).clamp_min(0) / len(e)
    return _descend(gram, cross, start, lambda v: v.clamp_min(0), steps, exact)


def shares(a: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
    """Non-negative numbers as shares of their sum; even shares where all are zero."""
    total = a.sum(1, keepdim=True)
    return torch.where(total > GROUND, a / total.clamp_min(GROUND), torch.full_like(a, 1 / a.shape[1]))


def scaled(x: Float[Tensor, "n b"], e: Float[Tensor, "p b"]) -> Float[Tensor, "n p"]:
    """Least squares where every pixel has its own brightness: x = s (a e), s > 0, a on the simplex.

    s a is any non-negative vector, so it is the non-negative solution, as shares of its sum.
    """
    return shares(non_negative(x, e))


def sparse(
    x: Float[Tensor, "n b"], e: Float[Tensor, "p b"], weight: float = 1e-3, steps: int = MOST
) -> Float[Tensor, "n p"]:
    """min ||x - a e||^2 / 2 + weight |a|_1 with a >= 0, then shares: sparse regression on a library of spectra.

    "Sparse Unmixing of Hyperspectral Data" (Iordache et al. 2011). ``weight`` is relative to the mean square of x.
    """
    cross = x @ e.T - weight * x.square().sum(1).mean()
    start = x.new_zeros(len(x), len(e))
    return shares(_descend(e @ e.T, cross, start, lambda v: v.clamp_min(0), steps, True))


def nmf(
    x: Float[Tensor, "n b"], e: Float[Tensor, "p b"], steps: int = 300, sparsity: float = 0.0, delta: float = 1.0
) -> tuple[Float[Tensor, "p b"], Float[Tensor, "n p"]]:
    """Endmembers and abundances from a start e by multiplicative updates, L1/2 sparsity, a row that asks for sum one.

    "Hyperspectral Unmixing via L1/2 Sparsity-Constrained NMF" (Qian et al. 2011).
    """
    x, e = x.clamp_min(0), e.clamp_min(GROUND)
    row = delta * x.mean()
    a = fully_constrained(x, e, 200).clamp_min(1e-4)
    for _ in range(steps):
        e = e * (a.T @ x) / (a.T @ a @ e).clamp_min(GROUND)
        full, target = torch.cat([e, row.expand(len(e), 1)], 1), torch.cat([x, row.expand(len(x), 1)], 1)
        below = a @ (full @ full.T) + 0.5 * sparsity * a.clamp_min(1e-4).rsqrt()
        a = (a * (target @ full.T) / below.clamp_min(GROUND)).clamp_min(1e-9)
    return e, shares(a)


def robust(
    x: Float[Tensor, "n b"],
    e: Float[Tensor, "p b"],
    steps: int = 100,
    weight: float = 2e-3,
    delta: float = 1.0,
    neighbours: Tensor | None = None,
) -> tuple[Float[Tensor, "p b"], Float[Tensor, "n p"]]:
    """min sum_bands ||x_b - (a e)_b|| + weight sum_n ||a_n||_p(n), p(n) = 1 - h_n: outlier bands do not dominate.

    "Effective Spectral Unmixing via Robust Representation and Learning-based Sparsity" (Zhu et al. 2014). Both norms
    are majorised by weighted squares, which gives multiplicative updates. h, how mixed a pixel is, is learned from
    the abundances: low where they change from the ``neighbours`` (n, k; pixel numbers, default none: h = 0).
    """
    x, e = x.clamp_min(0), e.clamp_min(GROUND)
    a = fully_constrained(x, e, 200).clamp_min(1e-4)
    row = delta * x.mean()
    level = x.square().mean()
    for _ in range(steps):
        length = (x - a @ e).square().sum(0).sqrt()
        u = (length + BAND_FLOOR * length.mean()).reciprocal()  # a weight per band
        u = u / u.mean()
        e = e * (a.T @ x) / (a.T @ a @ e).clamp_min(GROUND)
        h = a.new_zeros(len(a), 1) if neighbours is None else _evenness(a, neighbours)
        full = torch.cat([e * u.sqrt(), row.expand(len(e), 1)], 1)
        target = torch.cat([x * u.sqrt(), row.expand(len(x), 1)], 1)
        slope = (1 - h) * a.clamp_min(1e-3) ** (-h)
        below = a @ (full @ full.T) + weight * level * x.shape[1] * slope
        a = (a * (target @ full.T) / below.clamp_min(GROUND)).clamp_min(1e-9)
    return e, shares(a)


def _evenness(a: Float[Tensor, "n p"], neighbours: Tensor) -> Float[Tensor, "n 1"]:
    """In 0..0.9: near 0.9 where a pixel is as its neighbours (pure inside of a field), near 0 at borders."""
    s = shares(a)
    change = (s[neighbours] - s[:, None]).square().sum(2).mean(1, keepdim=True)
    return 0.9 * torch.exp(-change / change.mean().clamp_min(1e-12))
