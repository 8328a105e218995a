"""timeseries/impute: gaps of series filled, with intervals; scored on values hidden on purpose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from domains.task import Audit, Batch, Evidence, Fitted, MetricFact, Part, Sink, Split

from .data import Panel
from .fitting import cycle_of, fit_series
from .gating import SHARES, smallest_share
from .grid import season_of
from .imputing.baselines import all_baselines, closed_form
from .imputing.config import ImputeConfig
from .imputing.items import Gaps, gaps_of
from .imputing.model import Filler
from .imputing.predicting import fill_file
from .imputing.scoring import FACTS, by_series, fill_of, metrics, score, widths
from .opening import open_source
from .splits import audits, chronological

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from shared_backbones.presets import Preset


class Impute:
    """Fills the gaps of every series of a table. See domains.task.Task."""

    name: ClassVar[str] = "timeseries/impute"
    drift_pieces: ClassVar[bool] = True  # windows of a table
    summary: ClassVar[str] = "Fill the gaps of series with 80 and 95 % intervals, scored on values hidden on purpose."
    Config: ClassVar[type[ImputeConfig]] = ImputeConfig
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 6, "batch_size": 64, "lr": 1e-3, "weight_decay": 0.05, "patience": 3,
    }  # fmt: skip
    default_preset: ClassVar[str] = "series_filler"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = FACTS

    def __init__(self, config: ImputeConfig) -> None:
        self.config = config

    def open(self, source: str) -> Panel:
        """A panel from a path, a URL, a public data set's name or ``simulated``. Raises BadInput."""
        return open_source(source, self.config)

    def split(self, data: Panel) -> Split:
        """Chronological parts as steps. Raises BadInput where a part cannot hold one window."""
        chosen = data.protocol if self.config.split.protocol == "auto" else self.config.split.protocol
        found, c = chronological(data, chosen, 0, self.config.length, option="length"), self.config
        hides = c.hide if c.hide == "points" else f"{c.hide} of {c.gap:g} steps on average"
        said = f"chronological {chosen}, windows of {c.length} steps inside a part; {100 * c.share:g} % hidden: {hides}"
        return Split(f"{said}, drawn with seed {c.hide_seed}", found.parts, found.facts)

    def audit(self, data: Panel, split: Split) -> list[Audit]:
        return audits(data, split, 0, self.config.length)

    def poison(self, data: Panel, split: Split) -> Panel:
        """The panel with 1e9 in every series from the first test step on."""
        start = int(split.parts["test"][0])
        values, mask = data.values.copy(), data.mask.copy()
        values[start:], mask[start:] = 1e9, True
        return replace(data, values=values, mask=mask)

    def fit(self, data: Panel, split: Split) -> Fitted:
        """Scaling from the training part, and the schema. Raises BadInput for an unusable series."""
        return {**fit_series(data, split, self.config), "length": self.config.length}

    def build(self, fitted: Fitted, preset: Preset) -> Filler:
        return Filler(fitted, preset)

    def initialise(self, model: nn.Module, data: Panel, split: Split) -> None:
        """The seasonal profile, where validation speaks for it, and the map across series, in closed form."""
        assert isinstance(model, Filler)
        facts = {
            "names": data.names, "cycle": len(model.profile),
            "mean": model.mean.tolist(), "std": model.std.tolist(),
        }  # fmt: skip
        found = closed_form(self._gaps(data, split, "train"), self._gaps(data, split, "val"), facts)
        with torch.no_grad():
            model.profile.copy_(torch.from_numpy(found.profile))
            model.across.copy_(torch.from_numpy(found.across))

    def items(self, data: Panel, split: Split, fitted: Fitted, part: Part) -> Gaps:
        """Training: every window, hidden anew each time; else windows side by side with fixed gaps."""
        return self._gaps(data, split, part)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean squared error over hidden values, z-scored, and their number."""
        assert isinstance(model, Filler)
        asked = batch["asked"]
        error = (model(batch) - model.scaled(batch["values"], asked)).masked_fill(~asked, 0.0)
        count = asked.sum().to(error.dtype)
        return error.square().sum() / count.clamp_min(1), count

    def calibrate(self, model: nn.Module, data: Panel, split: Split, fitted: Fitted) -> None:
        """From the validation part: how much of the backbone's correction is kept, then the interval widths."""
        assert isinstance(model, Filler)
        val = self._gaps(data, split, "val")
        with torch.no_grad():
            model.gate.fill_(smallest_share(_share_losses(model, val)))
            model.width.copy_(torch.from_numpy(widths(fill_of(model), val, fitted)))

    def evidence(self, model: nn.Module, data: Panel, split: Split, fitted: Fitted, part: Part) -> Evidence:
        assert isinstance(model, Filler)
        source = gaps_of(data, split.parts[part], self.config, self._season(data), train=False)
        return score(fill_of(model), model.width.double().cpu().numpy(), source, fitted)

    def baselines(self, data: Panel, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """Mean, last value, straight lines, with a seasonal profile, and a ridge across series."""
        train, val, test = (self._gaps(data, split, part) for part in ("train", "val", "test"))
        return all_baselines(train, val, test, fitted)

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        return metrics(evidence)

    def details(self, evidence: Evidence, fitted: Fitted) -> list[dict[str, Any]]:
        """Scores per series, z-scored and in original units: a table for the report."""
        return by_series(evidence, fitted)

    def figures(
        self, model: nn.Module, data: Panel, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .imputing.figures import all_figures

        assert isinstance(model, Filler)
        return all_figures(model, self._gaps(data, split, "test"), data, fitted, scored)

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        """The table whole, and what was filled with its intervals. Raises BadInput."""
        assert isinstance(model, Filler)
        return fill_file(model, fitted, source, sink, int(fitted["length"]))

    def _season(self, data: Panel) -> int:
        return cycle_of(data, self.config.season or season_of(data.freq))

    def _gaps(self, data: Panel, split: Split, part: Part) -> Gaps:
        return gaps_of(data, split.parts[part], self.config, self._season(data), train=part == "train")


def _share_losses(model: Filler, val: Gaps) -> Float[np.ndarray, "n S"]:
    """Summed squared error of every window for every share of the correction."""
    rows, device = [], model.mean.device
    model.eval()
    with torch.no_grad():
        for _, cpu in val.chunks():
            batch = {name: value.to(device) for name, value in cpu.items()}
            start, correction = model.parts(batch)
            want, asked = model.scaled(batch["values"], batch["asked"]), batch["asked"]
            each = [(start + s * correction - want).masked_fill(~asked, 0.0).square().sum((1, 2)) for s in SHARES]
            rows.append(torch.stack(each, 1).double().cpu().numpy())
    return np.concatenate(rows)
