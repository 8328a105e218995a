"""Whether the probabilities of a segmenter mean what they say, voxel by voxel, before and after the temperature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Float64
from matplotlib.figure import Figure

from ..pictures import panel
from ..scoring import BINS
from ..task import Items

if TYPE_CHECKING:
    from .segment_model import Segmenter

WINDOWS = 24  # of the test part, evenly taken
EDGES = np.linspace(0, 1, BINS + 1)


@torch.inference_mode()
def voxel_calibration(model: Segmenter, items: Items) -> dict[str, Float64[np.ndarray, "4 bins"]]:
    """ "before" and "after" the temperature, by bins of the largest probability: voxels, their summed probability, how
    many are right, and the summed squared error over all structures."""
    model.eval()
    chosen = np.unique(np.linspace(0, len(items) - 1, min(WINDOWS, len(items))).round().astype(int))
    found = {name: np.zeros((4, BINS)) for name in ("before", "after")}
    for i in chosen.tolist():
        batch = items.batch([i])
        z = model(batch["image"].to(model.temperature.device)).cpu().movedim(1, -1)
        counts = batch["target"] >= 0
        truth = batch["target"][counts]
        for name, factor in (("before", model.temperature.cpu()), ("after", torch.ones(()))):
            found[name] += _binned((z[counts] * factor).softmax(1), truth)
    return found


def _binned(p: Float[torch.Tensor, "n K"], truth: torch.Tensor) -> Float64[np.ndarray, "4 bins"]:
    most, guess = p.max(1)
    squared = p.square().sum(1) - 2 * p.gather(1, truth[:, None])[:, 0] + 1
    at = (most * BINS).long().clamp_max(BINS - 1).numpy()
    columns = (np.ones(len(p)), most.double().numpy(), (guess == truth).double().numpy(), squared.double().numpy())
    return np.stack([np.bincount(at, weight, BINS) for weight in columns])


def summary(bins: Float64[np.ndarray, "4 bins"]) -> tuple[float, float]:
    """(expected calibration error, Brier score) of such a table."""
    total = bins[0].sum()
    return float(np.abs(bins[1] - bins[2]).sum() / total), float(bins[3].sum() / total)


def reliability_figure(model: Segmenter, items: Items) -> Figure:
    """Share of voxels that are right against the probability stated, with ECE and Brier score."""
    figure, axes = panel(5, 4.5)
    axes.plot([0, 1], [0, 1], color="0.7")
    for name, bins in voxel_calibration(model, items).items():
        full = bins[0] > 0
        ece, brier = summary(bins)
        axes.plot(
            bins[1][full] / bins[0][full], bins[2][full] / bins[0][full], "o-",
            label=f"{name} temperature: ECE {ece:.4f}, Brier {brier:.4f}",
        )  # fmt: skip
    shown = min(WINDOWS, len(items))
    axes.set(xlabel="probability of the structure told", ylabel="share of voxels that are right", xlim=(0, 1.02))
    axes.set(title=f"voxels of {shown} windows of the test part", ylim=(0, 1.02))
    axes.legend(fontsize="x-small")
    return figure
