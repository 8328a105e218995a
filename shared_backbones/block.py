"""One residual block: norm placement, mixer, channel, layer scale, drop path."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .channel.mlp import NoChannel
from .errors import unknown
from .layout import Layout
from .norms import NORMS, normalise


class DropPath(nn.Module):
    """Leaves out a whole branch per item while training: "Deep Networks with Stochastic Depth" (Huang et al. 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        if not self.training or self.rate == 0.0:
            return x
        keep = torch.rand(x.shape[0], 1, 1, device=x.device) >= self.rate
        return x * keep / (1.0 - self.rate)


class LayerScale(nn.Module):
    """x * gamma per channel: "Going deeper with Image Transformers" (Touvron et al. 2021)."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        return x * self.gamma


class Residual(nn.Module):
    """One branch beside the identity path; subclasses say where the norm stands."""

    def __init__(self, dim: int, inner: nn.Module, norm: str, layer_scale: float | None, drop_path: float) -> None:
        super().__init__()
        self.inner = inner
        self.norm = NORMS[norm](dim)
        self.scale = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.drop = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        raise NotImplementedError


class PreNorm(Residual):
    """x + f(norm(x)): "On Layer Normalization in the Transformer Architecture" (Xiong et al. 2020)."""

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        return x + self.drop(self.scale(self.inner(normalise(self.norm, x, layout), layout)))


class PostNorm(Residual):
    """norm(x + f(x)): "Attention Is All You Need" (Vaswani et al. 2017)."""

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        return normalise(self.norm, x + self.drop(self.scale(self.inner(x, layout))), layout)


class PeriNorm(Residual):
    """x + norm_out(f(norm_in(x))): "Peri-LN: Revisiting Layer Normalization in the Transformer" (Kim et al. 2025)."""

    def __init__(self, dim: int, inner: nn.Module, norm: str, layer_scale: float | None, drop_path: float) -> None:
        super().__init__(dim, inner, norm, layer_scale, drop_path)
        self.norm_out = NORMS[norm](dim)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        y = self.inner(normalise(self.norm, x, layout), layout)
        return x + self.drop(self.scale(normalise(self.norm_out, y, layout)))


class Plain(Residual):
    """f(norm(x)), without an identity path: of layers that state one of their own, or that are a step of an
    optimisation, as in "White-Box Transformers via Sparse Rate Reduction" (Yu et al. 2023). Never dropped."""

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        return self.scale(self.inner(normalise(self.norm, x, layout), layout))


PLACEMENTS: dict[str, type[Residual]] = {"pre": PreNorm, "post": PostNorm, "peri": PeriNorm, "plain": Plain}


class Block(nn.Module):
    """A mixer and a channel layer, each on its own residual branch; ``channel: none`` leaves the second branch out."""

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        channel: nn.Module,
        placement: str = "pre",
        norm: str = "layer",
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if placement not in PLACEMENTS:
            raise unknown("norm placement", placement, PLACEMENTS)
        if norm not in NORMS:
            raise unknown("norm", norm, NORMS)
        branch: Callable[[nn.Module], Residual] = lambda inner: PLACEMENTS[placement](  # noqa: E731
            dim, inner, norm, layer_scale, drop_path
        )
        self.mix = branch(mixer)
        self.channel = None if isinstance(channel, NoChannel) else branch(channel)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        x = self.mix(x, layout)
        return x if self.channel is None else self.channel(x, layout)
