"""Pictures of a detection: the receiver's curves, and a test block with its implants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.figure import Figure

from ...task import Evidence, Fitted, Split
from ..restoring.source import CleanData
from .model import Detector
from .scoring import ranked, scores

if TYPE_CHECKING:
    from .task import Detect


def draw(
    task: Detect, model: Detector, data: CleanData, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
) -> dict[str, Figure]:
    """Title -> figure, for the report."""
    return {"Receiver's curves": curves(scored), "A test block": block(task, model, data, split, fitted)}


def curves(scored: Mapping[str, Evidence]) -> Figure:
    """Share of targets found against the share of background that passes, on a logarithmic axis."""
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    ax = figure.subplots()
    for name, evidence in scored.items():
        false, true = ranked(evidence)
        label = f"{name} ({scores(evidence)['auc']:.4f})"
        ax.step(np.maximum(false / max(false[-1], 1e-12), 1e-4), true / max(true[-1], 1e-12), where="post", label=label)
    ax.set(xscale="log", xlabel="share of background pixels that pass", ylabel="share of targets found", ylim=(0, 1.02))
    ax.legend(fontsize=8, frameon=False)
    return figure


def block(task: Detect, model: Detector, data: CleanData, split: Split, fitted: Fitted) -> Figure:
    """Where targets were implanted, and what the model and the first statistic say."""
    cube, seen, where = task.items(data, split, fitted, "test").pair(0, 0)
    device = model.back.device
    with torch.no_grad():
        p = model(cube.to(device), seen.to(device)).sigmoid()[0].cpu().numpy()
        known = model.statistics(cube.to(device), seen.to(device))[0, 0].cpu().numpy()
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    shown = (("implants", where[0].numpy()), ("model: probability", p), ("log RX", known))
    for ax, (title, image) in zip(figure.subplots(1, 3), shown, strict=True):
        ax.imshow(image, cmap="magma", interpolation="nearest")
        ax.set_title(title, fontsize=9)
        ax.tick_params(labelsize=6)
    return figure
