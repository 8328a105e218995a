"""Pictures of `medical/classify`: ROC and precision, reliability, confusion, worst cases, corruption curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from ..pictures import panel
from ..scoring import BINS
from ..task import Evidence, Split
from .canvas import as_tensor
from .cases import Cases
from .classify_model import ImageClassifier
from .classify_scoring import names_of, roc, table_of, weights_of
from .corruption_pictures import corruption_picture
from .corruptions import CORRUPTIONS, LEVELS, corrupted
from .data.images import as_bytes

if TYPE_CHECKING:
    from .classify import Classify

SHOWN = 8  # images
MOST_CURVES = 8  # labels


def _scored_labels(evidence: Evidence) -> list[int]:
    """Labels with both outcomes; of two classes only the one that is looked for."""
    table = table_of(evidence)
    found = [i for i, rows in enumerate(table) if (rows[:, 0] == 1).any() and (rows[:, 0] == 0).any()]
    return found[1:] if evidence.columns["exclusive"][0] and len(table) == 2 else found


def ranking_curves(scored: Mapping[str, Evidence]) -> Figure:
    """ROC and precision against recall: of every method where there is one label, else of the model's labels."""
    figure, (left, right) = panel(columns=2)
    model = scored["model"]
    labels = _scored_labels(model)
    curves = [(name, e, labels[0]) for name, e in scored.items()] if len(labels) == 1 else []
    curves = curves or [(names_of(model)[i], model, i) for i in labels[:MOST_CURVES]]
    for name, evidence, i in curves:
        rows = table_of(evidence)[i]
        known = ~np.isnan(rows[:, 0])
        positive, weight = rows[known, 0] == 1, weights_of(evidence)[known]
        false, true, _ = roc(rows[known, 1], positive, weight)
        left.plot(false, true, label=name, drawstyle="steps-post")
        ups, downs = float((weight * positive).sum()), float((weight * ~positive).sum())
        precision = true * ups / np.maximum(true * ups + false * downs, 1e-12)
        right.plot(true[1:], precision[1:], label=name)
    left.plot([0, 1], [0, 1], color="0.8")
    left.set(xlabel="1 - specificity", ylabel="sensitivity", title="ROC, test part")
    right.set(xlabel="recall", ylabel="precision", ylim=(0, 1.02), title="precision and recall, test part")
    left.legend(fontsize="small")
    return figure


def reliability(evidence: Evidence) -> Figure:
    """Share that is true against the probability stated, before and after calibration; cases per bin below."""
    table = table_of(evidence)[_scored_labels(evidence) or slice(None)]
    known = ~np.isnan(table[:, :, 0])
    truth = table[:, :, 0][known]
    figure = Figure(figsize=(5, 5), layout="constrained")
    top, low = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    top.plot([0, 1], [0, 1], color="0.7")
    for column, label in ((2, "before calibration"), (1, "after")):
        p = table[:, :, column][known]
        at = np.clip((p * BINS).astype(int), 0, BINS - 1)
        count = np.bincount(at, minlength=BINS)
        full = count > 0
        top.plot((np.bincount(at, p, BINS) / np.maximum(count, 1))[full],
                 (np.bincount(at, truth, BINS) / np.maximum(count, 1))[full], "o-", label=label)  # fmt: skip
        low.stairs(count, np.linspace(0, 1, BINS + 1), label=label)
    top.set(ylabel="share that is true", xlim=(0, 1), ylim=(0, 1), title="reliability, test part")
    low.set(xlabel="probability", ylabel="cases")
    top.legend()
    return figure


def confusion(evidence: Evidence) -> Figure:
    """Cases by true and predicted class, or per label: hits, misses, false alarms at the operating point."""
    table, names = table_of(evidence), names_of(evidence)
    figure, axes = panel(5, 4.5)
    if evidence.columns["exclusive"][0]:
        k = len(names)
        counts = np.bincount(table[:, :, 0].argmax(0) * k + table[:, :, 1].argmax(0), minlength=k * k).reshape(k, k)
        _shaded(axes, counts, names, names)
        axes.set(xlabel="predicted", ylabel="true", title="test cases")
        return figure
    known, truth = ~np.isnan(table[:, :, 0]), table[:, :, 0] == 1
    called = table[:, :, 1] >= table[:, :, 3]
    kinds = (known & truth & called, known & truth & ~called, known & ~truth & called, known & ~truth & ~called, ~known)
    counts = np.stack([kind.sum(1) for kind in kinds], 1)
    _shaded(axes, counts, names, ["found", "missed", "false alarm", "rightly not", "not known"])
    axes.set(title="test cases at the operating point")
    return figure


