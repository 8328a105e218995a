"""Forecasts of the actual future: stamps, units, and what a new file must be like."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from domains.timeseries.datasets import DATASETS
from domains.timeseries.simulate import simulate, simulated_csv
from shared_backbones.errors import BadInput
from tests.domains.timeseries.made import table, written
from tests.domains.timeseries.test_model import ROLES, covariate_frame, ready


class Folder:
    """A sink that writes into a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        yield self.path / name


def predicted(parts: tuple[Any, ...], source: str, out: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    chosen, _, _, fitted, model = parts
    facts = chosen.predict(model, fitted, source, Folder(out))
    path = out / facts["output"]
    return (pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, parse_dates=["ds"])), facts


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Any, ...]:
    chosen, panel, split, fitted, model = ready(tmp_path)
    chosen.calibrate(model, panel, split, fitted)
    return chosen, panel, split, fitted, model


def test_the_future_of_a_new_file(parts: tuple[Any, ...], tmp_path: Path) -> None:
    frame = table(60, seed=5)[["date", "s2", "s0", "s1"]]  # other order, other span: ends 2024-02-29 16:00
    got, facts = predicted(parts, written(frame, tmp_path, "new.csv"), tmp_path)
    assert list(got.columns) == ["unique_id", "ds", "forecast", "lo_80", "hi_80", "lo_95", "hi_95", "basis"]
    assert set(got["basis"]) == {"trained"}
    assert got["unique_id"].tolist() == ["s0"] * 12 + ["s1"] * 12 + ["s2"] * 12
    assert got["ds"][:12].tolist() == list(pd.date_range("2024-02-29 17:00", periods=12, freq="h"))  # into March
    assert facts["last_observed"] == "2024-02-29 16:00:00"
    ordered = got[["lo_95", "lo_80", "forecast", "hi_80", "hi_95"]].to_numpy()
    assert (np.diff(ordered, axis=1) >= 0).all()
    assert got.groupby("unique_id")["forecast"].mean().round(-1).tolist() == [0.0, 10.0, 20.0]  # original units


def test_prediction_equals_the_model_on_the_last_window(parts: tuple[Any, ...], tmp_path: Path) -> None:
    chosen, panel, split, fitted, model = parts
    items = chosen.items(panel, split, fitted, "test")
    end = int(items.origins[-1])
    got, _ = predicted(parts, written(table().iloc[:end], tmp_path, "cut.csv"), tmp_path)
    with torch.no_grad():
        want = model.original(model(items.batch([len(items) - 1])))[0].numpy()
    assert np.allclose(got["forecast"].to_numpy().reshape(3, 12).T, want, atol=1e-5)


def test_parquet_in_parquet_out(parts: tuple[Any, ...], tmp_path: Path) -> None:
    table(60).to_parquet(tmp_path / "new.parquet")
    got, facts = predicted(parts, str(tmp_path / "new.parquet"), tmp_path)
    assert facts["output"] == "forecast.parquet"
    assert len(got) == 36


def test_gaps_are_forecast_over(parts: tuple[Any, ...], tmp_path: Path) -> None:
    frame = table(60)
    frame.iloc[40:46, 1] = np.nan
    frame = frame.drop(index=[50, 51])
    got, facts = predicted(parts, written(frame, tmp_path, "gaps.csv"), tmp_path)
    assert got.notna().all().all()
    assert facts["missing_in_lookback_percent"] > 0


