"""Classes of series and light curves: reading, features against naive references, the task on files."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from domains.checks import _Folder, check_law, subject
from domains.scoring import class_scores
from domains.timeseries.classify import Classify
from domains.timeseries.objects.closed import fit_ridge
from domains.timeseries.objects.config import ClassifyOptions
from domains.timeseries.objects.convolutions import KERNELS, FixedConvolutions, dilations_of
from domains.timeseries.objects.data import parse_curves, parse_ts
from domains.timeseries.objects.early import truncated
from domains.timeseries.objects.gridding import gaussian_process, on_phase_grid, on_time_grid
from domains.timeseries.objects.items import ObjectItems, filled
from domains.timeseries.objects.listing import all_tables, period_rows
from domains.timeseries.objects.neighbours import euclidean, warped_matrix
from domains.timeseries.objects.periods import (
    best_period,
    fourier_fit,
    frequency_grid,
    power,
    power_near,
    trig_sums,
    weights_of,
)
from domains.timeseries.objects.simulate import simulated
from domains.timeseries.objects.source import read_source
from shared_backbones.errors import BadInput, BadRequest
from shared_backbones.presets import load_preset

HEAD = "#words\n@problemName made\n@timeStamps false\n@univariate false\n@classLabel true a b\n@data\n"
SMALL = {"simulated": {"objects": 30, "visits": 8}, "expansions": 20, "convolutions": 168}


def wave_file(part: str, count: int, seed: int, ragged: bool = True) -> str:
    """Two classes of two channels: slow and fast waves, of unequal length, some values missing."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        n = int(random.integers(30, 45)) if ragged else 40
        t = np.arange(n)
        waves = [np.sin(t / (3 if i % 2 else 6) + random.uniform(0, 6)) + 0.2 * random.normal(size=n) for _ in "xy"]
        cells = [[f"{v:.4f}" for v in w] for w in waves]
        cells[0][int(random.integers(5, 20))] = "?"
        rows.append(":".join([",".join(c) for c in cells] + ["ba"[i % 2]]))
    return HEAD + "\n".join(rows) + "\n"


@pytest.fixture
def waves(tmp_path: Path) -> str:
    (tmp_path / "made_TRAIN.ts").write_text(wave_file("train", 24, 0))
    (tmp_path / "made_TEST.ts").write_text(wave_file("test", 12, 1))
    return str(tmp_path)


