"""The one-shot decoder: its masked attention against a plain loop, and that nothing reads what comes later."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from domains.timeseries import oneshot
from domains.timeseries.oneshot import FACTOR, OneShotResidual, masked_prob_sparse
from shared_backbones.errors import BadRequest
from shared_backbones.presets import load_preset
from tests.domains.timeseries.made import table
from tests.domains.timeseries.test_model import covariate_frame, ready
from tests.domains.timeseries.test_predicting import predicted


def loop(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """One head, from the definition."""
    n, d = q.shape
    few = [min(i + 1, max(1, math.ceil(FACTOR * math.log(i + 1)))) for i in range(n)]
    worth = []
    for i in range(n):
        s = [float(q[i] @ k[i - slot * (i + 1) // few[i]]) for slot in range(few[i])]
        worth.append(max(s) - sum(s) / len(s))
    out = []
    for i in range(n):
        if sum(worth[j] > worth[i] for j in range(i + 1)) < few[i]:
            out.append(torch.softmax(k[: i + 1] @ q[i] / math.sqrt(d), 0) @ v[: i + 1])
        else:
            out.append(v[: i + 1].mean(0))
    return torch.stack(out)


def test_masked_attention_equals_a_loop() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 40, 4, dtype=torch.float64) for _ in range(3))
    got = masked_prob_sparse(q, k, v)
    for b in range(2):
        for a in range(3):
            assert torch.allclose(got[b, a], loop(q[b, a], k[b, a], v[b, a]), rtol=1e-6)
    inactive = torch.isclose(got, v.cumsum(2) / torch.arange(1, 41, dtype=torch.float64)[:, None]).all(-1)
    assert inactive[..., 5:].any()
    assert not inactive[..., 5:].all()


@pytest.mark.parametrize("first", [0, 20])
@pytest.mark.parametrize("few", [0, 10**9])  # the active ones alone, or all
def test_every_way_to_read_equals_a_loop(first: int, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_FEW", few), ("_ROWS", 16), ("_HELD", 2000)):
        monkeypatch.setattr(oneshot, name, value)
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 1, 40, 4, dtype=torch.float64) for _ in range(3))
    got = masked_prob_sparse(q, k, v, first)
    for b in range(2):
        assert torch.allclose(got[b, 0], loop(q[b, 0], k[b, 0], v[b, 0])[first:], rtol=1e-6)


def test_no_decoder_token_reads_a_later_one() -> None:
    torch.manual_seed(0)
    residual = OneShotResidual(
        load_preset("informer_forecast"), 24, 12, context=0, ahead=3, static=0, dropout=0.1, from_zero=False,
        series=3, each=False,
    ).eval()  # fmt: skip
    x, mask = torch.randn(2, 24, 3), torch.rand(2, 24, 3) > 0.1
    none = torch.zeros(2, 24, 1, 0)
    ahead = torch.randn(2, 12, 1, 3)

    def run(ahead: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return residual(x, mask, none, none.bool(), ahead, torch.zeros(3, 0))

    want = run(ahead)
    assert want.shape == (2, 12, 3)
    for h in (1, 7):
        changed = ahead.clone()
        changed[:, h:] = torch.randn(2, 12 - h, 1, 3)
        got = run(changed)
        assert torch.allclose(got[:, :h], want[:, :h], atol=1e-6)
        assert not torch.allclose(got[:, h:], want[:, h:], atol=1e-4)


def test_it_forecasts_and_never_sees_targets(tmp_path: Path) -> None:
    chosen, panel, split, fitted, model = ready(tmp_path, "informer_forecast")
    items = chosen.items(panel, split, fitted, "train")
    batch = dict(items.batch(range(8)))
    with torch.no_grad():
        want = model(batch)
        batch["future"] = torch.full_like(batch["future"], 1e9)
        assert torch.equal(model(batch), want)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    random, losses = np.random.default_rng(0), []
    model.train()
    for _ in range(12):
        loss, _ = chosen.loss(model, items.batch(random.choice(len(items), 8).tolist()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])
    assert all(p.grad is not None for p in model.residual.parameters())


def test_series_that_it_was_not_made_for_have_rows_without_a_forecast(tmp_path: Path) -> None:
    frame = table().melt("date", var_name="unique_id", value_name="y").rename(columns={"date": "ds"})
    parts = ready(tmp_path, "informer_forecast", frame)
    chosen, panel, split, fitted, model = parts
    chosen.calibrate(model, panel, split, fitted)
    other = frame[frame["unique_id"] == "s0"].assign(unique_id="fresh")
    got = {}
    for name, rows in {"same": frame, "more": pd.concat([frame, other])}.items():
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
        got[name], facts = predicted(parts, str(tmp_path / f"{name}.csv"), tmp_path)
    assert facts["new_names"] == ["fresh"]
    assert facts["without_forecast"] == 1
    fresh = got["more"]["unique_id"] == "fresh"
    assert fresh.sum() == 12
    assert got["more"][fresh]["forecast"].isna().all()
    assert set(got["more"][fresh]["basis"]) == {"new, not told by a network of the trained series"}
    pd.testing.assert_frame_equal(got["more"][~fresh].reset_index(drop=True), got["same"])


def test_covariates_of_a_wide_table_are_read_and_those_of_each_series_refused(tmp_path: Path) -> None:
    frame = table()
    frame["price"] = np.sin(np.arange(len(frame)))
    chosen, panel, split, fitted, model = ready(tmp_path, "informer_forecast", frame, future_covariates=("price",))
    batch = dict(chosen.items(panel, split, fitted, "test").batch(range(2)))
    with torch.no_grad():
        want = model(batch)
        batch["known"] = batch["known"].clone()
        batch["known"][:, -1] += 1.0
        got = model(batch)
    assert torch.allclose(got[:, :-1], want[:, :-1], atol=1e-6)
    assert not torch.allclose(got[:, -1], want[:, -1], atol=1e-4)
    with pytest.raises(BadRequest, match="covariates of a wide table, none of a long frame"):
        ready(tmp_path, "informer_forecast", covariate_frame(), future_covariates=("price",))
