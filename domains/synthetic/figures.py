"""Where in the string a model answers rightly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from torch import nn

from domains.task import Fitted, Split

from .data import StringData

if TYPE_CHECKING:
    from .diagnostic import Diagnostic


def by_place(task: Diagnostic, model: nn.Module, data: StringData, split: Split, fitted: Fitted) -> Figure:
    """Accuracy on the test part by the place of the question, in at most 32 groups of neighbouring places."""
    from .diagnostic import answers

    rows = answers(task, model, data, split, fitted)
    wide = -(-int(fitted["length"]) // 32)
    group = rows[:, 1] // wide
    asked = np.bincount(group)
    right = np.bincount(group, rows[:, 2] == rows[:, 3])
    at = np.nonzero(asked)[0]
    figure = Figure(figsize=(7, 3))
    axes = figure.subplots()
    axes.bar(at * wide, right[at] / asked[at], width=0.9 * wide, align="edge")
    axes.set(xlabel="place of the question (tokens)", ylabel="share answered rightly", ylim=(0, 1))
    return figure
