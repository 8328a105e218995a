"""The forecaster: where it starts, what it sees, that gaps stay where they are, and that its parts save and load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.timeseries.data import Panel
from domains.timeseries.forecast import Forecast
from domains.timeseries.gating import share_losses, smallest_share
from domains.timeseries.model import Forecaster, forecast_loss, head_options
from domains.timeseries.ridge import fit_ridge, zscored
from domains.timeseries.scoring import statistics
from shared_backbones.errors import BadRequest
from shared_backbones.presets import Preset, adjust, load_preset
from tests.domains.timeseries.made import opened, table, task, written

PRESETS = ["linear_skip", "itransformer", "patch_tst"]


def ready(folder: Path, preset: str | Preset = "linear_skip", frame: Any = None, **options: Any) -> tuple[Any, ...]:
    """(task, panel, split, fitted, initialised model) on a small table."""
    chosen = task(**options)
    panel = opened(table() if frame is None else frame, folder, **options)
    split = chosen.split(panel)
    fitted = chosen.fit(panel, split)
    torch.manual_seed(0)
    model = chosen.build(fitted, load_preset(preset) if isinstance(preset, str) else preset).eval()
    chosen.initialise(model, panel, split)
    return chosen, panel, split, fitted, model


def covariate_frame(steps: int = 300) -> pd.DataFrame:
    """A long frame of three series with covariates of every role; ``price`` drives the values at once."""
    random = np.random.default_rng(0)
    parts = []
    for i in range(3):
        price = random.normal(size=steps)
        y = 3 * price + 10 * i + 0.1 * random.normal(size=steps)
        stamps = pd.date_range("2024-01-01", periods=steps, freq="h")
        parts.append(
            pd.DataFrame(
                {
                    "unique_id": f"u{i}",
                    "ds": stamps,
                    "y": y,
                    "rain": random.normal(size=steps),
                    "price": price,
                    "area": i,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


ROLES = {"past_covariates": ("rain",), "future_covariates": ("price",), "static_covariates": ("area",)}


def test_the_default_starts_exactly_at_the_ridge(tmp_path: Path) -> None:
    chosen, panel, split, fitted, model = ready(tmp_path, adjust(load_preset("linear_skip"), cycle=False))
    mean, std, _ = statistics(fitted)
    train, val = (zscored(chosen.items(panel, split, fitted, part), mean, std) for part in ("train", "val"))
    ridge = fit_ridge(train, val, np.zeros((fitted["cycle"], 3)))
    items = chosen.items(panel, split, fitted, "test")
    batch = items.batch(range(5))
    scaled = zscored(items, mean, std).batch(range(5))
    want = ridge.forecast(scaled["past"].numpy(), scaled["past_mask"].numpy(), scaled["phase"].numpy(), 12)
    with torch.no_grad():
        assert np.allclose(model(batch).numpy(), want, atol=1e-5)


def test_a_profile_enters_when_the_blocks_ask_for_it(tmp_path: Path) -> None:
    frame = table(168 * 20)
    hours = np.arange(len(frame))
    frame["s0"] += np.where((hours // 24) % 7 >= 5, 6.0, 0.0)
    *_, model = ready(tmp_path, frame=frame)
    assert model.cycle.abs().max() > 0.3
    assert not model.cycle.requires_grad
    *_, tuned = ready(tmp_path, adjust(load_preset("linear_skip"), tune_skip=True), frame=frame)
    assert tuned.cycle.requires_grad


@pytest.mark.parametrize("preset", PRESETS)
def test_one_step_of_training_lowers_the_loss(preset: str, tmp_path: Path) -> None:
    chosen, panel, split, fitted, model = ready(tmp_path, preset)
    batch = chosen.items(panel, split, fitted, "train").batch(range(64))
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(15):
        loss, count = chosen.loss(model, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert count == 64 * 12 * 3


@pytest.mark.parametrize("preset", ["linear_skip", "patch_tst"])
def test_gaps_of_one_series_change_no_other_without_mixing(preset: str, tmp_path: Path) -> None:
    chosen, panel, split, fitted, model = ready(tmp_path, adjust(load_preset(preset), mixer="identity"))
    model.residual.head.weight.data.normal_(std=0.05)
    batch = dict(chosen.items(panel, split, fitted, "test").batch(range(4)))
    with torch.no_grad():
        before = model(batch)
        batch["past_mask"] = batch["past_mask"].clone()
        batch["past_mask"][:, 3:9, 1] = False
        after = model(batch)
    assert torch.allclose(before[..., [0, 2]], after[..., [0, 2]], atol=1e-6)
    assert not torch.allclose(before[..., 1], after[..., 1])


@pytest.mark.parametrize("preset", PRESETS)
@settings(max_examples=15)
@given(garbage=st.floats(-1e6, 1e6), seed=st.integers(0, 99))
def test_what_stands_at_missing_places_does_not_matter(
    preset: str, garbage: float, seed: int, tmp_path_factory: Any
) -> None:
    chosen, panel, split, fitted, model = cached(preset, tmp_path_factory)
    batch = dict(chosen.items(panel, split, fitted, "test").batch(range(3)))
    batch["past_mask"] = torch.rand(batch["past"].shape, generator=torch.Generator().manual_seed(seed)) > 0.3
    batch["past_mask"][0, :, 1] = False  # a series without any observation
    with torch.no_grad():
        clean = model(batch)
        spoilt = model({**batch, "past": batch["past"].masked_fill(~batch["past_mask"], garbage)})
    assert clean.isfinite().all()
    assert torch.equal(clean, spoilt)


_CACHE: dict[str, Any] = {}


def cached(preset: str, factory: Any) -> tuple[Any, ...]:
    if preset not in _CACHE:
        _CACHE[preset] = ready(factory.mktemp(preset), preset)
        _CACHE[preset][-1].residual.head.weight.data.normal_(std=0.05)
    return _CACHE[preset]


@pytest.mark.parametrize("preset", PRESETS)
def test_an_empty_look_back_has_finite_gradients(preset: str, tmp_path: Path) -> None:
    chosen, panel, split, fitted, model = ready(tmp_path, preset)
    batch = dict(chosen.items(panel, split, fitted, "train").batch(range(3)))
    batch["past_mask"] = torch.zeros_like(batch["past_mask"])
    chosen.loss(model, batch)[0].backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_quantiles_are_ordered_and_saved_with_the_weights(tmp_path: Path) -> None:
    chosen, panel, split, fitted, model = ready(tmp_path)
    chosen.calibrate(model, panel, split, fitted)
    other = chosen.build(fitted, load_preset("linear_skip")).eval()
    other.load_state_dict(model.state_dict())
    batch = chosen.items(panel, split, fitted, "test").batch(range(6))
    with torch.no_grad():
        got = model.quantiles(batch)
        assert torch.equal(got, other.quantiles(batch))
        assert torch.equal(got[:, 2], model(batch))
    assert (got.diff(dim=1) >= 0).all()
    assert (got[:, 4] > got[:, 0]).all()
    assert torch.allclose(model.original(model.scaled(batch["past"], batch["past_mask"])), batch["past"], atol=1e-4)


def test_a_correction_is_kept_only_as_far_as_units_speak_for_it(tmp_path: Path) -> None:
    lower = np.array([[1.0, 0.9, 0.8, 0.7, 0.6]] * 4) * np.array([[1.0], [1.1], [0.9], [1.0]])
    assert smallest_share(lower) == 1.0
    chance = np.array([[1.0, 1.0, 1.0, 1.0, 0.2], [1.0, 1.1, 1.2, 1.3, 1.4], [1.0, 1.1, 1.2, 1.3, 1.3]])
    assert smallest_share(chance) == 0.0
    assert smallest_share(lower[:1]) == 0.0
    chosen, panel, split, fitted, model = ready(tmp_path)
    model.residual.head.bias.data.fill_(3.0)  # a correction that only does harm
    chosen.calibrate(model, panel, split, fitted)
    assert model.gate == 0
    losses = share_losses(model, chosen.items(panel, split, fitted, "val"), "mse")
    whole = chosen.evidence(model, panel, split, fitted, "val").sum("se").sum()
    assert losses[:, 0].sum() == pytest.approx(whole, rel=1e-5)


def test_loss_is_a_mean_over_observed_elements() -> None:
    got, want = torch.tensor([[[1.0], [5.0]]]), torch.tensor([[[3.0], [0.0]]])
    known = torch.tensor([[[True], [False]]])
    assert [float(forecast_loss(kind, got, want, known)[0]) for kind in ("mse", "mae", "huber")] == [4.0, 2.0, 1.5]
    loss, count = forecast_loss("mse", got, want, torch.zeros_like(known))
    assert (float(loss), float(count)) == (0.0, 0.0)


@pytest.mark.parametrize("preset", PRESETS)
def test_covariates_of_every_role_reach_the_forecast(preset: str, tmp_path: Path) -> None:
    chosen, panel, split, fitted, model = ready(
        tmp_path, adjust(load_preset(preset), calendar=True), covariate_frame(), **ROLES
    )
    assert panel.past.shape == panel.future.shape == (300, 3, 1)
    for parameter in (model.residual.head.weight, model.residual.ahead.of_token.weight):
        parameter.data.normal_(std=0.3)
    batch = dict(chosen.items(panel, split, fitted, "train").batch(range(4)))
    with torch.no_grad():
        before = model(batch)
        for name, at in (("covariates", slice(None)), ("known", slice(0, 24)), ("known", slice(24, None))):
            other = {**batch, name: batch[name].clone()}
            other[name][:, at] += 1.0
            assert not torch.allclose(before, model(other)), (name, at)
        missing = {**batch, "covariates": torch.full_like(batch["covariates"], float("nan"))}
        assert model(missing).isfinite().all()
        model.static[0] += 1.0
        assert not torch.allclose(before, model(batch))


def test_a_future_covariate_that_drives_the_series_is_learnt(tmp_path: Path) -> None:
    chosen, panel, split, fitted, model = ready(tmp_path, "itransformer", covariate_frame(600), **ROLES)
    items = chosen.items(panel, split, fitted, "train")
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for step in range(40):
        batch = items.batch(np.random.default_rng(step).integers(0, len(items), 64).tolist())
        loss, _ = chosen.loss(model, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    mse = chosen.metrics(chosen.evidence(model.eval(), panel, split, fitted, "test"))["mse"]
    naive = chosen.metrics(chosen.baselines(panel, split, fitted)["window_ridge"])["mse"]
    assert mse < 0.5 * naive


def test_options_are_checked() -> None:
    with pytest.raises(BadRequest, match="did you mean 'skip'"):
        head_options({"skp": "ridge"})
    with pytest.raises(BadRequest, match=r"model\.skip: .*'none', 'last' or 'ridge'"):
        head_options({"skip": "first"})


def test_presets_that_cannot_serve_are_refused(tmp_path: Path) -> None:
    chosen, _panel, _split, fitted, _ = ready(tmp_path)
    with pytest.raises(BadRequest, match="unknown stem"):
        chosen.build(fitted, replace(load_preset("linear_skip"), stem="spectrum"))
    with pytest.raises(BadRequest, match="stem_options of preset"):
        chosen.build(fitted, replace(load_preset("patch_tst"), stem_options={"pach": 3}))
    with pytest.raises(BadRequest, match="stem_options of preset"):
        chosen.build(fitted, replace(load_preset("informer_forecast"), stem_options={"pach": 3}))
    with pytest.raises(BadRequest, match="shorter than a patch of 48"):
        chosen.build(fitted, replace(load_preset("patch_tst"), stem_options={"patch": 48}))


@pytest.mark.parametrize("skip", ["none", "last"])
def test_other_skips(skip: str, tmp_path: Path) -> None:
    chosen, panel, split, fitted, model = ready(tmp_path, adjust(load_preset("linear_skip"), skip=skip, cycle=False))
    model.residual.start_at_zero()
    batch = dict(chosen.items(panel, split, fitted, "test").batch(range(3)))
    batch["past_mask"] = batch["past_mask"].clone()
    batch["past_mask"][1, -2:, 0] = False
    with torch.no_grad():
        got = model.original(model(batch))
    past = batch["past"]
    if skip == "last":
        assert torch.allclose(got[1, :, 0], past[1, -3, 0].expand(12), atol=1e-4)
        assert torch.allclose(got[0], past[0, -1:].expand(12, 3), atol=1e-4)
    else:
        assert torch.allclose(got[0], past[0].mean(0, keepdim=True).expand(12, 3), atol=1e-4)


def test_a_pyramid_of_patches_builds(tmp_path: Path) -> None:
    preset = load_preset("patch_tst")
    stage = preset.backbone.stages[0]
    two = replace(preset.backbone, stages=(stage, replace(stage, stride=2)))
    chosen, panel, split, fitted, model = ready(
        tmp_path, replace(preset, backbone=two, stem_options={"patch": 4, "stride": 2})
    )
    assert isinstance(model, Forecaster)
    assert model(chosen.items(panel, split, fitted, "val").batch([0, 1])).shape == (2, 12, 3)


def test_opened_again_from_another_format_nothing_changes(tmp_path: Path) -> None:
    frame = table()
    path = written(frame, tmp_path)
    long = frame.melt("date", var_name="unique_id", value_name="y").rename(columns={"date": "ds"})
    chosen = Forecast(Forecast.Config(lookback=24, horizon=12, ets_origins=0))
    panels: list[Panel] = [chosen.open(path), chosen.open(written(long, tmp_path, "long.csv"))]
    fits = [chosen.fit(panel, chosen.split(panel)) for panel in panels]
    assert {k: v for k, v in fits[0].items() if k != "reading"} == {k: v for k, v in fits[1].items() if k != "reading"}
