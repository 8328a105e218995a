"""Baselines that rest on neither preset nor seed are computed once, and come back bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from domains.task import Evidence
from pipelines.config import resolve
from pipelines.ingest import ingest
from pipelines.rivals import once, rivals_key


def made() -> dict[str, Evidence]:
    unit = np.array([0, 0, 3])
    columns = {"n": np.array([1.0, 0.1 + 0.2, np.nan]), "step_n": np.arange(6.0).reshape(3, 2)}
    return {"naive": Evidence(unit, columns), "slow (2 windows)": Evidence(unit, columns, np.ones(3), "2 of 9 windows")}


def test_kept_evidence_is_the_same_bit_for_bit_and_made_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.npz"
    want = once(path, made)
    got = once(path, lambda: pytest.fail("made again"))
    assert list(got) == list(want)
    for name, one in want.items():
        other = got[name]
        assert (other.scope, list(other.columns)) == (one.scope, list(one.columns))
        assert (other.unit.dtype, other.unit.tobytes()) == (one.unit.dtype, one.unit.tobytes())
        assert (other.weight is None) == (one.weight is None)
        for column, values in one.columns.items():
            assert other.columns[column].tobytes() == values.tobytes()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut short"])
def test_a_file_that_cannot_be_read_is_made_again(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    assert list(once(path, made)) == list(made())
    assert list(once(path, lambda: pytest.fail("made again"))) == list(made())


def test_the_key_hangs_on_options_and_statistics_and_not_on_preset_or_seed() -> None:
    sets = ["lookback=24", "horizon=12"]
    first, second, third = (
        resolve("timeseries/forecast", preset=preset, sets=options, seed=seed)
        for preset, options, seed in (
            ("linear_skip", sets, 0),
            ("itransformer", [*sets, "train.epochs=2"], 1),
            ("linear_skip", [*sets, "ets_origins=3"], 0),
        )
    )
    _, data, split = ingest(first)
    keys = [rivals_key(config, data, split, {"mean": [1.0]}) for config in (first, second, third)]
    assert keys[0] == keys[1] != keys[2]
    assert rivals_key(first, data, split, {"mean": [1.5]}) != keys[0]
