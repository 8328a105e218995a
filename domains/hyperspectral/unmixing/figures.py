"""Pictures of an unmixing: endmembers over their truth, abundance maps, where they are wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.figure import Figure

from ...task import Evidence, Fitted
from .endmembers import matched
from .model import Unmixer
from .scoring import scores
from .source import UnmixData

if TYPE_CHECKING:
    from .task import Unmix

LARGEST = 400  # pixels a side of the maps


def draw(
    task: Unmix, model: Unmixer, data: UnmixData, fitted: Fitted, scored: Mapping[str, Evidence]
) -> dict[str, Figure]:
    """Title -> figure, for the report."""
    e = model.endmembers().detach().cpu().double().numpy()
    order, angle = np.arange(len(e)), np.full(len(e), np.nan)
    if data.truth is not None:
        order, angle = matched(e, data.truth.endmembers[:, fitted["used"]])
    found = {
        "Endmembers": endmember_figure(e[order], angle, data, fitted),
        "Abundances": abundance_figure(task, model, order, data, fitted),
    }
    if data.truth is not None:
        found["Methods"] = method_figure(scored)
    return found


def endmember_figure(e: np.ndarray, angle: np.ndarray, data: UnmixData, fitted: Fitted) -> Figure:
    """Found spectra, each with its largest value 1, over the true ones."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    ax = figure.subplots()
    for k, spectrum in enumerate(e):
        name = fitted["names"][k]
        if data.truth is not None:
            true = data.truth.endmembers[k][fitted["used"]]
            name = f"{data.truth.names[k]} ({angle[k]:.3f} rad)"
            ax.plot(fitted["nm"], true / true.max(), color=f"C{k}", linestyle="--", linewidth=1)
        ax.plot(fitted["nm"], spectrum / spectrum.max(), color=f"C{k}", label=name)
    ax.set(xlabel="wavelength (nm)", ylabel="share of the largest value", title="solid: found, dashed: true")
    ax.legend(fontsize=8, frameon=False)
    return figure


def abundance_figure(task: Unmix, model: Unmixer, order: np.ndarray, data: UnmixData, fitted: Fitted) -> Figure:
    """Abundances, and beside them the true ones and the difference where they are known."""
    rows, cols = (slice(0, min(n, LARGEST)) for n in data.scene.shape)
    values, seen = data.plain.read(rows, cols)
    used, device = fitted["used"], model.peak.device
    with torch.no_grad():
        cube, there = torch.from_numpy(values[used])[None].to(device), torch.from_numpy(seen[used])[None].to(device)
        shares = model(cube, there)[0].cpu().numpy()
    truth = None if data.truth is None else data.truth.under(task.config.amplitude)[:, rows, cols]
    if truth is not None:
        shares = shares[order]
    lines = 1 if truth is None else 3
    figure = Figure(figsize=(2.6 * len(shares), 2.6 * lines + 0.3), layout="constrained")
    axes = figure.subplots(lines, len(shares), squeeze=False)
    for k in range(len(shares)):
        name = fitted["names"][k] if data.truth is None else data.truth.names[k]
        shown = [("found", shares[k], "viridis", 0.0)]
        if truth is not None:
            shown += [("true", truth[k], "viridis", 0.0), ("found - true", shares[k] - truth[k], "RdBu_r", -1.0)]
        for ax, (title, image, colours, low) in zip(axes[:, k], shown, strict=True):
            picture = ax.imshow(image, cmap=colours, vmin=low, vmax=1.0, interpolation="nearest")
            ax.set_title(f"{name}: {title}", fontsize=8)
            ax.tick_params(labelsize=6)
        figure.colorbar(picture, ax=axes[:, k], shrink=0.5)
    return figure


def method_figure(scored: Mapping[str, Evidence]) -> Figure:
    """Abundance error and endmember angle of every method."""
    figure = Figure(figsize=(9, 0.35 * len(scored) + 1.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    names = list(scored)
    for ax, metric, unit in zip(axes, ("abundance_rmse", "endmember_angle"), ("1", "rad"), strict=True):
        values = [scores(scored[n])[metric] for n in names]
        ax.barh(range(len(names)), values, color=["C0" if n == "model" else "0.7" for n in names])
        for i, v in enumerate(values):
            ax.text(v, i, f" {v:.3f}", va="center", fontsize=7)
        ax.set_yticks(range(len(names)), names, fontsize=8)
        ax.set_xlabel(f"{metric} ({unit})")
        ax.margins(x=0.15)
    return figure
