"""graph/state: the state of a node at the instant of an interaction, from what happened before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from shared_backbones.errors import BadInput
from shared_backbones.presets import Preset

from ..scoring import auroc
from ..task import Audit, Batch, Evidence, Fitted, MetricFact, Part, Sink, Split, TaskConfig
from .data.events import Events
from .patches import joined, past_block
from .temporal import SHARES, TemporalOptions, audit_stream, fit_stream, open_events, split_in_time, start_history
from .temporal_items import BlockItems, Stream
from .temporal_model import FutureNet, state_loss
from .temporal_predicting import held_to

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FACTS: Mapping[str, MetricFact] = {
    "auc": MetricFact("1", "higher", "share of (state 1, state 0) pairs of interactions in the right order"),
    "average_precision": MetricFact("1", "higher", "mean precision at each interaction of state 1"),
    "nll": MetricFact("nats", "lower", "mean negative log-likelihood of the state"),
}


class State:
    """A state of 0 or 1 of the source of each interaction. See domains.task.Task."""

    name: ClassVar[str] = "graph/state"
    summary: ClassVar[str] = "The state of a node when it next acts, from interactions in order of time."
    Config: ClassVar[type[TaskConfig]] = TemporalOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 15, "batch_size": 4, "lr": 1e-3, "weight_decay": 0.01, "patience": 4,
    }  # fmt: skip
    default_preset: ClassVar[str] = "todyformer"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = FACTS

    def __init__(self, config: TemporalOptions) -> None:
        self.config = config

    def open(self, source: str) -> Events:
        """Interactions whose labels are 0 or 1. Raises BadInput."""
        data = open_events(source, self.config)
        known = data.label[np.isfinite(data.label)]
        if len(known) and not np.isin(known, (0, 1)).all():
            odd = float(known[~np.isin(known, (0, 1))][0])
            raise BadInput(f"{source}: column {self.config.columns.label!r} holds {odd:g}; a state is 0 or 1")
        return data

    def split(self, data: Events) -> Split:
        """In order of time. Raises BadInput where the training or a held-out part lacks one of the two states."""
        split = split_in_time(data, self.config.fractions)
        for part, index in split.parts.items():
            for state in (0, 1):
                if not (data.label[index] == state).any():
                    raise BadInput(
                        f"{data.manifest.source}: no interaction of the {part} part has a source in state {state}; "
                        "give more interactions, labels for both states, or other fractions"
                    )
        return split

    def audit(self, data: Events, split: Split) -> list[Audit]:
        return audit_stream(data, split)

    def poison(self, data: Events, split: Split) -> Events:
        """Other partners, states and features in the test part."""
        return data.poisoned(int(split.parts["test"][0]))

    def fit(self, data: Events, split: Split) -> Fitted:
        known = data.label[split.parts["train"]]
        return {**fit_stream(data, split, self.config), "rate": float(np.nanmean(known)), **_inputs_fit()}

    def build(self, fitted: Fitted, preset: Preset) -> FutureNet:
        return FutureNet(fitted, preset)

    def initialise(self, model: nn.Module, data: Events, split: Split) -> None:
        """The weights of a source's own history: a logistic regression on training interactions."""
        assert isinstance(model, FutureNet)
        items = self._items(data, split, self.fit(data, split), "train")
        at = split.parts["train"]
        at = at[np.isfinite(data.label[at])]
        start_history(model, items.own_history(at)[:, 0], data.label[at])

    def items(self, data: Events, split: Split, fitted: Fitted, part: Part) -> StateItems:
        return self._items(data, split, fitted, part)

    def _items(self, data: Events, split: Split, fitted: Fitted, part: Part) -> StateItems:
        stream = Stream(data, fitted, len(split.parts["train"]))
        known = split.parts[part][np.isfinite(data.label[split.parts[part]])]
        return StateItems(stream, known, part, self.config.block, 0, self.config.seed, own=True)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        assert isinstance(model, FutureNet)
        return state_loss(model, batch)

    def _parts(self, model: FutureNet, items: StateItems) -> tuple[Float[np.ndarray, "Q"], Float[np.ndarray, "Q"]]:
        model.eval()
        found = []
        with torch.no_grad():
            for i in range(0, len(items), 4):
                batch = {k: v.to(model.gate.device) for k, v in items.batch(range(i, min(len(items), i + 4))).items()}
                found.append([z[:, 0].double().cpu().numpy() for z in model.parts(batch)])
        start, learnt = (np.concatenate(part) for part in zip(*found, strict=True))
        return start, learnt

    def calibrate(self, model: nn.Module, data: Events, split: Split, fitted: Fitted) -> None:
        """How much of the network's part is kept: the share with the least loss on validation."""
        assert isinstance(model, FutureNet)
        items = self._items(data, split, fitted, "val")
        start, learnt = self._parts(model, items)
        y = data.label[np.concatenate(items.blocks)]
        model.gate.fill_(SHARES[int(np.argmin([_nll(start + s * learnt, y).mean() for s in SHARES]))])

    def evidence(self, model: nn.Module, data: Events, split: Split, fitted: Fitted, part: Part) -> Evidence:
        """One row per labelled interaction, blocks of neighbouring ones as units."""
        assert isinstance(model, FutureNet)
        items = self._items(data, split, fitted, part)
        start, learnt = self._parts(model, items)
        return _scored(items, data, start + float(model.gate) * learnt)

    def baselines(self, data: Events, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """The training rate, the last known state of the source, and the rate of the source's past."""
        items = self._items(data, split, fitted, "test")
        history = items.own_history(np.concatenate(items.blocks))[:, 0]
        base = np.log(fitted["rate"] / (1 - fitted["rate"]))
        last, rate = history[:, 0], np.clip(history[:, 1], 0.02, 0.98)
        known = history[:, 2] > 0
        return {
            "training rate": _scored(items, data, np.full(len(history), base)),
            "last state": _scored(items, data, np.where(known, np.where(last > 0, 2.0, -2.0), base)),
            "rate of the source": _scored(items, data, np.where(known, np.log(rate / (1 - rate)), base)),
        }

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        weight = np.ones(len(evidence.unit)) if evidence.weight is None else evidence.weight
        y, z = evidence.columns["label"] == 1, evidence.columns["score"]
        if weight[y].sum() <= 0 or weight[~y].sum() <= 0:
            return dict.fromkeys(FACTS, float("nan"))
        from sklearn.metrics import average_precision_score

        precision = float(average_precision_score(y, z, sample_weight=weight))
        nll = float((weight * _nll(z, y.astype(np.float64))).sum() / weight.sum())
        return {"auc": auroc(z, y, weight), "average_precision": precision, "nll": nll}

    def figures(
        self, model: nn.Module, data: Events, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .temporal_figures import activity, reliability

        return {
            "Probability of the state and how often it was so": reliability(scored),
            "Interactions in time": activity(data, split),
        }

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        """The probability that each source of the newest past is in state 1 when it next acts, as states.csv."""
        assert isinstance(model, FutureNet)
        data = self.open(source)
        held_to(data, fitted, source)
        stream = Stream(data, fitted, len(data.time))
        instant = float(np.nextafter(data.time[-1], np.inf))
        nodes = np.unique(data.source[-int(fitted["history"]) :])
        block = past_block(data, instant, stream.options, stream.features)
        batch = dict(joined([block], [np.stack([nodes, nodes], 1)]))
        history = state_history(stream, nodes, np.full(len(nodes), instant))
        batch["history"] = torch.from_numpy(history[:, None].astype(np.float32))
        model.eval()
        with torch.inference_mode():
            z = model({k: v.to(model.gate.device) for k, v in batch.items()})[:, 0].double().cpu().numpy()
        table = pd.DataFrame({"node": np.array(data.names, object)[nodes], "probability": 1 / (1 + np.exp(-z))})
        with sink.file("states.csv") as path:
            table.to_csv(path, index=False, float_format="%.6g")
        return {"nodes": len(nodes), "output": "states.csv"}


class StateItems(BlockItems):
    """Blocks whose queries are the sources themselves, with their own past in place of that of pairs."""

    def own_history(self, at: np.ndarray) -> Float[np.ndarray, "Q 1 5"]:
        data = self.stream.data
        return state_history(self.stream, data.source[at], data.time[at])[:, None]

    def batch(self, indices: Any) -> Batch:
        found = dict(super().batch(indices))
        at = np.concatenate([self.blocks[int(i)] for i in indices])
        found["history"] = torch.from_numpy(self.own_history(at).astype(np.float32))
        return found


def _inputs_fit() -> dict[str, Any]:
    return {"input_mean": [0.0] * 5, "input_std": [1.0] * 5}


def state_history(stream: Stream, nodes: np.ndarray, time: np.ndarray) -> Float[np.ndarray, "Q 5"]:
    """Newest state of a source, rate of its past states, whether it has any, log count and freshness of its past."""
    data = stream.data
    count, last, newest = stream.past.sources.look(nodes, time)
    state = np.nan_to_num(data.label)
    csr = stream.past.sources.csr
    known = np.isfinite(data.label)[csr.edge].astype(np.float64)
    sums = np.concatenate([[0.0], np.cumsum(state[csr.edge] * known)])
    counts = np.concatenate([[0.0], np.cumsum(known)])
    first = csr.start[nodes]
    total, seen = sums[first + count] - sums[first], counts[first + count] - counts[first]
    columns = [
        np.where(newest >= 0, state[np.maximum(newest, 0)], 0.0), total / np.maximum(1, seen), seen > 0,
        np.log1p(count), 1 / (1 + (time - last) / stream.options.scale),
    ]  # fmt: skip
    return np.stack([np.asarray(c, np.float64) for c in columns], 1)


def _nll(z: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    return np.asarray(np.logaddexp(0, z) - y * z)


def _scored(items: StateItems, data: Events, z: Float[np.ndarray, "Q"]) -> Evidence:
    unit = np.repeat(np.arange(len(items)), [len(b) for b in items.blocks])
    label = data.label[np.concatenate(items.blocks)]
    return Evidence(unit, {"label": label, "score": np.asarray(z, np.float64)})