def _shaded(axes: Any, counts: Any, rows: list[str], columns: list[str]) -> None:
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(share, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for i, j in np.ndindex(*counts.shape):
        axes.text(j, i, f"{counts[i, j]}", ha="center", va="center", color="w" if share[i, j] > 0.5 else "k")
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
    axes.set_yticks(range(len(rows)), rows)


def worst_cases(evidence: Evidence, data: Cases) -> Figure:
    """The test images whose truth the model gave the least probability, the worst first."""
    table, names = table_of(evidence), names_of(evidence)
    truth, p = table[:, :, 0], table[:, :, 1]
    given = np.where(np.isnan(truth), np.inf, np.where(truth == 1, p, 1 - p))
    if evidence.columns["exclusive"][0]:
        given = np.where(truth == 1, p, np.inf)
    worst = np.argsort(given.min(0), kind="stable")[:SHOWN]
    figure = Figure(figsize=(2.2 * 4, 2.6 * 2), layout="constrained")
    for axes, i in zip(figure.subplots(2, 4).ravel(), worst, strict=False):
        case = int(evidence.columns["case"][i])
        label = int(given[:, i].argmin())
        image = data.canvases[case].transpose(1, 2, 0)
        axes.imshow(image[..., 0] if image.shape[2] == 1 else image, cmap="gray", vmin=0, vmax=255)
        said = names[label] if truth[label, i] == 1 else f"not {names[label]}"
        right = given[label, i] >= 0.5
        axes.set_title(f"{said}: p {given[label, i]:.2f}", fontsize="small", color="tab:green" if right else "tab:red")
        axes.set_xlabel(data.names[case][-24:], fontsize="xx-small")
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle("least probability for what is true, test part; for research use", fontsize="small")
    return figure


def corruption_scores(
    task: Classify, model: ImageClassifier, data: Cases, rows: Any, metric: str = "auroc"
) -> dict[str, list[float]]:
    """Corruption -> a metric at level 0 (clean) to 5, of the cases given: what a trained model makes of bad images."""
    clean = task.metrics(task.scored(model, data, rows))[metric]
    found = {}
    for name in CORRUPTIONS:
        values = [clean]
        for level in LEVELS:
            canvases = data.canvases.copy()
            canvases[rows] = as_bytes(corrupted(as_tensor(data.canvases[rows]), name, level).numpy())
            values.append(task.metrics(task.scored(model, replace(data, canvases=canvases), rows))[metric])
        found[name] = values
    return found


def corruption_curves(task: Classify, model: ImageClassifier, data: Cases, rows: Any) -> Figure:
    """AUROC of the test part under every corruption, level by level, and an example of each."""
    scores = corruption_scores(task, model, data, rows)
    return corruption_picture(scores, as_tensor(data.canvases[rows[:1]]), "AUROC", f"{len(rows)} test cases")


def all_figures(
    task: Classify, model: ImageClassifier, data: Cases, split: Split, scored: Mapping[str, Evidence]
) -> Mapping[str, Figure]:
    """Title -> picture."""
    found = {
        "Ranking": ranking_curves(scored),
        "Reliability": reliability(scored["model"]),
        "Mistakes": confusion(scored["model"]),
        "Worst cases": worst_cases(scored["model"], data),
    }
    rows = split.parts["test"]
    if task.config.corrupted:
        random = np.random.default_rng(0)
        chosen = (
            rows if len(rows) <= task.config.corrupted else np.sort(random.choice(rows, task.config.corrupted, False))
        )
        found["Corruptions"] = corruption_curves(task, model, data, chosen)
    return found
