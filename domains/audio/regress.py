"""`audio/regress`: numbers of recordings, such as arousal, valence and dominance, by clip and over time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared_backbones.errors import BadInput
from shared_backbones.heads import ClassHead
from shared_backbones.presets import Preset

from ..following import Follower
from ..task import Audit, Batch, Evidence, Fitted, MetricFact, Part, Portable, Sink, Split, TaskConfig
from .classify import AT_ONCE, frame_statistics
from .clips import poisoned
from .data import SUFFIXES
from .items import ClipItems, collate
from .model import AudioNet, net_options
from .predicting import WINDOWS, Counted, Row, entries_to_hear, heard, pieces_of, simulated_pieces, write_rows
from .regress_config import RegressOptions
from .regress_scoring import FACTS, baselines, evidence_of, scores
from .regress_source import Rated, RatedItems, open_rated
from .source import SIMULATED
from .splits import audit_split, make_split

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class AudioRegressor(AudioNet):
    """Waveform -> numbers, in deviations of training from its mean."""

    def __init__(self, fitted: Fitted, preset: Preset, options: RegressOptions) -> None:
        super().__init__(fitted, preset, options)
        net = net_options(preset.model)
        self.head = ClassHead(self.backbone.dim, len(fitted["targets"]), pool=net.pool, hidden=net.hidden)

    def outputs(self, x: Float[Tensor, "B N F"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B D"]:
        """Frames -> numbers."""
        return self.head(*self.mixed(x, mask)).float()

    def forward(self, wave: Float[Tensor, "B T"], length: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
        """Samples, zero behind each clip's own ``length`` -> numbers."""
        return self.outputs(*self.frames(wave, length))


