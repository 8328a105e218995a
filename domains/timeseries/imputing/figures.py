"""Pictures of filled gaps: the best and the worst series, error and coverage by how far the next seen value is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure

from domains.task import Evidence, Fitted

from ..data import Panel
from ..figures import dated, named
from ..grid import is_steps
from .items import Gaps
from .model import KINDS, LEVELS, Filler
from .scoring import by_series

_MODEL, _TRUTH = "#0072b2", "#222222"  # colour-blind safe (Okabe and Ito)
_OTHERS = ("#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")


def all_figures(
    model: Filler, test: Gaps, panel: Panel, fitted: Fitted, scored: Mapping[str, Evidence]
) -> dict[str, Figure]:
    """Title -> figure."""
    return {
        "Filled gaps of the best and the worst series": gallery(model, test, panel, fitted, scored["model"]),
        "Error by distance to the nearest seen value": error_by_kind(scored),
        "Coverage by distance to the nearest seen value": coverage_by_kind(scored["model"]),
    }


def gallery(model: Filler, test: Gaps, panel: Panel, fitted: Fitted, evidence: Evidence) -> Figure:
    """Seen values, hidden ones, what was filled and its intervals, in the window with the most hidden values."""
    rows = by_series(evidence, fitted)
    order = sorted((v for v in range(len(rows)) if rows[v]["n"]), key=lambda v: rows[v]["mae"])
    series = order if len(order) <= 4 else [*order[:2], *order[-2:]]
    figure = Figure(figsize=(10, 2.2 * max(1, len(series)) + 0.6), layout="constrained")
    axes = figure.subplots(max(1, len(series)), 1, squeeze=False)[:, 0]
    for axis, v in zip(axes, series, strict=False):
        place = int(evidence.columns["n"][:, v].argmax())
        batch = test.batch([place])
        device = model.mean.device
        on = {name: value.to(device) for name, value in batch.items()}
        model.eval()
        with torch.no_grad():
            z, half = model(on)[0].double().cpu().numpy(), model.half_width(on["seen"])[:, 0].double().cpu().numpy()
        times = panel.times[test.starts[place] : test.starts[place] + z.shape[0]]
        mean, std = fitted["mean"][v], fitted["std"][v]
        seen, asked, truth = (batch[k][0, :, v].numpy() for k in ("seen", "asked", "values"))
        value = z[:, v] * std + mean
        axis.plot(times, np.where(seen, truth, np.nan), color=_TRUTH, lw=1.2, marker=".", ms=3, label="seen")
        axis.plot(times, np.where(asked, truth, np.nan), "x", color=_TRUTH, ms=4, label="hidden")
        axis.plot(times, np.where(seen, np.nan, value), color=_MODEL, lw=1.4, marker=".", ms=3, label="filled")
        for q, level in reversed(list(enumerate(LEVELS))):
            low, high = (np.where(seen, np.nan, value + sign * half[q, :, v] * std) for sign in (-1, 1))
            axis.fill_between(times, low, high, color=_MODEL, alpha=0.12 + 0.12 * (q == 0), lw=0, label=f"{level} %")
        axis.set_title(f"{panel.names[v]}   (MAE {rows[v]['mae']:.3f} z-scored over the test part)", fontsize=10)
        dated(axis, times)
    named(figure, axes[0])
    axes[-1].set_xlabel("step" if is_steps(panel.freq) else "time")
    figure.supylabel("value in the units of the file", fontsize=10)
    return figure


def error_by_kind(scored: Mapping[str, Evidence]) -> Figure:
    """Mean absolute error over the distance to the nearest seen value of the series, model and baselines."""
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    axis = figure.subplots()
    colours = iter(_OTHERS * (1 + len(scored) // len(_OTHERS)))
    for name, evidence in scored.items():
        count = evidence.sum("kind_n")
        error = np.where(count > 0, evidence.sum("kind_ae") / np.maximum(1, count), np.nan)
        own = name == "model"
        axis.plot(KINDS, error, marker="o", lw=2.2 if own else 1.2, color=_MODEL if own else next(colours), label=name)
    axis.set(xlabel="steps to the nearest seen value", ylabel="mean absolute error, z-scored", ylim=(0, None))
    axis.legend(fontsize=8)
    return figure


def coverage_by_kind(evidence: Evidence) -> Figure:
    """Share of hidden values inside the intervals, over the distance to the nearest seen value."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axis = figure.subplots()
    count = evidence.sum("kind_n")
    for level, colour in zip(LEVELS, (_MODEL, _OTHERS[0]), strict=True):
        share = np.where(count > 0, 100 * evidence.sum(f"kind_in_{level}") / np.maximum(1, count), np.nan)
        axis.plot(KINDS, share, marker="o", color=colour, label=f"{level} % interval")
        axis.axhline(level, color=colour, ls=":", lw=1)
    axis.set(xlabel="steps to the nearest seen value", ylabel="inside, %", ylim=(0, 102))
    axis.legend(fontsize=8)
    return figure