def star_table(stars: int = 12, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    frames = []
    for i in range(stars):
        t = np.sort(random.uniform(0, 40, 40)) + 50_000
        y = 17 + (0.1 + 0.5 * (i % 2)) * np.sin(2 * np.pi * t / 0.6) + 0.02 * random.normal(size=40)
        frame = pd.DataFrame({"object": f"s{i}", "time": t, "mag": y, "magerr": 0.02})
        frames.append(frame.assign(band=np.where(np.arange(40) % 2, "r", "g"), label="xy"[i % 2]))
    return pd.concat(frames)


def test_ts_keeps_gaps_lengths_and_channels() -> None:
    read = parse_ts((HEAD + "1,?,3:4,5,6,7:a\n1:2:b\n").encode(), "x.ts", "train")
    first, second = (o.values for o in read.objects)
    assert first.shape == (4, 2)
    assert second.shape == (1, 2)
    np.testing.assert_array_equal(first[:, 0], [1, np.nan, 3, np.nan])
    assert [o.label for o in read.objects] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1,2,3", "no .ts file|before @data"),
        (HEAD + "1,2:3,4:c\n", "class 'c'"),
        (HEAD + "1,x:3,4:a\n", "line 7, value 2"),
        (HEAD + "1,2:3,4:a\n1,2:a\n", "line 8: 1 channels"),
        (HEAD + "?,?:?,?:a\n", "no observed value"),
        (HEAD.replace("@timeStamps false", "@timeStamps true") + "1:a\n", "tables"),
        (HEAD, "no series"),
    ],
)
def test_ts_errors_say_where(text: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        parse_ts(text.encode(), "x.ts")


def test_convolution_features_equal_the_definition() -> None:
    torch.manual_seed(0)
    fixed = FixedConvolutions(40, 3, 84 * 5)
    x = torch.randn(4, 40, 3)
    fixed.fit(x, torch.full((4,), 40))
    found = fixed(x, torch.full((4,), 40))
    assert found.shape == (4, fixed.features)
    at, series = 0, x[1].double().numpy()
    for place, (dilation, count) in enumerate(zip(*dilations_of(40, 420), strict=True)):
        for kernel in (0, 7, 83):
            weight = np.where(np.isin(np.arange(9), KERNELS[kernel]), 2.0, -1.0)
            used = series[:, fixed.channels[place, kernel].numpy() > 0].sum(1)
            padded = np.pad(used, 4 * dilation)
            y = np.array([weight @ padded[t : t + 8 * dilation + 1 : dilation] for t in range(40)])
            if (place + kernel) % 2:
                y = y[4 * dilation : 40 - 4 * dilation]
            for i in range(count):
                place_of = at + kernel * count + i
                share = (y > float(fixed.thresholds[place_of])).mean()
                assert abs(share - float(found[1, place_of])) < 1.5 / len(y)  # a tie may fall either way in float32
        at += count * len(KERNELS)


def test_a_ragged_batch_gives_the_features_of_each_alone() -> None:
    torch.manual_seed(0)
    fixed = FixedConvolutions(40, 1, 168)
    x = torch.randn(3, 40, 1)
    length = torch.tensor([40, 25, 5])
    for row, n in zip(x, length.tolist(), strict=True):
        row[n:] = 0
    fixed.fit(x[:1], length[:1])
    together = fixed(x, length)
    for i, n in enumerate(length.tolist()):
        alone = fixed(x[i : i + 1, :n], length[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize(("n", "f"), [(12, 40), (30, 5)])
def test_ridge_holds_out_as_refitting_does(n: int, f: int) -> None:
    random = np.random.default_rng(0)
    x, labels = random.normal(size=(n, f)), random.integers(0, 3, n)
    found = fit_ridge(x, labels, 3)
    z, target = (x - x.mean(0)) / x.std(0), np.where(labels[:, None] == np.arange(3), 1.0, -1.0)
    np.testing.assert_allclose(
        x @ found.weight + found.bias,
        target.mean(0) + z @ np.linalg.solve(z.T @ z + found.penalty * np.eye(f), z.T @ (target - target.mean(0))),
        atol=1e-6,
    )
    for i in (0, 5, n - 1):
        keep = np.arange(n) != i
        middle, mean = z[keep].mean(0), target[keep].mean(0)
        own = z[keep] - middle
        weight = np.linalg.solve(own.T @ own + found.penalty * np.eye(f), own.T @ (target[keep] - mean))
        np.testing.assert_allclose((z[i] - middle) @ weight + mean, found.held_out[i], atol=1e-6)


def test_warping_equals_the_recursion() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 9, 2)), random.normal(size=(3, 9, 2))
    for width in (0, 2, 8):
        found = warped_matrix(a, b, width)
        for i, j in np.ndindex(2, 3):
            table = np.full((10, 10), np.inf)
            table[0, 0] = 0
            for s, t in np.ndindex(9, 9):
                if abs(s - t) <= width:
                    least = min(table[s, t], table[s, t + 1], table[s + 1, t])
                    table[s + 1, t + 1] = ((a[i, s] - b[j, t]) ** 2).sum() + least
            np.testing.assert_allclose(found[i, j], table[9, 9])
    np.testing.assert_allclose(warped_matrix(a, b, 0), euclidean(a, b), atol=1e-9)


def made_curve(period: float, n: int = 60, seed: int = 0, bands: int = 2) -> np.ndarray:
    random = np.random.default_rng(seed)
    t = np.sort(random.uniform(0, 50, n))
    band = np.arange(n) % bands
    y = 15 + band + (0.4 + 0.1 * band) * np.sin(2 * np.pi * t / period) + 0.2 * np.cos(4 * np.pi * t / period)
    return np.column_stack([t, y + 0.02 * random.normal(size=n), np.full(n, 0.02), band])


def test_power_equals_least_squares_at_each_frequency() -> None:
    curve = made_curve(0.61)
    first, step, count = frequency_grid(50, 0.2, 20)
    found = power(curve, first, step, count)
    for k in (3, 100, int(found.argmax())):
        left = total = 0.0
        for band in (0, 1):
            mine = curve[curve[:, 3] == band]
            w, t = weights_of(mine[:, 1], mine[:, 2]), mine[:, 0]
            angle = 2 * np.pi * (first + k * step) * t
            design = np.column_stack([np.ones_like(t), np.cos(angle), np.sin(angle)])
            root = np.sqrt(w)[:, None]
            fit = np.linalg.lstsq(root * design, root[:, 0] * mine[:, 1], rcond=None)[0]
            left += float(w @ (mine[:, 1] - design @ fit) ** 2)
            total += float(w @ (mine[:, 1] - w @ mine[:, 1] / w.sum()) ** 2)
        assert abs(found[k] - (1 - left / total)) < 2e-3


def test_sums_on_two_grids_equal_the_direct_sum() -> None:
    random = np.random.default_rng(0)
    t, w = random.uniform(0, 9, 20), random.normal(size=(2, 20))
    f = 0.3 + 0.01 * np.arange(50)
    want = (w[:, None, :] * np.exp(2j * np.pi * f[:, None] * t)).sum(2)
    np.testing.assert_allclose(trig_sums(t, w, 0.3, 0.01, 50), want, atol=1e-4)


def test_the_screened_search_finds_the_highest_of_all_frequencies() -> None:
    for i, one in enumerate(simulated({"objects": 4, "visits": 40}).objects):
        curve = one.values
        first, step, count = frequency_grid(float(np.ptp(curve[:, 0])), 0.2, 1.2)
        every = power(curve, first, step, count)
        found = best_period(curve, 0.2, 1.2)
        at = int(every[1:-1].argmax()) + 1
        assert found["lomb_scargle"] == pytest.approx(1 / (first + step * at), rel=1e-9), i
        assert found["power"] == pytest.approx(every[at], abs=1e-5)
        near = power_near(curve, first + step * np.array([at]), step, 1)
        np.testing.assert_allclose(near[0], every[at - 1 : at + 2], atol=1e-5)


@pytest.mark.parametrize("period", [0.31, 0.73])
def test_the_period_is_found(period: float) -> None:
    assert abs(best_period(made_curve(period), 0.2, 2.0)["period"] / period - 1) < 1e-3
    assert np.isnan(best_period(made_curve(period, n=6), 0.2, 2.0)["period"])


def test_grids_pass_through_what_was_observed() -> None:
    t = np.linspace(0, 10, 15)
    np.testing.assert_allclose(gaussian_process(t, np.sin(t), np.full(15, 1e-8), t), np.sin(t), atol=1e-3)
    curve = made_curve(0.61)
    assert np.isfinite(on_time_grid(curve, 2, 20)).all()
    assert np.isnan(on_time_grid(curve, 3, 20)[:, 2]).all()
    cycle = on_phase_grid(curve, 2, 32, 0.61)
    assert cycle[:, 0].argmin() == 0
    left, _ = fourier_fit(curve, np.array([1 / 0.61]), 3)
    assert left[0] < 0.05
    assert np.isfinite(on_phase_grid(curve[:2], 2, 8, float("nan"))).sum() == 1


def test_gaps_are_closed_by_straight_lines() -> None:
    np.testing.assert_array_equal(filled(np.array([[np.nan], [1.0], [np.nan], [3.0]]))[:, 0], [1, 1, 2, 3])


def read_table(frame: pd.DataFrame, **options: Any) -> Any:
    return parse_curves([("a.csv", None, frame.to_csv(index=False).encode())], ClassifyOptions(**options))


def test_sentinels_are_masked_and_counted_and_order_is_restored() -> None:
    frame = star_table(4)
    spoilt = pd.concat([frame, frame.iloc[[0]].assign(mag=99.9, magerr=99.9)]).sample(frac=1, random_state=0)
    clean, found = read_table(frame), read_table(spoilt)
    assert found.found["sentinel_rows"] == 1
    assert found.found["objects_with_sentinels"] == 1
    assert found.found["unsorted_objects"] == 4
    got = {o.name: o.values for o in found.objects}
    for one in clean.objects:
        np.testing.assert_allclose(got[one.name], one.values)
    kept = read_table(spoilt.rename(columns={"mag": "flux"}))
    assert kept.found["sentinel_rows"] == 0  # 99.9 may be a flux


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        (lambda f: f.drop(columns="time"), {}, "no column for time"),
        (lambda f: f.assign(time=f.time.where(f.time < f.time.max())), {}, "no time stamp"),
        (lambda f: f.assign(mag=f.mag.astype(str).where(f.index != 3, "bright")), {}, "row 5, column 'mag'"),
        (lambda f: f, {"value": "brightness"}, "no column 'brightness'"),
        (lambda f: f.assign(label=["x", "y"] * (len(f) // 2)), {}, "several classes"),
    ],
)
def test_bad_tables_say_where(change: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        read_table(change(star_table(2).reset_index(drop=True)), **options)


def task(**options: Any) -> Classify:
    return Classify(ClassifyOptions(**{**SMALL, **options}))


def test_objects_with_one_observation_follow_the_stated_rule(tmp_path: Path) -> None:
    frame = star_table()
    lone = frame.iloc[[0]].assign(object="lone")
    path = tmp_path / "stars.csv"
    pd.concat([frame, lone]).to_csv(path, index=False)
    with pytest.raises(BadInput, match=r"'lone' has 1 observation.*few=drop"):
        task().open(str(path))
    t = task(few="drop", split={"folds": 3})
    data = t.open(str(path))
    assert data.manifest.facts["objects_dropped"] == 1
    split = t.split(data)
    fitted = t.fit(data, split)
    model = t.build(fitted, load_preset("series_mixer"))
    facts = t.predict(model, fitted, str(path), _Folder(tmp_path))
    assert facts["without_class"] == 1
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    last = rows[-1]
    assert (last["object"], last["prediction"], last["note"]) == ("lone", "", "needs 2 observations")
    assert all(r["prediction"] in ("x", "y") for r in rows[:-1])
    strange = frame.assign(label=frame.label.replace("x", "z"))
    strange.to_csv(path, index=False)
    with pytest.raises(BadInput, match="z was not seen in training"):
        t.items(t.open(str(path)), split, fitted, "test")
    frame.assign(band="q").to_csv(path, index=False)
    with pytest.raises(BadInput, match="band 'q' was not seen"):
        t.predict(model, fitted, str(path), _Folder(tmp_path))


def test_when_the_clock_began_and_row_order_mean_nothing(tmp_path: Path) -> None:
    frame = star_table(6)
    z = []
    for shift, seed in ((0.0, None), (1000.0, 1)):
        moved = frame.assign(time=frame.time + shift)
        path = tmp_path / "a.csv"
        (
            moved if seed is None else moved.sample(frac=1, random_state=seed).sort_values("object", kind="stable")
        ).to_csv(path, index=False)
        t = task(split={"folds": 3})
        data = t.open(str(path))
        if not z:
            split = t.split(data)
            fitted = t.fit(data, split)
            torch.manual_seed(0)
            model = t.build(fitted, load_preset("series_mixer")).eval()
        with torch.no_grad():
            z.append(model.correction(ObjectItems(data, np.arange(6)).batch(range(6))))
    torch.testing.assert_close(z[0], z[1], atol=2e-3, rtol=2e-3)


def test_given_parts_are_kept_and_validation_comes_from_training(waves: str) -> None:
    t = task()
    data = t.open(waves)
    split = t.split(data)
    assert {data.parts[i] for i in split.parts["test"]} == {"test"}
    assert len(split.parts["test"]) == 12
    assert {data.parts[i] for p in ("train", "val") for i in split.parts[p]} == {"train"}
    assert data.manifest.facts["missing_percent"] > 0
    assert data.manifest.facts["length"]["least"] < data.manifest.facts["length"]["most"]
    with pytest.raises(BadRequest, match="0 to 2"):
        task(split={"protocol": "folds", "folds": 3, "fold": 3}).split(data)


@pytest.mark.parametrize("law", ["poison", "build", "loss", "baselines", "predict"])
def test_regular_series_keep_the_laws(waves: str, law: str) -> None:
    assert check_law(law, subject(Classify, ClassifyOptions(**SMALL), source=waves))


def test_a_ragged_batch_equals_each_object_alone(waves: str) -> None:
    t = task()
    data = t.open(waves)
    fitted = t.fit(data, t.split(data))
    for preset in ("series_mixer", "elm"):
        model = t.build(fitted, load_preset(preset)).eval()
        items = ObjectItems(data, np.arange(5))
        with torch.no_grad():
            together = model(items.batch(range(5)))
            alone = torch.cat([model(items.batch([i])) for i in range(5)])
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_waves_are_told_apart_in_closed_form(waves: str) -> None:
    t = task()
    data = t.open(waves)
    split = t.split(data)
    fitted = t.fit(data, split)
    model = t.build(fitted, load_preset("series_mixer"))
    t.initialise(model, data, split)
    t.calibrate(model, data, split, fitted)
    assert class_scores(t.evidence(model, data, split, fitted, "test"))["accuracy"] == 1.0


def test_presets_of_light_curves_read_what_they_can() -> None:
    for preset, grid in (("elm", "none"), ("t2_lightcurve", "time"), ("t2_lightcurve", "phase")):
        t = task(grid=grid, grid_steps=16)
        data = t.open("simulated")
        split = t.split(data)
        fitted = t.fit(data, split)
        model = t.build(fitted, load_preset(preset)).eval()
        batch = t.items(data, split, fitted, "test").batch(range(3))
        assert model(batch).shape == (3, 3)
    with pytest.raises(BadRequest, match="grid=time"):
        task().build(task().fit(d := task().open("simulated"), task().split(d)), load_preset("t2_lightcurve"))


def test_static_features_come_from_the_table_of_objects(tmp_path: Path) -> None:
    star_table(6).drop(columns="label").to_csv(tmp_path / "stars.csv", index=False)
    table = pd.DataFrame({"id": [f"s{i}" for i in range(6)], "label": list("xyxyxy"), "redshift": range(6)})
    table.to_csv(tmp_path / "table.csv", index=False)
    data = task(objects="table.csv", static=("redshift",)).open(str(tmp_path / "stars.csv"))
    assert data.static[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert not period_rows(data)
    table["P"] = np.exp(data.features[:, 0]) * np.where(np.arange(6) < 2, 1.0005, 2)
    table.to_csv(tmp_path / "table.csv", index=False)
    rows = period_rows(task(objects="table.csv", known_period="P").open(str(tmp_path / "stars.csv")))
    found = {r["class"]: r["within 0.1 %"] for r in rows if r["method"] != "Lomb-Scargle"}
    assert found == {"all": 33.33, "x": 33.33, "y": 33.33}
    with pytest.raises(BadInput, match=r"no column 'Q'.*known_period="):
        task(objects="table.csv", known_period="Q").open(str(tmp_path / "stars.csv"))
    table.iloc[:5].to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(BadInput, match="no row for object 's5'"):
        task(objects="table.csv").open(str(tmp_path / "stars.csv"))
    with pytest.raises(BadRequest, match="table of objects"):
        task(static=("redshift",)).open("simulated")


def test_truncated_curves_keep_their_beginning_alone() -> None:
    t = task()
    data = t.open("simulated")
    rows = np.array([1, 4])
    cut = truncated(data, rows, 0.5, 2, 0.2)
    for i in (1, 4):
        np.testing.assert_array_equal(cut.series[i], data.series[i][: len(cut.series[i])])
        assert abs(len(cut.series[i]) - len(data.series[i]) / 2) <= 1
        assert cut.features[i, 4] == pytest.approx(np.log(len(cut.series[i])))
    assert cut.series[0] is data.series[0]
    split = t.split(data)
    fitted = t.fit(data, split)
    model = t.build(fitted, load_preset("series_mixer"))
    soon = all_tables(t, model, data, split, fitted)["how soon it is told"]
    assert [row["observations %"] for row in soon] == [10, 20, 35, 50, 75, 100]
    assert soon[-1]["accuracy"] == round(t.metrics(t.evidence(model, data, split, fitted, "test"))["accuracy"], 4)
    whole = truncated(data, rows, 1.0, 2, 0.2)
    np.testing.assert_array_equal(whole.features, data.features)


@pytest.mark.data
def test_rr_lyrae_sentinels_are_masked(public_data: Path) -> None:
    read, _, _ = read_source("rrlyrae_stripe82", ClassifyOptions())
    assert len(read.objects) == 483
    assert read.found["sentinel_rows"] >= 54
    assert max(float(o.values[:, 1].max()) for o in read.objects) < 90


@pytest.mark.data
def test_gunpoint_as_the_archive_has_it(public_data: Path) -> None:
    t = task(convolutions=840, dtw_cells=0)
    data = t.open("ucr_gunpoint")
    split = t.split(data)
    fitted = t.fit(data, split)
    found = {k: class_scores(e)["accuracy"] for k, e in t.baselines(data, split, fitted).items()}
    assert abs(found["1-NN Euclidean"] - 0.9133) < 1e-3
    assert found["MiniRocket ridge"] > 0.96
