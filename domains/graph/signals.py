"""graph/signals: the next value of a signal on every node of a fixed graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from domains.public import locate
from domains.task import Audit, Batch, Evidence, Fitted, MetricFact, Part, Sink, Split, TaskConfig
from shared_backbones.errors import BadInput
from shared_backbones.presets import Preset

from .data.public_signals import SIGNAL_SETS
from .data.signals import Signals, from_folder, from_json
from .signal_items import SignalWindows, choose, neighbour_mean, pooled_ridge, regressors, simulated
from .signal_model import SignalModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
FACTS: dict[str, MetricFact] = {
    "mse": MetricFact("squared units of the file", "lower", "mean squared error over test steps and nodes"),
    "mae": MetricFact("units of the file", "lower", "mean absolute error over test steps and nodes"),
    "scaled_mse": MetricFact("1", "lower", "mean squared error over the training variance of each node"),
    "coverage_90": MetricFact("%", "target", "share of values inside the 90 % interval", target=90.0),
}


class SignalsConfig(TaskConfig):
    """What is forecast from what."""

    lags: int = Field(12, ge=1)  # steps that a forecast may read
    test_percent: int = Field(20, ge=1, le=80)  # of all steps, at the end
    val_percent: int = Field(16, ge=1, le=80)  # of all steps, before the test part
    directed: bool = False  # of edges.csv: True keeps edges as they are, False adds their reverse


class NodeSignals:
    """One step ahead on every node of a graph. See domains.task.Task."""

    name: ClassVar[str] = "graph/signals"
    drift_pieces: ClassVar[bool] = True  # windows of a table
    summary: ClassVar[str] = (
        "The next value of a signal on every node of a fixed graph, beside closed-form autoregression."
    )
    Config: ClassVar[type[SignalsConfig]] = SignalsConfig
    train_defaults: ClassVar[Mapping[str, Any]] = {"epochs": 20, "batch_size": 32, "lr": 2e-3, "patience": 4}
    default_preset: ClassVar[str] = "graph_signals"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = FACTS

    def __init__(self, config: SignalsConfig) -> None:
        self.config = config

    def open(self, source: str) -> Signals:
        """From a JSON file, a folder, a public data set's name or ``simulated``. Raises BadInput."""
        if source == "simulated":
            return simulated()
        if source in SIGNAL_SETS:
            entry = SIGNAL_SETS[source]
            return from_json(next(iter(locate(entry).values())), source, entry.licence)
        path = Path(source)
        if path.is_dir():
            return from_folder(path, self.config.directed)
        if path.is_file():
            return from_json(path, source)
        raise BadInput(
            f"{source}: no such file or folder. Give a JSON file, a folder with signals.csv and edges.csv, "
            f"'simulated' or one of {', '.join(SIGNAL_SETS)}"
        )

    def split(self, data: Signals) -> Split:
        """Target steps in order of time. Raises BadInput where a part would be empty."""
        total, lags = len(data.values), self.config.lags
        test, val = (total * p // 100 for p in (self.config.test_percent, self.config.val_percent))
        start = total - test - val
        if min(test, val) < 2 or start - lags < 2 * lags:
            raise BadInput(
                f"{data.manifest.source}: {total} steps are too few for {lags} lags and {val} + {test} held-out steps. "
                "Give a longer record, or lower lags"
            )
        parts = {
            "train": np.arange(lags, start),
            "val": np.arange(start, start + val),
            "test": np.arange(total - test, total),
        }
        words = f"in time: {start} steps to train on, the next {val} to validate, the last {test} to test; {lags} lags"
        return Split(words, parts, {name: [int(p[0]), int(p[-1])] for name, p in parts.items()})

    def audit(self, data: Signals, split: Split) -> list[Audit]:
        """Order in time, and that the mean and spread that scale the signals are those of training steps."""
        order = all(split.parts[a].max() < split.parts[b].min() for a, b in (("train", "val"), ("val", "test")))
        whole, train = data.values.std(0), data.values[: split.parts["val"][0]].std(0)
        drift = float(np.median(whole / np.maximum(train, 1e-12)))
        centred = float(np.abs(data.values.mean(0)).max()) < 1e-6 and float(np.abs(whole - 1).max()) < 1e-6
        return [
            Audit("parts in order of time", float(order), bool(order), "targets of one part all precede the next part"),
            Audit("spread of all steps over that of training", drift, None, "what whole-record scaling would see"),
            Audit(
                "scaled over the whole record", "yes" if centred else "no", None,
                "the file itself has mean 0 and deviation 1 over all steps: whoever made it looked at the test part",
            ),
        ]  # fmt: skip

    def poison(self, data: Signals, split: Split) -> Signals:
        """1e9 on all nodes from the first test step on."""
        values = data.values.copy()
        values[split.parts["test"][0] :] = 1e9
        return replace(data, values=values)

    def fit(self, data: Signals, split: Split) -> Fitted:
        """Scaling per node from the steps before validation, and the graph. Raises BadInput for a constant signal."""
        seen = data.values[: split.parts["val"][0]]
        mean, std = seen.mean(0), seen.std(0)
        flat = [data.names[i] for i in np.flatnonzero(std <= 1e-12)]
        if flat:
            raise BadInput(
                f"{data.manifest.source}: node {flat[0]!r} is constant over training ({len(flat)} such nodes)"
            )
        return {
            "names": list(data.names),
            "lags": self.config.lags,
            "mean": mean.tolist(),
            "std": std.tolist(),
            "edges": data.edges.tolist(),
        }

    def build(self, fitted: Fitted, preset: Preset) -> SignalModel:
        return SignalModel(fitted, preset)

    def initialise(self, model: nn.Module, data: Signals, split: Split) -> None:
        """The closed form: fitted on training windows, its terms, order and penalty chosen on validation."""
        assert isinstance(model, SignalModel)
        train, val = (self._arrays(model, data, split, part) for part in ("train", "val"))
        found = choose(train, val, model.near.double().cpu().numpy())
        with torch.no_grad():
            model.weight.copy_(torch.from_numpy(found.weight))

    def items(self, data: Signals, split: Split, fitted: Fitted, part: Part) -> SignalWindows:
        return SignalWindows(data.values, split.parts[part], self.config.lags)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean squared z-scored error, and the number of values. While training the backbone is not held back."""
        assert isinstance(model, SignalModel)
        error = (model(batch) - model.scaled(batch["target"])) ** 2
        return error.mean(), error.new_tensor(float(error.numel()))

    def calibrate(self, model: nn.Module, data: Signals, split: Split, fitted: Fitted) -> None:
        """On validation: the share of the correction that is kept, then the interval of each node."""
        assert isinstance(model, SignalModel)
        val = self.items(data, split, fitted, "val")
        model.eval()
        with torch.no_grad():
            batch = val.batch(range(len(val)))
            batch = {name: value.to(model.mean.device) for name, value in batch.items()}
            start, correction = model.parts(batch)
            want = model.scaled(batch["target"])
            each = torch.stack([((start + s * correction - want) ** 2).mean(1) for s in SHARES]).double().cpu().numpy()
            model.gate.fill_(SHARES[_smallest(each, max(2, self.config.lags))])
            error = (model(batch) - want).abs()
            rank = min(len(error), int(np.ceil(0.9 * (len(error) + 1))))
            model.width.copy_(error.sort(0).values[rank - 1])

    def evidence(self, model: nn.Module, data: Signals, split: Split, fitted: Fitted, part: Part) -> Evidence:
        assert isinstance(model, SignalModel)
        items, found = self.items(data, split, fitted, part), []
        model.eval()
        with torch.no_grad():
            for at in range(0, len(items), 256):
                batch = items.batch(range(at, min(len(items), at + 256)))
                found.append(model({name: value.to(model.mean.device) for name, value in batch.items()}).double().cpu())
        return self._scored(torch.cat(found).numpy(), model.width.double().cpu().numpy(), items, fitted)

    def baselines(self, data: Signals, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """Zero, the training mean, repeat-last, the mean of four lags, and pooled closed-form autoregressions."""
        mean, std = np.array(fitted["mean"]), np.array(fitted["std"])
        lags = max(4, self.config.lags)
        test = SignalWindows(data.values, split.parts["test"], lags)
        train = SignalWindows(data.values, split.parts["train"][split.parts["train"] >= lags], lags)
        arrays = {"test": _scaled(test, mean, std), "train": _scaled(train, mean, std)}
        past, near = arrays["test"][0], neighbour_mean(np.array(fitted["edges"], np.int64).reshape(2, -1), len(mean))
        points: dict[str, np.ndarray] = {
            "zero": np.broadcast_to(-mean / std, past.shape[:2]),
            "training mean": np.zeros(past.shape[:2]),
            "persistence": past[..., -1],
            "mean of 4 lags": past[..., -4:].mean(-1),
        }
        for name, terms, order in (("AR(4)", ("own",), 4), ("AR(4) and neighbours", ("own", "near"), 4)):
            x = [regressors(arrays[part][0], near, terms, order) for part in ("train", "test")]
            points[name] = x[1] @ pooled_ridge(x[0], arrays["train"][1], PENALTY)
        width = np.full(len(mean), np.nan)
        return {name: self._scored(np.asarray(p), width, test, fitted) for name, p in points.items()}

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        total = {name: evidence.sum(name) for name in evidence.columns}
        n = total["n"].sum()
        if n <= 0:
            return dict.fromkeys(FACTS, float("nan"))
        return {
            "mse": float(total["se"].sum() / n),
            "mae": float(total["ae"].sum() / n),
            "scaled_mse": float(total["scaled"].sum() / n),
            "coverage_90": float(100 * total["inside"].sum() / n),
        }

    def details(self, evidence: Evidence, fitted: Fitted) -> list[dict[str, Any]]:
        """Errors per node."""
        total = {name: evidence.sum(name) for name in evidence.columns}
        return [
            {"node": name, "n": int(total["n"][i]), "mse": float(total["se"][i] / total["n"][i])}
            for i, name in enumerate(fitted["names"])
        ]

    def figures(
        self, model: nn.Module, data: Signals, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .signal_figures import draw

        assert isinstance(model, SignalModel)
        items = self.items(data, split, fitted, "test")
        with torch.no_grad():
            z = model({name: v.to(model.mean.device) for name, v in items.batch(range(len(items))).items()})
        points = z.double().cpu().numpy() * np.array(fitted["std"]) + np.array(fitted["mean"])
        return draw(data, split.parts["test"], points, fitted, scored)

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        """The step after the end of a record, as forecast.csv: node, forecast, lo_90, hi_90 in the units of the file.

        Raises BadInput where nodes or edges differ from those of the training, or the record is too short.
        """
        assert isinstance(model, SignalModel)
        data = self.open(source)
        if list(data.names) != fitted["names"]:
            odd = sorted(set(data.names) ^ set(fitted["names"]))
            raise BadInput(f"{source}: other nodes, or another order of them, than in training (differing: {odd[:5]})")
        if data.edges.tolist() != fitted["edges"]:
            raise BadInput(f"{source}: has other edges than the graph that the model was trained on")
        lags = int(fitted["lags"])
        if len(data.values) < lags:
            raise BadInput(f"{source}: {len(data.values)} steps, and the model reads {lags}")
        past = torch.from_numpy(data.values[-lags:].T.copy())[None].to(model.mean.device)
        model.eval()
        with torch.no_grad():
            z = model({"past": past})[0].double().cpu().numpy()
        mean, std, width = np.array(fitted["mean"]), np.array(fitted["std"]), model.width.double().cpu().numpy()
        table = pd.DataFrame({"node": data.names, "forecast": z * std + mean})
        table["lo_90"], table["hi_90"] = (z - width) * std + mean, (z + width) * std + mean
        with sink.file("forecast.csv") as path:
            table.to_csv(path, index=False)
        return {"nodes": len(data.names), "steps_read": lags, "output": "forecast.csv"}

    def _arrays(
        self, model: SignalModel, data: Signals, split: Split, part: Part
    ) -> tuple[Float[np.ndarray, "B N L"], Float[np.ndarray, "B N"]]:
        windows = SignalWindows(data.values, split.parts[part], self.config.lags)
        return _scaled(windows, model.mean.cpu().numpy(), model.std.cpu().numpy())

    def _scored(
        self,
        z: Float[np.ndarray, "n N"],
        width: Float[np.ndarray, "N"],
        items: SignalWindows,
        fitted: Fitted,
    ) -> Evidence:
        """Rows are blocks of as many neighbouring target steps as a forecast reads, which share little."""
        mean, std = np.array(fitted["mean"]), np.array(fitted["std"])
        error = items.values[items.steps] - (z * std + mean)
        block = (items.steps - items.steps[0]) // max(2, self.config.lags)
        inside = np.where(np.isnan(width), np.nan, np.abs(error) <= width * std)
        each = {"n": np.ones_like(error), "se": error**2, "ae": np.abs(error), "inside": inside}
        each["scaled"] = (error / std) ** 2
        columns = {}
        for name, value in each.items():
            columns[name] = np.zeros((int(block[-1]) + 1, error.shape[1]))
            np.add.at(columns[name], block, value)
        return Evidence(np.arange(int(block[-1]) + 1), columns)


PENALTY = 1e-3  # of the closed-form baselines: next to none


def _scaled(
    windows: SignalWindows, mean: Float[np.ndarray, "N"], std: Float[np.ndarray, "N"]
) -> tuple[Float[np.ndarray, "B N L"], Float[np.ndarray, "B N"]]:
    batch = windows.batch(range(len(windows)))
    past, target = batch["past"].numpy(), batch["target"].numpy()
    return (past - mean[:, None]) / std[:, None], (target - mean) / std


def _smallest(losses: Float[np.ndarray, "S n"], block: int) -> int:
    """The smallest share not clearly worse than the best: within one standard error over blocks of steps."""
    cuts = np.arange(0, losses.shape[1], block)
    sums = np.add.reduceat(losses, cuts, axis=1)
    excess = sums - sums[int(losses.sum(1).argmin())]
    error = excess.std(1, ddof=1) * np.sqrt(excess.shape[1]) if excess.shape[1] > 1 else np.zeros(len(excess))
    return int(np.flatnonzero(excess.sum(1) <= error)[0])
