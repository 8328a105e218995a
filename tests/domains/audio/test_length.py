"""Encoders that claim to be linear in the length of a recording are, by counted operations and bytes."""

from __future__ import annotations

import pytest

from tests.benchmarks.speech_length import ENCODERS, as_claimed, cost, growth, rows


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_cost_what_they_claim(name: str) -> None:
    encoder = ENCODERS[name]()
    costs = [cost(encoder, seconds, timed=False) for seconds in (1.0, 5.0, 40.0)]
    assert as_claimed(encoder, costs)
    assert (growth(costs) < 1.5) is encoder.linear
    kept = costs[-1].per_second()[1] / costs[1].per_second()[1]
    assert kept < 1.5
    if name == "LMUFormer":
        assert costs[0].state == costs[-1].state
    assert len(rows(name, encoder, costs)) == 4
