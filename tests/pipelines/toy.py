"""A task of another package, as small as the contract allows: a line through noise, known in closed form.

It is linked as an installed package would be, through an entry point (see ``conftest.toy_task``). A source is
``simulated``, ``simulated:SEED``, or ``bad``. The environment can ask a process to kill itself at a moment, see
:func:`reached`, and to take its time, ``TOY_SLEEP`` seconds a batch.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from domains.task import Audit, Evidence, Manifest, MetricFact, Part, Split, TaskConfig
from shared_backbones.backbone import Backbone, Tokens
from shared_backbones.errors import BadInput
from shared_backbones.layout import Layout

_COUNT: Counter[str] = Counter()


def reached(moment: str) -> None:
    """Die by SIGKILL if this is the moment. ``TOY_KILL``: moments such as ``train:13,calibrate:1``, where 13 counts in
    one process; each process has the first that none before it died at, as ``TOY_DEATHS`` (a file) tells."""
    deaths = Path(os.environ.get("TOY_DEATHS", os.devnull))
    before = deaths.read_text().split() if deaths.is_file() else []
    left = os.environ.get("TOY_KILL", "").split(",")[len(before) :]
    _COUNT[moment] += 1
    if left and left[0] == f"{moment}:{_COUNT[moment]}":
        deaths.write_text("\n".join([*before, left[0]]))
        os.kill(os.getpid(), signal.SIGKILL)


if "TOY_KILL" in os.environ:
    _replace = Path.replace

    def _replace_or_die(self: Path, target: Path) -> Path:
        reached(Path(target).name)
        return _replace(self, target)

    Path.replace = _replace_or_die  # type: ignore[method-assign,assignment]


class Nested(TaskConfig):
    allow_leak: bool = False


class LineConfig(TaskConfig):
    rows: int = Field(default=240, ge=10)
    noise: float = Field(default=0.1, ge=0)
    leak: Literal["no", "fit", "initialise"] = "no"  # a task that cheats, to be caught
    dropout: float = 0.1
    figures: bool = True
    split: Nested = Nested()


@dataclass(frozen=True)
class LineData:
    manifest: Manifest
    x: np.ndarray  # (rows, 4)
    y: np.ndarray  # (rows,)


@dataclass(frozen=True)
class LineItems:
    part: str
    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def batch(self, indices: Sequence[int]) -> Mapping[str, Tensor]:
        reached(self.part)
        time.sleep(float(os.environ.get("TOY_SLEEP", "0")))
        return {"x": self.x[list(indices)], "y": self.y[list(indices)]}


class LineModel(nn.Module):
    def __init__(self, fitted: Mapping[str, Any], preset: Any, dropout: float) -> None:
        super().__init__()
        dim = preset.backbone.stages[0].dim
        self.register_buffer("mean", torch.tensor(fitted["mean"], dtype=torch.float32))
        self.embed = nn.Linear(1, dim)
        self.backbone = Backbone(preset.backbone, Tokens(rank=1))
        self.head = nn.Linear(dim, 1)
        self.skip = nn.Linear(4, 1)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("bias", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        tokens, _ = self.backbone(self.embed(x[..., None] - self.mean), Layout((x.shape[1],)))
        return (self.head(self.dropout(tokens)).mean(1) + self.skip(x))[:, 0] + self.bias


class Line:
    name: ClassVar[str] = "toy/line"
    summary: ClassVar[str] = "A line through noise."
    Config: ClassVar[type[TaskConfig]] = LineConfig
    train_defaults: ClassVar[Mapping[str, Any]] = {"epochs": 3, "batch_size": 16, "weight_decay": 0.0}
    default_preset: ClassVar[str] = str(Path(__file__).with_name("toy.yaml"))
    metric_facts: ClassVar[Mapping[str, MetricFact]] = {
        "mse": MetricFact("1", "lower", "mean squared error"),
        "bias": MetricFact("1", "target", "mean error", target=0.0),
    }

    def __init__(self, config: LineConfig) -> None:
        self.config = config

    def open(self, source: str) -> LineData:
        if source == "bad":
            raise BadInput("bad: row 3 holds no number; mend it")
        name, _, seed = source.partition(":")
        if name != "simulated":
            raise BadInput(f"{source}: no such file")
        rng = np.random.default_rng(int(seed or 0))
        x = rng.normal(size=(self.config.rows, 4))
        y = x @ np.array([1.0, -2.0, 0.5, 0.0]) + 0.3 + self.config.noise * rng.normal(size=len(x))
        sha = hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()
        return LineData(Manifest(source, sha, "CC0", {"rows": len(x)}), x, y)

    def split(self, data: LineData) -> Split:
        n = len(data.y)
        a, b = int(0.6 * n), int(0.8 * n)
        parts = {"train": np.arange(a), "val": np.arange(a, b), "test": np.arange(b, n)}
        return Split("in order, 60/20/20", parts)

    def audit(self, data: LineData, split: Split) -> list[Audit]:
        return [Audit("overlap", 0.0, True, "rows in two parts")]

    def poison(self, data: LineData, split: Split) -> LineData:
        x, y = data.x.copy(), data.y.copy()
        x[split.parts["test"]], y[split.parts["test"]] = 1e6, -1e6
        return replace(data, x=x, y=y)

    def fit(self, data: LineData, split: Split) -> dict[str, Any]:
        seen = slice(None) if self.config.leak == "fit" else split.parts["train"]
        return {"mean": float(data.x[seen].mean())}

    def build(self, fitted: dict[str, Any], preset: Any) -> nn.Module:
        return LineModel(fitted, preset, self.config.dropout)

    def initialise(self, model: nn.Module, data: LineData, split: Split) -> None:
        if self.config.leak == "initialise":
            model.skip.bias.data.fill_(float(data.y.mean()))

    def items(self, data: LineData, split: Split, fitted: dict[str, Any], part: Part) -> LineItems:
        index = split.parts[part]
        return LineItems(part, torch.tensor(data.x[index]).float(), torch.tensor(data.y[index]).float())

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        error = model(batch["x"]) - batch["y"]
        return error.square().mean(), torch.tensor(float(len(error)))

    def calibrate(self, model: nn.Module, data: LineData, split: Split, fitted: dict[str, Any]) -> None:
        reached("calibrate")
        items = self.items(data, split, fitted, "val")
        with torch.no_grad():
            model.bias.copy_((items.y - model(items.x)).mean())

    def _evidence(self, error: np.ndarray) -> Evidence:
        count = np.ones(len(error))
        return Evidence(np.arange(len(error)) // 4, {"se": error**2, "e": error, "n": count})

    def evidence(self, model: nn.Module, data: LineData, split: Split, fitted: dict[str, Any], part: Part) -> Evidence:
        items = self.items(data, split, fitted, part)
        return self._evidence((model(items.x) - items.y).double().numpy())

    def baselines(self, data: LineData, split: Split, fitted: dict[str, Any]) -> Mapping[str, Evidence]:
        train, test = split.parts["train"], split.parts["test"]
        full = np.c_[data.x, np.ones(len(data.x))]
        w = np.linalg.lstsq(full[train], data.y[train], rcond=None)[0]
        return {
            "mean": self._evidence(data.y[train].mean() - data.y[test]),
            "least_squares": self._evidence(full[test] @ w - data.y[test]),
        }

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        n = evidence.sum("n")
        return {"mse": float(evidence.sum("se") / n), "bias": float(evidence.sum("e") / n)}

    def figures(self, model: Any, data: Any, split: Any, fitted: Any, scored: Any) -> dict[str, Any]:
        if not self.config.figures:
            return {}
        from matplotlib.figure import Figure

        figure = Figure()
        figure.subplots().plot(scored["model"].columns["e"])
        return {"Errors, by row": figure}

    def predict(self, model: nn.Module, fitted: dict[str, Any], source: str, sink: Any) -> dict[str, Any]:
        data = self.open(source)
        with torch.no_grad():
            y = model(torch.tensor(data.x).float())
        with sink.file("prediction.csv") as path:
            np.savetxt(path, y.numpy())
        return {"rows": len(y)}
