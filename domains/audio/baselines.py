"""What a sceptic would try first: statistics of MFCC with a line or a kernel, and a small convolutional network."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..scoring import class_evidence
from ..task import Evidence, Fitted, Split
from .clips import Clips
from .config import AudioOptions
from .frontend import FrontEnd
from .items import ClipItems
from .statistics import ClipStatistics, statistics_of

AT_ONCE = 400_000  # samples


def clip_statistics(data: Clips, rows: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n S"]:
    """Per clip what :class:`ClipStatistics` says of it."""
    return statistics_of(ClipStatistics(data.rate), ClipItems(data, rows))


def _classical(data: Clips, split: Split, classes: int) -> dict[str, Float[np.ndarray, "n K"]]:
    """Probabilities of the test part. Penalties are chosen on the validation part."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    x = {part: clip_statistics(data, split.parts[part]) for part in ("train", "val", "test")}
    y = {part: data.labels[split.parts[part]] for part in x}
    made = {
        "mfcc_logistic": lambda c: LogisticRegression(C=c, max_iter=2000),
        "mfcc_svm": lambda c: SVC(C=100 * c),
    }
    found = {}
    for name, make in made.items():
        fits = [make_pipeline(StandardScaler(), make(c)).fit(x["train"], y["train"]) for c in (0.01, 0.1, 1.0)]
        best = max(fits, key=lambda fit: fit.score(x["val"], y["val"]))
        found[name] = _shares(best, x["test"], classes)
    return found


def _shares(fit: Any, x: Float[np.ndarray, "n S"], classes: int) -> Float[np.ndarray, "n K"]:
    """Probabilities of all classes: a softmax of the margins where the method gives none."""
    known = fit.classes_
    if hasattr(fit, "predict_proba"):
        p = fit.predict_proba(x)
    else:
        z = fit.decision_function(x)
        z = np.stack([-z, z], 1) if z.ndim == 1 else z
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
    full = np.full((len(x), classes), 1e-12)
    full[:, known] = p
    return full / full.sum(1, keepdims=True)


class SmallCNN(nn.Module):
    """Three convolutions with pooling over the normalised spectrogram, the mean of the real places, a line."""

    mean: Tensor
    std: Tensor

    def __init__(self, fitted: Fitted, options: AudioOptions) -> None:
        super().__init__()
        self.front_end = FrontEnd(int(fitted["rate"]), options.front_end)
        self.register_buffer("mean", torch.tensor(fitted["mean"]))
        self.register_buffer("std", torch.tensor(fitted["std"]))
        widths = (1, 16, 32, 64)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))
        self.head = nn.Linear(64 * (-(-self.front_end.features // 8)), len(fitted["classes"]))

    def forward(self, wave: Float[Tensor, "B T"], length: Int[Tensor, "B"]) -> Float[Tensor, "B K"]:
        x, mask = self.front_end(wave, length)
        x = ((x - self.mean) / self.std).masked_fill(~mask[..., None], 0.0)[:, None]
        seen = mask[:, None, :, None].to(x.dtype)
        for conv in self.convs:
            x = F.max_pool2d(F.relu(conv(x)) * seen, 2, ceil_mode=True)
            seen = F.max_pool2d(seen, (2, 1), ceil_mode=True)
        pooled = (x * seen).sum(2) / seen.sum(2)
        return self.head(pooled.flatten(1))


def _cnn(data: Clips, split: Split, fitted: Fitted, options: Any) -> Float[np.ndarray, "n K"]:
    """The small network without augmentation; the epoch with the least validation loss is kept."""
    model = SmallCNN(fitted, options)
    train, val, test = (ClipItems(data, split.parts[p]) for p in ("train", "val", "test"))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=1e-4)
    best, kept = float("inf"), model.state_dict()
    with torch.enable_grad():
        for _ in range(options.cnn_epochs):
            for rows in torch.randperm(len(train)).split(32):
                batch = train.batch(rows.tolist())
                optimizer.zero_grad()
                F.cross_entropy(model(batch["wave"], batch["length"]), batch["target"]).backward()
                optimizer.step()
            z = _outputs(model, val)
            loss = float(F.cross_entropy(z, torch.from_numpy(data.labels[val.rows])))
            if loss < best:
                best, kept = loss, {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(kept)
    return _outputs(model, test).double().softmax(1).numpy()


@torch.no_grad()
def _outputs(model: nn.Module, items: ClipItems) -> Float[Tensor, "n K"]:
    rows = list(items.by_length(AT_ONCE))
    z = torch.cat([model(b["wave"], b["length"]) for b in map(items.batch, rows)])
    return torch.empty_like(z).index_copy(0, torch.tensor([i for r in rows for i in r]), z)


def all_baselines(data: Clips, split: Split, fitted: Fitted, options: Any) -> Mapping[str, Evidence]:
    """The test part, by each method."""
    test = split.parts["test"]
    shares = _classical(data, split, len(fitted["classes"]))
    if options.cnn_epochs:
        shares["small_cnn"] = _cnn(data, split, fitted, options)
    counts = np.bincount(data.labels[split.parts["train"]], minlength=len(fitted["classes"])) + 1e-6
    shares["most_frequent"] = np.tile(counts / counts.sum(), (len(test), 1))
    return {name: class_evidence(test, data.labels[test], p) for name, p in shares.items()}
