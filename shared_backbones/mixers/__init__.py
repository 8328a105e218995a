"""Every mixer by the field's word for it. Add one by writing its class and naming it here."""

from __future__ import annotations

from collections.abc import Collection
from importlib import resources
from typing import Any

import yaml

from ..errors import BadRequest, unknown
from ..options import as_declared, check_options, options_of
from .attention import Attention, DecayAttention
from .base import Mixer, StateMixer
from .combine import Coarse, Dense, Over, Parallel, Serial, Split
from .convolution import Convolution, FullConvolution, MaxPooling, Pointwise, Separable
from .delta import Delta
from .directions import Directions
from .dual import ChannelAttention, HiLo
from .dynamic import DynamicLocal, LargeSmall
from .factored import Factored
from .fixed import RandomMixing
from .gating import Depthwise, Pooling
from .graph_attention import EdgeStream, TopAttention
from .grouping import Grid, Window
from .identity import Identity
from .inception import Inception
from .kernels import Correlation, Hashed, Injective, RankAugmented, Relative, ReluLinear
from .large_kernel import Additive, LargeKernel, Polarised
from .lattice import Neighborhood
from .linear import Linear
from .long_convolution import Hyena
from .manhattan import Manhattan, ManhattanAxes
from .memory import Leaky, TestTime
from .merged import Merged
from .mobile import ChannelGate, Ghost, MBConv
from .neighborhood import Convolution as GraphConvolution
from .neighborhood import Hops, InitialResidual, Message, Propagate
from .neighborhood import Sum as GraphSum
from .ordering import NeighborTokens, Ordered
from .places import SpatialGating, TokenMLP
from .recursive import RecursiveGated
from .reduced import ConvProjected, Reduced
from .retention import MatrixLstm, Retention
from .routed_heads import Cascaded, GatedHeads, RoutedHeads, SingleHead
from .routing import Regions, Routing
from .scored import Clipped, Multiplied, Positional, Sigmoid, TopK
from .shift import Shift
from .slots import Codebook, GroupedLatents, Lookup, SemanticSlots, SuperTokens, VirtualNode
from .sorted_groups import Sorted
from .sparse_attention import ProbSparse, Subsampled
from .spectral import Cosine, Fourier
from .spiking import Spiking
from .ssm import ConvSsm, Legendre, Scan, Ssd
from .stripes import Stripes
from .subspace import Isomorphic, Principal, Subspace
from .wavelet import Wavelet
from .within import Within
from .words import FeedForward, Normed, Product, Residual

MIXERS: dict[str, type[Mixer]] = {
    "identity": Identity,
    "attention": Attention,
    "decay": DecayAttention,
    "linear": Linear,
    "window": Window,
    "grid": Grid,
    "neighborhood": Neighborhood,
    "stripes": Stripes,
    "regions": Regions,
    "routing": Routing,
    "sorted": Sorted,
    "factored": Factored,
    "shift": Shift,
    "message": Message,
    "graph_sum": GraphSum,
    "graph_convolution": GraphConvolution,
    "propagate": Propagate,
    "initial_residual": InitialResidual,
    "hops": Hops,
    "edge_stream": EdgeStream,
    "top_attention": TopAttention,
    "ordered": Ordered,
    "neighbor_tokens": NeighborTokens,
    "pooling": Pooling,
    "depthwise": Depthwise,
    "fourier": Fourier,
    "over": Over,
    "serial": Serial,
    "parallel": Parallel,
    "dense": Dense,
    "split": Split,
    "coarse": Coarse,
    "merged": Merged,
    "channels": ChannelAttention,
    "hilo": HiLo,
    "convolution": Convolution,
    "full_convolution": FullConvolution,
    "separable": Separable,
    "max_pooling": MaxPooling,
    "pointwise": Pointwise,
    "lookup": Lookup,
    "latents": GroupedLatents,
    "semantic_slots": SemanticSlots,
    "codebook": Codebook,
    "super_tokens": SuperTokens,
    "virtual_node": VirtualNode,
    "delta": Delta,
    "retention": Retention,
    "mlstm": MatrixLstm,
    "scan": Scan,
    "ssd": Ssd,
    "legendre": Legendre,
    "conv_ssm": ConvSsm,
    "directions": Directions,
    "memory": TestTime,
    "leaky": Leaky,
    "spiking": Spiking,
    "relu_linear": ReluLinear,
    "rank_augmented": RankAugmented,
    "injective": Injective,
    "correlation": Correlation,
    "hashed": Hashed,
    "relative": Relative,
    "norm": Normed,
    "feed_forward": FeedForward,
    "residual": Residual,
    "product": Product,
    "mbconv": MBConv,
    "squeeze_excite": ChannelGate,
    "ghost": Ghost,
    "recursive_gated": RecursiveGated,
    "large_kernel": LargeKernel,
    "additive": Additive,
    "polarised": Polarised,
    "random": RandomMixing,
    "cosine": Cosine,
    "wavelet": Wavelet,
    "hyena": Hyena,
    "token_mlp": TokenMLP,
    "spatial_gating": SpatialGating,
    "large_small": LargeSmall,
    "dynamic_local": DynamicLocal,
    "inception": Inception,
    "reduced": Reduced,
    "conv_projected": ConvProjected,
    "gated_heads": GatedHeads,
    "routed_heads": RoutedHeads,
    "cascaded": Cascaded,
    "single_head": SingleHead,
    "sigmoid": Sigmoid,
    "clipped": Clipped,
    "top_k": TopK,
    "multiplied": Multiplied,
    "positional": Positional,
    "subspace": Subspace,
    "isomorphic": Isomorphic,
    "principal": Principal,
    "manhattan": Manhattan,
    "manhattan_axes": ManhattanAxes,
    "subsampled": Subsampled,
    "within": Within,
    "prob_sparse": ProbSparse,
}


