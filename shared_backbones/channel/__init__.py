"""What follows the mixer: each token's channels among themselves. ``forward(x, layout) -> x`` on (B, N, C)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..errors import BadRequest, unknown
from ..mixers import unmet
from ..options import as_declared, check_options, options_of
from .base import Channel
from .elastic import Nested, ParameterTokens
from .experts import Experts, MixtureOfExperts
from .ista import Ista
from .kan import Kan
from .mlp import GLU, MLP, NoChannel
from .sparse import AdaptiveChain, HiddenRouting, TopK
from .spatial import ConvFFN, EfficientChannelAttention

CHANNELS: dict[str, type[Channel]] = {
    "mlp": MLP,
    "glu": GLU,
    "none": NoChannel,
    "conv": ConvFFN,
    "eca": EfficientChannelAttention,
    "topk": TopK,
    "hidden_routing": HiddenRouting,
    "adaptive": AdaptiveChain,
    "moe": MixtureOfExperts,
    "experts": Experts,
    "nested": Nested,
    "parameter_tokens": ParameterTokens,
    "kan": Kan,
    "ista": Ista,
}


def build_channel(
    name: str,
    dim: int,
    *,
    rank: int | None = None,
    ordered: bool = True,
    causal_axes: Collection[int] = (),
    **options: Any,
) -> Channel:
    """A channel layer by name, for tokens of ``dim`` channels; the rest as in ``build_mixer``.

    Raises BadRequest for an unknown name or option, and where the layer cannot serve such a lattice.
    """
    if name not in CHANNELS:
        raise unknown("channel layer", name, CHANNELS)
    cls, what = CHANNELS[name], f"channel layer {name!r}"
    reasons = unmet(cls, rank, ordered, causal_axes, None)
    if reasons:
        able = [n for n, c in CHANNELS.items() if not unmet(c, rank, ordered, causal_axes, None)]
        raise BadRequest(f"{what} cannot serve here: {'; '.join(reasons)}. Those that can: {', '.join(able)}")
    check_options(what, cls, options)
    options = as_declared(cls, options)
    allowed = options_of(cls)
    if rank is not None and "rank" in allowed:
        options["rank"] = rank
    if causal_axes and "causal_axes" in allowed:
        options["causal_axes"] = tuple(sorted(causal_axes))
    layer = cls(dim, **options)
    layer.causal = frozenset(causal_axes)
    return layer


__all__ = ["CHANNELS", "GLU", "MLP", "Channel", "NoChannel", "build_channel"]
