"""Comparisons that the laws are made of: each raises LawError with the numbers that it found."""

from __future__ import annotations

import torch
from torch import Tensor

from .cases import LawError
from .layout import Layout
from .mixers.base import Mixer

CLOSE = 1e-6  # in float64: what rounding leaves is far below, what a leak leaves far above


def gap(a: Tensor, b: Tensor) -> float:
    """Largest difference; infinite where only one side is finite."""
    if a.numel() == 0:
        return 0.0
    return float(torch.nan_to_num((a - b).detach().abs(), nan=float("inf")).max())


def same(what: str, a: Tensor, b: Tensor, tolerance: float = CLOSE) -> str:
    """Raises LawError where two tensors differ by more than ``tolerance``; says by how much they do."""
    difference = gap(a, b)
    if not difference <= tolerance:
        raise LawError(f"{what}: the largest difference is {difference:.3g}, allowed is {tolerance:.0e}")
    return f"{what}: {difference:.1e}"


def finite(what: str, *tensors: Tensor | None) -> None:
    """Raises LawError for NaN or infinity."""
    for t in tensors:
        if t is not None and not bool(t.isfinite().all()):
            raise LawError(f"{what}: {int((~t.isfinite()).sum())} of {t.numel()} numbers are not finite")


def gradients(mixer: Mixer, x: Tensor, layout: Layout, only: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
    """Output, and the gradients of x and of every parameter for a fixed random weighting of the (real) outputs."""
    x = x.clone().requires_grad_()
    y = mixer(x, layout)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y.dtype)
    loss = (y * weight if only is None else torch.where(only[..., None], y * weight, 0.0)).sum()
    wanted = [x, *mixer.parameters()]
    if not loss.requires_grad:  # a mixer without weights that ignores its input
        return y.detach(), [torch.zeros_like(w) for w in wanted]
    found = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    return y.detach(), list(found)
