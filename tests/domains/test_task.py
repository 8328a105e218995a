"""The plain data of the Task contract."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domains.task import Evidence, Split, to_json_digest


def _split(**parts: list[int]) -> Split:
    return Split("p", {name: np.array(index) for name, index in parts.items()})


def test_digest_knows_protocol_and_indices() -> None:
    one = _split(train=[0, 1], test=[2])
    assert one.digest == _split(test=[2], train=[0, 1]).digest
    assert one.digest != _split(train=[0], test=[1, 2]).digest
    assert one.digest != Split("q", one.parts).digest
    assert one.to_json()["sizes"] == {"train": 2, "test": 1}


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(0, 2**32 - 1))
def test_reweighting_equals_repeating_rows(units: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    unit = np.array(units)
    evidence = Evidence(unit, {"a": rng.normal(size=len(unit)), "b": rng.normal(size=(len(unit), 2, 3))})
    times = rng.integers(0, 4, size=len(evidence.units))
    weighted = evidence.reweighted(times.astype(np.float64))
    repeat = times[np.searchsorted(evidence.units, unit)]
    for name, rows in evidence.columns.items():
        np.testing.assert_allclose(weighted.sum(name), np.repeat(rows, repeat, axis=0).sum(0), atol=1e-12)
    by_name = evidence.reweighted({int(u): float(t) for u, t in zip(evidence.units, times, strict=True)})
    np.testing.assert_array_equal(by_name.weight, weighted.weight)


def test_sum_without_weights_is_the_plain_sum() -> None:
    evidence = Evidence(np.array([0, 1]), {"a": np.array([[1.0, 2.0], [3.0, 4.0]])})
    assert evidence.sum("a").tolist() == pytest.approx([4.0, 6.0])


def test_json_digest_ignores_key_order() -> None:
    assert to_json_digest({"a": 1, "b": [2]}) == to_json_digest({"b": [2], "a": 1})
    assert to_json_digest({"a": 1}) != to_json_digest({"a": 2})
