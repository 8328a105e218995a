"""The reader of the diagnostic tasks: tokens to vectors, a short convolution before every mixer, a class per token.

Shapes: B strings of L tokens, Q questions in all of them, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from domains.options import model_options
from domains.task import Fitted
from shared_backbones.backbone import Backbone, BackboneSpec, LayerSpec, Tokens
from shared_backbones.errors import BadRequest
from shared_backbones.layout import Layout
from shared_backbones.mixers import MIXERS, Mixer
from shared_backbones.options import options_of
from shared_backbones.presets import Preset


class ReaderOptions(BaseModel):
    """The ``model:`` options of a preset for these tasks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    short: int = Field(4, ge=0)  # width of the depthwise convolution before every mixer; 0: none
    places: bool = True  # a learned vector for each place of the string
    heads: int | None = Field(None, ge=1)  # of every mixer that takes heads and is given none


def reader_options(given: Mapping[str, Any]) -> ReaderOptions:
    """Checked options; raises BadRequest naming the option, what is allowed and what was got."""
    return model_options(ReaderOptions, given, "a synthetic task")


def sentence(spec: BackboneSpec, options: ReaderOptions) -> BackboneSpec:
    """The backbone with a short convolution as a layer of its own before every layer, and the heads filled in.

    The convolution stands outside the mixer, so that the identity ablation keeps it.
    """
    if any(stage.stride > 1 for stage in spec.stages):
        raise BadRequest("a synthetic task asks at single tokens: it takes backbones that keep them all (stride 1)")
    stages = []
    for stage in spec.stages:
        layers: list[LayerSpec] = []
        for layer in stage.layers:
            if options.short:
                layers.append(LayerSpec("convolution", {"kernel": options.short}, "none"))
            more = {} if options.heads is None or layer.mixer not in MIXERS else {"heads": options.heads}
            more = more if "heads" in options_of(MIXERS.get(layer.mixer, Mixer)) else {}
            layers.append(replace(layer, mixer_options={**more, **layer.mixer_options}))
        stages.append(replace(stage, layers=tuple(layers)))
    return replace(spec, stages=tuple(stages))


def build_backbone(preset: Preset, causal: bool, future: bool) -> Backbone:
    """The backbone of a preset for strings of tokens.

    ``future``: the answers stand after their questions. Raises BadRequest where a mixer cannot serve: it cannot be
    causal and should be, or is causal by its nature and must read ahead.
    """
    tokens = Tokens(rank=1, causal_axes=frozenset({0} if causal else ()))
    backbone = Backbone(sentence(preset.backbone, reader_options(preset.model)), tokens)
    if future:
        for mixer in outermost(backbone):
            if mixer.causal:
                raise BadRequest(
                    f"{type(mixer).__name__} is causal by its nature and sees no later token; "
                    "{mixer: directions, inner: ...} lets it read both ways"
                )
    return backbone


def outermost(module: nn.Module) -> Iterator[Mixer]:
    """The mixers of a network, without the parts that they are made of."""
    for child in module.children():
        if isinstance(child, Mixer):
            yield child
        else:
            yield from outermost(child)


def state_size(backbone: Backbone, length: int) -> int:
    """Numbers that all mixers together keep per string after ``length`` tokens."""
    return sum(mixer.state_size(length) for mixer in outermost(backbone))


class Reader(nn.Module):
    """Strings of tokens -> a class for each token."""

    def __init__(self, fitted: Fitted, preset: Preset, causal: bool, future: bool) -> None:
        super().__init__()
        options, dim = reader_options(preset.model), preset.backbone.stages[0].dim
        self.backbone = build_backbone(preset, causal, future)
        self.embed = nn.Embedding(int(fitted["vocab"]), dim)
        self.place = nn.Parameter(torch.zeros(int(fitted["length"]), dim)) if options.places else None
        segments = [int(n) for n in fitted["segments"]]
        self.segment = nn.Embedding(len(segments), dim) if segments else None
        number = torch.arange(len(segments)).repeat_interleave(torch.tensor(segments, dtype=torch.long))
        self.register_buffer("number", number, persistent=False)
        self.head = nn.Linear(self.backbone.dim, int(fitted["classes"]))
        for table in (self.embed.weight, self.place):
            if table is not None:
                nn.init.normal_(table, std=0.02)

    def tokens(self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"] | None) -> Float[Tensor, "B L C"]:
        """Mixed tokens."""
        x = self.embed(tokens)
        if self.place is not None:
            x = x + self.place
        if self.segment is not None:
            x = x + self.segment(self.number)
        return self.backbone(x, Layout((tokens.shape[1],), mask=mask))[0]

    def forward(
        self,
        tokens: Int[Tensor, "B L"],
        mask: Bool[Tensor, "B L"] | None = None,
        asked: Bool[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "*Q K"]:
        """Scores of the classes at every token, or at the tokens that are asked for alone, (Q, K)."""
        x = self.tokens(tokens, mask)
        return self.head(x if asked is None else x[asked])