def change(frame: pd.DataFrame, how: str) -> pd.DataFrame:
    if how == "column":
        return frame.rename(columns={"s1": "s_1"})
    if how == "daily":
        return frame.assign(date=pd.date_range("2024-01-01", periods=len(frame), freq="D"))
    if how == "quarters":
        return frame.assign(date=pd.date_range("2024-01-01", periods=len(frame), freq="15min"))
    if how == "unit":
        return frame.assign(s2=frame["s2"] * 1000)
    return frame.assign(s0=[*frame["s0"][:30], *[np.nan] * (len(frame) - 30)])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("column", "no column 's1'; did you mean 's_1'"),
        ("daily", "another frequency than the model was trained on"),
        ("quarters", "is not on the declared step 'h'"),
        ("unit", "series 's2' stands at .* in another unit"),
        ("silent", "series 's0' has no observed value in the last 24 steps"),
    ],
)
def test_other_files_are_refused(how: str, message: str, parts: tuple[Any, ...], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(BadInput, match=message):
        predicted(parts, written(change(table(60), how), tmp_path, "other.csv"), out)
    assert not list(out.iterdir())


def test_future_covariates_must_reach_over_the_horizon(tmp_path: Path) -> None:
    parts = ready(tmp_path, "itransformer", covariate_frame(), **ROLES)
    new = covariate_frame(100)
    new.loc[new["ds"] >= "2024-01-04 16:00", "y"] = np.nan  # 88 observed, 12 ahead
    got, facts = predicted(parts, written(new, tmp_path, "new.csv"), tmp_path)
    assert facts["first_forecast"] == "2024-01-04 16:00:00"
    assert len(got) == 36
    with pytest.raises(BadInput, match="future covariate 'price' is needed for all 12 steps"):
        predicted(parts, written(covariate_frame(100), tmp_path, "new.csv"), tmp_path)
    new.loc[new.index[-3], "price"] = np.nan
    with pytest.raises(BadInput, match=r"'price' .* is missing at 2024-01-05 01:00:00"):
        predicted(parts, written(new, tmp_path, "new.csv"), tmp_path)
    new = covariate_frame(100).assign(area=7)
    with pytest.raises(BadInput, match="static covariates differ"):
        predicted(parts, written(new, tmp_path, "new.csv"), tmp_path)


def test_figures_show_series_with_labels(parts: tuple[Any, ...]) -> None:
    chosen, panel, split, fitted, model = parts
    scored = {"model": chosen.evidence(model, panel, split, fitted, "test"), **chosen.baselines(panel, split, fitted)}
    figures = chosen.figures(model, panel, split, fitted, scored)
    assert len(figures) == 4
    for figure in figures.values():
        assert isinstance(figure, Figure)
        figure.canvas.draw()
        assert any(axis.get_xlabel() for axis in figure.axes)
    titles = [axis.get_title() for axis in figures["Forecasts of the best and the worst series"].axes]
    assert {title.split()[0] for title in titles} == {"s0", "s1", "s2"}
    assert chosen.details(scored["model"], fitted)[0]["series"] == "s0"


def test_the_simulator_is_seeded_and_plausible() -> None:
    assert simulated_csv(300) == simulated_csv(300)
    assert simulated_csv(300) != simulated_csv(300, seed=1)
    frame = simulate(24 * 365, gaps=0.02)
    load = frame.filter(like="load")
    assert 0.01 < load.isna().to_numpy().mean() < 0.03
    assert (load.min() > 0).all()
    hours = frame.groupby(frame["date"].dt.hour)["load_1_MW"].mean()
    assert hours.idxmax() in range(17, 22)
    assert hours.idxmin() in range(0, 6)
    by_month = frame.groupby(frame["date"].dt.month)["temperature_degC"].mean()
    assert by_month.idxmin() in (12, 1, 2)
    assert by_month.idxmax() in (6, 7, 8)
    weekday = frame.groupby(frame["date"].dt.dayofweek)["load_2_MW"].mean()
    assert weekday[5:].mean() < weekday[:5].mean()


@pytest.mark.parametrize(("name", "steps", "series"), [("ett_h1", 17420, 7), ("exchange_rate", 7588, 8)])
def test_public_data_open_as_published(name: str, steps: int, series: int, public_data: Path) -> None:
    from tests.domains.timeseries.made import task

    panel = task().open(name)
    assert panel.values.shape == (steps, series)
    assert panel.mask.all()
    assert panel.manifest.licence == DATASETS[name].data.licence
    assert panel.manifest.source == name
    split = task().split(panel)
    if name == "ett_h1":
        assert [len(split.parts[p]) for p in ("train", "val", "test")] == [8640, 2880, 2880]
