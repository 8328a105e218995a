"""Pictures of timeseries/events: what events speak for which class, mistakes, calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure

from domains.pictures import calibration_picture, confusion_picture
from domains.task import Evidence, Fitted, Split

from .data import Events
from .model import EventNet

if TYPE_CHECKING:
    from ..events import EventClasses

SHOWN = 6


def saliency(model: EventNet, batch: Any, guess: int) -> Any:
    """What each event adds to a class's score: gradient with respect to its token, times the token."""
    was = model.training
    model.eval()
    with torch.enable_grad():
        x, layout = model.stem(batch)
        x = x.detach().requires_grad_()
        score = model.head(*model.backbone(x, layout))[0, guess]
        (slope,) = torch.autograd.grad(score, x)
    model.train(was)
    return (slope * x)[0].sum(1).detach().cpu().numpy()


def stories(task: EventClasses, model: EventNet, data: Events, split: Split, fitted: Fitted) -> Figure:
    """A few test examples: their events in time, coloured by what they add to the class that was said.

    The four events that add or take most are named.
    """
    items = task.items(data, split, fitted, "test")
    places = np.linspace(0, len(items) - 1, min(SHOWN, len(items))).astype(int)
    figure = Figure(figsize=(12, 1.5 * len(places) + 0.8), layout="constrained")
    axes, drawn = figure.subplots(len(places), 1, squeeze=False)[:, 0], None
    for axis, i in zip(axes, places, strict=True):
        batch = {k: v.to(model.temperature.device) for k, v in items.batch([int(i)]).items()}
        guess = int(task.scores(model, items, [int(i)])[0].argmax())
        added = saliency(model, batch, guess)
        first, last = data.examples[items.rows[i]]
        top = max(float(np.abs(added).max()), 1e-12)
        time = data.time[first : last + 1] - data.time[first]
        drawn = axis.scatter(time, np.zeros(len(time)), c=added / top, cmap="coolwarm", vmin=-1, vmax=1)
        before, level = -np.inf, 0
        for j in np.sort(np.argsort(-np.abs(added))[:4]):
            word = data.vocabulary[0][data.words[first + j, 0]] if data.categories else f"event {j}"
            level = level + 1 if time[j] - before < 0.06 * time[-1] else 0  # names of near events one above the other
            before = time[j]
            axis.annotate(word, (time[j], 0), (0, 8 + 9 * level), textcoords="offset points", fontsize="x-small")
        true = fitted["classes"][int(items.targets[i])] if items.targets is not None else "?"
        title = f"{data.names[data.entity[last]]}: true {true}, said {fitted['classes'][guess]}"
        axis.set_title(title, fontsize="small")
        axis.set_yticks([])
        axis.set_ylim(-0.5, 1)
        axis.margins(x=0.08)
    axes[-1].set_xlabel("since the first event shown: days, or the units of a time column of plain numbers")
    if drawn is not None:
        figure.colorbar(drawn, ax=list(axes), label="added to the score of the class said, of the largest", shrink=0.6)
    return figure


def all_figures(
    task: EventClasses, model: EventNet, data: Events, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
) -> Mapping[str, Figure]:
    """Title -> picture."""
    return {
        "Events, and what they speak for": stories(task, model, data, split, fitted),
        "Mistakes": confusion_picture(scored["model"], tuple(fitted["classes"])),
        "Calibration": calibration_picture(scored["model"]),
    }
