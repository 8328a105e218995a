"""A line on the statistics of clips, in closed form, that stands beside the backbone of a classifier.

Logistic regression hears little, and what it makes of unknown speakers differs from what a network does. It learns from
every training clip and from copies varied as training varies them. Its penalty and its temperature come from speakers
(sources) that were held out of the training part, one fold after another, so that it is as sure as it may be of people
whom nobody has heard.

Shapes: n clips, S statistics, K classes, B clips of a batch, T samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn

from ..calibration import fitted_temperature, smoothed_loss
from .clips import Clips
from .config import AugmentOptions
from .items import ClipItems
from .statistics import ClipStatistics, statistics_of

COPIES = 3  # of every training clip, varied
MOST = 20_000  # clips and copies; of larger corpora every so many clips are taken
FOLDS = 5  # at most
PENALTIES = (0.02, 0.2, 2.0)  # of the squared weights of standardised statistics, beside a mean over clips
SHARES = (0.0, 0.25, 0.5, 1.0)  # of the backbone


@dataclass(frozen=True)
class Line:
    """statistics @ weight + bias = log-odds."""

    weight: Float[np.ndarray, "S K"]
    bias: Float[np.ndarray, "K"]

    def __call__(self, x: Float[np.ndarray, "n S"]) -> Float[np.ndarray, "n K"]:
        return np.asarray(x @ self.weight + self.bias)

    def over(self, temperature: float) -> Line:
        return Line(self.weight / temperature, self.bias / temperature)


def regressed(x: Float[np.ndarray, "n S"], y: Int[np.ndarray, "n"], classes: int, penalty: float) -> Line:
    """Logistic regression on standardised statistics. A class without a clip stands below all others."""
    from sklearn.linear_model import LogisticRegression

    mean, std = x.mean(0), x.std(0)
    std = np.where(std > 1e-9, std, 1.0)
    fit = LogisticRegression(C=1 / (penalty * len(x)), max_iter=2000).fit((x - mean) / std, y)
    w, b = fit.coef_.T, fit.intercept_
    if len(fit.classes_) == 2:  # one line between two classes
        w, b = np.hstack([np.zeros_like(w), w]), np.array([0.0, b[0]])
    weight, bias = np.zeros((x.shape[1], classes)), np.full(classes, b.min() - 10.0)
    weight[:, fit.classes_] = w / std[:, None]
    bias[fit.classes_] = b - (mean / std) @ w
    return Line(weight, bias)


def folds(groups: Sequence[str]) -> Iterator[Bool[np.ndarray, "n"]]:
    """Which clips are held out, fold after fold: whole groups where all are known, else every so many clips."""
    names = sorted(set(groups))
    known = len(names) > 1 and "" not in names
    place = {name: i for i, name in enumerate(names)}
    at = np.array([place[g] for g in groups]) if known else np.arange(len(groups))
    count = min(FOLDS, int(at.max(initial=0)) + 1)
    for fold in range(count):
        yield at % count == fold


def fit_line(
    x: Sequence[Float[np.ndarray, "n S"]], y: Int64[np.ndarray, "n"], groups: Sequence[str], classes: int
) -> Line:
    """Log-odds for clips of groups that were never heard. x: clips as they are, then varied copies of them."""
    held: dict[float, list[tuple[np.ndarray, np.ndarray]]] = {p: [] for p in PENALTIES}
    for out in folds(groups):
        if len(np.unique(y[~out])) < 2 or not out.any():
            continue
        stacked, truth = np.concatenate([part[~out] for part in x]), np.tile(y[~out], len(x))
        for penalty in PENALTIES:
            held[penalty].append((regressed(stacked, truth, classes, penalty)(x[0][out]), y[out]))
    best, temperature, least = PENALTIES[-1], 1.0, np.inf
    for penalty, found in held.items():
        if found:
            z, want = (torch.from_numpy(np.concatenate(part)) for part in zip(*found, strict=True))
            t = fitted_temperature(z, want)
            loss = smoothed_loss(z, want, t)
            if loss < least:
                best, temperature, least = penalty, t, loss
    return regressed(np.concatenate(x), np.tile(y, len(x)), classes, best).over(temperature)


class ClosedForm(nn.Module):
    """Waveform -> log-odds by the line. Before it is fitted it says nothing.

    gate: what the backbone's scores are multiplied by before they are added.
    """

    weight: Tensor
    bias: Tensor
    gate: Tensor

    def __init__(self, rate: int, classes: int) -> None:
        super().__init__()
        self.statistics = ClipStatistics(rate)
        self.register_buffer("weight", torch.zeros(self.statistics.numbers, classes))
        self.register_buffer("bias", torch.zeros(classes))
        self.register_buffer("gate", torch.ones(()))

    def forward(self, wave: Float[Tensor, "B T"], length: Int[Tensor, "B"]) -> Float[Tensor, "B K"]:
        return self.statistics(wave, length) @ self.weight + self.bias

    def fit(self, data: Clips, rows: Int[np.ndarray, "n"], varied: AugmentOptions) -> None:
        """The line on the clips of the training part."""
        rows = rows[:: -(-len(rows) * (1 + COPIES) // MOST)]
        x = [statistics_of(self.statistics, ClipItems(data, rows))]
        x += [statistics_of(self.statistics, ClipItems(data, rows, varied), seed) for seed in range(COPIES)]
        line = fit_line(x, data.labels[rows], [data.groups[i] for i in rows], len(self.bias))
        self.weight.copy_(torch.from_numpy(line.weight))
        self.bias.copy_(torch.from_numpy(line.bias))


def joined(
    line: Float[Tensor, "n K"], backbone: Float[Tensor, "n K"], truth: Int64[Tensor, "n"]
) -> tuple[float, float]:
    """(gate, temperature) of validation clips: the share of the calibrated backbone that leaves the least loss.

    Validation may make the sum less sure than the line is of groups that it never heard, and not surer.
    """
    own = fitted_temperature(backbone, truth)
    share = min(SHARES, key=lambda s: smoothed_loss(line + s / own * backbone, truth, 1.0))
    return share / own, max(1.0, fitted_temperature(line + share / own * backbone, truth))
