"""A whole network from a preset alone: stem, backbone, head; what it is counted, exported and compared by.

A domain's task builds its own stem and head around the same backbone; this is the network of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.export import Dim

from .backbone import Backbone, Tokens, UNet, build_backbone
from .errors import BadRequest
from .export import unchecked_shapes
from .flops import flop_counter
from .heads import ClassHead
from .layout import Layout
from .mixers.lattice import Neighborhood
from .options import as_declared, check_options
from .presets import Preset
from .stems import ChannelTokens, ImageStem, PatchStem, VariateStem
from .tokenizers import ConvTokenizer, PerChannelStem, TokensToToken

T = TypeVar("T")

# Stems that a preset can be built with here, by name: class(channels or length, dim, **options). A stem that only a
# domain knows is stood in for by plain vectors on a lattice of the preset's rank.
STEMS: dict[str, type[nn.Module]] = {
    "image": ImageStem,
    "compact": ConvTokenizer,
    "tokens_to_token": TokensToToken,
    "channel_patches": PerChannelStem,
    "patches": PatchStem,
    "variates": VariateStem,
    "tokens": ChannelTokens,
}
LATTICE_STEMS = frozenset({"image", "compact", "tokens_to_token", "channel_patches"})  # channel-first input, any rank
SMALL = {1: (70,), 2: (48, 40), 3: (20, 16, 18)}  # extents to try a preset at
FEATURES = 8  # of the plain vectors and patches, where nothing says otherwise


class Model(nn.Module):
    """stem -> backbone -> head. With ``edges`` the tokens are a graph; without a head it returns the tokens."""

    def __init__(self, stem: nn.Module, backbone: Backbone | UNet, head: nn.Module | None) -> None:
        super().__init__()
        self.stem, self.backbone, self.head = stem, backbone, head

    def forward(
        self, x: Tensor, positions: Tensor | None = None, edges: Tensor | None = None, edge_attr: Tensor | None = None
    ) -> Tensor:
        """Raw input of the stem -> scores (B, K), or tokens (B, N, C)."""
        tokens, layout = self.stem(x)
        if positions is not None or edges is not None:
            at = layout.positions if positions is None else positions
            layout = Layout(layout.axes, layout.ordered, layout.mask, at, edges, edge_attr)
        tokens, layout = self.backbone(tokens, layout)
        return tokens if self.head is None else self.head(tokens, layout)


def _mixer_rows(preset: Preset) -> Iterator[Mapping[str, Any]]:
    """Each mixer of a sentence with its options, inner ones too, in order."""

    def visit(sentence: Any) -> Iterator[Mapping[str, Any]]:
        if isinstance(sentence, str):
            yield {"mixer": sentence}
        elif isinstance(sentence, Mapping):
            if "mixer" in sentence:
                yield sentence
            yield from visit(sentence.get("inner", ()))
        else:
            for part in sentence:
                yield from visit(part)

    for stage in (*preset.backbone.stages, *preset.backbone.decoder):
        for layer in stage.layers:
            yield from visit({**layer.mixer_options, "mixer": layer.mixer})


def mixers_of(preset: Preset) -> list[str]:
    """The mixers named anywhere in a sentence, inner ones too, each once, in order."""
    return list(dict.fromkeys(row["mixer"] for row in _mixer_rows(preset)))


def edge_features_of(preset: Preset) -> int:
    """Width of the attributes of edges that its mixers read; 0: none."""
    return max((int(row.get("edge_features", 0)) for row in _mixer_rows(preset)), default=0)


def needs_of(preset: Preset) -> frozenset[str]:
    """What the layout must carry for the mixers of a preset."""
    from .mixers import MIXERS

    return frozenset(need for name in mixers_of(preset) for need in MIXERS[name].needs)


def build_model(preset: Preset, rank: int | None = None, channels: int = 3, classes: int = 0) -> Model:
    """The network of a preset on lattices of ``rank`` (default: its first), with a class head where classes > 0.

    Raises BadRequest for a rank that the preset does not declare.
    """
    rank = preset.ranks[0] if rank is None else rank
    if rank not in preset.ranks:
        raise BadRequest(f"preset {preset.name!r} declares lattices of rank {list(preset.ranks)}, got {rank}")
    dim = preset.backbone.stages[0].dim
    cls = STEMS.get(preset.stem, ChannelTokens)
    options = dict(preset.stem_options) if preset.stem in STEMS else {}
    check_options(f"stem {preset.stem!r}", cls, {k: v for k, v in options.items() if k not in ("length", "features")})
    options = as_declared(cls, options)
    if preset.stem in LATTICE_STEMS:
        stem = cls(channels, dim, rank=rank, **options)
    elif cls is ChannelTokens:
        stem = cls(options.pop("features", FEATURES), dim, rank=rank, ordered=not preset.sets, **options)
    elif cls is VariateStem:
        stem = cls(options.pop("length", FEATURES), dim, **options)
    else:
        stem = cls(options.pop("features", FEATURES), dim, **options)
    given: Tokens = stem.tokens  # type: ignore[assignment]
    tokens = Tokens(
        rank=given.rank,
        ordered=given.ordered,
        provides=given.provides | needs_of(preset),
        causal_axes=frozenset({0}) if preset.causal else frozenset(),
    )
    backbone = build_backbone(preset.backbone, tokens)
    return Model(stem, backbone, ClassHead(backbone.dim, classes, **preset.head) if classes else None)


def example(preset: Preset, model: Model, axes: tuple[int, ...] | None = None, batch: int = 1) -> dict[str, Tensor]:
    """Random inputs of :meth:`Model.forward` for raw extents ``axes`` (default: small ones of the first rank)."""
    rank = len(axes) if axes is not None else preset.ranks[0]
    axes = ((96,), (64, 64), (16, 16, 16))[rank - 1] if axes is None else axes
    if preset.stem in LATTICE_STEMS:
        return {"x": torch.randn(batch, _channels_of(model.stem), *axes)}
    if isinstance(model.stem, VariateStem):
        return {"x": torch.randn(batch, model.stem.embed.in_features, axes[0])}
    if isinstance(model.stem, PatchStem):
        return {"x": torch.randn(batch, axes[0], model.stem.embed.in_features // model.stem.patch)}
    found = {"x": torch.randn(batch, *axes, model.stem.embed.in_features)}  # type: ignore[union-attr,arg-type]
    n, needs = found["x"][0, ..., 0].numel(), needs_of(preset)
    if "positions" in needs:
        found["positions"] = torch.rand(batch, n, 3 if preset.sets else rank).cumsum(1)  # a set stands in space
    if "edges" in needs:
        found["edges"] = torch.randint(0, batch * n, (2, 4 * n))
        if width := edge_features_of(preset):
            found["edge_attr"] = torch.randn(4 * n, width)
    return found


def _channels_of(stem: nn.Module) -> int:
    if isinstance(stem, PerChannelStem):
        return stem.channel.shape[0]
    if isinstance(stem, TokensToToken):
        return stem.channels
    return next(m for m in stem.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d))).in_channels


def cost_of(preset: Preset) -> str:
    """The sum of the distinct terms of the mixers' costs, such as "O(N d^2 + N w^r d)"."""
    from .mixers import MIXERS

    terms = dict.fromkeys(
        term for name in mixers_of(preset) for term in MIXERS[name].cost.removeprefix("O(")[:-1].split(" + ")
    )
    return f"O({' + '.join(terms)})"


