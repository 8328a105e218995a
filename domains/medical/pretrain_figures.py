"""Pictures of `medical/pretrain`: what was seen, what was made of it, what it was; errors beside the baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ..pictures import panel
from ..task import Evidence, Split
from .cases import Cases
from .pretrain_model import MaskedAutoencoder, Restored
from .pretrain_scoring import interpolated

if TYPE_CHECKING:
    from .pretrain import Pretrain

SHOWN = 6  # images


def _picture(x: Any) -> Any:
    """(C, S, S) within 0 .. 1 as matplotlib takes it."""
    x = np.clip(np.asarray(x), 0, 1)
    return x[0] if len(x) == 1 else x.transpose(1, 2, 0)


def strip(restored: Restored) -> Figure:
    """A row per image: what is seen, what the model and interpolation make of it, the image."""
    figure = Figure(figsize=(8, 2.0 * len(restored.truth)), layout="constrained")
    axes = figure.subplots(len(restored.truth), 4, squeeze=False)

    def full(x: Tensor) -> Any:
        return (x * restored.scale + restored.mean).cpu().numpy()

    truth, made, unseen = full(restored.truth), full(restored.made), restored.unseen.cpu().numpy()
    for i, row in enumerate(axes):
        hidden = unseen[i, 0]
        pictures = {
            "seen": np.where(hidden, 0.5, truth[i]),
            "restored": np.where(hidden, made[i], truth[i]),
            "interpolated": interpolated(truth[i], hidden),
            "image": truth[i],
        }
        for ax, (title, picture) in zip(row, pictures.items(), strict=True):
            ax.imshow(_picture(picture), cmap="gray", vmin=0, vmax=1)
            ax.set_axis_off()
            if not i:
                ax.set_title(title)
    return figure


def errors(scored: Mapping[str, Evidence]) -> Figure:
    """Share of the test cases whose error is below a value, for the model and every baseline."""
    figure, axes = panel()
    for name, evidence in scored.items():
        each = np.sort(evidence.columns["error"] / evidence.columns["n"])
        axes.plot(each, np.arange(1, len(each) + 1) / len(each), drawstyle="steps-post", label=name)
    axes.set(xlabel="mean squared error of a case", ylabel="share of test cases", xscale="log", title="test part")
    axes.legend(fontsize="small")
    return figure


def all_figures(
    task: Pretrain, model: MaskedAutoencoder, data: Cases, split: Split, scored: Mapping[str, Evidence]
) -> dict[str, Figure]:
    """The best, middling and worst of the test part, and everybody's errors."""
    rows, evidence = split.parts["test"], scored["model"]
    order = np.argsort(evidence.columns["error"] / evidence.columns["n"])
    at = np.unique(np.linspace(0, len(order) - 1, min(SHOWN, len(order))).astype(int))
    return {
        "Test images from the best restored to the worst": strip(task.restored(model, data, rows[order[at]])[0]),
        "Errors of test cases": errors(scored),
    }
