"""graph/temporal: who meets whom next, from interactions in order of time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from shared_backbones.errors import BadInput
from shared_backbones.presets import Preset

from ..task import PARTS, Audit, Batch, Evidence, Fitted, MetricFact, Part, Sink, Split, TaskConfig
from .data.events import Columns, Events, read_events, simulated
from .edgebank import INPUTS, partners_now
from .ranking import FACTS, rank_columns, rank_scores, ranks
from .temporal_items import BlockItems, Stream
from .temporal_model import FutureNet, future_loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
KINDS = {"": "random and historical", "_random": "random", "_historical": "historical"}


class ColumnOptions(BaseModel):
    """Names of the columns."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = "source"
    target: str = "target"
    time: str = "time"
    label: str = Field("label", description="state of the source then; it need not be there")
    two_sided: bool = Field(False, description="sources and targets are other things, though names may be equal")


class TemporalOptions(TaskConfig):
    """Options of `graph/temporal` and `graph/state`."""

    columns: ColumnOptions = ColumnOptions()
    fractions: tuple[float, float, float] = Field((0.7, 0.15, 0.15), description="train, validation, test, in time")
    history: int = Field(512, ge=8, description="interactions before a block that it may read")
    patches: int = Field(8, ge=1, description="pieces of equal numbers of interactions that the past is cut into")
    block: int = Field(32, ge=1, description="interactions predicted from one past")
    negatives: int = Field(20, ge=1, description="negatives of each kind in validation and test")
    train_negatives: int = Field(8, ge=2, description="negatives in training, half of each kind")
    seed: int = Field(0, ge=0, description="of the negatives of validation and test")
    top: int = Field(10, ge=1, description="partners written per source when predicting")

    @model_validator(mode="after")
    def _whole(self) -> TemporalOptions:
        if min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise ValueError(f"fractions must be three positive numbers that sum to 1, got {self.fractions}")
        if self.history < self.patches:
            raise ValueError(f"history ({self.history}) must hold one interaction per patch ({self.patches})")
        return self


def open_events(source: str, options: TemporalOptions) -> Events:
    """Interactions from a path or ``simulated``. Raises BadInput."""
    if source == "simulated":
        return simulated()
    return read_events(Path(source), Columns(**options.columns.model_dump()))


def split_in_time(data: Events, fractions: tuple[float, float, float]) -> Split:
    """Parts in order of time; interactions of one instant are never parted. Raises BadInput where one is empty."""
    count = len(data.time)
    cuts = [int(np.searchsorted(data.time, data.time[min(count - 1, int(f * count))], "left")) for f in
            (fractions[0], fractions[0] + fractions[1])]  # fmt: skip
    parts: dict[str, Any] = dict(zip(PARTS, np.split(np.arange(count), cuts), strict=True))
    for name, part in parts.items():
        if len(part) < 2:
            raise BadInput(
                f"{data.manifest.source}: {count} interactions leave {len(part)} for the {name} part; give more, or "
                "other fractions"
            )
    percent = "/".join(f"{100 * f:g}" for f in fractions)
    facts = {name: [float(data.time[p[0]]), float(data.time[p[-1]])] for name, p in parts.items()}
    return Split(f"interactions in order of time, {percent}; one instant in one part", parts, facts)


def fit_stream(data: Events, split: Split, options: TemporalOptions) -> Fitted:
    """Scaling of features and of time from the training part; what a model is held to."""
    train = split.parts["train"]
    x = data.features[train].astype(np.float64)
    gaps = np.diff(data.time[train])
    scale = float(np.median(gaps[gaps > 0])) * 50 if (gaps > 0).any() else 1.0
    std = x.std(0)
    return {
        "history": options.history,
        "patches": options.patches,
        "block": options.block,
        "scale": scale,
        "columns": list(data.columns),
        "feature_mean": x.mean(0).tolist(),
        "feature_std": np.where(std > 1e-8, std, 1.0).tolist(),
        "edge_inputs": 2 + x.shape[1],
        "input_mean": [0.0] * INPUTS,
        "input_std": [1.0] * INPUTS,
    }


