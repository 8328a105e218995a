"""Chronological splits and rolling-origin windows. Nothing is copied: windows are indices into the panel.

A window with origin t looks back on the steps [t - L, t) and is scored on [t, t + H). It belongs to the part that
holds all of its targets; its look-back may reach into the part before, as in the standard protocols.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from domains.task import PARTS, Audit, Part, Split
from shared_backbones.errors import BadInput, BadRequest

from .data import Panel
from .grid import show, steps_in

_PROTOCOL = re.compile(r"^(\d+)/(\d+)/(\d+)( months| rows)?$")
_MONTH_DAYS = 30  # the ETT papers' month: 12/4/4 months of hours are 8640/2880/2880 rows


def borders(protocol: str, steps: int, freq: str) -> tuple[int, int, int, int]:
    """First step of train, val and test, and one past the last of test.

    "70/10/20" is percent (train and test rounded down), "12/4/4 months" is months of 30 days from the start, what
    follows stays unused; "700/100/200 rows" is counts. Raises BadRequest for other words, BadInput where the source
    is shorter than asked.
    """
    found = _PROTOCOL.match(protocol)
    if not found:
        raise BadRequest(f"split protocol {protocol!r} is none of 'A/B/C' (percent), 'A/B/C months', 'A/B/C rows'")
    a, b, c = (int(g) for g in found.groups()[:3])
    unit = (found.group(4) or " percent").strip()
    if min(a, b, c) < 1:
        raise BadRequest(f"split protocol {protocol!r}: train, val and test must each be at least 1")
    if unit == "percent":
        if a + b + c != 100:
            raise BadRequest(f"split protocol {protocol!r}: percentages must sum to 100, got {a + b + c}")
        return 0, steps * a // 100, steps - steps * c // 100, steps
    scale = 1 if unit == "rows" else steps_in(_MONTH_DAYS, freq)
    end = (a + b + c) * scale
    if end > steps:
        raise BadInput(
            f"split {protocol!r} needs {end} steps, the source has {steps}; use a split in percent (70/10/20)"
        )
    return 0, a * scale, (a + b) * scale, end


def chronological(panel: Panel, protocol: str, lookback: int, horizon: int, option: str = "horizon") -> Split:
    """Train, then val, then test, as target steps. Raises BadInput where a part cannot hold one window.

    option: what the task calls the steps of a window's target.
    """
    edges = [panel.lead + e for e in borders(protocol, len(panel.times) - panel.lead, panel.freq)]
    parts: dict[str, np.ndarray] = {part: np.arange(edges[i], edges[i + 1]) for i, part in enumerate(PARTS)}
    for part, steps in parts.items():
        back = max(0, lookback - panel.lead) if part == "train" else 0
        need = horizon + back
        if len(steps) < need:
            what = f"look-back {back} + {option} {horizon}" if back else f"{option} {horizon}"
            raise BadInput(
                f"{panel.manifest.source}: too short: part {part!r} of split {protocol!r} has {len(steps)} of "
                f"{len(panel.times) - panel.lead} steps and needs at least {need} ({what}). Shorten them or give more"
            )
    facts: dict[str, Any] = {
        part: {
            "first": show(panel.times[steps[0]]),
            "last": show(panel.times[steps[-1]]),
            "windows": len(origins(steps, lookback, horizon)),
        }
        for part, steps in parts.items()
    }
    facts |= {"lookback": lookback, "horizon": horizon, "stride": 1, "drop_last": False}
    facts |= {"steps_before_the_first": panel.lead} if panel.lead else {}
    return Split(f"chronological {protocol}, look-back {lookback}, horizon {horizon}, all windows", parts, facts)


def origins(steps: Int[np.ndarray, "n"], lookback: int, horizon: int) -> Int[np.ndarray, "windows"]:
    """All origins, stride 1, whose targets lie wholly inside a part and whose look-back exists."""
    return np.arange(max(int(steps[0]), lookback), int(steps[-1]) + 2 - horizon)


def thinned(all_origins: Int[np.ndarray, "n"], count: int) -> Int[np.ndarray, "m"]:
    """At most ``count`` of the origins, evenly spaced, first and last included."""
    if len(all_origins) <= count:
        return all_origins
    if count <= 1:
        return all_origins[:count]
    return all_origins[np.linspace(0, len(all_origins) - 1, count).round().astype(int)]


def units(windows: Int[np.ndarray, "n"], lookback: int, horizon: int) -> Int[np.ndarray, "n"]:
    """The independent unit of each window: blocks of look-back + horizon consecutive origins.

    Two windows share steps when their origins are nearer than that; so only neighbouring blocks still overlap.
    """
    return (windows - windows[0]) // (lookback + horizon) if len(windows) else windows


def draws(split: Split, horizon: int) -> Audit:
    """How many horizons the errors span that intervals are made of: windows that overlap are no further draws."""
    count = round((len(split.parts["train"]) + len(split.parts["val"])) / horizon, 1)
    return Audit(
        "horizons in training and validation", count, None,
        "about so many independent errors intervals of the farthest step rest on, more where errors fade sooner; of "
        "simulated random walks 80 % intervals held 81 % with 50, 76 % with 14 and 67 % with 7",
    )  # fmt: skip


def audits(panel: Panel, split: Split, lookback: int, horizon: int) -> list[Audit]:
    """Does any target or statistic of one part reach into another?"""
    shared = sum(
        len(np.intersect1d(split.parts[a], split.parts[b]))
        for a, b in (("train", "val"), ("train", "test"), ("val", "test"))
    )
    ordered = bool(split.parts["train"][-1] < split.parts["val"][0] <= split.parts["val"][-1] < split.parts["test"][0])
    reach: Mapping[Part, int] = {
        part: int(origins(split.parts[part], lookback, horizon)[-1]) + horizon for part in PARTS
    }
    latest = reach["train"] - 1
    dropped = len(panel.times) - 1 - int(split.parts["test"][-1])
    return [
        Audit("target steps in two parts", shared, shared == 0, "every target step belongs to one part only"),
        Audit("parts in time order", "yes" if ordered else "no", ordered, "train lies before val, val before test"),
        Audit(
            "training targets end before validation", show(panel.times[latest]),
            latest < int(split.parts["val"][0]), "the last step that any training window or statistic sees",
        ),
        Audit("steps after the test part", dropped, None, "steps of the source that the protocol leaves unused"),
    ]  # fmt: skip
