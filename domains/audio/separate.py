"""`audio/separate`: speakers who talk at once, each in a channel of its own, over recordings of any length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..task import Audit, Batch, Evidence, Fitted, MetricFact, Part, Portable, Sink, Split, TaskConfig
from .data import SUFFIXES
from .mixtures import GivenItems, MadeItems, Mixture, stacked
from .separate_config import SeparateOptions
from .separate_model import Separator
from .separate_scoring import FACTS, assigned, evidence_of, pairwise, row_of, separation_scores
from .separate_source import Talk, audit_talk, items_of, open_talk, poison_talk, split_talk

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from shared_backbones.presets import Preset

    from .separate_following import SpeakerFollower

AT_ONCE = 8  # mixtures
HEARD = 64  # training mixtures that the statistics of loudness come from


class Separate:
    """Speech separation. See domains.task.Task."""

    name: ClassVar[str] = "audio/separate"
    drift_pieces: ClassVar[bool] = True  # windows of a recording
    summary: ClassVar[str] = "Speakers who talk at once, each in a channel of its own, over recordings of any length."
    Config: ClassVar[type[TaskConfig]] = SeparateOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 8, "batch_size": 4, "lr": 2e-3, "weight_decay": 0.01, "threads": 1, "clip": 5.0,
    }  # fmt: skip
    drift_part: ClassVar[str] = "val"  # training mixtures are made anew
    default_preset: ClassVar[str] = "audio_tas"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = FACTS
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    def __init__(self, config: SeparateOptions) -> None:
        self.config = config

    def open(self, source: str) -> Talk:
        """Single speakers, or mixtures with their sources, from a folder, a manifest, a public name or ``simulated``.

        Raises BadInput.
        """
        return open_talk(source, self.config)

    def split(self, data: Talk) -> Split:
        return split_talk(data, self.config)

    def audit(self, data: Talk, split: Split) -> list[Audit]:
        return audit_talk(data, split)

    def poison(self, data: Talk, split: Split) -> Talk:
        """Noise for every clip or mixture of the test part."""
        return poison_talk(data, split)

    def fit(self, data: Talk, split: Split) -> Fitted:
        """The rate, and how many speakers there are in a mixture."""
        return {"rate": data.rate, "speakers": self.config.speakers}

    def build(self, fitted: Fitted, preset: Preset) -> Separator:
        return Separator(fitted, preset)

    def initialise(self, model: nn.Module, data: Talk, split: Split) -> None:
        """Mean and deviation of the loudness that each pair of filters hears in training mixtures."""
        assert isinstance(model, Separator)
        items = items_of(data, split, self.config, "train")
        if isinstance(items, MadeItems):
            items = MadeItems(items.maker, HEARD, (self.config.mix.seed, 9))
        total, square, count = (torch.zeros(model.pairs, dtype=torch.float64) for _ in range(3))
        with torch.no_grad():
            for i in range(min(HEARD, len(items))):
                batch = items.batch([i])
                wave, _ = model.levelled(batch["wave"].to(model.mean.device), batch["length"].to(model.mean.device))
                z, real = model.heard(wave, batch["length"].to(model.mean.device))
                x = model.loudness(z)[real].double().cpu()
                total, square, count = total + x.sum(0), square + x.square().sum(0), count + len(x)
            mean = total / count
            model.mean.copy_(mean)
            model.std.copy_((square / count - mean.square()).clamp_min(1e-4).sqrt())

    def items(self, data: Talk, split: Split, fitted: Fitted, part: Part) -> MadeItems | GivenItems:
        return items_of(data, split, self.config, part)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Minus SI-SDR (dB) under each mixture's own best assignment, mean over mixtures."""
        found = model(batch["wave"], batch["length"])
        reached = assigned(pairwise(found.float(), batch["sources"], batch["length"]))
        return -reached.mean(), torch.tensor(float(len(reached)), device=reached.device)

    def calibrate(self, model: nn.Module, data: Talk, split: Split, fitted: Fitted) -> None:
        """Nothing to calibrate."""

    def separated(self, model: nn.Module, rows: list[Mixture]) -> list[Float[np.ndarray, "S T"]]:
        """Speakers of mixtures, in evaluation mode."""
        assert isinstance(model, Separator)
        model.eval()
        found = []
        with torch.no_grad():
            for first in range(0, len(rows), AT_ONCE):
                batch = stacked(rows[first : first + AT_ONCE])
                device = model.mean.device
                x = model(batch["wave"].to(device), batch["length"].to(device)).cpu().numpy()
                found += [x[i, :, : int(n)] for i, n in enumerate(batch["length"])]
        return found

    def evidence(self, model: nn.Module, data: Talk, split: Split, fitted: Fitted, part: Part) -> Evidence:
        items = items_of(data, split, self.config, part)
        if isinstance(items, MadeItems) and items.seed is None:
            items = MadeItems(items.maker, items.count, (self.config.mix.seed, 0))
        scored = []
        for first in range(0, len(items), AT_ONCE):
            rows = [items.one(i) for i in range(first, min(len(items), first + AT_ONCE))]
            scored += [row_of(e, *m) for e, m in zip(self.separated(model, rows), rows, strict=True)]
        return evidence_of(scored)

    def baselines(self, data: Talk, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """The mixture itself, NMF, and the ideal ratio mask, which sees the sources and bounds masks from above."""
        from .separate_baselines import all_baselines

        return all_baselines(data, split, self.config)

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        return separation_scores(evidence)

    def figures(
        self, model: nn.Module, data: Talk, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .separate_figures import all_figures

        assert isinstance(model, Separator)
        return all_figures(self, model, data, split, scored)

    def sounds(
        self, model: nn.Module, data: Talk, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, bytes]:
        """Title -> a short WAV file, to be heard in the report: a test mixture and what was made of it."""
        from .separate_figures import all_sounds

        assert isinstance(model, Separator)
        return all_sounds(self, model, data, split, scored)

    def follow(self, model: nn.Module, fitted: Fitted) -> SpeakerFollower:
        """Speakers of a WAV recording that is still being written. Raises BadInput for another format or rate."""
        from .separate_following import SpeakerFollower

        assert isinstance(model, Separator)
        return SpeakerFollower(model, fitted, self.config)

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        """Every recording of a source, separated into files. Raises BadInput."""
        from .separate_predicting import predict_source

        assert isinstance(model, Separator)
        return predict_source(self.config, model, fitted, source, sink)

    def portable(self, model: nn.Module, fitted: Fitted) -> Portable:
        """Samples -> samples of every speaker, for export; long recordings are cut and stitched by the caller."""
        from .portable import of_waves

        assert isinstance(model, Separator)
        said = {"speakers": "(batch, speakers, samples), zero behind each mixture's own end, speakers in any order"}
        long = f"chunks of {self.config.chunk_s:g} s that overlap by {self.config.overlap:g}, joined by what both hear"
        return of_waves(model, model.rate, said, speakers=model.speakers, long_recordings=long)
