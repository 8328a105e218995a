"""The pictures that people of the field look at: maps, confusion, spectra, reliability, where the parts lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..task import Evidence, Fitted, Split
from .mapping import answer, palette
from .source import SceneData, spectra
from .splits import near

if TYPE_CHECKING:
    from .classify import Classify
    from .model import SceneClassifier

LARGEST = 1200  # pixels a side: of a larger scene, the window around the most labels is drawn
DISPLAY_NM = (660.0, 560.0, 480.0)  # red, green, blue
INFRARED_NM = (860.0, 660.0, 560.0)
GREY = (0.88, 0.88, 0.88)


def draw(
    task: Classify,
    model: SceneClassifier,
    data: SceneData,
    split: Split,
    fitted: Fitted,
    scored: Mapping[str, Evidence],
) -> dict[str, Figure]:
    """Title -> figure, for the report."""
    window = _window(data)
    pictures = {
        "Scene": scene_figure(data, window),
        "Class map": map_figure(model, data, fitted, window),
        "Confusion": confusion_figure(scored["model"], fitted),
        "Spectra of the classes": spectra_figure(data, split, fitted),
        "Split and audits": split_figure(task, data, split, window),
    }
    if float(np.asarray(scored["model"].sum("bins"))[:, 0].sum()) > 0:
        pictures["Reliability"] = reliability_figure(task, scored["model"])
    return pictures


def _window(data: SceneData) -> tuple[slice, slice]:
    """The whole scene, or of a large one the part around the middle of its labels."""
    found = []
    rows, cols = np.nonzero(data.index >= 0)
    for size, at in zip(data.index.shape, (rows, cols), strict=True):
        start = int(np.clip(int(np.median(at)) - LARGEST // 2, 0, max(0, size - LARGEST)))
        found.append(slice(start, min(size, start + LARGEST)))
    return found[0], found[1]


def _axes(count: int, width: float = 4.2, height: float = 4.2) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(width * count, height), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    return figure, list(axes)


def _image(ax: Any, title: str) -> None:
    ax.set_title(title, fontsize=10)
    ax.set_xlabel("column", fontsize=8)
    ax.set_ylabel("row", fontsize=8)
    ax.tick_params(labelsize=7)


def quick_look(data: SceneData, window: tuple[slice, slice], display_nm: tuple[float, ...]) -> tuple[Any, list[float]]:
    """An RGB image (rows, cols, 3) in 0..1 of the bands nearest to three wavelengths, stretched from 2 to 98 %."""
    nm = np.array(data.scene.bands.wavelength_nm)
    good = np.where(data.scene.bands.good, 0.0, 1e6)
    chosen = [int((np.abs(nm - w) + good).argmin()) for w in display_nm]
    values, seen = data.read(*window)
    image = np.zeros((*values.shape[1:], 3))
    for i, b in enumerate(chosen):
        here = seen[b]
        low, high = np.percentile(values[b][here], (2, 98)) if here.any() else (0.0, 1.0)
        image[..., i] = np.where(here, np.clip((values[b] - low) / max(high - low, 1e-9), 0, 1), 1.0)
    return image, [float(nm[b]) for b in chosen]


def scene_figure(data: SceneData, window: tuple[slice, slice]) -> Figure:
    """The scene by its true wavelengths: in natural colours where it has them, and with near infrared."""
    nm = np.array(data.scene.bands.wavelength_nm)
    wanted = [("natural colours", DISPLAY_NM), ("near infrared as red", INFRARED_NM)]
    shown = [(n, w) for n, w in wanted if all(np.abs(nm - x).min() < 60 for x in w)]
    if not shown:
        shown = [("three of its bands", tuple(np.quantile(nm, (0.8, 0.5, 0.2))))]
    figure, axes = _axes(len(shown))
    for ax, (name, at) in zip(axes, shown, strict=True):
        image, used = quick_look(data, window, at)
        ax.imshow(image, extent=_extent(window), interpolation="nearest")
        _image(ax, f"{name} ({', '.join(f'{u:.0f}' for u in used)} nm)")
    return figure


def _extent(window: tuple[slice, slice]) -> tuple[float, float, float, float]:
    rows, cols = window
    return cols.start - 0.5, cols.stop - 0.5, rows.stop - 0.5, rows.start - 0.5


def _colours(classes: int) -> list[tuple[float, float, float]]:
    return [(r / 255, g / 255, b / 255) for r, g, b in palette(classes)]


def _show_classes(ax: Any, position: Int[np.ndarray, "rows cols"], classes: int, window: tuple[slice, slice]) -> None:
    colours = ListedColormap([GREY, *_colours(classes)])
    ax.imshow(position + 1, cmap=colours, vmin=0, vmax=classes, extent=_extent(window), interpolation="nearest")


def _legend(figure: Figure, entries: list[tuple[Any, str]]) -> None:
    handles = [Patch(facecolor=c, edgecolor="0.4", linewidth=0.4, label=n) for c, n in entries]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 7), fontsize=8, frameon=False)


def map_figure(model: SceneClassifier, data: SceneData, fitted: Fitted, window: tuple[slice, slice]) -> Figure:
    """Truth, class map and confidence side by side."""
    values, seen = data.read(*window)
    used = fitted["used"]
    cube = torch.from_numpy(np.where(seen[used], values[used], np.float32(np.nan)))
    device = model.temperature.device
    rows = [answer(model, _padded(cube, r, model.reach).to(device)).cpu() for r in _strips(cube.shape[1])]
    whole = [_core(a, r, model.reach) for a, r in zip(rows, _strips(cube.shape[1]), strict=True)]
    position, confidence, _ = torch.cat(whole, 1).numpy()
    classes = len(fitted["class_ids"])
    figure, axes = _axes(3)
    _show_classes(axes[0], data.index[window], classes, window)
    _image(axes[0], "labels")
    _show_classes(axes[1], position.round().astype(int), classes, window)
    _image(axes[1], "class map")
    shown = axes[2].imshow(
        np.where(position < 0, np.nan, confidence), vmin=1 / classes, vmax=1, extent=_extent(window), cmap="viridis"
    )
    _image(axes[2], "confidence (calibrated)")
    figure.colorbar(shown, ax=axes[2], shrink=0.8)
    names = zip(_colours(classes), fitted["class_ids"], fitted["class_names"], strict=True)
    _legend(figure, [(GREY, "none"), *((c, f"{i} {n}" if str(i) != n else n) for c, i, n in names)])
    return figure


def _strips(rows: int, high: int = 128) -> list[tuple[int, int]]:
    return [(a, min(rows, a + high)) for a in range(0, rows, high)]


def _padded(cube: torch.Tensor, strip: tuple[int, int], reach: int) -> torch.Tensor:
    return cube[:, max(0, strip[0] - reach) : strip[1] + reach]


def _core(answered: torch.Tensor, strip: tuple[int, int], reach: int) -> torch.Tensor:
    top = min(strip[0], reach)
    return answered[:, top : top + strip[1] - strip[0]]


def confusion_figure(evidence: Evidence, fitted: Fitted) -> Figure:
    """Counts on the test part, coloured by the share of each true class."""
    counts = np.asarray(evidence.sum("confusion"))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    names = [n if len(n) <= 22 else n[:20] + "..." for n in fitted["class_names"]]
    size = max(4.5, 0.6 * len(names) + 2.2)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    ax = figure.subplots()
    shown = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= 20:
        for (i, j), n in np.ndenumerate(counts):
            if n > 0:
                ax.text(
                    j, i, f"{n:.0f}", ha="center", va="center", fontsize=8, color="w" if shares[i, j] > 0.6 else "k"
                )
    ax.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_xlabel("predicted")
    ax.set_ylabel("true")
    ax.set_title("Test pixels", fontsize=10)
    figure.colorbar(shown, ax=ax, shrink=0.7, label="share of the true class")
    return figure


def spectra_figure(data: SceneData, split: Split, fitted: Fitted, most: int = 2000) -> Figure:
    """Mean spectrum of every class over training pixels with the span from 10 to 90 %; unused bands left blank."""
    nm = np.array(data.scene.bands.wavelength_nm)
    used = np.array(fitted["used"])
    order = used[np.argsort(nm[used])]
    breaks = np.flatnonzero(np.diff(nm[order]) > 3 * np.median(np.diff(np.sort(nm)))) + 1
    label = data.index.ravel()[split.parts["train"]]
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    ax = figure.subplots()
    for c, colour in enumerate(_colours(len(fitted["class_ids"]))):
        at = split.parts["train"][label == c]
        at = at[:: max(1, len(at) // most)]
        if not len(at):
            continue
        values, seen = spectra(data, at)
        values = np.where(seen, values, np.nan)[:, order].astype(np.float64)
        middle = np.nanmean(values, 0)
        low, high = np.nanpercentile(values, (10, 90), axis=0)
        for piece, run in enumerate(np.split(np.arange(len(order)), breaks)):
            ax.fill_between(nm[order][run], low[run], high[run], color=colour, alpha=0.18, linewidth=0)
            name = fitted["class_names"][c] if piece == 0 else None
            ax.plot(nm[order][run], middle[run], color=colour, linewidth=1.3, label=name)
    ax.set_xlabel("wavelength (nm)")
    ax.set_ylabel(data.scene.bands.unit or "value in the file")
    ax.legend(fontsize=8, frameon=False, ncols=2)
    ax.set_title("Training spectra: mean and 10 to 90 %", fontsize=10)
    return figure


def reliability_figure(task: Classify, evidence: Evidence) -> Figure:
    """Accuracy against confidence, before and after the temperature."""
    figure, axes = _axes(2, 4.4, 4.0)
    metrics = task.metrics(evidence)
    for ax, column, name in zip(axes, ("bins_before", "bins"), ("before", "after"), strict=True):
        bins = np.asarray(evidence.sum(column))
        there = bins[:, 0] > 0
        sure, right = bins[there, 1] / bins[there, 0], bins[there, 2] / bins[there, 0]
        ax.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
        ax.plot(sure, right, marker="o", markersize=4, color="C0")
        ax.bar(sure, bins[there, 0] / bins[:, 0].sum(), width=0.03, color="0.8", label="share of pixels")
        error = metrics["ece_before" if name == "before" else "ece"]
        ax.set_title(f"{name} calibration: error {error:.3f}", fontsize=10)
        ax.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
        ax.legend(fontsize=8, frameon=False, loc="upper left")
    return figure


def split_figure(task: Classify, data: SceneData, split: Split, window: tuple[slice, slice]) -> Figure:
    """Where the parts lie, and what the audits of the split measured."""
    radius = task.config.patch_radius
    state = np.where(data.index >= 0, 1, 0).ravel()  # 0 unlabelled, 1 left out
    for value, part in ((2, "train"), (3, "val"), (4, "test")):
        state[split.parts[part]] = value
    seen_by_test: Float[np.ndarray, "rows cols"] = near(split.parts["test"], data.index.shape, radius)[window]
    colours = [GREY, (0.62, 0.62, 0.62), (0.20, 0.47, 0.75), (0.95, 0.70, 0.20), (0.80, 0.25, 0.25)]
    figure = Figure(figsize=(9.5, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
    left.imshow(
        state.reshape(data.index.shape)[window], cmap=ListedColormap(colours), vmin=0, vmax=4, extent=_extent(window),
        interpolation="nearest",
    )  # fmt: skip
    left.contour(seen_by_test, levels=[0.5], colors="k", linewidths=0.6, extent=_extent(window), origin="upper")
    _image(left, "parts; the line bounds what test patches see")
    _legend(figure, list(zip(colours, ("unlabelled", "left out", "train", "validation", "test"), strict=True)))
    right.axis("off")
    lines = [split.protocol, ""]
    for audit in task.audit(data, split):
        verdict: str = {True: "pass", False: "FAIL", None: "-"}[audit.passed]
        shown = f"{audit.value:.3f}" if isinstance(audit.value, float) else audit.value
        lines += [f"[{verdict}] {audit.name}: {shown}", *_wrapped(audit.meaning), ""]
    right.text(0, 0.98, "\n".join(lines), va="top", fontsize=8.5, family="monospace", transform=right.transAxes)
    return figure


def _wrapped(text: str, width: int = 58) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width, initial_indent="    ", subsequent_indent="    ")
