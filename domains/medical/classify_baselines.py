"""What a sceptic would try first: pooled features with logistic regression, and a ResNet-18 trained from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..task import Evidence, Fitted, Split
from .canvas import as_tensor
from .cases import Cases
from .classify_calibration import fitted_temperatures
from .classify_config import ClassifyOptions
from .classify_items import ImageItems
from .classify_model import ImageFront
from .classify_scoring import label_evidence, operating_points
from .resnet import ResNet18

GRID = 8  # places per side, of which each has a mean and a deviation
TONES = 16  # bins of the histogram
PENALTIES = (0.001, 0.01, 0.1, 1.0)
AT_ONCE = 256  # images


def pooled_features(data: Cases, rows: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n F"]:
    """Per image: mean and deviation over coarse places, of brightness and of its gradient; histogram of brightness."""
    found = []
    for at in np.split(rows, range(AT_ONCE, len(rows), AT_ONCE)):
        x = as_tensor(data.canvases[at])
        steps = (x.diff(dim=2)[..., :-1] ** 2 + x.diff(dim=3)[:, :, :-1] ** 2).sqrt()
        parts = []
        for y in (x, steps):
            mean = F.adaptive_avg_pool2d(y, GRID)
            square = F.adaptive_avg_pool2d(y * y, GRID)
            parts += [mean.flatten(1), (square - mean * mean).clamp_min(0).sqrt().flatten(1)]
        tone = (x * (TONES - 1e-3)).long().clamp_max(TONES - 1).flatten(1)
        parts.append(F.one_hot(tone, TONES).float().mean(1))
        found.append(torch.cat(parts, 1))
    return torch.cat(found).double().numpy()


def _line(x: Mapping[str, Any], y: Mapping[str, Any], classes: int) -> dict[str, Float[np.ndarray, "n K"]]:
    """Log-probabilities of classes on validation and test; the penalty is chosen on validation."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    best: tuple[float, dict[str, Any]] = (np.inf, {})
    for c in PENALTIES:
        fit = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000)).fit(x["train"], y["train"])
        out = {}
        for part in ("val", "test"):
            full = np.full((len(x[part]), classes), np.log(1e-9))
            full[:, fit.classes_.astype(int)] = np.log(np.clip(fit.predict_proba(x[part]), 1e-30, None))
            out[part] = full
        cost = -out["val"][np.arange(len(y["val"])), y["val"]].mean()
        if cost < best[0]:
            best = (cost, out)
    return best[1]


def _logistic(data: Cases, split: Split) -> dict[str, Float[np.ndarray, "n L"]]:
    """Logits on validation and test; labels that may be true together have a line each, over the cases that know it."""
    x = {part: pooled_features(data, split.parts[part]) for part in ("train", "val", "test")}
    target = {part: data.target[split.parts[part]] for part in x}
    if data.exclusive:
        return _line(x, {part: t.argmax(1) for part, t in target.items()}, len(data.labels))
    found = {part: np.zeros((len(x[part]), len(data.labels))) for part in ("val", "test")}
    for i in range(len(data.labels)):
        known = {part: ~np.isnan(t[:, i]) for part, t in target.items()}
        if len(np.unique(target["train"][known["train"], i])) < 2 or not known["val"].any():
            continue
        y = {part: t[known[part], i].astype(int) for part, t in target.items()}
        seen = {"train": x["train"][known["train"]], "val": x["val"][known["val"]], "test": x["test"]}
        out = _line(seen, y, 2)
        found["test"][:, i] = out["test"][:, 1] - out["test"][:, 0]
        found["val"][known["val"], i] = out["val"][:, 1] - out["val"][:, 0]
    return found


def trained_resnet(
    data: Cases, split: Split, fitted: Fitted, options: ClassifyOptions
) -> dict[str, Float[np.ndarray, "n L"]]:
    """Logits of a ResNet-18 on validation and test, trained as the model is: same canvases, same augmentation, AdamW
    with a cosine; the epoch with the least validation loss is kept.
    """
    from .classify import label_loss

    net = nn.Sequential(
        ImageFront(fitted, options.intensity == "image"),
        ResNet18(int(fitted["channels"]), len(data.labels), options.cnn_width),
    )
    train = ImageItems(data, split.parts["train"], options.augment)
    truth = torch.from_numpy(data.target[split.parts["val"]])
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    steps = options.cnn_epochs * -(-len(train) // 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.1)
    best, kept = float("inf"), net.state_dict()
    for _ in range(options.cnn_epochs):
        net.train()
        for rows in torch.randperm(len(train)).split(32):
            batch = train.batch(rows.tolist())
            optimizer.zero_grad()
            label_loss(net(batch["image"]), batch["target"], data.exclusive, None)[0].backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        loss = float(label_loss(_outputs(net, data, split.parts["val"]), truth, data.exclusive, None)[0])
        if loss < best:
            best, kept = loss, {k: v.clone() for k, v in net.state_dict().items()}
    net.load_state_dict(kept)
    return {part: _outputs(net, data, split.parts[part]).double().numpy() for part in ("val", "test")}


@torch.no_grad()
def _outputs(net: nn.Module, data: Cases, rows: Any) -> Float[Tensor, "n L"]:
    net.eval()
    return torch.cat([net(as_tensor(data.canvases[at])) for at in np.split(rows, range(AT_ONCE, len(rows), AT_ONCE))])


def _scored(
    data: Cases, split: Split, options: ClassifyOptions, logits: Mapping[str, Float[np.ndarray, "n L"]]
) -> Evidence:
    """With a temperature and thresholds of their own, as the model has."""
    z = {part: torch.from_numpy(np.ascontiguousarray(v)).double() for part, v in logits.items()}
    rows, val = split.parts["test"], data.target[split.parts["val"]]
    t = fitted_temperatures(z["val"], torch.from_numpy(val), data.exclusive).double()

    def shares(values: Tensor) -> Any:
        return (values.softmax(1) if data.exclusive else values.sigmoid()).numpy()

    points = operating_points(shares(z["val"] / t), val.astype(np.float64), options.specificity)
    target = data.target[rows].astype(np.float64)
    return label_evidence(
        data.group[rows], rows, data.labels, data.exclusive, target, shares(z["test"] / t), shares(z["test"]), points
    )


def all_baselines(data: Cases, split: Split, fitted: Fitted, options: ClassifyOptions) -> Mapping[str, Evidence]:
    """The test part, by each method."""
    found = {"logistic_pooled": _scored(data, split, options, _logistic(data, split))}
    if options.cnn_epochs:
        with torch.enable_grad():
            found["resnet18"] = _scored(data, split, options, trained_resnet(data, split, fitted, options))
    target = data.target[split.parts["train"]]
    share = (np.nansum(target, 0) + 0.5) / ((~np.isnan(target)).sum(0) + 1)
    odds = np.log(share) if data.exclusive else np.log(share / (1 - share))
    constant = {part: np.tile(odds, (len(split.parts[part]), 1)) for part in ("val", "test")}
    found["most_frequent"] = _scored(data, split, options, constant)
    return found
