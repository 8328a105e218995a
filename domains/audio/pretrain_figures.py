"""Pictures of `audio/pretrain`: what was seen, what was told of the rest, what it was; costs beside the baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int
from matplotlib.figure import Figure

from ..pictures import panel
from ..task import Evidence, Split
from .clips import Clips
from .items import ClipItems
from .pretrain_masks import MaskedItems
from .pretrain_model import MaskedFrames
from .pretrain_scoring import hiding_of, interpolated

if TYPE_CHECKING:
    from .pretrain import Pretrain

SHOWN = 5  # clips


def strip(task: Pretrain, model: MaskedFrames, data: Clips, rows: Int[np.ndarray, "n"]) -> Figure:
    """A row per clip: what is seen; what the model tells, and interpolation; the frames as they are.

    Of codes, how likely the model holds the right one stands in place of what it tells.
    """
    items = MaskedItems(ClipItems(data, rows), hiding_of(data.rate, task.config))
    figure = Figure(figsize=(11, 1.7 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 4, squeeze=False)
    for row, i in zip(axes, range(len(rows)), strict=True):
        with torch.no_grad():
            found = task.restored(model, items.batch([i]))
        truth, hidden = found.truth[0].cpu().numpy(), found.unseen[0].cpu().numpy()
        seen = np.where(hidden[:, None], np.nan, truth)
        panels: dict[str, Any] = {"seen": seen}
        if found.codes is None:
            panels["told"] = np.where(hidden[:, None], found.told[0].cpu().numpy(), truth)
        panels |= {"interpolated": interpolated(truth, hidden), "frames": truth}
        for ax, (title, picture) in zip(row if found.codes is None else row[[0, 2, 3]], panels.items(), strict=True):
            ax.imshow(picture.T, origin="lower", aspect="auto", vmin=-2.5, vmax=2.5, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            if i == 0:
                ax.set_title(title)
        if found.codes is not None:
            p = found.told[0].softmax(-1).gather(-1, found.codes[0][:, None])[:, 0].cpu().numpy()
            row[1].bar(np.arange(len(p)), np.where(hidden, p, 0.0), width=1.0)
            row[1].set(ylim=(0, 1), xticks=[], ylabel="p of the code")
        row[0].set_ylabel(data.names[int(rows[i])], fontsize="x-small")
    return figure


def costs(scored: Mapping[str, Evidence]) -> Figure:
    """Share of the test clips whose cost is below a value, for the model and every baseline."""
    figure, axes = panel()
    for name, evidence in scored.items():
        n = evidence.columns["n"]
        each = np.sort(evidence.columns["cost"][n > 0] / n[n > 0])
        axes.plot(each, np.arange(1, len(each) + 1) / len(each), drawstyle="steps-post", label=name)
    axes.set(xlabel="mean cost of a hidden frame of a clip", ylabel="share of test clips", title="test part")
    axes.legend(fontsize="small")
    return figure


def all_figures(
    task: Pretrain, model: MaskedFrames, data: Clips, split: Split, scored: Mapping[str, Evidence]
) -> dict[str, Figure]:
    """The best, middling and worst of the test part, and everybody's costs."""
    rows, c = split.parts["test"], scored["model"].columns
    order = np.argsort(c["cost"] / np.maximum(c["n"], 1))
    at = np.unique(np.linspace(0, len(order) - 1, min(SHOWN, len(order))).astype(int))
    return {
        "Test clips from the best told to the worst": strip(task, model, data, rows[order[at]]),
        "Costs of test clips": costs(scored),
    }