def audit_stream(data: Events, split: Split) -> list[Audit]:
    """Order in time, and how much of the test part the training part already holds."""
    keys = data.source.astype(np.int64) * data.nodes + data.target
    train, test = split.parts["train"], split.parts["test"]
    order = all(data.time[split.parts[a][-1]] < data.time[split.parts[b][0]] for a, b in (PARTS[:2], PARTS[1:]))
    repeated = 100 * float(np.isin(keys[test], keys[train]).mean())
    known = np.unique(np.concatenate([data.source[train], data.target[train]]))
    new = 100 * float((~np.isin(data.source[test], known)).mean())
    return [
        Audit("parts in order of time", float(order), bool(order), "no instant is in two parts"),
        Audit("test pairs that training holds, %", repeated, None, "what a memory of pairs can know"),
        Audit("test sources that training lacks, %", new, None, "what only an inductive model can know"),
        Audit("past of a block", "strictly before its first instant", None, "messages never come from the future"),
    ]


class Temporal:
    """Future-link prediction. See domains.task.Task."""

    name: ClassVar[str] = "graph/temporal"
    summary: ClassVar[str] = "Who meets whom next, from interactions in order of time, beside a bank of seen pairs."
    Config: ClassVar[type[TaskConfig]] = TemporalOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 15, "batch_size": 4, "lr": 1e-3, "weight_decay": 0.01, "patience": 4,
    }  # fmt: skip
    default_preset: ClassVar[str] = "todyformer"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = {
        name + kind: MetricFact(fact.unit, fact.better, f"{fact.meaning}; negatives: {word}")
        for kind, word in KINDS.items()
        for name, fact in FACTS.items()
    }

    def __init__(self, config: TemporalOptions) -> None:
        self.config = config

    def open(self, source: str) -> Events:
        """Interactions from a path or ``simulated``. Raises BadInput."""
        return open_events(source, self.config)

    def split(self, data: Events) -> Split:
        return split_in_time(data, self.config.fractions)

    def audit(self, data: Events, split: Split) -> list[Audit]:
        items = self._items(data, split, self.fit(data, split), "test")
        wrong = 0
        for i in range(len(items)):
            asked = items.asked(i)
            wrong += int((partners_now(data, asked.at, asked.candidates[:, 1:]) & asked.there).sum())
        return [
            *audit_stream(data, split),
            Audit("test negatives that are met at that time", float(wrong), wrong == 0, "would be scored as errors"),
        ]

    def poison(self, data: Events, split: Split) -> Events:
        """Other partners, states and features in the test part."""
        return data.poisoned(int(split.parts["test"][0]))

    def fit(self, data: Events, split: Split) -> Fitted:
        return fit_stream(data, split, self.config)

    def build(self, fitted: Fitted, preset: Preset) -> FutureNet:
        return FutureNet(fitted, preset)

    def initialise(self, model: nn.Module, data: Events, split: Split) -> None:
        """The weights of a candidate's history: a logistic regression on the newest training interactions."""
        assert isinstance(model, FutureNet)
        fitted = self.fit(data, split)
        stream, random = Stream(data, fitted, len(split.parts["train"])), np.random.default_rng(self.config.seed)
        at = split.parts["train"][-min(20_000, len(split.parts["train"]) // 2) :]
        half = self.config.train_negatives // 2
        asked = stream.queries(at, half, half, random)
        y = np.zeros(asked.candidates.shape)
        y[:, 0] = 1
        real = np.concatenate([np.ones((len(at), 1), bool), asked.there], 1)
        start_history(model, stream.history(asked)[real], y[real])

    def items(self, data: Events, split: Split, fitted: Fitted, part: Part) -> BlockItems:
        return self._items(data, split, fitted, part)

    def _items(self, data: Events, split: Split, fitted: Fitted, part: Part) -> BlockItems:
        c, stream = self.config, Stream(data, fitted, len(split.parts["train"]))
        count = c.train_negatives if part == "train" else c.negatives
        return BlockItems(stream, split.parts[part], part, c.block, count, c.seed, own=False)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        assert isinstance(model, FutureNet)
        return future_loss(model, batch)

    def calibrate(self, model: nn.Module, data: Events, split: Split, fitted: Fitted) -> None:
        """How much of the network's part is kept: the share with the best reciprocal rank on validation."""
        assert isinstance(model, FutureNet)
        items = self._items(data, split, fitted, "val")
        start, learnt, there = all_parts(model, items)
        each = [start + share * learnt for share in SHARES]
        mrr = [float((1 / ranks(z[:, 0], z[:, 1:], there)[0]).mean()) for z in each]
        model.gate.fill_(SHARES[int(np.argmax(mrr))])

    def evidence(self, model: nn.Module, data: Events, split: Split, fitted: Fitted, part: Part) -> Evidence:
        """One row per interaction, blocks of neighbouring ones as units."""
        assert isinstance(model, FutureNet)
        items = self._items(data, split, fitted, part)
        start, learnt, there = all_parts(model, items)
        return self._scored(items, start + float(model.gate) * learnt, there)

    def _scored(self, items: BlockItems, z: Float[np.ndarray, "Q K"], there: Bool[np.ndarray, "Q K1"]) -> Evidence:
        unit = np.repeat(np.arange(len(items)), [len(b) for b in items.blocks])
        true, others, half = z[:, 0], z[:, 1:], items.negatives
        columns = {
            **rank_columns(true, others, there),
            **rank_columns(true, others[:, :half], there[:, :half], "_random"),
            **rank_columns(true, others[:, half:], there[:, half:], "_historical"),
        }
        return Evidence(unit, columns)

    def baselines(self, data: Events, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """EdgeBank with all the past and with as long a past as the test part, popularity, the last partner."""
        items = self._items(data, split, fitted, "test")
        past, test = items.stream.past, split.parts["test"]
        window = float(data.time[test[-1]] - data.time[test[0]])
        found: dict[str, list[np.ndarray]] = {"EdgeBank": [], "EdgeBank, recent": [], "popular": [], "last partner": []}
        there = []
        for i in range(len(items)):
            asked = items.asked(i)
            source, time = data.source[asked.at], data.time[asked.at]
            history = items.stream.history(asked)
            found["EdgeBank"].append(past.edge_bank(source, asked.candidates, time))
            found["EdgeBank, recent"].append(past.edge_bank(source, asked.candidates, time, window))
            found["popular"].append(history[..., 4])
            found["last partner"].append(history[..., 7])
            there.append(asked.there)
        return {name: self._scored(items, np.concatenate(z), np.concatenate(there)) for name, z in found.items()}

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        return {name: value for kind in KINDS for name, value in rank_scores(evidence, kind).items()}

    def figures(
        self, model: nn.Module, data: Events, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .temporal_figures import draw

        return draw(data, split, scored)

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        """The likeliest next partners of every source of the newest past, as partners.csv. Raises BadInput."""
        from .temporal_predicting import next_partners

        assert isinstance(model, FutureNet)
        return next_partners(self, model, fitted, source, sink)


def start_history(model: FutureNet, x: Float[np.ndarray, "r H"], y: Float[np.ndarray, "r"]) -> None:
    """Set the linear map of history to a logistic regression, and its scaling to the rows' mean and deviation."""
    from sklearn.linear_model import LogisticRegression

    mean, std = x.mean(0), np.maximum(x.std(0), 1e-3)
    with torch.no_grad():
        model.mean.copy_(torch.from_numpy(mean))
        model.std.copy_(torch.from_numpy(std))
        if len(np.unique(y)) == 2:
            fit = LogisticRegression(C=1.0, max_iter=1000).fit((x - mean) / std, y)
            model.history.weight.copy_(torch.from_numpy(fit.coef_))
            model.history.bias.copy_(torch.from_numpy(fit.intercept_))


def all_parts(
    model: FutureNet, items: BlockItems, at_once: int = 4
) -> tuple[Float[np.ndarray, "Q K"], Float[np.ndarray, "Q K"], Bool[np.ndarray, "Q K1"]]:
    """Both logits of all queries of a part, and which negatives count."""
    model.eval()
    found = []
    with torch.no_grad():
        for i in range(0, len(items), at_once):
            batch = items.batch(range(i, min(len(items), i + at_once)))
            batch = {k: v.to(model.gate.device) for k, v in batch.items()}
            found.append((*(z.double().cpu().numpy() for z in model.parts(batch)), batch["there"].cpu().numpy()))
    start, learnt, there = (np.concatenate(part) for part in zip(*found, strict=True))
    return start, learnt, there
