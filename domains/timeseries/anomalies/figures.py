"""Pictures of timeseries/detect: series with their windows, scores and alarms; the methods beside each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from domains.task import Evidence

from .metrics import alarms
from .records import Record

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
SHOWN = 4


def strips(records: Sequence[Record], scores: Sequence[Any], hold: int, evidence: Evidence) -> Figure:
    """The series where the alarms did best and worst: values, windows in red, alarms as ticks, and the score.

    Scores are multiples of what an alarm takes at their moment.
    """
    quality = evidence.columns["nab"] / np.maximum(evidence.columns["windows"], 1)
    order = np.argsort(-quality, kind="stable")
    chosen = list(dict.fromkeys([*order[: SHOWN // 2], *order[-(SHOWN // 2) :]]))
    figure = Figure(figsize=(12, 2.6 * len(chosen)), layout="constrained")
    axes = figure.subplots(2 * len(chosen), 1, height_ratios=[2, 1] * len(chosen), squeeze=False)[:, 0]
    for k, i in enumerate(chosen):
        r, s = records[i], scores[i]
        top, low = axes[2 * k], axes[2 * k + 1]
        for v in range(r.values.shape[1]):
            top.plot(r.times, r.values[:, v], lw=0.5, color=COLOURS[v % len(COLOURS)])
        for axis in (top, low):
            for first, last in r.windows:
                axis.axvspan(r.times[first], r.times[last], color="tab:red", alpha=0.2, lw=0)
            axis.axvspan(r.times[0], r.times[r.known - 1], color="0.5", alpha=0.12, lw=0)
            axis.margins(x=0)
        raised = alarms(s[r.known :] >= 1, hold) + r.known
        low.plot(r.times, np.minimum(s, 3), lw=0.6, color="0.3")
        low.axhline(1, color="tab:orange", lw=0.8)
        low.plot(r.times[raised], np.ones(len(raised)), "v", ms=4, color="tab:orange")
        low.set_ylabel("score", fontsize="x-small")
        words = f"{len(raised)} alarm{'' if len(raised) == 1 else 's'} (grey: probation, red: labelled)"
        top.set_title(f"{r.name}: NAB score of its windows {quality[i]:.2f} (at most 1), {words}", fontsize="small")
    return figure


def beside(scored: Mapping[str, Evidence], metrics: Callable[[Evidence], dict[str, float]]) -> Figure:
    """VUS-PR, NAB score and F1 of the model and every baseline."""
    figure = Figure(figsize=(11, 0.5 * len(scored) + 1.6), layout="constrained")
    names = list(scored)
    for axis, metric in zip(figure.subplots(1, 3, sharey=True), ("vus_pr", "nab", "f1"), strict=True):
        values = [metrics(scored[name])[metric] for name in names]
        axis.barh(names, values, color=[COLOURS[0] if n == "model" else "0.6" for n in names])
        for j, v in enumerate(values):
            axis.text(max(v, 0.0), j, f" {v:.3g}", va="center", fontsize="x-small")
        axis.set_title(metric.replace("_", " "), fontsize="small")
        axis.invert_yaxis() if metric == "vus_pr" else None
    return figure


def histogram(records: Sequence[Record], scores: Sequence[Any]) -> Figure:
    """Scores of quiet and of labelled test steps, as multiples of what an alarm takes."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axis = figure.subplots()
    quiet = np.concatenate([s[r.known :][~r.labels[r.known :]] for r, s in zip(records, scores, strict=True)])
    wrong = np.concatenate([s[r.known :][r.labels[r.known :]] for r, s in zip(records, scores, strict=True)])
    edges = np.geomspace(0.005, 10, 60).tolist()
    for x, name, colour in ((quiet, "quiet", "0.5"), (wrong, "labelled", "tab:red")):
        axis.hist(np.clip(x, edges[0], edges[-1]), edges, density=True, histtype="step", color=colour, label=name)
    axis.axvline(1, color="tab:orange", label="alarm")
    axis.set(xscale="log", yscale="log", xlabel="score, of what an alarm takes", ylabel="density of test steps")
    axis.legend(fontsize="small")
    return figure
