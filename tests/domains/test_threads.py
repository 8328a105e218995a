"""How many threads numpy and scikit-learn take: as many as asked for, and one where more cost more."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_info, threadpool_limits

from domains.task import Split
from domains.timeseries.objects import statistics
from domains.timeseries.objects.baselines import boosted
from domains.timeseries.sequences import baselines as bags
from domains.timeseries.sequences.data import Events
from pipelines import ingest
from shared_backbones import runtime

TWO = {2}  # what the pools hold before, whatever the machine


def pools() -> set[int]:
    """Threads of the pools of numpy, scipy and scikit-learn that are loaded, and of torch."""
    return {pool["num_threads"] for pool in threadpool_info()} | {torch.get_num_threads()}


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    with threadpool_limits(2):
        torch.set_num_threads(2)
        yield
    torch.set_num_threads(before)


def test_the_period_search_takes_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def search(*given: Any) -> Any:
        seen.append(pools())
        return np.zeros(3)

    monkeypatch.setattr(statistics, "light_curve_features", search)
    assert pools() == TWO
    statistics.all_features([np.zeros((9, 4)), np.zeros((8, 4))], 1, 0.2, 1.2)
    assert seen == [{1}, {1}]
    assert pools() == TWO


def test_boosting_takes_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []
    fit, shares = HistGradientBoostingClassifier.fit, HistGradientBoostingClassifier.predict_proba

    def fitting(self: Any, x: Any, y: Any) -> Any:
        seen.append(pools())
        return fit(self, x, y)

    def telling(self: Any, x: Any) -> Any:
        seen.append(pools())
        return shares(self, x)

    monkeypatch.setattr(HistGradientBoostingClassifier, "fit", fitting)
    monkeypatch.setattr(HistGradientBoostingClassifier, "predict_proba", telling)
    x, labels = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    boosted(x, labels, 2)(x)
    monkeypatch.setattr(bags, "coded", lambda data, fitted: None)
    monkeypatch.setattr(bags, "bags", lambda data, codes, fitted, rows: x[rows])
    split = Split("p", {"train": np.arange(20), "val": np.arange(20, 30), "test": np.arange(30, 40)})
    bags.all_baselines(object.__new__(Events), split, {"classes": ["a", "b"]}, labels[30:], labels[:30])
    assert seen == [{1}] * 4
    assert pools() == TWO


def test_a_process_is_given_its_threads_in_every_library() -> None:
    runtime.configure(threads=1, allocator=False)
    assert pools() == {1}


@pytest.mark.parametrize(("asked", "expected"), [(1, {1}), (None, TWO)])
def test_data_are_opened_under_the_threads_of_the_training(
    monkeypatch: pytest.MonkeyPatch, asked: int | None, expected: set[int]
) -> None:
    seen = []
    task = SimpleNamespace(open=lambda source: seen.append(pools()), split=lambda data: seen.append(pools()))
    monkeypatch.setattr(ingest, "build_task", lambda config: task)
    ingest.ingest(SimpleNamespace(data="simulated", train=SimpleNamespace(threads=asked)))  # type: ignore[arg-type]
    assert seen == [expected, expected]
    assert pools() == TWO