class Regress:
    """Dimensions of emotion and other numbers by ear. See domains.task.Task.

    The encoder may start from another run (`train.start`), such as one of `audio/pretrain`.
    """

    name: ClassVar[str] = "audio/regress"
    drift_pieces: ClassVar[bool] = True  # windows of a recording
    summary: ClassVar[str] = "Numbers of recordings, such as arousal and valence, by clip and over time."
    Config: ClassVar[type[TaskConfig]] = RegressOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 30, "batch_size": 32, "lr": 1e-3, "weight_decay": 0.05, "threads": 1,
    }  # fmt: skip
    drift_part: ClassVar[str] = "val"  # training items are varied
    default_preset: ClassVar[str] = "audio_mixer"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = FACTS
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    def __init__(self, config: RegressOptions) -> None:
        self.config = config

    def open(self, source: str) -> Rated:
        """Checked clips of a manifest with numbers. Raises BadInput."""
        return open_rated(source, self.config)

    def split(self, data: Rated) -> Split:
        return make_split(data.clips, self.config.split)

    def audit(self, data: Rated, split: Split) -> list[Audit]:
        return audit_split(data.clips, split)

    def poison(self, data: Rated, split: Split) -> Rated:
        """Noise and absurd numbers for every test clip."""
        values = data.values.copy()
        values[split.parts["test"]] = 1e6
        return replace(data, clips=poisoned(data.clips, split.parts["test"]), values=values)

    def fit(self, data: Rated, split: Split) -> Fitted:
        """Means and deviations of frames and of numbers. Raises BadInput for a number that never changes."""
        mean, std = frame_statistics(data.clips, split, self.config)
        y = data.values[split.parts["train"]]
        still = [name for name, v in zip(data.targets, y.T, strict=True) if np.ptp(v) == 0]
        if still:
            raise BadInput(
                f"{data.manifest.source}: {', '.join(still)} is the same in every training clip, so nothing can be "
                "learned of it. Leave it out of targets, or split otherwise"
            )
        return {
            "rate": data.clips.rate, "mean": mean, "std": std, "targets": list(data.targets),
            "centre": y.mean(0).tolist(), "scale": y.std(0).tolist(),
        }  # fmt: skip

    def build(self, fitted: Fitted, preset: Preset) -> AudioRegressor:
        return AudioRegressor(fitted, preset, self.config)

    def initialise(self, model: nn.Module, data: Rated, split: Split) -> None:
        """Weights start at random."""

    def items(self, data: Rated, split: Split, fitted: Fitted, part: Part) -> RatedItems:
        values = (data.values - np.array(fitted["centre"])) / np.array(fitted["scale"])
        varied = self.config.augment if part == "train" else None
        return RatedItems(ClipItems(data.clips, split.parts[part], varied, self.config.buckets), values)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean squared error in deviations of training, the numerator of 1 - concordance; and the numbers."""
        error = (model(batch["wave"], batch["length"]) - batch["value"]).square()
        return error.mean(), torch.tensor(float(error.numel()), device=error.device)

    def calibrate(self, model: nn.Module, data: Rated, split: Split, fitted: Fitted) -> None:
        """Nothing is calibrated."""

    def told(self, model: nn.Module, items: RatedItems, fitted: Fitted) -> Float[np.ndarray, "n D"]:
        """Numbers of all items in order, in their own units, in evaluation mode."""
        model.eval()
        device = next(model.parameters()).device
        found = np.zeros((len(items), len(fitted["targets"])))
        with torch.no_grad():
            for rows in items.by_length(AT_ONCE):
                batch = items.batch(rows)
                found[rows] = model(batch["wave"].to(device), batch["length"].to(device)).double().cpu().numpy()
        return found * np.array(fitted["scale"]) + np.array(fitted["centre"])

    def evidence(self, model: nn.Module, data: Rated, split: Split, fitted: Fitted, part: Part) -> Evidence:
        rows = split.parts[part]
        told = self.told(model, RatedItems(ClipItems(data.clips, rows), data.values), fitted)
        return evidence_of(rows, data.values[rows], told, np.array(fitted["scale"]), data.targets)

    def baselines(self, data: Rated, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """MFCC statistics with ridge regression and with a support vector machine; the mean of training."""
        return baselines(data, split, np.array(fitted["scale"]))

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        return scores(evidence)

    def figures(
        self, model: nn.Module, data: Rated, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        """Told against given, of the model and of each baseline."""
        from ..pictures import panel

        c, found = scored["model"].columns, {}
        for k, name in enumerate(data.targets):
            figure, axes = panel()
            scale = float(fitted["scale"][k])
            low, high = float(c[f"y {name}"].min()) * scale, float(c[f"y {name}"].max()) * scale
            for label, evidence in scored.items():
                y, p = (evidence.columns[f"{key} {name}"] * scale for key in ("y", "p"))
                axes.plot(y, p, "o" if label == "model" else ".", alpha=0.5, markersize=4, label=label)
            axes.plot([low, high], [low, high], color="0.7")
            axes.set(xlabel=f"{name}, given", ylabel="told", title="test clips")
            axes.legend(fontsize="small")
            found[f"{name}, told against given"] = figure
        return found

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        """Numbers of every recording, window by window where it is long. Writes predictions.csv. Raises BadInput."""
        assert isinstance(model, AudioRegressor)
        name, counted = f"predictions.{self.config.table}", Counted()
        with sink.file(name) as path, torch.inference_mode():
            write_rows(path, counted.watched(self._rows(model.eval(), fitted, source)), self.config.table)
        return {
            "clips": counted.clips,
            "windows": counted.windows,
            **counted.speed(),
            "output": name,
        }

    def follow(self, model: nn.Module, fitted: Fitted) -> Follower:
        """Numbers of a WAV file that is still growing, window by window."""
        from .following import WindowFollower

        assert isinstance(model, AudioRegressor)
        return WindowFollower(int(fitted["rate"]), self.config, partial(_told, model.eval(), fitted, ""))

    def portable(self, model: nn.Module, fitted: Fitted) -> Portable:
        """Samples -> numbers in their own units, for export."""
        from .portable import Told, of_waves

        said = {"numbers": "(batch, targets): " + ", ".join(fitted["targets"])}
        return of_waves(Told(model, fitted), int(fitted["rate"]), said, targets=fitted["targets"])

    def _rows(self, model: AudioRegressor, fitted: Fitted, source: str) -> Iterator[Row]:
        rate = int(fitted["rate"])
        if source == SIMULATED:
            for name, wave in simulated_pieces(self.config.simulated, rate):
                yield from _told(model, fitted, name, iter([(0, wave)]))
            return
        for entry in entries_to_hear(source, self.config):
            pieces = heard(entry.where, pieces_of(self.config, entry, rate))
            yield from _told(model, fitted, str(entry.path), pieces, entry.start)


def _told(
    model: AudioRegressor, fitted: Fitted, name: str, pieces: Iterator[tuple[int, Any]], shift: float = 0.0
) -> Iterator[Row]:
    rate, scale, centre = int(fitted["rate"]), np.array(fitted["scale"]), np.array(fitted["centre"])
    while held := list(islice(pieces, WINDOWS)):
        batch = collate([wave for _, wave in held])
        z = model(*(batch[k].to(model.mean.device) for k in ("wave", "length"))).double().cpu().numpy()
        for (first, wave), row in zip(held, z * scale + centre, strict=True):
            times = {"start": round(shift + first / rate, 4), "end": round(shift + (first + len(wave)) / rate, 4)}
            yield {"file": name, **times, **dict(zip(fitted["targets"], row.tolist(), strict=True))}
