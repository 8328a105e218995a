"""Every registered task keeps every law of the contract, and tasks that break one are found out."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from domains import TASKS, load_task
from domains.checks import LAWS, Subject, check_law, check_task, subject
from domains.task import Evidence, Split
from shared_backbones.cases import LawError
from shared_backbones.errors import BadInput
from tests.pipelines.toy import Line, LineConfig

SMALL: dict[str, dict[str, Any]] = {  # the laws do not depend on size; the test run does
    "audio/classify": {"simulated": {"speakers": 4, "takes": 3, "words": 3}, "cnn_epochs": 1},
    "audio/separate": {
        "simulated": {"speakers": 6, "takes": 2, "words": 2},
        "mix": {"seconds": 0.5, "train": 4, "val": 3, "test": 4},
        "nmf": [4],
    },
    "audio/recognise": {"simulated": {"speakers": 4, "strings": 6, "words": 3, "longest": 2}, "templates": 1},
    "audio/regress": {"simulated": {"speakers": 4, "takes": 3, "words": 3}},
    "audio/pretrain": {"simulated": {"speakers": 4, "takes": 3, "words": 3}},
    "graph/link": {"simulated": {"nodes": 200, "words": 40}, "negatives": 20},
    "graph/signals": {"lags": 4},
    "graph/state": {"history": 64, "patches": 4},
    "graph/temporal": {"history": 64, "patches": 4, "negatives": 4, "train_negatives": 2},
    "medical/classify": {
        "simulated": {"patients": 24, "slices": 2},
        "size": 32,
        "cnn_epochs": 1,
        "cnn_width": 4,
        "corrupted": 4,
    },
    "medical/pretrain": {"simulated": {"patients": 24, "slices": 2}, "size": 32, "decoder_dim": 16},
    "medical/signal": {"simulated": {"seconds": 60, "records": 3}, "window_s": 4, "split": {"gap_s": 1}},
    "timeseries/forecast": {"lookback": 24, "horizon": 12, "ets_origins": 1},
    "timeseries/impute": {"length": 96},
    "timeseries/pretrain": {"lookback": 72, "horizon": 30, "scored": 40, "per_table": 200},
    "timeseries/traffic": {"lookback": 4, "horizon": 3, "split": {"protocol": "700/100/120 rows"}},
    "timeseries/events": {"simulated": {"people": 40, "events": 8}},
    "timeseries/detect": {"simulated": {"series": 4, "steps": 700}, "lookback": 16, "forest_trees": 10},
    "timeseries/classify": {"simulated": {"objects": 45, "visits": 12}, "expansions": 50},
    "graph/node": {"simulated": {"nodes": 160, "words": 60}, "baseline_epochs": 4},
    "graph/graph": {"simulated": {"graphs": 60}},
    "hyperspectral/classify": {"simulated": {"rows": 96, "cols": 96, "bands": 40}, "split": {"block": 12}},
    "hyperspectral/unmix": {"simulated": {"rows": 32, "cols": 32, "bands": 30, "endmembers": 3}, "patch_radius": 3},
    "medical/segment": {"simulated": {"cases": 8, "size": 24}, "patches": 4, "batch": 2},
    "hyperspectral/denoise": {"simulated": {"rows": 40, "cols": 40, "bands": 12}, "block": 10, "components": 6},
    "hyperspectral/detect": {"simulated": {"rows": 40, "cols": 40, "bands": 12}, "block": 10, "near": 3},
    "hyperspectral/superres": {"simulated": {"rows": 40, "cols": 40, "bands": 12}, "block": 10, "components": 6},
    "hyperspectral/change": {
        "simulated": {"rows": 72, "cols": 72, "bands": 16, "pixels_per_field": 60},
        "split": {"block": 12},
        "patch_radius": 4,
    },
    "hyperspectral/pretrain": {
        "simulated": {"rows": 64, "cols": 64, "bands": 24, "pixels_per_field": 60},
        "split": {"block": 12},
        "tile": 16,
        "patch_radius": 4,
        "decoder_dim": 16,
    },
    "synthetic/recall": {"strings": 40, "length": 24, "pairs": 3, "vocab": 16},
    "synthetic/listops": {"strings": 40, "length": 24},
    "synthetic/patterns": {"strings": 40, "pattern": "causal_cross"},
}


@cache
def small(name: str) -> Subject:
    cls = load_task(name)
    return subject(cls, cls.Config.model_validate(SMALL.get(name, {})))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", TASKS)
def test_registered_tasks_keep_the_laws(name: str, law: str) -> None:
    assert check_law(law, small(name))


def test_a_task_of_another_package_keeps_them() -> None:
    assert set(check_task(Line)) == set(LAWS)


class Overlaps(Line):
    def split(self, data: Any) -> Split:
        split = super().split(data)
        return Split(split.protocol, {**split.parts, "test": np.append(split.parts["test"], split.parts["train"][0])})


class MeansOverItems(Line):
    def loss(self, model: Any, batch: Any) -> Any:
        return super().loss(model, batch)[0], torch.tensor(1.0)


class OneUnit(Line):
    def _evidence(self, error: np.ndarray) -> Evidence:
        evidence = super()._evidence(error)
        return Evidence(np.zeros_like(evidence.unit), evidence.columns)


class NoBaseline(Line):
    def baselines(self, data: Any, split: Any, fitted: Any) -> Any:
        return {}


class OutsideTheWeights(Line):
    def calibrate(self, model: Any, data: Any, split: Any, fitted: Any) -> None:
        model.forward = lambda x: x.sum(1)


class Undeclared(Line):
    def metrics(self, evidence: Evidence) -> dict[str, float]:
        return {**super().metrics(evidence), "luck": 1.0}


class PoisonsNothing(Line):
    def poison(self, data: Any, split: Any) -> Any:
        return data


class HalfWritten(Line):
    def predict(self, model: Any, fitted: Any, source: str, sink: Any) -> Any:
        try:
            return super().predict(model, fitted, source, sink)
        except BadInput:
            with sink.file("half.csv") as path:
                path.write_text("?")
            raise


class Forgetful(Line):
    def open(self, source: str) -> Any:
        if "missing" in source:
            raise FileNotFoundError(source)
        return super().open(source)


@pytest.mark.parametrize(
    ("cls", "law", "says"),
    [
        (Overlaps, "split", "both"),
        (MeansOverItems, "loss", "item by item"),
        (OneUnit, "evidence", "one unit"),
        (NoBaseline, "baselines", "no baseline"),
        (OutsideTheWeights, "build", "outside"),
        (Undeclared, "evidence", "luck"),
        (PoisonsNothing, "poison", "proves nothing"),
        (HalfWritten, "predict", "leaves files"),
    ],
)
def test_a_broken_task_is_found(cls: type[Any], law: str, says: str) -> None:
    with pytest.raises(LawError, match=says):
        check_law(law, subject(cls))


@pytest.mark.parametrize("leak", ["fit", "initialise"])
def test_a_leak_is_found(leak: str) -> None:
    with pytest.raises(LawError, match="test part"):
        check_law("poison", subject(Line, LineConfig(leak=leak)))


def test_an_unexpected_error_is_not_swallowed() -> None:
    with pytest.raises(FileNotFoundError):
        check_law("predict", subject(Forgetful))
