"""The curves of a model under corruption, level by level, and what each corruption looks like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from .corruptions import CORRUPTIONS, LEVELS, corrupted

SHOWN_LEVEL = 4


def corruption_picture(
    scores: Mapping[str, Sequence[float]], example: Float[Tensor, "1 C H W"], metric: str, of_what: str
) -> Figure:
    """scores: corruption -> values at level 0 (clean) to 5. example: within 0 .. 1."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.1, 1))
    left, right = halves
    axes = left.subplots()
    for i, (name, values) in enumerate(scores.items()):
        style = ("-", "--", ":")[i // 3]
        axes.plot([0, *LEVELS], values, style, marker="o", markersize=3, label=f"{name} {np.mean(values[1:]):.3f}")
    clean = next(iter(scores.values()))[0]
    mean = float(np.mean([values[1:] for values in scores.values()]))
    axes.set(xlabel="level", ylabel=metric, title=f"{of_what}; clean {clean:.3f}, mean {mean:.3f}")
    axes.legend(fontsize="x-small", title="mean over levels", title_fontsize="x-small")
    for axes, name in zip(right.subplots(3, 3).ravel(), CORRUPTIONS, strict=True):
        shown = corrupted(example, name, SHOWN_LEVEL)[0].permute(1, 2, 0).numpy()
        axes.imshow(shown[..., 0] if shown.shape[2] == 1 else shown, cmap="gray", vmin=0, vmax=1)
        axes.set_title(f"{name}, level {SHOWN_LEVEL}", fontsize="x-small")
        axes.axis("off")
    return figure