@dataclass(frozen=True)
class Part:
    """One part of a network at one input: its name, the lattice and width that it leaves, what it costs."""

    name: str
    axes: tuple[int, ...]
    dim: int
    parameters: int
    macs: int


def profile(preset: Preset, axes: tuple[int, ...] | None = None, channels: int = 3, classes: int = 0) -> list[Part]:
    """Stem, stages (each with the merge at its entry), decoder, last norm and head at one input of extents ``axes``.

    Counted without numbers, on the meta device, where every operator of the sentence allows it, and otherwise on this
    machine.
    """
    rank = preset.ranks[0] if axes is None else len(axes)

    def counted() -> list[Part]:
        with torch.no_grad():
            model = build_model(preset, rank, channels, classes).eval().requires_grad_(False)
            for part in model.modules():
                if isinstance(part, Neighborhood):  # its tiles hold masked pairs: count those that are seen
                    part.tile = (1,) * rank
            return _profiled(model, example(preset, model, axes))

    return _without_numbers(counted)


def _without_numbers(work: Callable[[], T]) -> T:
    """``work()`` on the meta device where every operator of the sentence allows it, and otherwise on this machine."""
    try:
        with torch.device("meta"):
            return work()
    except (NotImplementedError, RuntimeError):
        with torch.device("cpu"):
            return work()


