"""Narrow networks inside a wide one: the first channels of every layer, the first heads of every mixer.

    small = build_backbone(narrowed(spec, 0.5), tokens)
    small.load_state_dict(sliced(big.state_dict(), small))

What is cut is a view, so a narrow network can be run with slices of a wide one's parameters and teach them
(``torch.func.functional_call``): "Once-for-All" (Cai et al. 2020), "LightHuBERT" (Wang et al. 2022).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .backbone import BackboneSpec, LayerSpec, StageSpec
from .errors import BadRequest
from .mixers.attention import Attention

_HEADS = ("heads", "kv_heads")


def share_of(n: int, share: float, what: str) -> int:
    """``share`` of ``n``. Raises BadRequest where that is no whole number of at least one."""
    part = round(n * share)
    if part < 1 or abs(part - n * share) > 1e-6:
        raise BadRequest(f"a width of {share:g} leaves {n * share:g} of {n} {what}, which is no whole number")
    return part


def narrowed(spec: BackboneSpec, share: float) -> BackboneSpec:
    """The same sentence with a share of its channels and of its heads, so that a head stays as wide as it is.

    Raises BadRequest for a share outside (0, 1], or one that leaves no whole number of channels or heads.
    """
    if not 0 < share <= 1:
        raise BadRequest(f"a width is a share within (0, 1], got {share:g}")

    def options(given: Any) -> Any:
        if isinstance(given, Mapping):
            return {
                k: share_of(v, share, k) if k in _HEADS and isinstance(v, int) and v > 1 else options(v)
                for k, v in given.items()
            }
        return [options(v) for v in given] if isinstance(given, (list, tuple)) else given

    def layer(one: LayerSpec) -> LayerSpec:
        return replace(one, mixer_options=options(one.mixer_options))

    def stages(rows: Sequence[StageSpec]) -> tuple[StageSpec, ...]:
        return tuple(
            replace(s, dim=share_of(s.dim, share, "channels"), layers=tuple(map(layer, s.layers))) for s in rows
        )

    return spec if share == 1 else replace(spec, stages=stages(spec.stages), decoder=stages(spec.decoder))


def _fused(model: nn.Module) -> dict[str, list[int]]:
    """Parameters whose rows are several maps one below the other -> the rows of each."""
    found = {}
    for place, module in model.named_modules():
        if isinstance(module, Attention):
            for name, _ in module.qkv.named_parameters():
                found[f"{place}.qkv.{name}".removeprefix(".")] = list(module.widths)
    return found


def first(value: Tensor, shape: Sequence[int], rows: Sequence[int] | None = None) -> Tensor:
    """The first entries of ``value`` along every axis: a view, or a few joined where ``rows`` names parts of axis 0."""
    if rows is not None and value.shape[0] != shape[0]:
        wide = [r * value.shape[0] // sum(rows) for r in rows]
        return torch.cat([first(part, (r, *shape[1:])) for part, r in zip(value.split(wide), rows, strict=True)])
    for axis, n in enumerate(shape):
        value = value.narrow(axis, 0, n)
    return value


def sliced(wide: Mapping[str, Tensor], model: nn.Module, whole: Collection[str] = ()) -> dict[str, Tensor]:
    """The tensors of a wider network, those that ``model`` has smaller cut to its shapes.

    whole: names of tensors whose first axis stands for something other than channels (classes), and is never cut.
    What is not wider along every axis stays as it is.
    """
    found, fused = dict(wide), _fused(model)
    for name, own in model.state_dict(keep_vars=True).items():
        there = wide.get(name)
        if there is None or there.shape == own.shape or there.ndim != own.ndim:
            continue
        fits = all(a >= b for a, b in zip(there.shape, own.shape, strict=True))
        if fits and not (name in whole and there.shape[0] != own.shape[0]):
            found[name] = first(there, own.shape, fused.get(name))
    return found


__all__ = ["first", "narrowed", "share_of", "sliced"]
