"""Windows of a table of prices and other columns, classed by where the smoothed price goes: down, flat or up.

The labelling rule of "TLOB: A Novel Transformer Model with Dual Attention for Stock Price Trend Prediction with Limit
Order Book Data" (Berti and Kasneci 2025): with w-(t) the mean price of the rows t-k .. t and w+(t) that of the rows
t+h-k .. t+h, the move is l = (w+ - w-) / w-; up where l > theta, down where l < -theta, else flat. The smoothing k and
the horizon h are chosen apart from each other. Shapes: T rows, W windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64

from domains.task import PARTS
from shared_backbones.errors import BadInput, BadRequest

from ..tables import TIME_NAMES, ReadOptions, as_numbers, as_stamps, nearest, read_table
from .config import TrendOptions
from .data import Raw, Read

WORDS = ("down", "flat", "up")


def moves(price: Float[np.ndarray, "T"], horizon: int, smooth: int) -> Float[np.ndarray, "T"]:
    """The relative move l of every row; NaN where the rows that it takes are not there."""
    total = np.concatenate([[0.0], np.cumsum(price)])
    mean = np.full(len(price), np.nan)  # of the rows t - smooth .. t
    mean[smooth:] = (total[smooth + 1 :] - total[: -smooth - 1]) / (smooth + 1)
    out = np.full(len(price), np.nan)
    out[:-horizon] = (mean[horizon:] - mean[:-horizon]) / mean[:-horizon]
    return out


def worded(move: Float[np.ndarray, "n"], threshold: float) -> list[str]:
    """The class of each move; "" where none is known."""
    place = np.where(move > threshold, 2, np.where(move < -threshold, 0, 1))
    return ["" if np.isnan(m) else WORDS[p] for m, p in zip(move, place, strict=True)]


def parts_of(rows: Int64[np.ndarray, "n"], count: int, options: TrendOptions) -> list[str]:
    """The part that holds both the last row of a window and all rows of its class; "" where a border lies between.

    Only rows of its own part decide a window's class, so none of training is told what validation or test hold.
    """
    edges = [0, int(count * options.train), count - int(count * options.test), count]
    found = [""] * len(rows)
    for part, first, end in zip(PARTS, edges, edges[1:], strict=False):
        for i in np.flatnonzero((rows >= first) & (rows + options.horizon < end)):
            found[int(i)] = part
    return found


def parse_trend(raw: bytes, source: str, options: TrendOptions, reading: ReadOptions) -> Read:
    """Windows in time order, each named by its last row, with class and part where both are known. Raises BadInput."""
    if options.smooth > options.horizon:
        raise BadRequest(
            f"trend.smooth={options.smooth} is longer than trend.horizon={options.horizon}: the class would rest on "
            "rows that the window already shows; make it at most the horizon"
        )
    if len(options.price) > 2 or (options.threshold == "spread" and len(options.price) != 2):
        raise BadRequest("trend.price names one column, or best bid and best ask (which threshold=spread needs)")
    frame = read_table(raw, source, reading)
    time = next((str(c) for c in frame.columns if str(c).lower() in TIME_NAMES), None) if reading.time == "auto" else (
        None if reading.time == "none" else reading.time
    )  # fmt: skip
    names = tuple(c for c in (options.columns or frame.columns) if c != time)
    for name in (*names, *options.price, *([time] if time else [])):
        if name not in frame.columns:
            raise BadInput(f"{source}: no column {name!r}{nearest(name, frame.columns)}")
    stamps = [str(i) for i in range(len(frame))] if time is None else _stamps(frame[time], source)
    price, spread = _price(frame, source, options)
    values = np.column_stack([as_numbers(frame[c], source, reading.missing_values) for c in names])
    ends = np.arange(max(options.window - 1, options.smooth), len(frame), options.stride)
    if not len(ends):
        raise BadInput(f"{source}: {len(frame)} rows are fewer than trend.window={options.window}")
    move, parts = moves(price, options.horizon, options.smooth)[ends], parts_of(ends, len(frame), options)
    train = np.array([p == "train" for p in parts])
    threshold = _threshold(options, move[train], spread[: int(len(frame) * options.train)])
    labels = worded(move, threshold)
    views = np.lib.stride_tricks.sliding_window_view(values, options.window, axis=0, writeable=True).swapaxes(1, 2)
    objects = [
        Raw(stamps[t], views[t - options.window + 1], label if part else "", part, move=m)
        for t, label, part, m in zip(ends.tolist(), labels, parts, move.tolist(), strict=True)
    ]
    found: dict[str, Any] = {"trend": {**options.model_dump(mode="json"), "threshold": threshold}}
    return Read(True, tuple(map(str, names)), objects, found)


def _stamps(column: Any, source: str) -> list[str]:
    stamps = as_stamps(column, source, None)
    back = np.flatnonzero(stamps[1:] < stamps[:-1])
    if len(back):
        raise BadInput(f"{source}, row {int(back[0]) + 3}: time goes back in column {column.name!r}; sort by time")
    words = [str(s) for s in (stamps if stamps.dtype.kind == "i" else pd.DatetimeIndex(stamps))]
    return words if len(set(words)) == len(words) else [f"{w} #{i}" for i, w in enumerate(words)]


def _price(
    frame: pd.DataFrame, source: str, options: TrendOptions
) -> tuple[Float[np.ndarray, "T"], Float[np.ndarray, "T"]]:
    """The price of every row, and the spread over it (0 where there is one column). Raises BadInput."""
    sides = np.column_stack([as_numbers(frame[c], source) for c in options.price])
    bad = np.flatnonzero(~(sides > 0).all(1))
    if len(bad):
        raise BadInput(
            f"{source}, row {int(bad[0]) + 2}: the price in {', '.join(options.price)} is missing or not above 0 "
            f"({len(bad)} such rows); a relative move needs a price in every row"
        )
    price = sides.mean(1)
    return price, (sides[:, -1] - sides[:, 0]) / price


def _threshold(options: TrendOptions, train: Float[np.ndarray, "n"], spread: Float[np.ndarray, "m"]) -> float:
    if options.threshold == "thirds":
        known = np.abs(train[np.isfinite(train)])
        return float(np.quantile(known, 1 / 3)) if len(known) else 0.0
    return float(spread.mean()) if options.threshold == "spread" else float(options.threshold)


def persisting(
    series: Sequence[Float[np.ndarray, "_ V"]], channels: Sequence[str], trend: dict[str, Any], classes: Sequence[str]
) -> Int64[np.ndarray, "n"] | None:
    """The control: the class that the same rule gives to the last ``horizon`` rows of each window.

    None where the window does not show the price, or is too short for the rule.
    """
    h, k = int(trend["horizon"]), int(trend["smooth"])
    if not set(trend["price"]) <= set(channels) or len(series[0]) < h + k + 1:
        return None
    at = [list(channels).index(c) for c in trend["price"]]
    last = np.array([moves(s[-h - k - 1 :, at].mean(1), h, k)[k] for s in series])
    return np.array([classes.index(w) if w in classes else 0 for w in worded(last, trend["threshold"])], np.int64)
