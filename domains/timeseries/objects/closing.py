"""What is set in closed form: the ridge's weights, the share of the backbone's scores, the temperature."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from domains.calibration import fitted_temperature

from ..clear import ERRORS, standard_error
from .closed import Ridge, fit_ridge
from .items import ObjectItems
from .model import SeriesClassifier

AT_ONCE = 200_000  # steps or observations scored at once
SHARES = (0.0, 0.25, 0.5, 1.0)


def over_items(model: SeriesClassifier, items: ObjectItems, what: Callable[..., Tensor]) -> Float[Tensor, "n K"]:
    """``what(batch)`` for all items, in their order; evaluation mode, no gradients, on the CPU."""
    was = model.training
    model.eval()
    device, rows, found = model.gate.device, list(items.by_length(AT_ONCE)), []
    with torch.no_grad():
        for indices in rows:
            found.append(what({k: v.to(device) for k, v in items.batch(indices).items()}).cpu())
    model.train(was)
    z = torch.cat(found)
    return torch.empty_like(z).index_copy(0, torch.tensor([i for r in rows for i in r]), z)


def fit_thresholds(model: SeriesClassifier, items: ObjectItems) -> None:
    """Thresholds of the fixed convolutions, from training series."""
    if model.convolutions is None:
        return
    batch = items.batch(range(len(items)))
    device = model.gate.device
    model.convolutions.fit(batch["x"].to(device), batch["length"].to(device))


def fit_skip(model: SeriesClassifier, items: ObjectItems, truth: Int64[np.ndarray, "n"]) -> Ridge:
    """The ridge on these objects, put into the model."""
    x = over_items(model, items, model.fixed_features).double().numpy()
    ridge = fit_ridge(x, truth, len(model.skip_bias))
    with torch.no_grad():
        model.skip_weight.copy_(torch.from_numpy(ridge.weight))
        model.skip_bias.copy_(torch.from_numpy(ridge.bias))
    return ridge


def smallest_share(losses: Float[np.ndarray, "n S"]) -> float:
    """The smallest of SHARES whose loss is not clearly worse than the best's, from the objects' losses."""
    excess = losses - losses[:, [int(losses.sum(0).argmin())]]
    for share, difference in zip(SHARES, excess.T, strict=True):
        if difference.sum() <= ERRORS * standard_error(difference):
            return share
    return SHARES[-1]


def calibrate(
    model: SeriesClassifier, train: ObjectItems, val: ObjectItems, both: ObjectItems, truth: Int64[np.ndarray, "n"]
) -> None:
    """Share and temperature from the validation part; then the ridge once more on training and validation together.

    Both are judged with a ridge that saw the training part only; the last ridge keeps them, except that alone it takes
    its temperature from the held-out scores of its own objects, which are more. ``truth``: classes of ``both``.
    """
    assert train.targets is not None
    assert val.targets is not None
    want = torch.from_numpy(val.targets)
    correction = over_items(model, val, model.correction)
    with torch.no_grad():
        if model.options.skip == "none":
            model.gate.fill_(1.0)
            model.temperature.fill_(fitted_temperature(correction, want))
            return
        held = fit_skip(model, train, train.targets)
        skip = over_items(model, val, model.skip)
        own = fitted_temperature(torch.from_numpy(held.held_out), torch.from_numpy(train.targets))
        ratio = own / fitted_temperature(correction, want)
        mixes = [skip + share * ratio * correction for share in SHARES]
        losses = [torch.nn.functional.cross_entropy(m / own, want, reduction="none").double().numpy() for m in mixes]
        share = smallest_share(np.stack(losses, 1))
        model.gate.fill_(share * ratio)
        model.temperature.fill_(fitted_temperature(mixes[SHARES.index(share)], want))
        ridge = fit_skip(model, both, truth)
        if share == 0:
            model.temperature.fill_(fitted_temperature(torch.from_numpy(ridge.held_out), torch.from_numpy(truth)))