def facts(mixer: type[Mixer]) -> dict[str, Any]:
    """The declared facts of a mixer class, as plain values."""
    return {
        "ranks": sorted(mixer.ranks),
        "causal_axes": sorted(mixer.causal_axes),
        "sets": mixer.sets,
        "cross": mixer.cross,
        "needs": sorted(mixer.needs),
        "cost": mixer.cost,
        "state": issubclass(mixer, StateMixer),
    }


def list_mixers() -> dict[str, dict[str, Any]]:
    """Name -> facts of every registered mixer.

    ``efficiency_length``: the number of tokens from which it takes less time than softmax attention, as measured in
    several settings (efficiency.yaml says on what, ``python -m tests.benchmarks.efficiency`` measures it); {} where
    it has not been.
    """
    measured = yaml.safe_load((resources.files(__name__) / "efficiency.yaml").read_text())["mixers"]
    return {name: {**facts(mixer), "efficiency_length": measured.get(name, {})} for name, mixer in MIXERS.items()}


def unmet(
    mixer: type[Mixer], rank: int | None, ordered: bool, causal_axes: Collection[int], provides: Collection[str] | None
) -> list[str]:
    """What stops a mixer class from serving such a lattice; empty when nothing does."""
    reasons = []
    if rank is not None and rank not in mixer.ranks:
        reasons.append(f"it accepts rank {sorted(mixer.ranks)}, not {rank}")
    if not ordered and not mixer.sets:
        reasons.append("it needs ordered tokens")
    if causal_axes and not ordered and "positions" not in mixer.needs:
        reasons.append("a set has no axis to be causal along")
    if rank is not None and any(axis >= rank for axis in causal_axes):
        reasons.append(f"a lattice of rank {rank} has no axis {max(causal_axes)}")
    if not set(causal_axes) <= mixer.causal_axes:
        reasons.append(f"it can be causal along axes {sorted(mixer.causal_axes)}, not {sorted(causal_axes)}")
    if provides is not None and not mixer.needs <= set(provides):
        reasons.append(f"it needs {sorted(mixer.needs)} and the tokens carry {sorted(provides)}")
    return reasons


def build_mixer(
    name: str | type[Mixer],
    dim: int,
    *,
    rank: int | None = None,
    ordered: bool = True,
    causal_axes: Collection[int] = (),
    provides: Collection[str] | None = None,
    **options: Any,
) -> Mixer:
    """A mixer by name, or a user's own class, for tokens of ``dim`` channels.

    ``rank``, ``ordered``, ``causal_axes`` and ``provides`` state what it will be asked for (None: not known yet);
    the rest are the mixer's own options, whose defaults always build. A class whose parameters depend on the rank
    takes it as an option ``rank`` and is told it here; one made of other mixers takes ``ordered`` and ``provides`` too.

    Raises BadRequest for an unknown name or option, or for a request that the mixer cannot meet: then it names
    the mixers that can.
    """
    if isinstance(name, str) and name not in MIXERS:
        raise unknown("mixer", name, MIXERS)
    cls = MIXERS[name] if isinstance(name, str) else name
    what = f"mixer {(name if isinstance(name, str) else cls.__name__)!r}"
    reasons = unmet(cls, rank, ordered, causal_axes, provides)
    if reasons:
        able = [n for n, m in MIXERS.items() if not unmet(m, rank, ordered, causal_axes, provides)]
        raise BadRequest(f"{what} cannot serve here: {'; '.join(reasons)}. Those that can: {', '.join(able) or 'none'}")
    check_options(what, cls, options)
    options = as_declared(cls, options)
    if causal_axes:
        options["causal_axes"] = tuple(sorted(causal_axes))
    known = {"rank": rank, "ordered": ordered, "provides": provides}
    options |= {k: v for k, v in known.items() if v is not None and k in options_of(cls)}
    return cls(dim, **options)


__all__ = ["MIXERS", "Mixer", "StateMixer", "build_mixer", "facts", "list_mixers", "options_of"]
