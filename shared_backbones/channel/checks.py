"""``check_channel``: the laws of mixers, held by channel layers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ..cases import Case, LawError
from ..checks import LAWS
from ..options import options_of
from . import CHANNELS, Channel, build_channel

CHANNEL_LAWS = tuple(law for law in LAWS if law not in ("modes", "refusals"))


@dataclass(frozen=True)
class ChannelCase(Case):
    """One request that a channel layer's facts allow; ``mixer`` holds the layer's name."""

    def build(self, dim: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Channel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layer = build_channel(
                str(self.mixer),
                dim,
                rank=self.rank,
                ordered=self.ordered,
                causal_axes=self.causal,
                **self.options,
            )
        return layer.to(dtype).eval()


def check_channel(name: str, laws: Iterable[str] = CHANNEL_LAWS, **options: Any) -> dict[str, dict[str, str]]:
    """Hold a registered channel layer to all laws (or some): law -> case -> what was measured.

    ``options`` are the layer's own. Raises one LawError that lists every broken law.
    """
    facts = CHANNELS[name] if name in CHANNELS else type(build_channel(name, 16))  # the second raises for a wrong name
    cases = [ChannelCase(name, 1, False, (), options)] if facts.sets else []
    for rank in sorted(facts.ranks):
        cases += [ChannelCase(name, rank, True, (), options)]
        if "causal_axes" in options_of(facts) or rank == 1:  # else a causal layer is no other layer
            cases += [ChannelCase(name, rank, True, (a,), options) for a in sorted(facts.causal_axes) if a < rank]
    found: dict[str, dict[str, str]] = {}
    broken = []
    for law in laws:
        for case in cases:
            if law == "export" and case.causal:  # the same graph, but for the place of its zeros
                continue
            try:
                found.setdefault(law, {})[str(case)] = LAWS[law](case)
            except Exception as error:
                broken.append(f"{case} breaks the law {law!r}: {type(error).__name__}: {error}")
    if broken:
        raise LawError("\n".join(broken))
    return found


__all__ = ["CHANNEL_LAWS", "check_channel"]