def _profiled(model: Model, inputs: Mapping[str, Tensor]) -> list[Part]:
    encoder = model.backbone.encoder if isinstance(model.backbone, UNet) else model.backbone
    named: dict[str, list[nn.Module]] = {"stem": [model.stem]}
    named |= {f"stage {i + 1}": [m, s] for i, (m, s) in enumerate(zip(encoder.merges, encoder.stages, strict=True))}
    if isinstance(model.backbone, UNet):
        ups = zip(model.backbone.expands, model.backbone.joins, model.backbone.stages, strict=True)
        named |= {f"up {i + 1}": list(parts) for i, parts in enumerate(ups)}
    named["norm"] = [encoder.norm, *([model.backbone.norm] if isinstance(model.backbone, UNet) else [])]
    if model.head is not None:
        named["head"] = [model.head]
    spent, left = dict.fromkeys(named, 0), dict.fromkeys(named, ((), 0))
    with flop_counter() as counter:
        for name, parts in named.items():
            for part in parts:
                part.register_forward_pre_hook(lambda *_, n=name: _add(spent, n, -counter.get_total_flops()))
                part.register_forward_hook(lambda *_, n=name: _add(spent, n, counter.get_total_flops()))
                part.register_forward_hook(lambda m, given, out, n=name: left.update({n: _left(given, out)}))
        model(**inputs)
    return [
        Part(name, *left[name], sum(p.numel() for part in parts for p in part.parameters()), spent[name] // 2)
        for name, parts in named.items()
    ]


def _add(totals: dict[str, int], name: str, value: int) -> None:
    totals[name] += value


def _left(given: tuple[Any, ...], out: Any) -> tuple[tuple[int, ...], int]:
    """Lattice and width after a part: from the layout that it returns or was given; a head leaves none."""
    if isinstance(out, tuple):
        return out[1].axes, out[0].shape[-1]
    layout = next((a for a in reversed(given) if isinstance(a, Layout)), None)
    return (layout.axes if layout is not None and out.ndim == 3 else ()), out.shape[-1]


def parameters(preset: Preset, channels: int = 3, classes: int = 0) -> int:
    """Numbers that a network holds; nothing is run, and where its operators allow it nothing is allocated."""
    return _without_numbers(lambda: sum(p.numel() for p in build_model(preset, None, channels, classes).parameters()))


def count(preset: Preset, axes: tuple[int, ...] | None = None, channels: int = 3, classes: int = 0) -> dict[str, int]:
    """Parameters, and multiply-adds of one input of raw extents ``axes``."""
    parts = profile(preset, axes, channels, classes)
    return {"parameters": sum(p.parameters for p in parts), "macs": sum(p.macs for p in parts)}


def trial(preset: Preset, rank: int) -> None:
    """Builds the network on lattices of ``rank``, takes one step back through it, and carries it through safetensors.

    Raises AssertionError where a result or gradient is missing or not finite, or the copy differs.
    """
    model = build_model(preset, rank, channels=2, classes=3)
    inputs = example(preset, model, SMALL[rank], batch=2)
    model(**inputs).square().mean().backward()
    # read where steps are missing, and here none are
    grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad and n != "stem.missing.weight"}
    bare = [n for n, grad in grads.items() if grad is None or not bool(grad.isfinite().all())]
    assert not bare, f"{preset.name} on rank {rank}: no finite gradient at {bare[:5]}"
    scores = model.eval()(**inputs)
    assert bool(scores.isfinite().all()), f"{preset.name} on rank {rank}: scores are not finite"
    again = build_model(preset, rank, channels=2, classes=3).eval()
    again.load_state_dict(load(save({name: value.clone() for name, value in model.state_dict().items()})))
    assert torch.equal(again(**inputs), scores), f"{preset.name} on rank {rank}: another model came back from its file"


def exported_difference(preset: Preset, classes: int = 3) -> float:
    """Largest difference between the network of a preset and its export, called at another size than it was traced at.

    The trace leaves batch and extents free; both sizes leave several windows on the coarsest lattice, since a trace
    takes an extent of one for fixed. Raises what torch.export raises where the network fixes one of them.
    """
    model = build_model(preset, channels=2, classes=classes).eval()
    step, rank = stride_of(preset), preset.ranks[0]
    small, large = ((70,), (97,)) if rank == 1 else ((9, 10, 9)[:rank], (12, 9, 10)[:rank])
    inputs = example(preset, model, tuple(step * n for n in small), batch=2)
    others = example(preset, model, tuple(step * n for n in large), batch=3)
    free = {name: dict.fromkeys(_free(preset, name, value), Dim.DYNAMIC) for name, value in inputs.items()}
    with torch.no_grad(), unchecked_shapes():
        program = torch.export.export(model, (), inputs, dynamic_shapes=free)
        return float((program.module()(**others) - model(**others)).abs().max())


def stride_of(preset: Preset) -> int:
    """How many places of the raw lattice, along each axis, one token of the coarsest lattice stands for."""
    layers = preset.stem_options.get("layers", ({"stride": 4},)) if preset.stem == "image" else ()
    if preset.stem == "tokens_to_token":
        layers = [{"stride": s} for s in preset.stem_options.get("strides", (4, 2, 2))]
    if preset.stem == "channel_patches":
        layers = [{"stride": preset.stem_options.get("patch", 16)}]
    return math.prod(row.get("stride", 1) for row in layers) * math.prod(s.stride for s in preset.backbone.stages)


def _free(preset: Preset, name: str, value: Tensor) -> list[int]:
    """Which dimensions of an input may change: batch and extents, not its channels."""
    if name in ("edges", "edge_attr"):
        return [("edge_attr", "edges").index(name)]
    channels = 1 if preset.stem in LATTICE_STEMS or preset.stem == "variates" else value.ndim - 1
    return [i for i in range(value.ndim) if i != channels]
