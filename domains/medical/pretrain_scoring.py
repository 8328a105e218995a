"""How well hidden pixels are restored, what a sceptic would put there, and what features are good for.

Shapes: n cases, C channels, S side of the canvas, D features, L labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from torch import Tensor

from ..task import Evidence, MetricFact, Split
from .canvas import as_tensor
from .cases import Cases
from .classify_model import ImageFront
from .classify_scoring import PREFIX, label_evidence, label_scores
from .pretrain_masks import fixed
from .pretrain_model import Restored, prepared, seen_scale

FACTS: Mapping[str, MetricFact] = {
    "mse": MetricFact("1", "lower", "mean squared error over hidden pixels, in deviations of what is seen of an image"),
    "psnr": MetricFact("dB", "higher", "of hidden pixels, the full scale as peak"),
    "explained": MetricFact("1", "higher", "share of the variance of hidden pixels, within each image"),
    "probe_auroc": MetricFact("1", "higher", "of a linear probe on the features, where there are labels"),
    "probe_accuracy": MetricFact("1", "higher", "of the same"),
}  # fmt: skip
AT_ONCE = 64  # images
Make = Callable[[Tensor, Tensor], Restored]  # images and hidden squares -> restored


def masked(data: Cases, rows: Int[np.ndarray, "n"], places: int, share: float, make: Make) -> list[Restored]:
    """The cases in order, with the squares hidden that always are."""
    found = []
    with torch.no_grad():
        for at in np.split(rows, range(AT_ONCE, len(rows), AT_ONCE)):
            found.append(make(as_tensor(data.canvases[at]), fixed(at.tolist(), places, share)))
    return found


def sums(restored: Restored) -> dict[str, Float[np.ndarray, "n"]]:
    """Additive statistics of each image."""
    n, error = restored.count(), restored.squares()
    hidden = restored.truth * restored.unseen
    total = hidden.square().sum((1, 2, 3)) - hidden.sum((1, 2, 3)).square() / n
    scale = restored.scale.square().expand(*restored.truth.shape[:2], 1, 1)
    full = (((restored.made - restored.truth) * restored.unseen).square() * scale).sum((1, 2, 3))
    named = {"n": n, "error": error, "total": total, "full": full}
    return {name: value.double().cpu().numpy() for name, value in named.items()}


def evidence_of(data: Cases, rows: Int[np.ndarray, "n"], found: list[Restored]) -> Evidence:
    """One row per case; the unit is its patient or set of copies."""
    parts = [sums(one) for one in found]
    columns = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    none = np.zeros((len(rows), 0))
    return Evidence(label_evidence(data.group[rows], rows, (), False, none, none).unit, columns)


def with_probe(evidence: Evidence, data: Cases, rows: Any, logits: Float[Tensor, "n L"]) -> Evidence:
    """The same rows, with what the probe says of each label."""
    z = logits.double()
    p = (z.softmax(1) if data.exclusive else z.sigmoid()).cpu().numpy()
    target = data.target[rows].astype(np.float64)
    said = label_evidence(data.group[rows], rows, data.labels, data.exclusive, target, p)
    return Evidence(evidence.unit, {**evidence.columns, **said.columns})


def scores(evidence: Evidence) -> dict[str, float]:
    """Metrics; those of the probe are NaN without one."""
    n, error, total, full = (float(evidence.sum(name)) for name in ("n", "error", "total", "full"))
    with np.errstate(divide="ignore", invalid="ignore"):
        psnr, explained = -10 * np.log10(full / n), 1 - np.divide(error, total)
    found = {"mse": error / n, "psnr": float(psnr), "explained": float(explained)}
    if not any(name.startswith(PREFIX) for name in evidence.columns):
        return {**found, "probe_auroc": np.nan, "probe_accuracy": np.nan}
    said = label_scores(evidence, 0.9)
    return {**found, "probe_auroc": said["auroc"], "probe_accuracy": said["accuracy"]}


def interpolated(truth: Float[np.ndarray, "C S S"], unseen: Any) -> Float[np.ndarray, "C S S"]:
    """Hidden pixels by linear interpolation among the seen ones around, beyond them the nearest."""
    seen, at = np.argwhere(~unseen), np.argwhere(unseen)
    values = truth[:, ~unseen].T
    made = NearestNDInterpolator(seen, values)(at)
    if len(seen) > 3 and np.ptp(seen, axis=0).min() > 0:
        line = LinearNDInterpolator(seen, values)(at)
        made = np.where(np.isnan(line), made, line)
    out = truth.copy()
    out[:, unseen] = made.T
    return out


def baselines(front: ImageFront, data: Cases, split: Split, places: int, share: float) -> dict[str, Evidence]:
    """Interpolation, the mean training image, and the mean of what is seen, in the units of the model."""
    rows, train = split.parts["test"], split.parts["train"]
    mean = torch.zeros(data.canvases.shape[1:], dtype=torch.float64)
    for at in np.split(train, range(AT_ONCE, len(train), AT_ONCE)):
        mean += as_tensor(data.canvases[at]).double().sum(0)
    mean /= len(train)

    def with_made(made: Callable[[Restored], Tensor]) -> Evidence:
        def make(image: Tensor, hidden: Tensor) -> Restored:
            plain = prepared(front, image, hidden)
            return replace(plain, made=made(plain))

        return evidence_of(data, rows, masked(data, rows, places, share, make))

    def lines(plain: Restored) -> Tensor:
        each = [interpolated(t.numpy(), u[0].numpy()) for t, u in zip(plain.truth, plain.unseen, strict=True)]
        return torch.from_numpy(np.stack(each)).to(plain.truth.dtype)

    def average(plain: Restored) -> Tensor:
        """Brought to the brightness and contrast of what is seen of each image."""
        x = mean.to(plain.truth.dtype).expand_as(plain.truth)
        if not front.own:
            return (x - plain.mean) / plain.scale
        own, deviation = seen_scale(x, plain.unseen)
        return (x - own) / deviation

    return {
        "interpolation": with_made(lines),
        "training_mean": with_made(average),
        "visible_mean": with_made(lambda plain: torch.zeros_like(plain.truth)),
    }
