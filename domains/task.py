"""The Task contract: all that pipelines know of a domain.

A task turns a source into validated data, splits it so that nothing leaks, fits statistics on the training part
alone, builds a model that carries its preprocessing, and says how to train, score, picture and predict with it.
Everything that must survive training is in two places: the module's state_dict and the JSON-able ``Fitted``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from shared_backbones.presets import Preset

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")
Batch = Mapping[str, Tensor]
Fitted = dict[str, Any]  # JSON-able: statistics of the training part, and the schema that predictions are held to


class TaskConfig(BaseModel):
    """Base of every task's options: unknown names are refused, values are checked on assignment too."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Manifest:
    """What was opened: enough to recognise the same data again and to say what it is."""

    source: str
    sha256: str  # of the content, not of the path: the same bytes elsewhere give the same run
    licence: str = "not stated"
    facts: Mapping[str, Any] = field(default_factory=dict)  # shapes, units, columns, ranges, gaps

    def to_json(self) -> dict[str, Any]:
        return {"source": self.source, "sha256": self.sha256, "licence": self.licence, "facts": dict(self.facts)}


@runtime_checkable
class Data(Protocol):
    """Validated data. Everything else about it is between a task and itself."""

    @property
    def manifest(self) -> Manifest: ...


@dataclass(frozen=True)
class Audit:
    """A measured statement about a split, for the report: could the score be due to leakage?"""

    name: str
    value: float | str
    passed: bool | None  # None: a figure to read, without a verdict
    meaning: str


@dataclass(frozen=True)
class Split:
    """Disjoint parts of the data, as index arrays whose meaning is the task's own."""

    protocol: str  # in words and numbers, e.g. "blocks of 24 px, buffer 5 px, 60/20/20, seed 0"
    parts: Mapping[str, Int[np.ndarray, "n ..."]]
    facts: Mapping[str, Any] = field(default_factory=dict)  # sizes, dates, classes per part

    @property
    def digest(self) -> str:
        """Changes when the protocol or any index changes."""
        h = hashlib.sha256(self.protocol.encode())
        for name in sorted(self.parts):
            array = np.ascontiguousarray(self.parts[name])
            h.update(f"{name}{array.dtype.str}{array.shape}".encode() + array.tobytes())
        return h.hexdigest()

    def to_json(self) -> dict[str, Any]:
        sizes = {name: len(index) for name, index in self.parts.items()}
        return {"protocol": self.protocol, "digest": self.digest, "sizes": sizes, "facts": dict(self.facts)}


@runtime_checkable
class Items(Protocol):
    """Examples of one part, gathered in batches: vectorised, and the same for the same indices and random state."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> Batch: ...


@dataclass(frozen=True)
class Evidence:
    """What a score is made of: rows that belong to independent units (windows, blocks, patients, speakers).

    Metrics are functions of weighted sums over rows, so they do not depend on the batch size, and a bootstrap
    over units only changes the weights. ``columns`` hold (rows, ...) float64 arrays of additive statistics
    (squared errors and counts, confusion counts) or, where a metric cannot be summed (a ROC curve), raw cases.
    """

    unit: Int[np.ndarray, "rows"]
    columns: Mapping[str, Float[np.ndarray, "rows ..."]]
    weight: Float[np.ndarray, "rows"] | None = None
    scope: str = ""  # "": the whole part; else what of it ("8 of 2785 windows"), and it is not ranked beside the whole

    def sum(self, column: str) -> Any:
        """Weighted sum over rows of a column: a scalar, or an array of its trailing shape."""
        rows = self.columns[column]
        return rows.sum(0) if self.weight is None else np.tensordot(self.weight, rows, axes=1)

    @property
    def units(self) -> Int[np.ndarray, "units"]:
        return np.unique(self.unit)

    def reweighted(self, unit_weight: Mapping[int, float] | Float[np.ndarray, "units"]) -> Evidence:
        """The same rows, each weighted by its unit's weight (in the order of ``units`` when an array is given)."""
        units, inverse = np.unique(self.unit, return_inverse=True)
        if isinstance(unit_weight, Mapping):
            unit_weight = np.array([unit_weight[int(u)] for u in units], dtype=np.float64)
        return replace(self, weight=np.asarray(unit_weight, dtype=np.float64)[inverse])


