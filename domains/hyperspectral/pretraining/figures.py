"""Pictures of `hyperspectral/pretrain`: a window as it was seen, restored and as it is; errors by wavelength."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from ...pictures import panel
from ...task import Evidence, Fitted, Split
from .model import MaskedScenes
from .source import Unlabelled

if TYPE_CHECKING:
    from .task import Pretrain

SPECTRA = 4


def draw(
    task: Pretrain,
    model: MaskedScenes,
    data: Unlabelled,
    split: Split,
    fitted: Fitted,
    scored: Mapping[str, Evidence],
) -> dict[str, Figure]:
    """Title -> figure, for the report."""
    window = max(task.restored(model, data, split, fitted, "test"), key=lambda w: int(w.hidden.sum()))
    return {
        "A test window": strip(window, fitted),
        "Spectra of its pixels": curves(window, fitted),
        "Errors by wavelength": by_wavelength(scored, fitted),
    }


def strip(window: Any, fitted: Fitted) -> Figure:
    """Three bands of a window: what was seen, what was made of it, what it is."""
    nm = np.array(fitted["nm"])
    chosen = [int(np.abs(nm - q).argmin()) for q in np.quantile(nm, (0.15, 0.5, 0.85))]
    figure = Figure(figsize=(7.5, 2.4 * len(chosen)), layout="constrained")
    axes = figure.subplots(len(chosen), 3, squeeze=False)
    for row, b in zip(axes, chosen, strict=True):
        truth = np.where(window.seen[b], window.truth[b], np.nan)
        made = np.where(window.hidden[b], window.made[b], truth)
        low, high = np.nanpercentile(truth, (2, 98)) if np.isfinite(truth).any() else (0.0, 1.0)
        shown = {"seen": np.where(window.hidden[b], np.nan, truth), "restored": made, "scene": truth}
        for ax, (title, image) in zip(row, shown.items(), strict=True):
            ax.imshow(image, vmin=low, vmax=high, interpolation="nearest")
            ax.set_title(f"{title}, {nm[b]:.0f} nm", fontsize=8)
            ax.set_axis_off()
    return figure


def curves(window: Any, fitted: Fitted) -> Figure:
    """Spectra of pixels with about the median error: true, restored, and where they were seen."""
    nm, mean, std = (np.array(fitted[k]) for k in ("nm", "mean", "std"))
    order = np.argsort(nm)
    full = (window.hidden.sum(0) > 1) & window.seen.any(0)
    at = np.flatnonzero(full.ravel())
    flat = {k: getattr(window, k).reshape(len(nm), -1) for k in ("made", "truth", "hidden", "seen")}
    errors = (np.square(flat["made"] - flat["truth"]) * flat["hidden"]).sum(0)[at] / flat["hidden"].sum(0)[at]
    middle = at[np.argsort(errors)][len(at) // 2 :][:SPECTRA]
    figure, ax = panel(7, 4)
    for i, pixel in enumerate(middle):
        truth, made = (flat[k][order, pixel] * std[order] + mean[order] for k in ("truth", "made"))
        hidden = flat["hidden"][order, pixel]
        ax.plot(nm[order], truth, color=f"C{i}", lw=1)
        ax.plot(nm[order], np.where(hidden, made, np.nan), "--", color=f"C{i}", lw=1)
    ax.set(xlabel="wavelength (nm)", ylabel="value", title="solid: scene; dashed: restored where it was hidden")
    return figure


def by_wavelength(scored: Mapping[str, Evidence], fitted: Fitted) -> Figure:
    """Root mean squared error of hidden values by wavelength, for the model and every baseline."""
    nm = np.array(fitted["nm"])
    order = np.argsort(nm)
    figure, ax = panel(7, 4)
    for name, evidence in scored.items():
        n, error = (np.asarray(evidence.sum(k)) for k in ("n", "error"))
        ax.plot(nm[order], np.sqrt(error / np.maximum(n, 1))[order], label=name, lw=1.6 if name == "model" else 0.9)
    ax.set(xlabel="wavelength (nm)", ylabel="root mean squared error, deviations", yscale="log")
    ax.legend(fontsize="small")
    return figure
