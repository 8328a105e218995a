"""Small classifiers: what is pruned, how values are shared, and that a packed file gives the same model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

from domains.timeseries.classify import Classify
from domains.timeseries.objects.compress import apply_masks, cluster, pack, prune_masks, unpack
from domains.timeseries.objects.config import ClassifyOptions
from domains.timeseries.objects.portable import portable
from shared_backbones.presets import load_preset


def test_the_least_weights_go_and_stay_away() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 10), nn.Linear(10, 2))
    masks = prune_masks(model, 0.7)
    assert set(masks) == {"0.weight"}  # the second matrix is too small to be worth it
    before = model[0].weight.detach().clone()
    apply_masks(model, masks)
    kept = model[0].weight.detach() != 0
    assert int(kept.sum()) == 60
    assert before[~kept].abs().max() <= before[kept].abs().min()
    torch.testing.assert_close(model[0].weight.detach()[kept], before[kept])


def test_clusters_lie_where_the_values_do() -> None:
    random = np.random.default_rng(0)
    values = np.concatenate([np.zeros(50), random.normal(2, 0.01, 40), random.normal(-1, 0.01, 40)])
    centres, at = cluster(values, 3)
    np.testing.assert_allclose(centres, [-1, 0, 2], atol=0.02)
    assert (centres[at[:50]] == 0).all()
    np.testing.assert_allclose(centres[at], values, atol=0.05)
    assert len(cluster(np.ones(5), 16)[0]) == 1


@pytest.mark.parametrize("clusters", [4, 16, 64])
def test_packed_weights_come_back(clusters: int) -> None:
    torch.manual_seed(0)
    state = {"a": torch.randn(31, 9), "b": torch.randn(7), "n": torch.arange(3), "d": torch.randn(2).double()}
    raw = pack(state, {"a"}, clusters)
    again = unpack(raw)
    assert {k: (v.shape, v.dtype) for k, v in again.items()} == {k: (v.shape, v.dtype) for k, v in state.items()}
    assert len(again["a"].unique()) <= clusters
    assert float((again["a"] - state["a"]).abs().mean()) < 2 / clusters
    torch.testing.assert_close(again["b"], state["b"], atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(again["n"], state["n"])
    torch.testing.assert_close(again["d"], state["d"])
    assert pack(again, {"a"}, clusters) == raw
    with pytest.raises(ValueError, match="not a packed"):
        unpack(b"else" + raw)


def test_a_light_curve_classifier_is_ten_times_smaller_and_says_the_same() -> None:
    t = Classify(ClassifyOptions(grid="phase", grid_steps=32, simulated={"objects": 24, "visits": 10}))
    data = t.open("simulated")
    split = t.split(data)
    fitted = t.fit(data, split)
    torch.manual_seed(0)
    model = t.build(fitted, load_preset("t2_lightcurve")).eval()
    size = len(save(model.state_dict()))
    masks = prune_masks(model, 0.8)
    apply_masks(model, masks)
    raw = pack(model.state_dict(), set(masks))
    assert size / len(raw) > 10
    small = t.build(fitted, load_preset("t2_lightcurve")).eval()
    small.load_state_dict(unpack(raw))
    plain = portable(model, fitted)
    other = portable(small, fitted)
    assert plain is not None
    assert other is not None
    batch = t.items(data, split, fitted, "test").batch(range(3))
    series = batch["x"].masked_fill(~batch["seen"], float("nan"))
    with torch.no_grad():
        want = model(batch) / model.temperature
        torch.testing.assert_close(plain.module(series, batch["static"]), want)
        torch.testing.assert_close(other.module(series, batch["static"]), want, atol=0.3, rtol=0.3)
    assert t.portable(t.build(fitted, load_preset("series_mixer")), fitted) is None