@dataclass(frozen=True)
class MetricFact:
    """How a metric is read."""

    unit: str  # "1", "%", "degC", "z-scored"
    better: Literal["lower", "higher", "target", "none"]  # "target": the nearer to ``target``, the better
    meaning: str = ""
    target: float | None = None


@runtime_checkable
class Sink(Protocol):
    """Where predictions go, one named file at a time."""

    def file(self, name: str) -> AbstractContextManager[Path]:
        """A path to write aside; moved into place when the block ends well, removed when it does not."""
        ...


@dataclass(frozen=True)
class Portable:
    """A model as a function of plain tensors, for use without Cambium.

    ``module(*example)`` gives a tensor or a tuple of them. The first dimension of every input is the batch, and
    ``example`` holds two items. ``free``: input -> further dimensions that may have another size; ``other``: inputs of
    such another size, on which what is written is checked too. ``about``: what a caller does before and after, as JSON.
    ``files``: name -> text written beside the model, as a reference runner.
    """

    module: nn.Module
    example: tuple[Tensor, ...]
    inputs: Mapping[str, str]  # name, in order -> what it is: shape, unit, what stands for missing
    outputs: Mapping[str, str]
    free: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    other: tuple[Tensor, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class Task(Protocol):
    """One kind of problem. Built with its configuration; otherwise without state."""

    name: ClassVar[str]  # "domain/task"
    summary: ClassVar[str]  # one sentence, for lists and reports
    Config: ClassVar[type[TaskConfig]]
    train_defaults: ClassVar[Mapping[str, Any]]  # what the trainer should start from, e.g. {"lr": 1e-3, "epochs": 10}
    default_preset: ClassVar[str]
    metric_facts: ClassVar[Mapping[str, MetricFact]]  # the first is the headline metric
    config: Any

    def __init__(self, config: Any) -> None: ...

    def open(self, source: str) -> Data:
        """Validated data from a path, a URL, a public data set's name or ``simulated``. Raises BadInput."""
        ...

    def split(self, data: Any) -> Split:
        """Parts "train", "val", "test". Raises BadInput where the data cannot be split as asked."""
        ...

    def audit(self, data: Any, split: Split) -> list[Audit]:
        """Measurements that would show a leak in the split."""
        ...

    def poison(self, data: Any, split: Split) -> Data:
        """The data with everything that only the test part may see replaced by absurd values.

        ``fit`` on it must return the identical result: the proof that no statistic saw the test part.
        """
        ...

    def fit(self, data: Any, split: Split) -> Fitted:
        """Statistics from the training part alone, and the schema that new data is held to."""
        ...

    def build(self, fitted: Fitted, preset: Preset) -> nn.Module:
        """The model with its preprocessing inside. A function of (config, fitted, preset) and the random state only."""
        ...

    def initialise(self, model: nn.Module, data: Any, split: Split) -> None:
        """Closed-form starting values from the training part (penalties chosen on validation); may do nothing."""
        ...

    def items(self, data: Any, split: Split, fitted: Fitted, part: Part) -> Items:
        """Training examples of a part."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean loss of a batch, and the number of elements it is a mean over (its weight in an average)."""
        ...

    def calibrate(self, model: nn.Module, data: Any, split: Split, fitted: Fitted) -> None:
        """Set what is fitted on the validation part after training (temperature, interval widths) in the model."""
        ...

    def evidence(self, model: nn.Module, data: Any, split: Split, fitted: Fitted, part: Part) -> Evidence:
        """The whole part, scored."""
        ...

    def baselines(self, data: Any, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """The classical methods that a sceptic would try first, on the test part, in the same units."""
        ...

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        """Metrics named as in ``metric_facts``; NaN where one is undefined for this evidence."""
        ...

    def figures(
        self, model: nn.Module, data: Any, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        """Title -> picture, as people of the field look at it. ``scored`` holds "model" and every baseline."""
        ...

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        """Predict a whole source at full size in bounded memory; returns plain facts about the output.

        Raises BadInput where the source does not match the schema in ``fitted``.
        """
        ...


def to_json_digest(value: Any) -> str:
    """sha256 of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
