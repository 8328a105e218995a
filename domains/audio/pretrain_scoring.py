"""How well hidden frames are told, what a sceptic would put there, and what features are good for.

Shapes: R clips of a part, n frames of one, F features of a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..scoring import class_evidence
from ..task import Batch, Evidence, Fitted, MetricFact, Split
from .clips import Clips
from .frontend import FrontEnd
from .items import ClipItems
from .pretrain_config import PretrainOptions
from .pretrain_masks import Hiding, MaskedItems
from .pretrain_model import RandomCodes, Restored, seen_frames

FACTS: Mapping[str, MetricFact] = {
    "loss": MetricFact("1", "lower", "of a hidden frame: mean squared error in deviations of training (target=frames), "
                       "or nats of the right code (target=codes)"),
    "explained": MetricFact("1", "higher", "target=frames: share of the variance of hidden frames within each clip"),
    "code_accuracy": MetricFact("1", "higher", "target=codes: share of hidden frames whose code is told right"),
    "probe_accuracy": MetricFact("1", "higher", "of a linear probe on the features, where there are classes"),
}  # fmt: skip
AT_ONCE = 400_000  # samples
SURE = 0.99  # the most that a baseline without probabilities of its own may be held to believe
Tell = Callable[[Batch], Restored]


def hiding_of(rate: int, options: PretrainOptions) -> Hiding:
    """Spans in frames."""
    hop = FrontEnd(rate, options.front_end).hop
    return Hiding(hop, max(1, round(options.span_ms / 1000 * rate / hop)), options.hide)


def sums(restored: Restored) -> dict[str, Float[np.ndarray, "R"]]:
    """Additive statistics of each clip."""
    unseen, n = restored.unseen[..., None], restored.count()
    mean = (restored.truth * unseen).sum(1, keepdim=True) / n.clamp_min(1)[:, None, None]
    spread = ((restored.truth - mean).square() * unseen).mean(-1).sum(1)
    found = {"n": n, "cost": restored.cost(), "spread": spread}
    if restored.codes is not None:
        found["right"] = ((restored.told.argmax(-1) == restored.codes) & restored.unseen).sum(1)
    return {name: value.double().cpu().numpy() for name, value in found.items()}


def told(items: MaskedItems, tell: Tell) -> dict[str, Float[np.ndarray, "R"]]:
    """Statistics of every clip of a part, in order."""
    batches = list(items.by_length(AT_ONCE))
    with torch.no_grad():
        parts = [sums(tell(items.batch(rows))) for rows in batches]
    order = np.argsort(np.concatenate([np.asarray(rows) for rows in batches]))
    return {name: np.concatenate([p[name] for p in parts])[order] for name in parts[0]}


def evidence_of(items: MaskedItems, tell: Tell) -> Evidence:
    """One row per clip."""
    rows = np.asarray(items.clips.rows)
    columns = told(items, tell)
    return Evidence(_units(rows), {**columns, "case": rows.astype(np.float64)})


def _units(rows: Int[np.ndarray, "R"]) -> Int[np.ndarray, "R"]:
    nothing = np.zeros(len(rows), np.int64)
    return class_evidence(rows, nothing, np.ones((len(rows), 1))).unit


def with_probe(evidence: Evidence, truth: Int[np.ndarray, "R"], guess: Int[np.ndarray, "R"]) -> Evidence:
    """The same rows, with whether the probe knows their class."""
    return Evidence(evidence.unit, {**evidence.columns, "known": (truth == guess).astype(np.float64)})


def scores(evidence: Evidence) -> dict[str, float]:
    """Metrics named as in FACTS; NaN where one is undefined."""
    total = {name: float(evidence.sum(name)) for name in evidence.columns}
    none, n = float("nan"), total["n"]
    coded = "right" in total
    clips = len(evidence.unit) if evidence.weight is None else float(evidence.weight.sum())
    return {
        "loss": total["cost"] / n if n else none,
        "explained": none if coded or not total["spread"] else 1 - total["cost"] / total["spread"],
        "code_accuracy": total["right"] / n if coded and n else none,
        "probe_accuracy": total["known"] / clips if "known" in total else none,
    }


def interpolated(x: Float[np.ndarray, "n F"], hidden: Bool[np.ndarray, "n"]) -> Float[np.ndarray, "n F"]:
    """Hidden frames on the line between the seen ones around, beyond them the nearest."""
    at, seen = np.arange(len(x)), np.flatnonzero(~hidden)
    after = np.searchsorted(seen, at).clip(0, len(seen) - 1)
    before = (np.searchsorted(seen, at, side="right") - 1).clip(0, len(seen) - 1)
    left, right = seen[before], seen[after]
    share = np.where(right > left, (at - left) / np.maximum(right - left, 1), 0.0)[:, None]
    return ((1 - share) * x[left] + share * x[right]).astype(x.dtype)


class Fillers:
    """Frames made without learning, in the units of the model: by linear interpolation in time, or a mean frame."""

    def __init__(self, data: Clips, split: Split, fitted: Fitted, options: PretrainOptions) -> None:
        self.front = FrontEnd(data.rate, options.front_end)
        self.mean, self.std = torch.tensor(fitted["mean"]), torch.tensor(fitted["std"])
        self.codes = RandomCodes(self.front.features, options) if options.target == "codes" else None
        hiding = hiding_of(data.rate, options)
        self.items = {p: MaskedItems(ClipItems(data, split.parts[p]), hiding) for p in ("train", "test")}

    def plain(self, batch: Batch) -> Restored:
        """The frames, and zeros, the mean of training, told of all of them."""
        x, mask = seen_frames(self.front, batch["wave"], batch["length"], batch["hidden"])
        truth = ((x - self.mean) / self.std).masked_fill(~mask[..., None], 0.0)
        return Restored(torch.zeros_like(truth), truth, batch["hidden"] & mask)

    def lines(self, plain: Restored, lengths: list[int]) -> Tensor:
        """Interpolated frames."""
        out = torch.zeros_like(plain.truth)
        for row, truth, unseen, n in zip(out, plain.truth, plain.unseen, lengths, strict=True):
            row[:n] = torch.from_numpy(interpolated(truth[:n].numpy(), unseen[:n].numpy()))
        return out

    def seen_mean(self, plain: Restored, lengths: list[int]) -> Tensor:
        """The mean of what is seen of each clip."""
        seen = (torch.arange(plain.truth.shape[1]) < torch.tensor(lengths)[:, None]) & ~plain.unseen
        mean = (plain.truth * seen[..., None]).sum(1, keepdim=True) / seen.sum(1).clamp_min(1)[:, None, None]
        return mean.expand_as(plain.truth)

    def lengths(self, batch: Batch) -> list[int]:
        """Frames of each clip."""
        return [1 + n // self.front.hop for n in batch["length"].tolist()]

    def filled(self, fill: Callable[[Restored, list[int]], Tensor]) -> Tell:
        """Frames as they are filled in."""

        def tell(batch: Batch) -> Restored:
            plain = self.plain(batch)
            return Restored(fill(plain, self.lengths(batch)), plain.truth, plain.unseen)

        return tell

    def coded(self, trust: float, often: Float[Tensor, "K"]) -> Tell:
        """``trust`` in the code of the interpolated frame, the rest by how often codes occur in training."""
        assert self.codes is not None
        codes = self.codes

        def tell(batch: Batch) -> Restored:
            plain = self.plain(batch)
            guess = codes(self.lines(plain, self.lengths(batch)))
            p = (1 - trust) * often + trust * torch.nn.functional.one_hot(guess, len(often))
            return Restored(p.log(), plain.truth, plain.unseen, codes(plain.truth))

        return tell

    def code_shares(self) -> tuple[float, Float[Tensor, "K"]]:
        """Of hidden training frames: how often interpolation finds the code, and the shares of all codes, plus one."""
        assert self.codes is not None
        counts, right, items = torch.ones(len(self.codes.book)), 0.0, self.items["train"]
        with torch.no_grad():
            for rows in items.by_length(AT_ONCE):
                batch = items.batch(rows)
                plain = self.plain(batch)
                truth = self.codes(plain.truth)[plain.unseen]
                counts += torch.bincount(truth, minlength=len(counts))
                guess = self.codes(self.lines(plain, self.lengths(batch)))[plain.unseen]
                right += float((guess == truth).sum())
        return min(SURE, right / max(1.0, float(counts.sum()) - len(counts))), counts / counts.sum()

    def evidence(self) -> dict[str, Evidence]:
        """The test part, by each of them."""
        test = self.items["test"]
        if self.codes is not None:
            trust, often = self.code_shares()
            tells: dict[str, Tell] = {
                "interpolation": self.coded(trust, often),
                "code_frequencies": self.coded(0.0, often),
            }
        else:
            tells = {
                "interpolation": self.filled(self.lines),
                "training_mean": self.plain,
                "visible_mean": self.filled(self.seen_mean),
            }
        return {name: evidence_of(test, tell) for name, tell in tells.items()}


def probed(features: Float[Tensor, "R D"], probe: Float[Tensor, "L E"]) -> Any:
    """Classes that a probe finds."""
    return (features @ probe[:, :-1].mT + probe[:, -1]).argmax(1).numpy()
