"""Backbones: a schedule of blocks, with or without resampling between stages."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from .block import Block
from .blocks import to_blocks
from .channel import build_channel
from .errors import BadRequest
from .layout import Layout
from .mixers import build_mixer
from .norms import NORMS, normalise


@dataclass(frozen=True)
class LayerSpec:
    """One block: its mixer and its channel layer by name, with their options."""

    mixer: str = "attention"
    mixer_options: Mapping[str, Any] = field(default_factory=dict)
    channel: str = "mlp"
    channel_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StageSpec:
    """Blocks of one width. ``stride``: how many tokens per axis the stage's entry merges into one."""

    dim: int
    layers: tuple[LayerSpec, ...]
    placement: str = "pre"
    norm: str = "layer"
    stride: int = 1


@dataclass(frozen=True)
class BackboneSpec:
    """Stages in order. One stage is columnar, several are a pyramid."""

    stages: tuple[StageSpec, ...]
    layer_scale: float | None = None
    drop_path: float = 0.0  # of the last block; it grows linearly from 0 at the first


@dataclass(frozen=True)
class Tokens:
    """What a stem hands on, as far as it is known when a model is built."""

    rank: int
    ordered: bool = True
    provides: frozenset[str] = frozenset()
    causal_axes: frozenset[int] = frozenset()


class Merge(nn.Module):
    """Merges stride^rank neighbouring tokens into one of another width: "Swin Transformer" (Liu et al. 2021).

    A merged token is real when any of its parts is; masked parts count as zero. Positions are averaged over
    the real parts.
    """

    def __init__(self, dim_in: int, dim_out: int, stride: int, rank: int) -> None:
        super().__init__()
        self.stride, self.rank = stride, rank
        self.norm = nn.LayerNorm(dim_in * stride**rank)
        self.project = nn.Linear(dim_in * stride**rank, dim_out)

    def _parts(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        """(B, N, C) -> (B, N', stride^rank, C), padding each axis up to a multiple of the stride."""
        return to_blocks(x.reshape(x.shape[0], *axes, x.shape[-1]), (self.stride,) * self.rank)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> tuple[Float[Tensor, "B M K"], Layout]:
        parts = self._parts(layout.clean(x), layout.axes)
        y = self.project(self.norm(parts.flatten(2)))
        real = x.new_ones(x.shape[:2]) if layout.mask is None else layout.mask.to(x.dtype)
        weights = self._parts(real[..., None], layout.axes)
        positions = layout.positions
        if positions is not None:
            total = (self._parts(positions.masked_fill(real[..., None] == 0, 0.0), layout.axes) * weights).sum(2)
            positions = total / weights.sum(2).clamp_min(1)
        return y, Layout(
            axes=tuple(-(-n // self.stride) for n in layout.axes),
            mask=None if layout.mask is None else weights.amax((2, 3)) > 0,
            positions=positions,
            source=layout.source,
        )


class Columnar(nn.Module):
    """Blocks of one width on one lattice."""

    def __init__(self, stage: StageSpec, tokens: Tokens, layer_scale: float | None, drop_paths: list[float]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(
                stage.dim,
                build_mixer(
                    layer.mixer,
                    stage.dim,
                    rank=tokens.rank,
                    ordered=tokens.ordered,
                    causal_axes=tokens.causal_axes,
                    provides=tokens.provides,
                    **layer.mixer_options,
                ),
                build_channel(
                    layer.channel,
                    stage.dim,
                    rank=tokens.rank,
                    ordered=tokens.ordered,
                    causal_axes=tokens.causal_axes,
                    **layer.channel_options,
                ),
                stage.placement,
                stage.norm,
                layer_scale,
                drop_path,
            )
            for layer, drop_path in zip(stage.layers, drop_paths, strict=True)
        )

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        for block in self.blocks:
            x = block(x, layout)
        return x


class Backbone(nn.Module):
    """Stages of blocks over the tokens of a stem: ``forward(x, layout) -> (x, layout)``.

    The input width is the first stage's ``dim``. With one stage and stride 1 it is columnar and the lattice stays.
    """

    def __init__(self, spec: BackboneSpec, tokens: Tokens) -> None:
        super().__init__()
        if not spec.stages:
            raise BadRequest("a backbone needs at least one stage")
        if not tokens.ordered and any(stage.stride > 1 for stage in spec.stages):
            raise BadRequest("a pyramid merges neighbours on a lattice: an unordered set takes stages of stride 1 only")
        self.spec, self.tokens = spec, tokens
        self.dim_in, self.dim = spec.stages[0].dim, spec.stages[-1].dim
        depth = sum(len(stage.layers) for stage in spec.stages)
        rates = iter([spec.drop_path * i / max(1, depth - 1) for i in range(depth)])
        widths = [self.dim_in] + [stage.dim for stage in spec.stages]
        self.merges = nn.ModuleList(
            nn.Identity()
            if stage.stride == 1 and width == stage.dim
            else Merge(width, stage.dim, stage.stride, tokens.rank)
            for width, stage in zip(widths, spec.stages, strict=False)
        )
        self.stages = nn.ModuleList(
            Columnar(stage, tokens, spec.layer_scale, list(itertools.islice(rates, len(stage.layers))))
            for stage in spec.stages
        )
        last = spec.stages[-1]
        self.norm = NORMS[last.norm](self.dim) if last.placement != "post" else nn.Identity()

    def features(self, x: Float[Tensor, "B N C"], layout: Layout) -> list[tuple[Tensor, Layout]]:
        """Tokens and layout after every stage, the last one normalised: what dense heads and decoders read."""
        x = layout.clean(x)  # once here: a NaN at a masked token would reach the norms' gradients
        found = []
        for merge, stage in zip(self.merges, self.stages, strict=True):
            if isinstance(merge, Merge):
                x, layout = merge(x, layout)
            x = stage(x, layout)
            found.append((x, layout))
        found[-1] = (normalise(self.norm, x, layout), layout)
        return found

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> tuple[Float[Tensor, "B M K"], Layout]:
        return self.features(x, layout)[-1]


def with_mixer(spec: BackboneSpec, mixer: str, **options: Any) -> BackboneSpec:
    """The same backbone with every mixer replaced: ``with_mixer(spec, "identity")`` is the ablation."""
    stages = tuple(
        replace(s, layers=tuple(replace(layer, mixer=mixer, mixer_options=options) for layer in s.layers))
        for s in spec.stages
    )
    return replace(spec, stages=stages)
