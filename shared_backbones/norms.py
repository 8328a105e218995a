"""Normalisations over the channels of each token, and exact rewrites of trained ones.

A norm is called ``norm(x)``; one that looks beyond a token is a :class:`TokenNorm`, called ``norm(x, layout)``:
:func:`normalise` does the right one. Shapes: B items, N tokens, C channels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .errors import BadRequest
from .layout import Layout


class TokenNorm(nn.Module):
    """A norm with statistics over tokens, which must know the real ones."""

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        raise NotImplementedError


def normalise(norm: nn.Module, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
    """``norm`` of the tokens of a layout."""
    return norm(x, layout) if isinstance(norm, TokenNorm) else norm(x)


class BatchNorm(TokenNorm):
    """(x - mean_c) / sqrt(var_c + eps) * w_c + b_c over the real tokens of a batch; running statistics when evaluated.

    "Batch Normalization" (Ioffe and Szegedy 2015). Evaluated, it is one scale and shift per channel.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, dim: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))

    def statistics(self, x: Float[Tensor, "B N C"], layout: Layout) -> tuple[Float[Tensor, "C"], Float[Tensor, "C"]]:
        """Mean and variance: of the real tokens while training, which also move the running ones; else the latter."""
        if not self.training:
            return self.mean, self.variance
        real = x.flatten(0, 1) if layout.mask is None else x[layout.mask]
        if not len(real):
            return self.mean, self.variance
        mean, variance = real.mean(0), real.var(0, unbiased=False)
        with torch.no_grad():
            self.mean.lerp_(mean.to(self.mean.dtype), self.momentum)
            self.variance.lerp_(variance.to(self.mean.dtype) * len(real) / max(1, len(real) - 1), self.momentum)
        return mean, variance

    def affine(self, mean: Tensor, variance: Tensor) -> tuple[Float[Tensor, "C"], Float[Tensor, "C"]]:
        """Scale and shift per channel."""
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return scale, self.bias - mean * scale

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        if self.training and layout.mask is None and x.shape[0] * x.shape[1] > 1:  # the same in one pass of torch's own
            rows = x.flatten(0, 1)
            y = F.batch_norm(rows, self.mean, self.variance, self.weight, self.bias, True, self.momentum, self.eps)
            return y.reshape(x.shape)
        scale, shift = self.affine(*self.statistics(x, layout))
        return x * scale + shift


class GroupNorm(TokenNorm):
    """(x - m) / sqrt(v + eps) * w_c + b_c with m and v over all channels of all real tokens of an item.

    "Group Normalization" (Wu and He 2018) with one group, as in "MetaFormer Is Actually What You Need for Vision" (Yu
    et al. 2022).
    """

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        count = layout.counts(x) * x.shape[-1]
        centred = layout.clean(x - layout.clean(x).sum((1, 2), keepdim=True) / count)
        variance = centred.square().sum((1, 2), keepdim=True) / count
        return centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias


