"""Backbones: a schedule of blocks, with or without resampling between stages, and with a way back up where asked."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .block import Block
from .channel import build_channel
from .errors import BadRequest
from .expanding import AttentionExpand, build_expand
from .layout import Layout
from .merging import build_merge
from .mixers import build_mixer
from .mixers.base import at_least
from .norms import ACROSS_TOKENS, NORMS, normalise


@dataclass(frozen=True)
class LayerSpec:
    """One block: its mixer and its channel layer by name, with their options.

    ``block``: what differs here from the rest of the stage (placement, norm, layer_scale), such as ``norm: none`` of a
    positional convolution.
    """

    mixer: str = "attention"
    mixer_options: Mapping[str, Any] = field(default_factory=dict)
    channel: str = "mlp"
    channel_options: Mapping[str, Any] = field(default_factory=dict)
    block: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StageSpec:
    """Blocks of one width.

    stride: how many tokens per axis the stage's entry merges into one (of a decoder: becomes of one); merge: how, a
    name of ``MERGES`` (of a decoder: of ``EXPANDS``) with its options; repeat: how many times the blocks run in turn,
    with the same weights.
    """

    dim: int
    layers: tuple[LayerSpec, ...]
    placement: str = "pre"
    norm: str = "layer"
    stride: int = 1
    merge: str = "patch"
    merge_options: Mapping[str, Any] = field(default_factory=dict)
    repeat: int = 1


@dataclass(frozen=True)
class BackboneSpec:
    """Stages in order. One stage is columnar, several are a pyramid; with a ``decoder`` it is a U-shaped network.

    decoder: stages back up, from the coarsest: each ends on the lattice of one earlier stage.
    """

    stages: tuple[StageSpec, ...]
    layer_scale: float | None = None
    drop_path: float = 0.0  # of the last block; it grows linearly from 0 at the first
    decoder: tuple[StageSpec, ...] = ()


@dataclass(frozen=True)
class Tokens:
    """What a stem hands on, as far as it is known when a model is built."""

    rank: int
    ordered: bool = True
    provides: frozenset[str] = frozenset()
    causal_axes: frozenset[int] = frozenset()


class Columnar(nn.Module):
    """Blocks of one width on one lattice, run ``repeat`` times: "Universal Transformers" (Dehghani et al. 2019)."""

    def __init__(self, stage: StageSpec, tokens: Tokens, layer_scale: float | None, drop_paths: list[float]) -> None:
        super().__init__()
        self.repeat = at_least("repeat", stage.repeat, 1)
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
                **{"placement": stage.placement, "norm": stage.norm, "layer_scale": layer_scale, **layer.block},
                drop_path=drop_path,
            )
            for layer, drop_path in zip(stage.layers, drop_paths, strict=True)
        )

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        for _ in range(self.repeat):
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
        norms = {stage.norm for stage in (*spec.stages, *spec.decoder)}
        if tokens.causal_axes and norms & ACROSS_TOKENS:
            raise BadRequest(f"norm {', '.join(norms & ACROSS_TOKENS)} looks at all tokens, so it cannot be causal")
        self.spec, self.tokens = spec, tokens
        self.dim_in, self.dim = spec.stages[0].dim, spec.stages[-1].dim
        rates = drop_paths(spec)
        widths = [self.dim_in] + [stage.dim for stage in spec.stages]
        self.merges = nn.ModuleList(
            nn.Identity()
            if stage.stride == 1 and width == stage.dim
            else build_merge(stage.merge, width, stage.dim, stage.stride, tokens.rank, **stage.merge_options)
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
            if not isinstance(merge, nn.Identity):
                x, layout = merge(x, layout)
            x = stage(x, layout)
            found.append((x, layout))
        found[-1] = (normalise(self.norm, x, layout), layout)
        return found

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> tuple[Float[Tensor, "B M K"], Layout]:
        return self.features(x, layout)[-1]


class UNet(nn.Module):
    """A pyramid and a way back up: each decoder stage expands, joins the encoder's tokens of that lattice, and mixes.

    "U-Net" (Ronneberger et al. 2015) over any mixers: y_i = stage_i(W_i [expand(y_(i+1)), x_i]). The result stands on
    the lattice of the earliest stage that the decoder climbs to.
    """

    def __init__(self, spec: BackboneSpec, tokens: Tokens) -> None:
        super().__init__()
        ups, downs = spec.decoder, spec.stages[::-1]
        if [up.stride for up in ups] != [down.stride for down in downs[: len(ups)]] or len(ups) >= len(downs):
            raise BadRequest(
                f"a decoder climbs back the strides of the stages, {[d.stride for d in downs[:-1]]} from the coarsest, "
                f"got {[up.stride for up in ups]}"
            )
        self.spec, self.tokens = spec, tokens
        self.encoder = Backbone(replace(spec, decoder=()), tokens)
        self.dim_in, self.dim = self.encoder.dim_in, ups[-1].dim
        self.expands, self.joins, self.stages = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        width = self.encoder.dim
        for up, skip in zip(ups, downs[1:], strict=False):
            self.expands.append(
                build_expand(up.merge, width, up.dim, up.stride, tokens.rank, skip.dim, **up.merge_options)
            )
            self.joins.append(nn.Linear(up.dim + skip.dim, up.dim))
            self.stages.append(Columnar(up, tokens, spec.layer_scale, [spec.drop_path] * len(up.layers)))
            width = up.dim
        self.norm = NORMS[ups[-1].norm](self.dim) if ups[-1].placement != "post" else nn.Identity()

    def features(self, x: Float[Tensor, "B N C"], layout: Layout) -> list[tuple[Tensor, Layout]]:
        """Tokens and layout after every decoder stage, from the coarsest, the last one normalised."""
        *skips, (y, at) = self.encoder.features(x, layout)
        found = []
        for expand, join, stage, (skip, finer) in zip(self.expands, self.joins, self.stages, skips[::-1], strict=False):
            up = expand(y, at, finer, skip) if isinstance(expand, AttentionExpand) else expand(y, at, finer)
            y = stage(join(torch.cat([up, finer.clean(skip)], -1)), finer)
            at = finer
            found.append((y, at))
        found[-1] = (normalise(self.norm, y, at), at)
        return found

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> tuple[Float[Tensor, "B M K"], Layout]:
        return self.features(x, layout)[-1]


def drop_paths(spec: BackboneSpec) -> Iterator[float]:
    """The rate of each block of the stages, growing linearly from 0."""
    depth = sum(len(stage.layers) for stage in spec.stages)
    return (spec.drop_path * i / max(1, depth - 1) for i in range(depth))


def build_backbone(spec: BackboneSpec, tokens: Tokens) -> Backbone | UNet:
    """The network of a sentence: U-shaped where it has a decoder."""
    return UNet(spec, tokens) if spec.decoder else Backbone(spec, tokens)


def with_mixer(spec: BackboneSpec, mixer: str, **options: Any) -> BackboneSpec:
    """The same backbone with every mixer replaced: ``with_mixer(spec, "identity")`` is the ablation."""

    def replaced(stages: tuple[StageSpec, ...]) -> tuple[StageSpec, ...]:
        return tuple(
            replace(s, layers=tuple(replace(layer, mixer=mixer, mixer_options=options) for layer in s.layers))
            for s in stages
        )

    return replace(spec, stages=replaced(spec.stages), decoder=replaced(spec.decoder))
