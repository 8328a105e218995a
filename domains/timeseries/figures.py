"""The pictures that forecasters look at: bands over history, error and coverage by step ahead, error by series."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from domains.task import Evidence, Fitted

from .config import LEVELS
from .data import Panel
from .grid import is_steps
from .model import Forecaster, forecasts_of, intervals_of
from .scoring import by_series, offsets_at
from .windows import Windows, to_device

_MODEL, _TRUTH = "#0072b2", "#222222"  # colour-blind safe (Okabe and Ito)
_OTHERS = ("#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
_MOST_SERIES = 24
_FAR = 4  # times the model's highest error: curves above leave the axis


def all_figures(
    model: Forecaster, test: Windows, panel: Panel, fitted: Fitted, scored: Mapping[str, Evidence]
) -> dict[str, Figure]:
    """Title -> figure. ``scored`` holds "model" and the baselines on the test part."""
    whole = {name: evidence for name, evidence in scored.items() if "windows)" not in name}
    return {
        "Forecasts of the best and the worst series": bands(model, test, panel, fitted, scored["model"]),
        "Error by step ahead": error_by_step(whole, fitted),
        "Coverage by step ahead": coverage_by_step(scored["model"], fitted),
        "Error by series": error_by_series(whole, fitted),
    }


def _step_word(fitted: Fitted) -> str:
    return "steps" if is_steps(fitted["freq"]) else f"steps of {fitted['freq']}"


def chosen_series(evidence: Evidence, fitted: Fitted) -> list[int]:
    """Places of the two best and the two worst series by MSE (all where there are at most four)."""
    rows = by_series(evidence, fitted)
    order = sorted((v for v in range(len(rows)) if rows[v]["mse"] is not None), key=lambda v: rows[v]["mse"])
    return order if len(order) <= 4 else [*order[:2], *order[-2:]]


def bands(model: Forecaster, test: Windows, panel: Panel, fitted: Fitted, evidence: Evidence) -> Figure:
    """History, truth, forecast and intervals in original units, at the middle test window."""
    place = len(test) // 2
    model.eval()
    with torch.inference_mode():
        first, origin = int(test.origins[0]), int(test.origins[place])
        offsets = offsets_at(forecasts_of(model), intervals_of(model), test, fitted, first, origin)
        at = torch.from_numpy(offsets).to(model.offsets)
        z = model.quantiles(to_device(test.batch([place]), model.mean.device), at)
        ahead: Float[np.ndarray, "Q H V"] = model.original(z)[0].cpu().numpy()
    series = chosen_series(evidence, fitted)
    figure = Figure(figsize=(10, 2.4 * len(series) + 0.6), layout="constrained")
    axes = figure.subplots(len(series), 1, squeeze=False)[:, 0]
    rows = by_series(evidence, fitted)
    for axis, v in zip(axes, series, strict=True):
        _band(axis, panel, origin, min(test.lookback, 3 * test.horizon), ahead[..., v], v)
        axis.set_title(f"{panel.names[v]}   (MSE {rows[v]['mse']:.3f} z-scored over all test windows)", fontsize=10)
    named(figure, axes[0])
    axes[-1].set_xlabel("step" if is_steps(panel.freq) else "time")
    figure.supylabel("value in the units of the file", fontsize=10)
    return figure


def _band(axis: Axes, panel: Panel, origin: int, back: int, ahead: Float[np.ndarray, "Q H"], v: int) -> None:
    past, steps = slice(origin - back, origin), slice(origin, origin + ahead.shape[1])
    times: Shaped[np.ndarray, "T"] = panel.times
    axis.plot(times[past], panel.values[past, v], color=_TRUTH, lw=0.9, label="observed")
    later = slice(origin - 1, steps.stop)  # joined to what was seen
    axis.plot(times[later], panel.values[later, v], color=_TRUTH, lw=0.9, alpha=0.6, ls=":", label="observed later")
    for level, alpha in ((95, 0.18), (80, 0.32)):
        low, high = LEVELS[level]
        axis.fill_between(times[steps], ahead[low], ahead[high], color=_MODEL, alpha=alpha, lw=0, label=f"{level} %")
    axis.plot(times[steps], ahead[len(ahead) // 2], color=_MODEL, lw=1.4, label="forecast")
    axis.margins(x=0.01)
    axis.grid(alpha=0.25)
    dated(axis, times)


def named(figure: Figure, axis: Axes) -> None:
    """One legend for all axes of a figure, above them, where it hides nothing."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", fontsize=8, ncols=len(labels), frameon=False)


