"""The closed form of the linear path: discriminant analysis of averaged spectra, its choices made on validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..calibration import fitted_temperature, smoothed_loss
from .model import SceneClassifier, box_mean
from .samples import Tiles

SHRINKAGES = (1e-4, 1e-3, 1e-2, 0.1, 0.3)
RADII = (0, 1, 2, 3)


@dataclass(frozen=True)
class Discriminant:
    """Scores x @ weight.T + bias. "The Use of Multiple Measurements in Taxonomic Problems" (Fisher 1936)."""

    weight: Float[np.ndarray, "K M"]
    bias: Float[np.ndarray, "K"]


def discriminants(
    x: Float[np.ndarray, "n M"], label: Int64[np.ndarray, "n"], classes: int, shrinkages: tuple[float, ...] = SHRINKAGES
) -> list[Discriminant]:
    """Linear discriminants with the pooled covariance drawn towards a multiple of the identity, one per shrinkage.

    Features are scaled to deviation 1 first; those that never vary get weight 0.
    """
    scale = x.std(0)
    live = scale > 1e-6 * max(float(scale.max()), 1e-12)
    z = x[:, live] / scale[live]
    counts = np.bincount(label, minlength=classes)
    sums = np.zeros((classes, z.shape[1]))
    np.add.at(sums, label, z)
    means = sums / np.maximum(counts, 1)[:, None]
    inner = z - means[label]
    values, vectors = np.linalg.eigh(inner.T @ inner / len(z))
    prior = np.where(counts > 0, np.log(np.maximum(counts, 1) / len(label)), -30.0)
    found = []
    for s in shrinkages:
        inverse = (vectors / ((1 - s) * np.maximum(values, 0) + s * max(values.mean(), 1e-12))) @ vectors.T
        weight = means @ inverse
        full = np.zeros((classes, x.shape[1]))
        full[:, live] = weight / scale[live]
        found.append(Discriminant(full, prior - 0.5 * (weight * means).sum(1)))
    return found


@torch.no_grad()
def averaged(model: SceneClassifier, tiles: Tiles, radii: tuple[int, ...]) -> tuple[dict[int, Any], Any]:
    """Radius -> averaged linear features (n, M) at a part's pixels, and their class positions (n,)."""
    found: dict[int, list[Any]] = {r: [] for r in radii}
    labels = []
    for batch, _ in tiles.one_by_one():
        wanted = batch["target"][0] >= 0
        features, valid = model.linear_features(batch["cube"], batch["seen"]), batch["seen"].any(1)
        labels.append(batch["target"][0][wanted].numpy())
        for r in radii:
            mean: Tensor = box_mean(features, valid, r)[0].movedim(0, -1)
            found[r].append(mean[wanted].double().numpy())
    return {r: np.concatenate(pieces) for r, pieces in found.items()}, np.concatenate(labels)


@torch.no_grad()
def start_linear(model: SceneClassifier, train: Tiles, val: Tiles, limit: int) -> None:
    """Set the linear path to the discriminant whose shrinkage and averaging radius (<= limit) suit validation best."""
    assert model.skip is not None
    radii = tuple(r for r in RADII if r <= limit)
    features, label = averaged(model, train, radii)
    held, wanted = averaged(model, val, radii)
    truth, classes = torch.from_numpy(wanted), len(model.class_weight)
    best: tuple[float, int, Discriminant, float] | None = None
    for r in radii:
        for found in discriminants(features[r], label, classes):
            logits = torch.from_numpy(held[r] @ found.weight.T + found.bias)
            temperature = fitted_temperature(logits, truth)
            loss = smoothed_loss(logits, truth, temperature)
            if best is None or loss < best[0]:
                best = loss, r, found, temperature
    assert best is not None
    _, radius, chosen, temperature = best
    model.skip.radius.fill_(radius)
    model.skip.weight.copy_(torch.from_numpy(chosen.weight / temperature))
    model.skip.bias.copy_(torch.from_numpy(chosen.bias / temperature))
