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
    """A few test examples: their events in time, coloured by what they add to the class that was said."""
    items = task.items(data, split, fitted, "test")
    places = np.linspace(0, len(items) - 1, min(SHOWN, len(items))).astype(int)
    figure = Figure(figsize=(12, 1.5 * len(places) + 0.8), layout="constrained")
    for axis, i in zip(figure.subplots(len(places), 1, squeeze=False)[:, 0], places, strict=True):
        batch = {k: v.to(model.temperature.device) for k, v in items.batch([int(i)]).items()}
        guess = int(task.scores(model, items, [int(i)])[0].argmax())
        added = saliency(model, batch, guess)
        first, last = data.examples[items.rows[i]]
        top = max(float(np.abs(added).max()), 1e-12)
        axis.scatter(
            data.time[first : last + 1], np.zeros(last - first + 1), c=added, cmap="coolwarm", vmin=-top, vmax=top
        )
        for j in np.argsort(-np.abs(added))[:4]:
            word = data.vocabulary[0][data.words[first + j, 0]] if data.categories else f"event {j}"
            axis.annotate(word, (data.time[first + j], 0), (0, 8), textcoords="offset points", fontsize="x-small",
                          rotation=25)  # fmt: skip
        true = fitted["classes"][int(items.targets[i])] if items.targets is not None else "?"
        title = f"{data.names[data.entity[last]]}: true {true}, said {fitted['classes'][guess]}"
        axis.set_title(title, fontsize="small")
        axis.set_yticks([])
        axis.set_ylim(-0.5, 1)
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