class ProgressiveBatchNorm(BatchNorm):
    """g LayerNorm(x) + (1 - g) (BatchNorm(x) + eta x), g falling from 1 to 0 over ``steps`` training steps.

    "SLAB: Efficient Transformers with Simplified Linear Attention and Progressive Re-parameterized Batch
    Normalization" (Guo et al. 2024). Statistics are those of the real tokens. When g has reached 0 the evaluated norm
    is one scale and shift per channel, which :func:`folded` moves into the next linear layer.
    """

    step: Tensor

    def __init__(self, dim: int, steps: int = 10_000, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__(dim, momentum, eps)
        self.layer, self.steps = nn.LayerNorm(dim), steps
        self.eta = nn.Parameter(torch.ones(()))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def share(self) -> Tensor:
        """g, the share of the layer norm."""
        return (1 - self.step / self.steps).clamp_min(0).to(self.weight.dtype)

    def affine(self, mean: Tensor, variance: Tensor) -> tuple[Float[Tensor, "C"], Float[Tensor, "C"]]:
        """Scale and shift per channel of BatchNorm(x) + eta x."""
        scale, shift = super().affine(mean, variance)
        return scale + self.eta, shift

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        g = self.share()
        scale, shift = self.affine(*self.statistics(x, layout))
        if self.training:
            self.step += 1
        return g * self.layer(x) + (1 - g) * (x * scale + shift)


def folded(norm: ProgressiveBatchNorm, linear: nn.Linear) -> nn.Linear:
    """One linear layer equal to ``linear(norm(x))`` in evaluation; BadRequest while the layer norm has a share."""
    if norm.share() > 0:
        raise BadRequest(f"the norm still holds {float(norm.share()):.1%} layer norm, which no linear layer can hold")
    scale, shift = norm.affine(norm.mean, norm.variance)
    one = nn.Linear(linear.in_features, linear.out_features).to(linear.weight)
    with torch.no_grad():
        one.weight.copy_(linear.weight * scale)
        one.bias.copy_(linear.weight @ shift + (0.0 if linear.bias is None else linear.bias))
    return one


class ShiftedRMSNorm(nn.Module):
    """w x / rms(x) + b: what a layer norm is on tokens whose channels have mean 0."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.eps, self.weight, self.bias = norm.eps, norm.weight, norm.bias

    def forward(self, x: Float[Tensor, "*tokens C"]) -> Float[Tensor, "*tokens C"]:
        y = F.rms_norm(x, x.shape[-1:], self.weight, self.eps)
        return y if self.bias is None else y + self.bias


class Centre(nn.Module):
    """x minus its mean over the channels of each token."""

    def forward(self, x: Float[Tensor, "*tokens C"]) -> Float[Tensor, "*tokens C"]:
        return x - x.mean(-1, keepdim=True)


class Centred(nn.Module):
    """A backbone whose input is centred first; where a linear stem stands before it, centre that by
    :func:`centre_linear` and take ``inner`` alone.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.centre, self.inner = Centre(), inner

    def forward(
        self, x: Float[Tensor, "B N C"], layout: Layout
    ) -> Float[Tensor, "B N C"] | tuple[Float[Tensor, "B M K"], Layout]:
        return self.inner(self.centre(x), layout)


def centre_linear(linear: nn.Linear, gamma: Tensor | None = None) -> None:
    """In place: outputs times ``gamma`` and with mean 0, W <- (I - 1 1^T / d) diag(gamma) W, the bias likewise."""
    with torch.no_grad():
        for p in (linear.weight, linear.bias):
            if p is not None:
                scaled = p if gamma is None else p * gamma.reshape(-1, *(1,) * (p.ndim - 1))
                p.copy_(scaled - scaled.mean(0, keepdim=True))


def _rms_branch(branch: nn.Module) -> None:
    """In place: a pre-norm branch that reads without the mean and writes with mean 0."""
    branch.norm = ShiftedRMSNorm(branch.norm)  # type: ignore[arg-type]
    last = next((m for n in ("out", "down") if isinstance(m := getattr(branch.inner, n, None), nn.Linear)), None)
    if last is None:
        branch.scale = nn.Sequential(branch.scale, Centre())  # type: ignore[arg-type]
    else:
        centre_linear(last, getattr(branch.scale, "gamma", None))
        branch.scale = nn.Identity()


def to_rms(backbone: nn.Module) -> nn.Module:
    """A pre-norm backbone with RMSNorm in place of LayerNorm: another network, the same function.

    "Pre-RMSNorm and Pre-CRMSNorm Transformers: Equivalent and Efficient Pre-LN Transformers" (Jiang et al. 2023): all
    norms ignore the mean of the residual stream, so it is kept at 0, by a centred input and centred writers. The last
    linear layer of each branch (with its layer scale) takes the centring in; a branch that ends in none gets a
    :class:`Centre`. The merge of a pyramid reads the means of its parts, so the stages before the last merge stay as
    they are. The original is not touched. Raises BadRequest for other placements or norms.
    """
    from .block import PreNorm, Residual  # here: blocks are built with the norms of this module

    new: Any = copy.deepcopy(backbone)
    merges = [i for i, merge in enumerate(new.merges) if hasattr(merge, "project")]
    first = merges[-1] if merges else 0
    for branch in [m for stage in new.stages[first:] for m in stage.modules() if isinstance(m, Residual)]:
        if type(branch) is not PreNorm or not isinstance(branch.norm, nn.LayerNorm):
            raise BadRequest("only pre-norm blocks with layer norm can be rewritten with RMSNorm")
        _rms_branch(branch)
    new.norm = ShiftedRMSNorm(new.norm)
    if not merges:
        return Centred(new)
    centre_linear(new.merges[first].project)
    return new


def crms_norm(x: Float[Tensor, "*tokens K"], eps: float = 1e-5) -> Float[Tensor, "*tokens K"]:
    """x / sqrt((sum x_i^2 + (sum x_i)^2) / d + eps) on K = d - 1 stored channels: the RMS norm of the d channels whose
    last one is minus the sum of the others ("Pre-RMSNorm and Pre-CRMSNorm Transformers", Jiang et al. 2023).
    """
    square = (x**2).sum(-1, keepdim=True) + x.sum(-1, keepdim=True) ** 2
    return x * torch.rsqrt(square / (x.shape[-1] + 1) + eps)


class SpectralScale(nn.Module):
    """W -> gamma W / sigma(W), sigma by one step of power iteration per training step; see :func:`reparametrise`."""

    u: Tensor
    v: Tensor

    def __init__(self, weight: Float[Tensor, "O I"]) -> None:
        super().__init__()
        self.gamma = nn.Parameter(weight.new_ones(()))
        u, _, v = torch.linalg.svd(weight.detach(), full_matrices=False)
        self.register_buffer("u", u[:, 0].clone())
        self.register_buffer("v", v[0].clone())

    def forward(self, weight: Float[Tensor, "O I"]) -> Float[Tensor, "O I"]:
        if self.training:
            with torch.no_grad():
                self.v.copy_(F.normalize(weight.mT @ self.u, dim=0))
                self.u.copy_(F.normalize(weight @ self.v, dim=0))
        return self.gamma * weight / (self.u.clone() @ weight @ self.v.clone())


def reparametrise(model: nn.Module) -> nn.Module:
    """Every linear layer of ``model``, in place, becomes gamma W / sigma(W) with a learned gamma, 1 at the start.

    sigma-reparametrisation of "Stabilizing Transformer Training by Preventing Attention Entropy Collapse" (Zhai et al.
    2023): no logit outgrows a scale that is learned, so that training needs neither warm-up nor norms. Undo with
    torch's ``parametrize.remove_parametrizations``.
    """
    for layer in [m for m in model.modules() if isinstance(m, nn.Linear)]:
        parametrize.register_parametrization(layer, "weight", SpectralScale(layer.weight))
    return model


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "layer": nn.LayerNorm,  # "Layer Normalization" (Ba et al. 2016)
    "rms": nn.RMSNorm,  # "Root Mean Square Layer Normalization" (Zhang and Sennrich 2019)
    "batch": BatchNorm,
    "group": GroupNorm,
    "progressive": ProgressiveBatchNorm,
    "none": lambda dim: nn.Identity(),
}
# norms whose result at one token depends on those ahead of it, also when evaluated
ACROSS_TOKENS = frozenset({"group"})
