"""Pictures of `medical/segment`: overlays with contours and errors, the strip of cases, the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from matplotlib.figure import Figure

from ..pictures import panel
from ..task import Evidence, Fitted, Split
from .plan import Plan
from .segment_predicting import blend_of
from .segment_reliability import reliability_figure
from .segment_robustness import chosen_rows, corruption_curves, corruption_scores
from .segment_scoring import state_counts
from .segment_source import SegmentData
from .segment_windows import segment

if TYPE_CHECKING:
    from .segment import Segment
    from .segment_model import Segmenter

SHOWN = 3  # cases: the worst, the middle, the best
NAMED = 5  # worst cases in the strip
PLANES = ("sagittal", "coronal", "axial")  # across right, anterior, superior


def draw(
    task: Segment,
    model: Segmenter,
    data: SegmentData,
    split: Split,
    fitted: Fitted,
    scored: Mapping[str, Evidence],
) -> dict[str, Figure]:
    """Title -> figure, for the report."""
    found = {
        "Overlays": overlays(task, model, data, split, fitted, scored["model"]),
        "Dice of every case": strip(data, scored),
        "Structures": structures_figure(data, scored),
        "Plan": plan_figure(fitted),
    }
    found["Reliability"] = reliability_figure(model, task.items(data, split, fitted, "test"))
    if task.config.corrupted:
        rows, plan = chosen_rows(split.parts["test"], task.config.corrupted), Plan.from_json(fitted["plan"])
        found["Corruptions"] = corruption_curves(data, rows, plan, corruption_scores(model, data, rows, plan))
    return found


def case_dice(evidence: Evidence) -> Float[np.ndarray, "cases"]:
    """Mean over the structures that a case speaks for; 1 where none is there and none was found."""
    dice = evidence.columns["dice"]
    there = np.isfinite(dice)
    mean = np.where(there, dice, 0.0).sum(1) / np.maximum(there.sum(1), 1)
    return np.where(there.any(1), mean, 1.0)


def overlays(
    task: Segment, model: Segmenter, data: SegmentData, split: Split, fitted: Fitted, evidence: Evidence
) -> Figure:
    """The worst, the middle and the best case; of volumes three planes through the middle of the errors.

    Where several views are averaged their deviation stands beside, of volumes in the axial plane.
    """
    plan, dice = Plan.from_json(fitted["plan"]), case_dice(evidence)
    order = np.argsort(dice)
    chosen = [int(order[i]) for i in sorted({0, len(order) // 2, len(order) - 1})][:SHOWN]
    columns = (6 if data.rank == 3 else 2) + (task.config.views > 1)
    figure = Figure(figsize=((3.2, 2.4)[data.rank - 2] * columns, 3.3 * len(chosen)), layout="constrained")
    grid_of_axes = figure.subplots(len(chosen), columns, squeeze=False)
    for axes, i in zip(grid_of_axes, chosen, strict=True):
        row = split.parts["test"][i]
        grid = data.piece(row)
        assert grid.labels is not None
        answer = segment(model, grid.image, grid.spacing, plan, blend_of(task.config))
        guess = answer.labels.astype(np.int64)
        name = data.cases[int(row[0])].name
        if data.rank == 2:
            centre = None
            overlay(axes[0], grid.image[0], grid.labels, guess, 1.0)
            errors(axes[1], grid.image[0], grid.labels, guess, 1.0)
            axes[1].set_title("errors", fontsize="small")
        else:
            centre = planes(axes, grid.image[0], grid.labels, guess, grid.spacing)
        if answer.spread is not None:
            spread = answer.spread if centre is None else np.flipud(answer.spread[..., centre].T)
            aspect = 1.0 if centre is None else grid.spacing[1] / grid.spacing[0]
            axes[-1].imshow(spread / 510, cmap="magma", vmin=0, vmax=0.5, aspect=aspect)
            axes[-1].set(xticks=[], yticks=[])
            axes[-1].set_title("deviation over views, 0 to 0.5", fontsize="small")
        axes[0].set_ylabel(f"{name}\nDice {dice[i]:.3f}", fontsize="small")
    grid_of_axes[0][0].set_title("truth green, found red", fontsize="small")
    return figure


def planes(axes: Any, image: Any, truth: Any, guess: Any, spacing: Sequence[float]) -> int:
    """Sagittal, coronal, axial through the voxel around which most errors lie: contours, then errors.

    Returns which axial plane.
    """
    wrong = (truth != guess) & (truth >= 0)
    at = np.argwhere(wrong if wrong.any() else truth >= 0)
    centre = np.median(at, 0).astype(int)
    for axis in range(3):
        index = int(centre[axis])
        rows, cols = (a for a in range(3) if a != axis)
        view = [np.flipud(v.take(index, axis).T) for v in (image, truth, guess)]  # head up, front or right to the right
        for ax, draw_on in ((axes[axis], overlay), (axes[3 + axis], errors)):
            draw_on(ax, view[0], view[1], view[2], spacing[cols] / spacing[rows])
        axes[axis].set_xlabel(f"{PLANES[axis]} {index}", fontsize="x-small")
    return int(centre[2])


def overlay(
    ax: Any,
    image: Shaped[np.ndarray, "h w"],
    truth: Int[np.ndarray, "h w"],
    guess: Int[np.ndarray, "h w"],
    aspect: float,
) -> None:
    """The image with the contours of what is there (green) and of what was found (red)."""
    low, high = np.percentile(image, [1, 99])
    ax.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=aspect)
    for labels, colour in ((truth, "lime"), (guess, "red")):
        for structure in np.unique(labels[labels > 0]):
            mask = labels == structure
            if mask.any() and not mask.all():
                ax.contour(mask.astype(float), [0.5], colors=colour, linewidths=0.6)
    ax.set(xticks=[], yticks=[])


def errors(
    ax: Any,
    image: Shaped[np.ndarray, "h w"],
    truth: Int[np.ndarray, "h w"],
    guess: Int[np.ndarray, "h w"],
    aspect: float,
) -> None:
    """Missed blue, made up orange, one structure for another purple."""
    low, high = np.percentile(image, [1, 99])
    grey = np.clip((image - low) / max(high - low, 1e-6), 0, 1).astype(np.float64)
    colours = np.repeat(0.5 + 0.5 * grey[..., None], 3, -1)
    seen = truth >= 0
    for mask, colour in (
        ((truth > 0) & (guess == 0), (0.1, 0.3, 0.9)),
        ((truth == 0) & (guess > 0), (0.95, 0.5, 0.1)),
        ((truth > 0) & (guess > 0) & (truth != guess), (0.6, 0.1, 0.6)),
    ):
        colours[mask & seen] = colour
    ax.imshow(colours, aspect=aspect)
    ax.set(xticks=[], yticks=[], xlabel="missed blue\nmade up orange\nmistaken purple")
    ax.xaxis.label.set_size("x-small")


def strip(data: SegmentData, scored: Mapping[str, Evidence]) -> Figure:
    """Every case's Dice by method, the worst of the model named, and how often a structure was missed or made up."""
    figure, axes = panel(7, 4)
    rng = np.random.default_rng(0)
    labels = []
    for x, (name, evidence) in enumerate(scored.items()):
        dice = case_dice(evidence)
        axes.plot(x + rng.uniform(-0.15, 0.15, len(dice)), dice, "o", markersize=3, alpha=0.7)
        axes.plot([x - 0.3, x + 0.3], [dice.mean()] * 2, color="k", linewidth=1)
        counts = state_counts(evidence)
        labels.append(f"{name}\nmissed {counts['missed']}, made up {counts['made up']}")
    dice, at = case_dice(scored["model"]), list(scored).index("model") + 0.2
    height = -np.inf
    for i in np.argsort(dice)[:NAMED]:
        height = max(float(dice[i]), height + 0.035)  # names never lie on each other
        axes.annotate(data.cases[int(scored["model"].columns["case"][i])].name, (at, height), fontsize="x-small")
    axes.set_xticks(range(len(labels)), labels, fontsize="x-small")
    axes.set(ylabel="Dice, mean over structures", ylim=(-0.03, 1.03), title="test cases, worst named; bars: means")
    return figure


