"""Pictures of restored cubes: the given, the restored and the clean block, errors by band, methods side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from ...task import Evidence, Fitted, Split
from .model import Restorer
from .scoring import scores, spectral_angles
from .source import CleanData

if TYPE_CHECKING:
    from .task import Restore


def draw(
    task: Restore, model: Restorer, data: CleanData, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
) -> dict[str, Figure]:
    """Title -> figure, for the report."""
    return {
        "A test block": block_figure(task, model, data, split, fitted),
        "Error maps": error_figure(task, model, data, split, fitted),
        "Error by band": band_figure(data, fitted, scored),
        "Methods": method_figure(scored),
    }


def block_figure(task: Restore, model: Restorer, data: CleanData, split: Split, fitted: Fitted) -> Figure:
    """The first test block in the band in the middle, and the spectrum of its middle pixel."""
    given, clean, seen = task.items(data, split, fitted, "test").pair(0)
    found = task.restored(model, given, seen)
    band = clean.shape[1] // 2
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    axes = figure.subplots(1, 4)
    low, high = (float(v) for v in np.percentile(clean[0, band].numpy(), (1, 99)))
    for ax, (title, cube) in zip(axes, (("given", given), ("restored", found), ("clean", clean)), strict=False):
        ax.imshow(cube[0, band].numpy(), cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
        ax.set_title(f"{title}, band {fitted['used'][band] + 1}", fontsize=9)
        ax.tick_params(labelsize=6)
    r, c = (n // 2 for n in clean.shape[2:])
    nm = data.scene.bands.wavelength_nm
    at = np.arange(clean.shape[1]) if nm is None else np.array(nm)[fitted["used"]]
    for title, cube, colour in (("given", given, "0.75"), ("clean", clean, "C0"), ("restored", found, "C3")):
        axes[3].plot(at, cube[0, :, r, c].numpy(), color=colour, linewidth=1, label=title)
    axes[3].set(xlabel="band" if nm is None else "wavelength (nm)", ylabel="share of the range")
    axes[3].legend(fontsize=7, frameon=False)
    return figure


def error_figure(task: Restore, model: Restorer, data: CleanData, split: Split, fitted: Fitted) -> Figure:
    """Root mean squared error over the bands, and spectral angle, of every pixel of the first test block."""
    given, clean, seen = task.items(data, split, fitted, "test").pair(0)
    found = task.restored(model, given, seen)
    truth = clean[0].double().numpy()
    maps = []
    for title, cube in (("given", given), ("restored", found)):
        y = cube[0].double().numpy()
        maps.append((f"{title}: error (share of the range)", np.sqrt(((y - truth) ** 2).mean(0))))
        maps.append((f"{title}: angle (rad)", spectral_angles(y, truth)))
    figure = Figure(figsize=(12, 3), layout="constrained")
    axes = figure.subplots(1, 4)
    for ax, (title, values), scale in zip(axes, (maps[0], maps[2], maps[1], maps[3]), (0, 0, 1, 1), strict=True):
        top = max(float(np.nanpercentile(maps[scale][1], 99)), 1e-9)  # both on the scale of what was given
        figure.colorbar(ax.imshow(values, cmap="magma", vmin=0, vmax=top, interpolation="nearest"), ax=ax, shrink=0.7)
        ax.set_title(title, fontsize=8)
        ax.tick_params(labelsize=6)
    return figure


def band_figure(data: CleanData, fitted: Fitted, scored: Mapping[str, Evidence]) -> Figure:
    """PSNR of every band, by method."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    ax = figure.subplots()
    nm = data.scene.bands.wavelength_nm
    at = np.arange(len(fitted["used"])) if nm is None else np.array(nm)[fitted["used"]]
    for name, evidence in scored.items():
        error = np.asarray(evidence.sum("squares")) / np.maximum(np.asarray(evidence.sum("values")), 1)
        ax.plot(at, -10 * np.log10(np.maximum(error, 1e-12)), ".-" if name == "model" else "-", label=name, linewidth=1)
    ax.set(xlabel="band" if nm is None else "wavelength (nm)", ylabel="PSNR (dB)")
    ax.legend(fontsize=7, frameon=False)
    return figure


def method_figure(scored: Mapping[str, Evidence]) -> Figure:
    """PSNR, SSIM and SAM of every method."""
    figure = Figure(figsize=(10, 0.35 * len(scored) + 1.2), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    names = list(scored)
    for ax, (metric, unit) in zip(axes, (("psnr", "dB"), ("ssim", "1"), ("sam", "rad")), strict=True):
        values = [scores(scored[n])[metric] for n in names]
        ax.barh(range(len(names)), values, color=["C0" if n == "model" else "0.7" for n in names])
        for i, v in enumerate(values):
            ax.text(v, i, f" {v:.3f}", va="center", fontsize=7)
        ax.set_yticks(range(len(names)), names, fontsize=8)
        ax.set_xlabel(f"{metric} ({unit})")
        ax.margins(x=0.2)
    return figure
