"""Chronological splits, windows against a naive loop, independent units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domains.timeseries.splits import borders, origins, thinned, units
from domains.timeseries.windows import windows
from shared_backbones.errors import BadInput, BadRequest
from tests.domains.timeseries.made import opened, table, task


def test_the_ett_months_are_the_published_rows() -> None:
    assert borders("12/4/4 months", 17420, "h") == (0, 8640, 11520, 14400)
    assert borders("70/10/20", 7588, "1") == (0, 5311, 6071, 7588)
    assert borders("50/20/30 rows", 200, "D") == (0, 50, 70, 100)


@pytest.mark.parametrize("protocol", ["7/1", "70/10/10", "0/50/50", "a/b/c", "12/4/4 weeks"])
def test_other_words_are_refused(protocol: str) -> None:
    with pytest.raises(BadRequest, match="split protocol"):
        borders(protocol, 1000, "h")


def test_more_steps_than_there_are() -> None:
    with pytest.raises(BadInput, match="needs 14400 steps, the source has 100"):
        borders("12/4/4 months", 100, "h")


def test_too_short_for_one_window(tmp_path: Path) -> None:
    panel = opened(table(60), tmp_path)
    with pytest.raises(BadInput, match=r"too short: part 'val' .* has 6 of 60 steps and needs at least 12"):
        task().split(panel)
    with pytest.raises(BadInput, match=r"part 'train' .*needs at least 54 \(look-back 24 \+ horizon 30\)"):
        task(horizon=30, split={"protocol": "80/10/10"}).split(panel)


@given(steps=st.integers(120, 300), lookback=st.integers(2, 20), horizon=st.integers(1, 11))
def test_every_window_is_there_once_and_its_targets_stay_in_its_part(steps: int, lookback: int, horizon: int) -> None:
    a, b, c, end = borders("70/10/20", steps, "h")
    for first, last in ((a, b), (b, c), (c, end)):
        naive = [t for t in range(steps) if t >= first and t + horizon <= last and t >= lookback]
        assert origins(np.arange(first, last), lookback, horizon).tolist() == naive


def test_windows_equal_a_naive_loop(tmp_path: Path) -> None:
    frame = table(120)
    frame.iloc[[30, 31, 50], 2] = np.nan
    panel = opened(frame, tmp_path)
    at = np.arange(24, 109)
    source = windows(panel, at, 24, 12, 24)
    batch = source.batch([0, 7, 84])
    for i, t in enumerate((24, 31, 108)):
        want = panel.values[t - 24 : t]
        assert np.array_equal(batch["past"][i].numpy(), np.nan_to_num(want))
        assert np.array_equal(batch["past_mask"][i].numpy(), ~np.isnan(want))
        assert np.array_equal(batch["future"][i].numpy(), np.nan_to_num(panel.values[t : t + 12]))
        assert batch["phase"][i] == (panel.times[t].astype("datetime64[h]").astype(int)) % 24
    with pytest.raises(IndexError):
        source.batch([85])


def test_targets_behind_the_end_are_missing(tmp_path: Path) -> None:
    panel = opened(table(100), tmp_path)
    batch = windows(panel, np.array([100]), 24, 12, 24).batch([0])
    assert not batch["future_mask"].any()
    assert batch["past_mask"].all()


def test_chunks_cover_all_windows_in_order(tmp_path: Path) -> None:
    source = windows(opened(table(200), tmp_path), np.arange(24, 180), 24, 12, 24)
    places = [p for chunk, _ in source.chunks(1_000_000) for p in chunk]
    assert places == list(range(len(source)))


def test_neighbouring_windows_share_a_unit() -> None:
    got = units(np.arange(100, 200), 24, 12)
    assert got.tolist() == [i // 36 for i in range(100)]
    assert len(units(np.arange(0), 24, 12)) == 0


def test_thinning_is_even_and_keeps_both_ends() -> None:
    assert thinned(np.arange(10, 110), 8).tolist() == [10, 24, 38, 52, 67, 81, 95, 109]
    assert thinned(np.arange(3), 8).tolist() == [0, 1, 2]
    assert thinned(np.arange(3), 0).tolist() == []


def test_the_audit_of_a_split(tmp_path: Path) -> None:
    panel = opened(table(), tmp_path)
    chosen = task()
    audits = {audit.name: audit for audit in chosen.audit(panel, chosen.split(panel))}
    assert all(audit.passed is not False for audit in audits.values())
    split = chosen.split(panel)
    before_test = len(panel.times) - len(split.parts["test"])
    draws = audits["horizons in training and validation"]
    assert draws.passed is None
    assert draws.value == pytest.approx(before_test / chosen.config.horizon, abs=0.05)
    leaking = type(split)(split.protocol, {**split.parts, "val": split.parts["val"] - 5})
    assert not chosen.audit(panel, leaking)[0].passed
