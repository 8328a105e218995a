"""Pictures of timeseries/classify: series or folded light curves with what was said of them, mistakes, calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from domains.pictures import calibration_picture, confusion_picture
from domains.scoring import softmax
from domains.task import Evidence, Fitted, Split

from .closing import over_items
from .collection import BAND, TIME, VALUE, Objects
from .early import early_picture
from .items import ObjectItems
from .model import SeriesClassifier
from .periods import HARMONICS, fourier_fit

if TYPE_CHECKING:
    from ..classify import Classify

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#222222")
SHOWN = 8


def all_figures(
    task: Classify,
    model: SeriesClassifier,
    data: Objects,
    split: Split,
    fitted: Fitted,
    scored: Mapping[str, Evidence],
) -> Mapping[str, Figure]:
    """Title -> picture."""
    rows = split.parts["test"]
    items = task.items(data, split, fitted, "test")
    p = softmax(over_items(model, items, model).numpy() / float(model.temperature))
    truth = np.asarray(items.targets)
    classes = [str(c) for c in fitted["classes"]]
    found = {"Least and most certain objects": gallery(data, rows, p, truth, classes)}
    if data.regular:
        found["What the backbone looked at"] = looked_at(model, data, items, p, truth, classes)
    if not data.regular:
        found["A light curve, its fit and what the backbone looked at"] = light_curve(
            model, data, items, p, truth, classes
        )
    if not data.regular:
        found["How soon it is told"] = early_picture(task, model, data, split, fitted)
    found["Mistakes"] = confusion_picture(scored["model"], tuple(classes))
    found["Calibration"] = calibration_picture(scored["model"])
    found["Accuracy beside the baselines"] = beside(task, scored)
    return found


def chosen(p: Float[np.ndarray, "n K"], truth: Any) -> list[int]:
    """The objects that cost most, then the ones that cost least."""
    order = np.argsort(p[np.arange(len(p)), truth], kind="stable")
    half = min(SHOWN // 2, len(order) // 2)
    return [int(i) for i in [*order[:half], *order[len(order) - half :]]]


def gallery(data: Objects, rows: Any, p: Any, truth: Any, classes: list[str]) -> Figure:
    """Objects in their own units: series by step, light curves folded at their period (two cycles)."""
    places = chosen(p, truth)
    figure = Figure(figsize=(13, 5.2), layout="constrained")
    axes = figure.subplots(2, max(1, -(-len(places) // 2)), squeeze=False).ravel()
    for axis, i in zip(axes, places, strict=False):
        at = int(rows[i])
        if data.regular:
            for v, channel in enumerate(data.channels[: len(COLOURS)]):
                axis.plot(data.series[at][:, v], lw=0.9, color=COLOURS[v], label=channel)
            axis.set_xlabel("step", fontsize="small")
            upright(axis, data)
        else:
            folded(axis, data, at)
        guess = int(p[i].argmax())
        said = f"{data.names[at]}: true {classes[truth[i]]}, said {classes[guess]} ({p[i, guess]:.2f})"
        axis.set_title(said, fontsize="small", color="tab:green" if guess == truth[i] else "tab:red")
    for axis in axes[len(places) :]:
        axis.set_visible(False)
    axes[0].legend(fontsize="x-small", ncols=2)
    figure.supylabel("value in the units of the file", fontsize="small")
    return figure


def folded(axis: Axes, data: Objects, at: int) -> None:
    """Observations by phase with their errors, and the Fourier fit of each band; by time where there is no period."""
    curve = data.series[at]
    period = float(np.exp(data.features[at, 0]))
    fit = fourier_fit(curve, np.array([1 / period]), HARMONICS)[1] if np.isfinite(period) else {}
    t = curve[:, TIME] - curve[0, TIME]
    x = np.mod(t / period, 1.0) if np.isfinite(period) else t
    for b, band in enumerate(data.channels):
        mine, colour = curve[:, BAND] == b, COLOURS[b % len(COLOURS)]
        if not mine.any():
            continue
        error = np.nan_to_num(curve[mine, 2])
        axis.errorbar(x[mine], curve[mine, VALUE], error, fmt=".", ms=3, lw=0.5, color=colour, label=band)
        if b in fit:
            phase = np.linspace(0, 2, 200)
            angles = [np.ones_like(phase)]
            for k in range(1, HARMONICS + 1):
                angles += [np.cos(2 * np.pi * k * phase), np.sin(2 * np.pi * k * phase)]
            axis.plot(phase, np.stack(angles, 1) @ fit[b][0], lw=0.8, color=colour)
            axis.plot(x[mine] + 1, curve[mine, VALUE], ".", ms=3, color=colour)
    low, high = float(curve[:, VALUE].min()), float(curve[:, VALUE].max())
    room = 0.15 * (high - low) or 1.0
    axis.set_ylim(low - room, high + room)  # an error bar may be longer than the curve is high
    upright(axis, data)
    axis.set_xlabel(f"phase at {period:.5g}" if np.isfinite(period) else "time", fontsize="small")


def upright(axis: Axes, data: Objects) -> None:
    """Magnitudes fall upwards: bright is up."""
    if data.manifest.facts.get("magnitudes"):
        axis.invert_yaxis()


def kept(model: SeriesClassifier) -> str:
    """What a picture of the backbone has to do with the verdict."""
    if float(model.gate) == 0:
        return "validation kept nothing of the backbone: the class comes from the ridge alone"
    return "the class comes from the backbone" + ("" if model.options.skip == "none" else " and the ridge together")


def shares_of_tokens(model: SeriesClassifier, batch: Any, guess: int) -> Float[np.ndarray, "M"]:
    """Class activation: what each token adds to the backbone's score of a class, where the head is linear in a mean.

    "Learning Deep Features for Discriminative Localization" (Zhou et al. 2016). Else the gradient of the score with
    respect to the token times the token, summed over channels.
    """
    model.eval()
    with torch.enable_grad():
        x, layout = model.tokens(batch)
        x = x.detach().requires_grad_()
        score = model.head(x, layout)[0, guess]
        (slope,) = torch.autograd.grad(score, x)
    found: Float[np.ndarray, "M"] = (slope * x)[0].sum(1).detach().cpu().numpy()
    return found


def light_curve(
    model: SeriesClassifier, data: Objects, items: ObjectItems, p: Any, truth: Any, classes: list[str]
) -> Figure:
    """One object as it was observed, coloured by what each observation adds to the score, and folded with its fit."""
    i = int(np.argsort(data.lengths[items.rows], kind="stable")[len(items) // 2])
    at, guess = int(items.rows[i]), int(p[i].argmax())
    batch = {k: v.to(model.gate.device) for k, v in items.batch([i]).items()}
    found = shares_of_tokens(model, batch, guess)
    curve = data.series[at]
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    if len(found) == len(curve):
        top = max(float(np.abs(found).max()), 1e-12)
        drawn = left.scatter(
            curve[:, TIME],
            curve[:, VALUE],
            c=found,
            cmap="coolwarm",
            vmin=-top,
            vmax=top,
            s=14,
            edgecolor="0.6",
            lw=0.3,
        )
        figure.colorbar(drawn, ax=left, label=f"added to the score of {classes[guess]}")
    else:
        left.plot(curve[:, TIME], curve[:, VALUE], ".")
    upright(left, data)
    left.set(xlabel="time", ylabel="value in the units of the file")
    left.set_title(f"{data.names[at]}: true {classes[truth[i]]}, said {classes[guess]}", fontsize="small")
    folded(right, data, at)
    right.legend(fontsize="x-small", ncols=len(data.channels))
    right.set_ylabel("value in the units of the file")
    figure.suptitle(kept(model), fontsize="small")
    right.set_title(f"folded, Fourier series of {HARMONICS} harmonics per band", fontsize="small")
    return figure


def looked_at(
    model: SeriesClassifier, data: Objects, items: ObjectItems, p: Any, truth: Any, classes: list[str]
) -> Figure:
    """The objects of the gallery, each step shaded by what it adds to the backbone's score of the class it got."""
    places = chosen(p, truth)
    figure = Figure(figsize=(13, 5.2), layout="constrained")
    axes = figure.subplots(2, max(1, -(-len(places) // 2)), squeeze=False).ravel()
    drawn = None
    for axis, i in zip(axes, places, strict=False):
        at, guess = int(items.rows[i]), int(p[i].argmax())
        shares = shares_of_tokens(model, {k: v.to(model.gate.device) for k, v in items.batch([i]).items()}, guess)
        series, top = data.series[at], max(float(np.abs(shares).max()), 1e-12)
        for v, channel in enumerate(data.channels[: len(COLOURS)]):
            axis.plot(series[:, v], lw=1.1, color=COLOURS[v], label=channel)
        low, high = axis.get_ylim()
        drawn = axis.imshow(
            shares[None] / top, aspect="auto", cmap="coolwarm", vmin=-1, vmax=1, alpha=0.6,
            extent=(-0.5, len(series) - 0.5, low, high),
        )  # fmt: skip
        upright(axis, data)
        axis.set_xlabel("step", fontsize="small")
        axis.set_title(f"{data.names[at]}: true {classes[truth[i]]}, said {classes[guess]}", fontsize="small")
    for axis in axes[len(places) :]:
        axis.set_visible(False)
    axes[0].legend(fontsize="x-small", ncols=2)
    figure.supylabel("value in the units of the file", fontsize="small")
    figure.suptitle(kept(model), fontsize="small")
    if drawn is not None:
        figure.colorbar(drawn, ax=list(axes), label="added to the score, of the largest")
    return figure


def beside(task: Classify, scored: Mapping[str, Evidence]) -> Figure:
    """Accuracy and macro F1 of the model and every baseline."""
    figure = Figure(figsize=(8, 0.5 * len(scored) + 1.4), layout="constrained")
    axis = figure.subplots()
    names = list(scored)
    for k, metric in enumerate(("accuracy", "f1_macro")):
        values = [task.metrics(scored[name])[metric] for name in names]
        axis.barh(np.arange(len(names)) + 0.38 * k, values, 0.36, label=metric.replace("_", " "), color=COLOURS[k])
        for j, v in enumerate(values):
            axis.text(v, j + 0.38 * k, f" {v:.3f}", va="center", fontsize="x-small")
    axis.set_yticks(np.arange(len(names)) + 0.19, names, fontsize="small")
    axis.invert_yaxis()
    axis.set(xlim=(0, 1.08))
    axis.legend(fontsize="small", loc="lower left")
    return figure
