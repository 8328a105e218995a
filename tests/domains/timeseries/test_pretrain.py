"""A mixture of tables, told segment by segment: causal, any horizon, where a forecast starts; and the components."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from domains.checks import _Folder
from domains.timeseries.components import ComponentResidual, PromptPool, decomposed, freeze
from domains.timeseries.pretrain import Pretrain
from domains.timeseries.pretraining.mixture import PretrainConfig, own_parts
from domains.timeseries.pretraining.model import told_by
from domains.timeseries.segments import Hierarchy, SegmentResidual, standardised
from shared_backbones.errors import BadInput, BadRequest
from shared_backbones.layout import Layout
from shared_backbones.presets import Preset, parse_preset
from tests.domains.timeseries.made import table, task, written

ROW = "{mixer: attention, heads: 2, position: rotary, channel_options: {ratio: 1.0}}"
GPHT = f"""
paper: none
stem: segments
causal: true
stem_options: {{segment: 8, pools: [4, 1]}}
stages: [{{dim: 8, layers: [{ROW}]}}, {{dim: 8, layers: [{ROW}]}}]
model: {{skip: none, cycle: false}}
"""
TEMPO = f"""
paper: none
stem: components
causal: true
stem_options: {{patch: 8, stride: 4, trend: 5, period: 6, prompts: {{count: 6, length: 2, chosen: 2}}}}
stages: [{{dim: 8, layers: [{ROW}]}}]
model: {{skip: none, cycle: false, dropout: 0.0}}
"""


def preset(text: str = GPHT) -> Preset:
    return parse_preset("made", text)


def pretrain() -> Pretrain:
    return Pretrain(PretrainConfig(lookback=48, horizon=20, per_table=60, scored=12))


@pytest.fixture
def two(tmp_path: Path) -> str:
    first = written(table(500, 3), tmp_path)
    return first + "+" + written(table(400, 2, seed=1, freq="D"), tmp_path, "b.csv")


def test_a_stage_reads_what_the_stages_before_left() -> None:
    torch.manual_seed(0)
    net = Hierarchy(preset(), 8, (4, 1)).eval()
    x = torch.randn(2, 32)
    # by hand, segment by segment
    left = x.reshape(2, 4, 8).clone()
    total = torch.zeros(2, 4, 8)
    for i, pool in enumerate((4, 1)):
        coarse = torch.stack([left[:, :, k * pool : (k + 1) * pool].mean(2) for k in range(8 // pool)], 2)
        told = net.heads[i](net.backbones[i](net.embeds[i](coarse), Layout((4,)))[0])
        full = torch.stack([told[:, :, k // pool] for k in range(8)], 2)
        total += full
        for s in range(1, 4):
            left[:, s] = left[:, s] - full[:, s - 1]
    torch.testing.assert_close(net.following(x), total, atol=1e-5, rtol=1e-5)


def test_no_segment_is_told_from_what_follows_it() -> None:
    torch.manual_seed(0)
    net = Hierarchy(preset(), 8, (4, 1)).eval()
    x = torch.randn(1, 40)
    before = net.following(x)
    x[:, 24:] += 5
    torch.testing.assert_close(net.following(x)[:, :3], before[:, :3])
    assert (net.following(x)[:, 3:] - before[:, 3:]).abs().max() > 1e-3


def test_a_longer_rollout_begins_like_a_shorter_one_and_reads_its_own_answers() -> None:
    torch.manual_seed(0)
    net = Hierarchy(preset(), 8, (4, 1)).eval()
    x = torch.randn(3, 29)  # not of whole segments: the newest ones count
    seen = torch.rand(3, 29) > 0.2
    x = 5 * x.masked_fill(~seen, 0.0) + 3
    long = net.rollout(x, seen, 30)
    assert long.shape == (3, 30)
    torch.testing.assert_close(net.rollout(x, seen, 11), long[:, :11])
    for i in range(3):  # by hand: every look-back of 29 steps is standardised by what was seen of it
        back, known = x[i], seen[i]
        for start in (0, 8, 16):
            mean, scale = back[known].mean(), back[known].std(correction=0)
            z = torch.where(known, (back - mean) / scale, 0.0)[None, 5:]
            told = net.following(z)[0, -1] * scale + mean
            torch.testing.assert_close(long[i, start : start + 8], told, atol=1e-4, rtol=1e-4)
            back, known = torch.cat([back[8:], told]), torch.cat([known[8:], torch.ones(8, dtype=torch.bool)])


def test_a_rollout_moves_with_level_and_scale() -> None:
    torch.manual_seed(0)
    net = Hierarchy(preset(), 8, (4, 1)).eval()
    x, seen = torch.randn(2, 32), torch.ones(2, 32, dtype=torch.bool)
    torch.testing.assert_close(
        net.rollout(100 * x - 7, seen, 40), 100 * net.rollout(x, seen, 40) - 7, rtol=1e-3, atol=0.1
    )


def test_a_rollout_from_a_still_look_back_has_gradients() -> None:
    net = Hierarchy(preset(), 8, (4, 1))
    net.start_at_zero()  # so that the second look-back is as still as the first
    net.rollout(torch.zeros(2, 32), torch.ones(2, 32, dtype=torch.bool), 24).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    assert net.heads[1].bias.grad.abs().max() > 0


def test_a_still_look_back_is_not_all_that_the_loss_sees() -> None:
    x = torch.randn(2, 40)
    x[0, :32] = 0.7  # a pegged rate that is let go by a fifth of its deviation
    x[0, 32:] = 0.9
    z, mean, scale = standardised(x, torch.ones(2, 40, dtype=torch.bool), 32)
    torch.testing.assert_close(z * scale + mean, x)
    assert z.abs().max() < 10
    torch.testing.assert_close(z[1, :32].std(unbiased=False), torch.tensor(1.0))


def test_tables_of_other_lengths_and_steps_are_one_source(two: str) -> None:
    t = pretrain()
    data = t.open(two)
    split = t.split(data)
    fitted = t.fit(data, split)
    assert [len(p.names) for p in data.panels] == [3, 2]
    items = t.items(data, split, fitted, "train")
    for p, (panel, steps) in enumerate(zip(data.panels, own_parts(data, split, "train"), strict=True)):
        rows = items.places[items.places[:, 0] == p]
        assert rows[:, 2].max() + items.ahead - 1 <= steps[-1]
        assert set(rows[:, 1]) == set(range(len(panel.names)))
    got, place = items.batch([7]), items.places[7]
    fit = fitted["tables"][data.names[place[0]]]
    raw = data.panels[place[0]].values[place[2] - 48 : place[2] + 20, place[1]]
    want = (raw - fit["mean"][place[1]]) / fit["std"][place[1]]
    np.testing.assert_allclose(got["x"][0], want, rtol=1e-4, atol=1e-5)


def test_it_learns_and_tells_the_future_of_series_it_never_saw(two: str, tmp_path: Path) -> None:
    t = pretrain()
    data = t.open(two)
    split = t.split(data)
    fitted = t.fit(data, split)
    torch.manual_seed(0)
    model = t.build(fitted, preset())
    before = t.metrics(t.evidence(model, data, split, fitted, "test"))["mse"]
    items = t.items(data, split, fitted, "train")
    optimiser = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(12):
        for rows in torch.randperm(len(items)).split(16):
            loss, _ = t.loss(model, items.batch(rows.tolist()))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    assert t.metrics(t.evidence(model, data, split, fitted, "test"))["mse"] < 0.7 * before
    (tmp_path / "out").mkdir()
    new = table(60, 1, seed=9).rename(columns={"s0": "other"})
    facts = t.predict(model, fitted, written(new, tmp_path, "new.csv"), _Folder(tmp_path / "out"))
    assert facts["series_not_in_training"] == 1
    told = pd.read_csv(tmp_path / "out" / "forecast.csv")
    assert len(told) == 20
    scaled = new.assign(other=1000 * new["other"] + 5e5)
    t.predict(model, fitted, written(scaled, tmp_path, "scaled.csv"), _Folder(tmp_path / "out"))
    again = pd.read_csv(tmp_path / "out" / "forecast.csv")
    np.testing.assert_allclose((again["forecast"] - 5e5) / 1000, told["forecast"], rtol=1e-3, atol=1e-3)
    with pytest.raises(BadInput, match="looks back on 48"):
        t.predict(model, fitted, written(new[:30], tmp_path, "short.csv"), _Folder(tmp_path / "out"))


def test_a_table_is_named_once(two: str) -> None:
    with pytest.raises(BadInput, match="is named twice"):
        pretrain().open(f"{two}+{two}")


def test_a_forecast_starts_from_it(two: str, tmp_path: Path) -> None:
    t = pretrain()
    data = t.open(two)
    fitted = t.fit(data, t.split(data))
    torch.manual_seed(0)
    model = t.build(fitted, preset())
    source = two.split("+")[0]
    for text, taken in ((GPHT, "residual."), (TEMPO, "residual.backbones.0.")):
        chosen = task(lookback=48, horizon=20)
        panel = chosen.open(source)
        split = chosen.split(panel)
        forecaster = chosen.build(chosen.fit(panel, split), preset(text))
        mine, there = dict(forecaster.named_parameters()), dict(model.named_parameters())
        same = [n for n in mine if n in there and mine[n].shape == there[n].shape]
        assert {n for n in mine if n.startswith(taken)} == set(same)
        with torch.no_grad():
            for n in same:
                mine[n].copy_(there[n])
        if text == GPHT:
            batch = chosen.items(panel, split, {}, "test").batch([0])
            z = forecaster.scaled(batch["past"], batch["past_mask"])[0].mT.contiguous()
            alone = told_by(model, {"x": z, "seen": torch.ones_like(z, dtype=torch.bool)}, 20)
            with torch.no_grad():
                torch.testing.assert_close(forecaster.eval()(batch)[0].mT, alone, atol=1e-4, rtol=1e-4)


def test_components_add_up_and_are_what_they_say() -> None:
    t = torch.arange(60.0)
    wave = torch.sin(2 * torch.pi * t / 12)
    x = (0.1 * t + wave)[None]
    trend, season, rest = decomposed(x, 13, 12)
    torch.testing.assert_close(trend + season + rest, x)
    torch.testing.assert_close(season[0, 12:24], season[0, 24:36])
    assert (season[0] - wave).abs().max() < 0.3
    assert rest[0, 10:50].abs().max() < 0.3
    assert decomposed(x[:, :20], 13, 12)[1].abs().max() == 0


def test_prompts_are_those_whose_keys_lie_nearest() -> None:
    torch.manual_seed(0)
    pool = PromptPool(4, count=5, length=2, chosen=2)
    tokens = torch.randn(3, 7, 4)
    got = pool(tokens)
    for b in range(3):
        summary = tokens[b].mean(0)
        near = torch.stack([torch.cosine_similarity(summary, k, dim=0) for k in pool.keys])
        best = near.detach().argsort(descending=True)[:2].tolist()
        weight = torch.softmax(near[best], 0) * 2
        want = torch.cat([w * pool.values[i] for w, i in zip(weight, best, strict=True)])
        torch.testing.assert_close(got[b], want)
    with pytest.raises(BadRequest, match="chosen must be"):
        PromptPool(4, count=2, chosen=3)


def test_a_frozen_backbone_keeps_its_weights_and_trains_its_norms() -> None:
    torch.manual_seed(0)
    net = ComponentResidual(preset(TEMPO), 24, 6)
    freeze(net)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    optimiser = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.5)
    x = torch.randn(4, 24, 2)
    net(x, torch.ones_like(x, dtype=torch.bool)).square().mean().backward()
    optimiser.step()
    moved = {n for n, p in net.named_parameters() if not torch.equal(p, before[n])}
    assert {n for n in moved if n.startswith("backbones")} == {
        n for n in before if n.startswith("backbones") and "norm" in n
    }
    assert "pool.keys" in moved
    with pytest.raises(BadRequest, match="no backbone"):
        freeze(torch.nn.Linear(2, 2))


def test_what_a_preset_cannot_read_is_refused() -> None:
    for kind, text in ((SegmentResidual, GPHT), (ComponentResidual, TEMPO)):
        with pytest.raises(BadRequest, match="reads the series alone"):
            kind(preset(text), 48, 8, context=1)
        with pytest.raises(BadRequest, match="shorter than"):
            kind(preset(text), 7, 8)
        with pytest.raises(BadRequest, match="stem_options of preset"):
            kind(preset(text.replace("stem_options: {", "stem_options: {wrong: 1, ")), 48, 8)
    with pytest.raises(BadRequest, match="a divisor of the"):
        Hierarchy(preset(), 8, (3, 1))