def structures_figure(data: SegmentData, scored: Mapping[str, Evidence]) -> Figure:
    """Mean Dice of each structure, model beside the baselines."""
    names = data.structures.names[1:]
    figure, axes = panel(max(5.0, 0.35 * len(names) + 3), 3.5)
    for i, (name, evidence) in enumerate(scored.items()):
        dice = evidence.columns["dice"]
        there = np.isfinite(dice)
        mean = np.where(there, dice, 0).sum(0) / np.maximum(there.sum(0), 1)
        width = 0.8 / len(scored)
        axes.bar(np.arange(len(names)) + i * width, np.where(there.any(0), mean, np.nan), width, label=name)
    axes.set_xticks(np.arange(len(names)) + 0.3, names, rotation=90 if len(names) > 8 else 0, fontsize="x-small")
    axes.set(ylabel="Dice", ylim=(0, 1), title="structures of the test part")
    axes.legend(fontsize="x-small")
    return figure


def plan_figure(fitted: Fitted) -> Figure:
    """Every choice of the plan with its reason."""
    lines = Plan.from_json(fitted["plan"]).lines()
    figure, axes = panel(8, 0.35 * len(lines) + 0.8)
    axes.axis("off")
    for i, line in enumerate(lines):
        axes.text(0, 1 - (i + 0.5) / len(lines), line, fontsize="small", va="center", wrap=True)
    axes.set_title("for research use only", fontsize="small")
    return figure
