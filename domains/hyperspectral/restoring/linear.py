"""The closed form: least squares from means of the given components over squares to the clean components."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .model import RADII, Restorer

PENALTIES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1)  # relative to the mean square of the features
Given = tuple[Float[Tensor, "1 b _ _"], Float[Tensor, "1 b _ _"], Bool[Tensor, "1 b _ _"]]  # of any size each


@torch.no_grad()
def start_linear(model: Restorer, train: Iterable[Given], val: Iterable[Given]) -> None:
    """Set the linear part from (given, clean, seen) windows; its penalty is the one that suits validation best.

    The penalty draws towards the given components themselves, not towards zero.
    """
    k, train = len(model.basis), list(train)
    x, y = (torch.cat(parts) for parts in zip(*(_rows(model, *w) for w in train), strict=True))
    xv, yv = (torch.cat(parts) for parts in zip(*(_rows(model, *w) for w in val), strict=True))
    mean_x, mean_y = x.mean(0), y.mean(0)
    identity = torch.cat([torch.eye(k), torch.zeros((len(RADII) - 1) * k, k)]).double()
    cx = x - mean_x
    gram, cross = cx.T @ cx / len(x), cx.T @ (y - mean_y - cx @ identity) / len(x)
    best: tuple[float, Tensor, Tensor] | None = None
    for penalty in PENALTIES:
        ridge = penalty * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        weight = identity + torch.linalg.solve(gram + ridge, cross)
        bias = mean_y - mean_x @ weight
        error = float((xv @ weight + bias - yv).square().mean())
        if best is None or error < best[0]:
            best = error, weight, bias
    assert best is not None
    model.weight.copy_(best[1])
    model.bias.copy_(best[2])
    pairs = [(_outside(model, given, seen), _outside(model, clean, seen)) for given, clean, seen in train]
    below = sum(float(a.square().sum()) for a, _ in pairs)
    model.rest.fill_(0.0 if below <= 0 else min(1.0, max(0.0, sum(float((a * b).sum()) for a, b in pairs) / below)))


def _outside(model: Restorer, x: Tensor, seen: Tensor) -> Tensor:
    return model.outside(x, seen, model.components(x, seen)).double()


def _rows(model: Restorer, given: Tensor, clean: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Features and clean components of the pixels measured in all bands, in float64."""
    whole = seen.all(1)
    features = model.features(given, seen).movedim(1, -1)[whole]
    return features.double(), model.components(clean, seen).movedim(1, -1)[whole].double()
