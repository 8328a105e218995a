"""timeseries/pretrain: one causal model of many tables of series, segment by segment, rolled out to any horizon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from domains.task import Audit, Batch, Evidence, Fitted, MetricFact, Part, Sink, Split

from .pretraining.mixture import (
    Mixture,
    PretrainConfig,
    Series,
    fit_mixture,
    joined,
    open_mixture,
    own_splits,
    poisoned,
    series_of,
)
from .pretraining.model import Pretrained, told_by
from .pretraining.predicting import predict_table
from .pretraining.scoring import FACTS, all_baselines, by_table, metrics, score
from .splits import audits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from shared_backbones.presets import Preset


class Pretrain:
    """Learns from a mixture of tables, channel by channel; forecasts start from it. See domains.task.Task."""

    name: ClassVar[str] = "timeseries/pretrain"
    drift_pieces: ClassVar[bool] = True  # windows of a table
    summary: ClassVar[str] = "Learn to continue the series of many tables, for any horizon and for forecasts to start."
    Config: ClassVar[type[PretrainConfig]] = PretrainConfig
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 10, "batch_size": 128, "lr": 5e-4, "weight_decay": 0.05, "patience": 3,
    }  # fmt: skip
    default_preset: ClassVar[str] = "gpht"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = FACTS

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config

    def open(self, source: str) -> Mixture:
        """Tables with + between their names: paths, URLs, public data sets, ``simulated``. Raises BadInput."""
        return open_mixture(source, self.config)

    def split(self, data: Mixture) -> Split:
        """Each table in time, as places of steps. Raises BadInput where a part cannot hold one window."""
        return joined(data, own_splits(data, self.config))

    def audit(self, data: Mixture, split: Split) -> list[Audit]:
        c = self.config
        return [
            audit
            for panel, own in zip(data.panels, own_splits(data, c), strict=True)
            for audit in audits(panel, own, c.lookback, c.horizon)
        ]

    def poison(self, data: Mixture, split: Split) -> Mixture:
        """1e9 in every series from its first test step on."""
        return poisoned(data, split)

    def fit(self, data: Mixture, split: Split) -> Fitted:
        """Scaling of every series from its training steps. Raises BadInput for an unusable series."""
        return fit_mixture(data, split, self.config)

    def build(self, fitted: Fitted, preset: Preset) -> Pretrained:
        return Pretrained(fitted, preset)

    def initialise(self, model: nn.Module, data: Mixture, split: Split) -> None:
        """Nothing: it starts from random weights."""

    def items(self, data: Mixture, split: Split, fitted: Fitted, part: Part) -> Series:
        """Windows of single series, about as many of each table."""
        return series_of(data, split, fitted, part, self.config.horizon, windows=self.config.per_table)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean squared error of the successor of every segment, standardised, over what was observed."""
        assert isinstance(model, Pretrained)
        told, want, known = model.next_segments(batch)
        count = known.sum().to(told.dtype)
        return (told - want).masked_fill(~known, 0.0).square().sum() / count.clamp_min(1), count

    def calibrate(self, model: nn.Module, data: Mixture, split: Split, fitted: Fitted) -> None:
        """Nothing."""

    def evidence(self, model: nn.Module, data: Mixture, split: Split, fitted: Fitted, part: Part) -> Evidence:
        """Rollouts over the horizon from evenly spread origins of every table."""
        assert isinstance(model, Pretrained)
        items = self._scored(data, split, fitted, part)
        return score(lambda rows, batch: told_by(model, batch, items.ahead).numpy(), items, len(data.panels))

    def baselines(self, data: Mixture, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """Repeat-last, seasonal naive, and a window ridge per table, on the same windows of the test part."""
        return all_baselines(data, split, fitted, self._scored(data, split, fitted, "test"), self.config)

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        return metrics(evidence)

    def details(self, evidence: Evidence, fitted: Fitted) -> list[dict[str, Any]]:
        """Scores per table."""
        return by_table(evidence, fitted)

    def figures(
        self, model: nn.Module, data: Mixture, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .pretraining.figures import all_figures

        assert isinstance(model, Pretrained)
        return all_figures(model, self._scored(data, split, fitted, "test"), fitted, scored)

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        """The steps after the end of a table, as forecast.csv; its series need not be known. Raises BadInput."""
        assert isinstance(model, Pretrained)
        return predict_table(self.config, model, fitted, source, sink)

    def _scored(self, data: Mixture, split: Split, fitted: Fitted, part: Part) -> Series:
        return series_of(data, split, fitted, part, self.config.horizon, origins_of_table=self.config.scored)