def dated(axis: Axes, times: Shaped[np.ndarray, "T"]) -> None:
    """Ticks that say the year once, beside the axis, where it is one of time."""
    if times.dtype.kind == "M":
        locator = AutoDateLocator()
        axis.xaxis.set_major_locator(locator)
        axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _by_step(evidence: Evidence, column: str) -> Float[np.ndarray, "H"]:
    count = evidence.sum("step_n")
    return np.where(count > 0, evidence.sum(column) / np.maximum(count, 1), np.nan)


def error_by_step(scored: Mapping[str, Evidence], fitted: Fitted) -> Figure:
    """Mean squared error at each step ahead, the model's beside the baselines'; curves far above it leave the axis."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axis = figure.subplots()
    curves = {name: _by_step(evidence, "step_se") for name, evidence in scored.items()}
    highest = {name: float(np.nanmax(curve, initial=0.0)) for name, curve in curves.items()}
    top = 1.05 * min(max(highest.values()), _FAR * highest["model"] or np.inf)
    for i, (name, curve) in enumerate(curves.items()):
        own, beyond = name == "model", f" (up to {highest[name]:.2g})" if highest[name] > top else ""
        axis.plot(
            np.arange(1, len(curve) + 1), curve, label=name.replace("_", " ") + beyond,
            lw=3.2 if own else 1.2,  # below: a baseline that is the model's equal stays visible on it
            color=_MODEL if own else _OTHERS[(i - 1) % len(_OTHERS)],
        )  # fmt: skip
    axis.set(xlabel=f"{_step_word(fitted)} ahead", ylabel="mean squared error (z-scored)")
    axis.set_ylim(0, top if top > 0 else None)
    axis.grid(alpha=0.25)
    named(figure, axis)
    return figure


def coverage_by_step(evidence: Evidence, fitted: Fitted) -> Figure:
    """Share of test values inside the 80 and 95 % intervals at each step ahead, beside what they promise."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axis = figure.subplots()
    for level, colour in ((80, _MODEL), (95, _OTHERS[1])):
        curve = 100 * _by_step(evidence, f"step_in_{level}")
        axis.plot(
            np.arange(1, len(curve) + 1),
            curve,
            color=colour,
            label=f"{level} % interval: mean {np.nanmean(curve):.1f} %",
        )
        axis.axhline(level, color=colour, ls="--", lw=1)
    axis.set(xlabel=f"{_step_word(fitted)} ahead", ylabel="values inside (%)", ylim=(0, 101))
    axis.grid(alpha=0.25)
    axis.legend(fontsize=9, loc="lower left")
    return figure


def error_by_series(scored: Mapping[str, Evidence], fitted: Fitted) -> Figure:
    """Mean absolute error of each series, worst first; the model's in original units stands beside its name."""
    tables = {name: by_series(evidence, fitted) for name, evidence in scored.items()}
    rows = tables["model"]
    order = sorted((v for v in range(len(rows)) if rows[v]["mae"] is not None), key=lambda v: -rows[v]["mae"])
    order = order[:_MOST_SERIES]
    figure = Figure(figsize=(8, 0.9 + 0.16 * len(order) * (len(tables) + 1)), layout="constrained")
    axis = figure.subplots()
    height = 0.8 / len(tables)
    for i, (name, table) in enumerate(tables.items()):
        width = [_number(table[v]["mae"]) for v in order]
        colour = _MODEL if name == "model" else _OTHERS[(i - 1) % len(_OTHERS)]
        axis.barh(np.arange(len(order)) + i * height, width, height, color=colour, label=name.replace("_", " "))
    labels = [f"{rows[v]['series']}\n{rows[v]['mae_original']:.3g} in its units" for v in order]
    axis.set_yticks(np.arange(len(order)) + 0.4 - height / 2, labels, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("mean absolute error (z-scored)")
    axis.grid(alpha=0.25, axis="x")
    named(figure, axis)
    return figure


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
