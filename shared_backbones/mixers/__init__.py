"""Every mixer by the field's word for it. Add one by writing its class and naming it here."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

from ..errors import BadRequest, unknown
from .attention import Attention
from .base import Mixer, StateMixer
from .identity import Identity

MIXERS: dict[str, type[Mixer]] = {
    "identity": Identity,
    "attention": Attention,
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
    """Name -> facts of every registered mixer."""
    return {name: facts(mixer) for name, mixer in MIXERS.items()}


def options_of(mixer: type[Mixer]) -> dict[str, Any]:
    """The options that a mixer takes, with their defaults."""
    parameters = list(inspect.signature(mixer.__init__).parameters.values())[2:]  # after self and dim
    return {p.name: p.default for p in parameters}


def unmet(
    mixer: type[Mixer], rank: int | None, ordered: bool, causal_axes: Collection[int], provides: Collection[str] | None
) -> list[str]:
    """What stops a mixer class from serving such a lattice; empty when nothing does."""
    reasons = []
    if rank is not None and rank not in mixer.ranks:
        reasons.append(f"it accepts rank {sorted(mixer.ranks)}, not {rank}")
    if not ordered and not mixer.sets:
        reasons.append("it needs ordered tokens")
    if not set(causal_axes) <= mixer.causal_axes:
        reasons.append(f"it can be causal along axes {sorted(mixer.causal_axes)}, not {sorted(causal_axes)}")
    if provides is not None and not mixer.needs <= set(provides):
        reasons.append(f"it needs {sorted(mixer.needs)} and the tokens carry {sorted(provides)}")
    return reasons


def build_mixer(
    name: str,
    dim: int,
    *,
    rank: int | None = None,
    ordered: bool = True,
    causal_axes: Collection[int] = (),
    provides: Collection[str] | None = None,
    **options: Any,
) -> Mixer:
    """A mixer by name, for tokens of ``dim`` channels.

    ``rank``, ``ordered``, ``causal_axes`` and ``provides`` state what it will be asked for (None: not known yet);
    the rest are the mixer's own options, whose defaults always build.

    Raises BadRequest for an unknown name or option, or for a request that the mixer cannot meet: then it names
    the mixers that can.
    """
    if name not in MIXERS:
        raise unknown("mixer", name, MIXERS)
    cls = MIXERS[name]
    reasons = unmet(cls, rank, ordered, causal_axes, provides)
    if reasons:
        able = [n for n, m in MIXERS.items() if not unmet(m, rank, ordered, causal_axes, provides)]
        raise BadRequest(f"mixer {name!r} cannot serve here: {'; '.join(reasons)}. Those that can: {', '.join(able)}")
    allowed: Mapping[str, Any] = options_of(cls)
    for option in options:
        if option not in allowed:
            raise unknown(f"option of mixer {name!r}", option, allowed)
    if causal_axes:
        options["causal_axes"] = tuple(sorted(causal_axes))
    return cls(dim, **options)


__all__ = ["MIXERS", "Mixer", "StateMixer", "build_mixer", "facts", "list_mixers", "options_of"]
