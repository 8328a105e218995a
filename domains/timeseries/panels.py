"""Panels as they come: too short for a whole look-back, with series of other lengths and steps, with new ones.

Rules. A panel whose training part is shorter than look-back + horizon gets steps without a value before its first, so
that every window sees at least SEEN of a look-back. A series without two different values in the training part is
refused, or dropped and met as a new one later. A new series is scaled by its own values, has the mean profile and the
mean intervals of the trained ones, and is told as new.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from domains.task import Fitted, Split
from shared_backbones.errors import BadInput

from .data import Panel, facts_of
from .model import Forecaster
from .splits import borders

SEEN = 0.25  # of a look-back that lies in the panel at the very least


def with_room(panel: Panel, protocol: str, lookback: int, horizon: int) -> Panel:
    """The panel, with steps without a value before its first where its training part needs them."""
    start, end, *_ = borders(protocol, len(panel.times), panel.freq)
    return panel if end - start >= lookback + horizon else panel.led(lookback - max(1, int(SEEN * lookback)))


def without_few(panel: Panel, split: Split) -> Panel:
    """The panel without series that have no two different values in the training part; its manifest says which.

    Raises BadInput where none is left.
    """
    steps = split.parts["train"]
    values, mask = panel.values[steps], panel.mask[steps]
    low, high = _range(values, mask)
    keep = high > low
    if not keep.any():
        raise BadInput(f"{panel.manifest.source}: no series has two different values in the training part")
    dropped = [name for name, kept in zip(panel.names, keep, strict=True) if not kept]
    left = panel.only(keep)
    facts = {**facts_of(left), "dropped": dropped[:100], "dropped_series": len(dropped)}
    return replace(left, manifest=replace(panel.manifest, facts=facts)) if dropped else panel


def _range(
    values: Float[np.ndarray, "T V"], mask: Bool[np.ndarray, "T V"]
) -> tuple[Float[np.ndarray, "V"], Float[np.ndarray, "V"]]:
    """Least and greatest observed value of each series; (inf, -inf) where there is none."""
    return np.where(mask, values, np.inf).min(0), np.where(mask, values, -np.inf).max(0)


def arranged(panel: Panel, fitted: Fitted) -> Panel:
    """The trained series in the model's order, empty where the file has none of them, and behind them the new ones."""
    names = list(fitted["names"])
    place = {name: i for i, name in enumerate(panel.names)}
    new = [name for name in panel.names if name not in set(names)]
    order = np.array([place.get(name, -1) for name in [*names, *new]])
    absent = order < 0

    def pick(a: np.ndarray, fill: float) -> np.ndarray:
        if a.shape[1] == 1 and len(panel.names) > 1:
            return a
        out = a[:, order].copy()
        out[:, absent] = fill
        return out

    static = panel.static[order].copy()
    if static.size:
        static[absent] = np.array(fitted["static"]).reshape(len(names), -1)[absent[: len(names)]]
    return replace(
        panel, names=(*names, *new), values=pick(panel.values, np.nan), mask=pick(panel.mask, False),
        past=pick(panel.past, np.nan), future=pick(panel.future, np.nan), static=static,
    )  # fmt: skip


def grown(model: Forecaster, fitted: Fitted, panel: Panel, end: int) -> tuple[Forecaster, Fitted]:
    """Model and schema for an arranged panel with new series; the weights are the model's own.

    A new series is scaled by what is observed of it before ``end``; one that never changes, by 1.
    """
    known, count = len(fitted["names"]), len(panel.names)
    fresh = np.where(panel.mask[:end, known:], panel.values[:end, known:], np.nan)
    seen = ~np.isnan(fresh)
    number = np.maximum(1, seen.sum(0))
    mean = np.where(seen, fresh, 0.0).sum(0) / number
    std = np.sqrt(np.where(seen, (fresh - mean) ** 2, 0.0).sum(0) / number)
    std = np.where(std > 0, std, 1.0)
    low, high = _range(fresh, seen)
    wider = copy.copy(model)
    wider._buffers, wider._parameters = dict(model._buffers), dict(model._parameters)
    like = lambda a, of: torch.as_tensor(a).to(of)  # noqa: E731
    wider.mean = torch.cat([model.mean, like(mean, model.mean)])
    wider.std = torch.cat([model.std, like(std, model.std)])
    wider.static = like(panel.static, model.static)
    wider.offsets = torch.cat([model.offsets, _mean_series(model.offsets, count - known)], -1)
    profile = torch.cat([model.cycle, _mean_series(model.cycle, count - known)], -1).detach()
    wider._parameters["cycle"] = torch.nn.Parameter(profile, requires_grad=False)
    more = {
        "names": list(panel.names), "mean": [*fitted["mean"], *mean.tolist()], "std": [*fitted["std"], *std.tolist()],
        "range": [[*fitted["range"][0], *low.tolist()], [*fitted["range"][1], *high.tolist()]],
        "seasonal_error": [*fitted["seasonal_error"], *std.tolist()],
    }  # fmt: skip
    return wider, {**fitted, **more}


def _mean_series(values: torch.Tensor, times: int) -> torch.Tensor:
    return values.mean(-1, keepdim=True).expand(*values.shape[:-1], times)


def own_steps(mask: Bool[np.ndarray, "T V"]) -> Int[np.ndarray, "V"]:
    """Grid steps between values of each series: the greatest common divisor; 1 where fewer than three are seen."""
    out = np.ones(mask.shape[1], np.int64)
    for v in range(mask.shape[1]):
        at = np.flatnonzero(mask[:, v])
        out[v] = np.gcd.reduce(np.diff(at)) if len(at) >= 3 else 1
    return out


def bases(panel: Panel, known: int, lookback: int, end: int, any_series: bool = True) -> list[str]:
    """What each series' forecast rests on: trained or new, on a short look-back, constant; or why there is none.

    any_series: whether the network can tell new ones.
    """
    first = np.where(panel.mask[:end].any(0), panel.mask[:end].argmax(0), end)
    low, high = _range(panel.values[:end], panel.mask[:end])
    found = []
    for v, seen in enumerate(np.asarray(panel.mask[end - lookback : end].any(0)).tolist()):
        word = "trained" if v < known else "new"
        if v >= known and not any_series:
            word = f"{word}, not told by a network of the trained series"
        elif not seen:
            word = f"{word}, no value in the look-back"
        elif v >= known and not high[v] > low[v]:
            word = f"{word}, one value throughout"
        elif first[v] > end - lookback:
            word = f"{word}, short look-back"
        found.append(word)
    return found
