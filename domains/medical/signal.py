"""`medical/signal`: the beats of a heart in an electrocardiogram, their kind, and the rhythm. For research use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from shared_backbones.errors import BadInput

from ..task import Audit, Batch, Evidence, Fitted, MetricFact, Part, Portable, Sink, Split, TaskConfig
from .beats import peaks
from .data.signals import AAMI
from .pan_tompkins import detect
from .signal_config import SignalOptions
from .signal_data import Hearts, WindowItems, audit_split, make_split, open_hearts, poisoned
from .signal_model import BeatNet, beat_targets
from .signal_rhythms import Told, rhythm_table, seconds_of, smoothed, told_by_intervals
from .signal_scoring import FACTS, beat_evidence, beat_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from shared_backbones.presets import Preset

WIDTH_S = 0.03  # deviation of the target around a beat
GRID = 16  # samples: windows are a multiple of it, so that tokens of neighbouring windows lie on one grid
AT_ONCE = 16  # windows
THRESHOLDS = np.linspace(0.05, 0.95, 19)
RHYTHM_WEIGHT = 0.5  # of the rhythm in the loss, beside beats
Found = tuple[Float[np.ndarray, "m"], Int64[np.ndarray, "m"]]


def window_size(options: SignalOptions) -> int:
    return GRID * max(2, round(options.window_s * options.rate / GRID))


def runs_of(rows: Int64[np.ndarray, "n 3"]) -> list[tuple[int, int, int]]:
    """Stretches that follow each other, joined."""
    found: list[tuple[int, int, int]] = []
    for r, a, b in sorted(map(tuple, rows.tolist())):
        if found and found[-1][0] == r and found[-1][2] == a:
            found[-1] = (r, found[-1][1], b)
        else:
            found.append((r, a, b))
    return found


class Heard(NamedTuple):
    """Over the places of a wave: probability of a beat, its kind, seconds per place, probability of each rhythm."""

    beat: Float[np.ndarray, "N"]
    kind: Int64[np.ndarray, "N"]
    step: float
    rhythm: Float[np.ndarray, "N R"]


def listen(model: BeatNet, wave: Float32[np.ndarray, "T"], size: int, margin: int) -> Heard:
    """A wave of any length, window by window."""
    device = model.threshold.device
    margin = GRID * -(-margin // GRID)
    hop = size - 2 * margin
    starts = list(range(-margin, max(1, len(wave) - margin), hop))
    p, kind, rhythm = [], [], []
    with torch.no_grad():
        for group in range(0, len(starts), AT_ONCE):
            block = np.full((len(starts[group : group + AT_ONCE]), size), np.nan, np.float32)
            for row, start in zip(block, starts[group : group + AT_ONCE], strict=True):
                a, b = max(0, start), min(len(wave), start + size)
                row[a - start : b - start] = wave[a:b]
            z = model(torch.from_numpy(block).to(device)).cpu()
            per = size // z.shape[1]
            inner = slice(margin // per, (size - margin) // per)
            p.append(z[:, inner, 0].sigmoid().double().flatten().numpy())
            of_kind, of_rhythm = z[:, inner, 1 : 1 + model.kinds], z[:, inner, 1 + model.kinds :]
            kind.append(of_kind.argmax(2).flatten().numpy() if model.kinds else np.zeros(p[-1].shape, np.int64))
            rhythm.append(of_rhythm.softmax(2).flatten(0, 1).double().numpy())
    places = -(-len(wave) // per)
    kinds = np.concatenate(kind)[:places].astype(np.int64)
    return Heard(np.concatenate(p)[:places], kinds, per / model.rate, np.concatenate(rhythm)[:places])


class Signal:
    """Detection of beats. See domains.task.Task."""

    name: ClassVar[str] = "medical/signal"
    drift_pieces: ClassVar[bool] = True  # stretches of a record
    summary: ClassVar[str] = "Beats of the heart in electrocardiograms, their kind, and the rhythm. For research use."
    Config: ClassVar[type[TaskConfig]] = SignalOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 30, "batch_size": 8, "lr": 2e-3, "weight_decay": 0.01, "threads": 1,
    }  # fmt: skip
    drift_part: ClassVar[str] = "val"  # training items are varied
    default_preset: ClassVar[str] = "beat_mixer"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = FACTS
    suffixes: ClassVar[tuple[str, ...]] = (".hea", ".dcm")

    def __init__(self, config: SignalOptions) -> None:
        self.config = config

    def open(self, source: str) -> Hearts:
        """Records with annotated beats from a path, a public name or ``simulated``. Raises BadInput."""
        return open_hearts(source, self.config)

    def split(self, data: Hearts) -> Split:
        return make_split(data, self.config.split, window_size(self.config))

    def audit(self, data: Hearts, split: Split) -> list[Audit]:
        return audit_split(data, split)

    def poison(self, data: Hearts, split: Split) -> Hearts:
        """Noise without beats in the test part."""
        return poisoned(data, split.parts["test"])

    def fit(self, data: Hearts, split: Split) -> Fitted:
        """The rate, and the kinds of beats and the rhythms of which training holds enough. Raises BadInput."""
        counts = np.zeros(len(AAMI), np.int64)
        for r, a, b in split.parts["train"].tolist():
            heart = data.hearts[r]
            inside = (heart.beats >= a / data.rate) & (heart.beats < b / data.rate)
            counts += np.bincount(heart.kinds[inside], minlength=len(AAMI))
        if counts.sum() < 10:
            raise BadInput(f"{data.manifest.source}: {counts.sum()} beats to train on; at least 10 are needed")
        kinds = [i for i in range(len(AAMI)) if counts[i] >= 2]
        kinds = kinds if self.config.kinds and len(kinds) > 1 else []
        weight = [float(np.sqrt(counts.max() / counts[k])) for k in kinds]
        held = {k: s for k, s in seconds_of(data, split.parts["train"]).items() if s >= self.config.window_s}
        held = held if self.config.rhythms and len(held) > 1 else {}
        return {
            "rhythms": list(held), "rhythm_weight": [float(np.sqrt(max(held.values()) / s)) for s in held.values()],
            "rhythm_s": {k: round(s, 1) for k, s in held.items()},
            "rate": data.rate, "size": window_size(self.config), "kinds": [AAMI[k] for k in kinds],
            "kind_weight": weight, "beats": counts.tolist(),
        }  # fmt: skip

    def build(self, fitted: Fitted, preset: Preset) -> BeatNet:
        model = BeatNet(fitted, preset, self.config)
        model.register_buffer("kind_weight", torch.tensor(fitted["kind_weight"]), persistent=False)
        model.register_buffer("rhythm_weight", torch.tensor(fitted.get("rhythm_weight", [])), persistent=False)
        place = [fitted["kinds"].index(k) if k in fitted["kinds"] else -1 for k in AAMI]
        model.register_buffer("kind_place", torch.tensor(place), persistent=False)
        return model

    def initialise(self, model: nn.Module, data: Hearts, split: Split) -> None:
        """A beat starts out as rare as it is."""
        assert isinstance(model, BeatNet)
        with torch.no_grad():
            model.head.bias[0] = -2.0

    def items(self, data: Hearts, split: Split, fitted: Fitted, part: Part) -> WindowItems:
        augment = self.config.augment if part == "train" else None
        return WindowItems(data, split.parts[part], int(fitted["size"]), augment, tuple(fitted.get("rhythms", ())))

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Cross-entropy of beat and rhythm at every known place, of the kind where a beat is; a mean over places."""
        assert isinstance(model, BeatNet)
        z = model(batch["wave"])
        n = z.shape[1]
        seconds = batch["wave"].shape[1] / model.rate
        target, away = beat_targets(batch["time"], n, seconds, WIDTH_S)
        known = F.adaptive_avg_pool1d(batch["wave"].isfinite().to(z.dtype)[:, None], n)[:, 0] > 0.5
        each = F.binary_cross_entropy_with_logits(z[..., 0], target, reduction="none")
        total = (each * (1 + 4 * target))[known].sum()
        if model.kinds:
            nearest = away.argmin(2)
            place: Tensor = model.kind_place  # type: ignore[assignment]
            weight: Tensor = model.kind_weight  # type: ignore[assignment]
            kind = place[batch["kind"].gather(1, nearest)]
            beat = known & (away.amin(2) < 2 * WIDTH_S) & (kind >= 0)
            total = total + F.cross_entropy(
                z[..., 1 : 1 + model.kinds][beat], kind[beat], weight=weight, reduction="sum"
            )
        if model.rhythms:
            at = ((torch.arange(n, device=z.device) + 0.5) * (batch["rhythm"].shape[1] / n)).long()
            told = batch["rhythm"][:, at]
            heard = known & (told >= 0)
            rhythm_weight: Tensor = model.rhythm_weight  # type: ignore[assignment]
            logits = z[..., 1 + model.kinds :][heard]
            total = total + RHYTHM_WEIGHT * F.cross_entropy(logits, told[heard], weight=rhythm_weight, reduction="sum")
        count = known.sum().clamp_min(1).to(z.dtype)
        return total / count, count.detach()

    def heard(self, model: BeatNet, data: Hearts, rows: Any, threshold: float | None = None) -> dict[int, Found]:
        """Record -> the beats found in the stretches given."""
        model.eval()
        at = float(model.threshold) if threshold is None else threshold
        return self._thresholded(self._probabilities(model, data, rows), at)

    def _probabilities(self, model: BeatNet, data: Hearts, rows: Any) -> list[tuple[int, float, Heard]]:
        size, margin = window_size(self.config), round(self.config.margin_s * data.rate)
        found = []
        for r, a, b in runs_of(rows):
            found.append((r, a / data.rate, listen(model, data.hearts[r].wave[a:b], size, margin)))
        return found

    @staticmethod
    def _thresholded(heard: list[tuple[int, float, Heard]], threshold: float) -> dict[int, Found]:
        found: dict[int, list[Found]] = {}
        for r, start, (p, kind, step, _) in heard:
            times, places = peaks(p, step, threshold)
            found.setdefault(r, []).append((start + 0.5 * step + times, kind[places]))
        return {r: (np.concatenate([t for t, _ in v]), np.concatenate([k for _, k in v])) for r, v in found.items()}

    def calibrate(self, model: nn.Module, data: Hearts, split: Split, fitted: Fitted) -> None:
        """The threshold with the best F1 on validation; the middle one of several."""
        assert isinstance(model, BeatNet)
        model.eval()
        rows = split.parts["val"]
        heard = self._probabilities(model, data, rows)
        scores = np.array([
            beat_scores(self._evidence(data, rows, fitted, self._thresholded(heard, t)))["f1"] for t in THRESHOLDS
        ])  # fmt: skip
        best = np.flatnonzero(scores >= np.nanmax(scores) - 1e-12) if np.isfinite(scores).any() else np.array([9])
        with torch.no_grad():
            model.threshold.fill_(float(THRESHOLDS[best[len(best) // 2]]))

    def _evidence(self, data: Hearts, rows: Any, fitted: Fitted, found: Mapping[int, Found]) -> Evidence:
        kinds = [AAMI.index(k) for k in fitted["kinds"]]
        return beat_evidence(data.hearts, rows, data.rate, self.config.tolerance_s, kinds, found)

    def evidence(self, model: nn.Module, data: Hearts, split: Split, fitted: Fitted, part: Part) -> Evidence:
        assert isinstance(model, BeatNet)
        rows = split.parts[part]
        model.eval()
        heard = self._probabilities(model, data, rows)
        found = self._evidence(data, rows, fitted, self._thresholded(heard, float(model.threshold)))
        told: dict[int, list[Told]] = {}
        for r, start, h in heard if model.rhythms else ():
            told.setdefault(r, []).append((start, h.step, smoothed(h.rhythm, h.step)))
        return self._with_rhythm(found, data, rows, fitted, told)

    def _with_rhythm(
        self, evidence: Evidence, data: Hearts, rows: Any, fitted: Fitted, told: Mapping[int, list[Told]]
    ) -> Evidence:
        names = fitted.get("rhythms", [])
        if not names:
            return evidence
        return replace(evidence, columns={**evidence.columns, "rhythm": rhythm_table(data, rows, names, told)})

    def baselines(self, data: Hearts, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """Pan-Tompkins on the test part, and peaks of the slope above a threshold that validation chose.

        Every beat that they find counts as the most frequent kind. Of rhythms the first tells what a regression from
        the intervals between its beats says, the second always the most frequent one.
        """
        kinds = fitted["kinds"]
        usual = int(np.argmax([fitted["beats"][AAMI.index(k)] for k in kinds])) if kinds else 0
        rows = split.parts["test"]

        def run(method: Any, part: Any) -> dict[int, Found]:
            found: dict[int, list[Any]] = {}
            for r, a, b in runs_of(part):
                found.setdefault(r, []).append(a / data.rate + method(data.hearts[r].wave[a:b], data.rate))
            return {r: (np.concatenate(t), np.full(sum(map(len, t)), usual, np.int64)) for r, t in found.items()}

        def score(height: float) -> float:
            val = split.parts["val"]
            return beat_scores(self._evidence(data, val, fitted, run(lambda x, f: steep(x, f, height), val)))["f1"]

        heights = np.linspace(2, 12, 11)
        best = float(heights[int(np.nanargmax([np.nan_to_num(score(h)) for h in heights]))])
        classical = self._evidence(data, rows, fitted, run(detect, rows))
        slope = self._evidence(data, rows, fitted, run(lambda x, f: steep(x, f, best), rows))
        if fitted.get("rhythms"):
            classical = self._with_rhythm(classical, data, rows, fitted, self._rival(data, split, fitted))
            usual_rhythm = int(np.argmax(list(fitted["rhythm_s"].values())))
            told: dict[int, list[Told]] = {}
            for r, a, b in runs_of(rows):
                told.setdefault(r, []).append(
                    (a / data.rate, 1.0, np.full(-(-(b - a) // int(data.rate)), usual_rhythm))
                )
            slope = self._with_rhythm(slope, data, rows, fitted, told)
        return {"pan_tompkins": classical, "slope_threshold": slope}

    def _rival(self, data: Hearts, split: Split, fitted: Fitted) -> dict[int, list[Told]]:
        """Rhythms told from the intervals of the beats that Pan-Tompkins finds."""
        beats: dict[str, dict[int, list[tuple[float, float, Any]]]] = {}
        for part in ("train", "test"):
            for r, a, b in runs_of(split.parts[part]):
                start = a / data.rate
                found = start + detect(data.hearts[r].wave[a:b], data.rate)
                beats.setdefault(part, {}).setdefault(r, []).append((start, b / data.rate, found))
        return told_by_intervals(beats, data, fitted["rhythms"])

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        return beat_scores(evidence)

    def figures(
        self, model: nn.Module, data: Hearts, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .signal_figures import all_figures

        assert isinstance(model, BeatNet)
        return all_figures(self, model, data, split, fitted, scored)

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        """The beats of every record of a source. Raises BadInput."""
        from .signal_predicting import predict_source

        assert isinstance(model, BeatNet)
        return predict_source(self, model, fitted, source, sink)

    def portable(self, model: nn.Module, fitted: Fitted) -> Portable:
        """Windows of samples -> beats, kinds and rhythms over time."""
        from .signal_portable import portable

        assert isinstance(model, BeatNet)
        return portable(model, fitted, self.config, GRID)


def steep(x: Float32[np.ndarray, "T"], rate: float, height: float) -> Float[np.ndarray, "n"]:
    """Times of peaks of the slope that are ``height`` times its median."""
    slope = np.abs(np.gradient(np.nan_to_num(x).astype(np.float64)))
    usual = float(np.median(slope)) or 1e-12
    return peaks(slope, 1 / rate, height * usual)[0]
