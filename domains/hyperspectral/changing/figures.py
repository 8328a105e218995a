"""Pictures of `hyperspectral/change`: both dates, the truth and the map; precision against recall."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure

from ...pictures import panel
from ...task import Evidence, Fitted, Split
from ..detecting.scoring import ranked
from ..source import SceneData
from .model import ChangeDetector, measured_in_both
from .scoring import scores

if TYPE_CHECKING:
    from .task import Change

LARGEST = 600  # px a side: of a larger scene the part around the most change
SHOWN_NM = (660.0, 560.0, 480.0)


def draw(
    task: Change, model: ChangeDetector, data: SceneData, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
) -> dict[str, Figure]:
    """Title -> figure, for the report."""
    return {"Two dates": maps(model, data, split, fitted), "Precision and recall": curves(scored)}


def _window(data: SceneData) -> tuple[slice, slice]:
    at, found = np.nonzero(data.index == 1), []
    for size, places in zip(data.index.shape, at, strict=True):
        start = int(np.clip(int(np.median(places)) - LARGEST // 2, 0, max(0, size - LARGEST)))
        found.append(slice(start, min(size, start + LARGEST)))
    return found[0], found[1]


def _image(values: Any, seen: Any, nm: Any) -> Any:
    """Three bands nearest to red, green and blue, stretched from 2 to 98 %."""
    image = np.ones((*values.shape[1:], 3))
    for i, wanted in enumerate(SHOWN_NM):
        b = int(np.abs(nm - wanted).argmin())
        if seen[b].any():
            low, high = np.percentile(values[b][seen[b]], (2, 98))
            image[..., i] = np.where(seen[b], np.clip((values[b] - low) / max(high - low, 1e-9), 0, 1), 1.0)
    return image


def maps(model: ChangeDetector, data: SceneData, split: Split, fitted: Fitted) -> Figure:
    """Both dates, the mask, the probability of change, and the map with its errors in the test part."""
    window = _window(data)
    values, seen = data.read(*window)
    half, used = len(values) // 2, np.array(fitted["used"])
    index = np.concatenate([used, used + half])
    cube, there = (torch.from_numpy(np.ascontiguousarray(v[index]))[None] for v in (values, seen))
    with torch.no_grad():
        logits = model(cube.to(model.threshold.device), there.to(model.threshold.device))[0].cpu()
    p = np.where(measured_in_both(seen[index]), logits.sigmoid().numpy(), np.nan)
    inside = np.zeros(data.index.size, dtype=bool)
    inside[split.parts["test"]] = True
    truth, test = data.index[window], inside.reshape(data.index.shape)[window] & np.isfinite(p)
    called = logits.numpy() > float(model.threshold)
    errors = np.full((*truth.shape, 3), 0.93)
    for mask, colour in (
        (test & ~called & (truth == 0), (0.75, 0.75, 0.75)), (test & called & (truth == 1), (0.1, 0.5, 0.2)),
        (test & called & (truth == 0), (0.9, 0.5, 0.1)), (test & ~called & (truth == 1), (0.6, 0.1, 0.5)),
    ):  # fmt: skip
        errors[mask] = colour
    nm = np.array(data.scene.bands.wavelength_nm)[:half]
    figure = Figure(figsize=(17, 3.8), layout="constrained")
    shown = {
        "before": _image(values[:half], seen[:half], nm),
        "after": _image(values[half:], seen[half:], nm),
        "mask (dark: changed)": np.where(truth < 0, np.nan, truth),
        "probability of change": p,
        "test: green found, orange false, purple missed": errors,
    }
    for ax, (title, image) in zip(figure.subplots(1, 5), shown.items(), strict=True):
        ax.imshow(image, cmap="Greys" if "mask" in title else "magma", interpolation="nearest")
        ax.set_title(title, fontsize=8)
        ax.tick_params(labelsize=6)
    return figure


def curves(scored: Mapping[str, Evidence]) -> Figure:
    """Precision against recall, and the point of the threshold that validation chose."""
    figure, ax = panel()
    for name, evidence in scored.items():
        false, true = ranked(evidence)
        found = scores(evidence)
        label = f"{name} ({found['average_precision']:.3f})"
        line = ax.step(true / max(true[-1], 1e-12), true / np.maximum(true + false, 1e-12), where="post", label=label)
        ax.plot(found["recall"], found["precision"], "o", color=line[0].get_color(), ms=4)
    ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    ax.legend(fontsize=7, frameon=False)
    return figure
