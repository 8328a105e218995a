"""Bad input through the command line: exit 2, one clear sentence, nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from .test_cli import call, here, refused  # noqa: F401 - a fixture

rasterio = pytest.importorskip("rasterio", reason="the hyperspectral extra is not installed")
FORECAST, CLASSIFY = "timeseries/forecast", "hyperspectral/classify"
SMALL = ["--set", "lookback=12", "--set", "horizon=6", "--set", "ets_origins=0"]


# ---------------------------------------------------------------------------------------------- series


def frame(rows: int = 400) -> pd.DataFrame:
    time = np.arange(rows)
    values = {name: np.sin(time / 4 + k) + 0.01 * (time % 7) for k, name in enumerate(("load", "wind"))}
    return pd.DataFrame({"date": pd.date_range("2024-01-01", periods=rows, freq="h"), **values})


def with_column(name: str, value: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda f: f.assign(**{name: value})


@pytest.mark.parametrize(
    ("change", "sets", "said"),
    [
        (lambda f: f.iloc[::-1], [], ["series.csv", "row"]),
        (lambda f: pd.concat([f.iloc[:5], f.iloc[4:]]), [], ["series.csv", "2024-01-01"]),
        (
            lambda f: f.drop(index=[30, 31, 50, 77]).assign(
                date=lambda g: g.date + pd.to_timedelta(g.index % 3, "min")
            ),
            [],
            ["freq"],
        ),
        (lambda f: f.iloc[:17], [], ["series.csv", "17"]),
        (with_column("wind", 3.0), [], ["wind", "constant"]),
        (with_column("wind", np.nan), [], ["wind"]),
        (lambda f: f, ["--set", "columns=[laod]"], ["laod", "did you mean 'load'"]),
        (lambda f: f, ["--set", "columns=[load]", "--set", "time=dtae"], ["dtae", "date"]),
        (with_column("wind", "calm"), [], ["wind", "calm"]),
    ],
    ids=[
        "unsorted",
        "duplicate",
        "irregular",
        "too short",
        "constant",
        "all NaN",
        "wrong column",
        "wrong time",
        "text",
    ],
)
def test_series(
    capfd: pytest.CaptureFixture[str],
    here: Path,  # noqa: F811
    change: Any,
    sets: list[str],
    said: list[str],
) -> None:
    change(frame()).to_csv(here / "series.csv", index=False)
    sentence = refused(capfd, "train", FORECAST, "--data", "series.csv", *SMALL, *sets)
    for word in said:
        assert word in sentence, sentence
    assert [p.name for p in here.iterdir()] == ["series.csv"]


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n\x00\x00", b"date,load\n"], ids=["empty", "png", "header"])
def test_no_series_at_all(capfd: pytest.CaptureFixture[str], here: Path, content: bytes) -> None:  # noqa: F811
    (here / "series.csv").write_bytes(content)
    assert "series.csv" in refused(capfd, "train", FORECAST, "--data", "series.csv", *SMALL)
    assert [p.name for p in here.iterdir()] == ["series.csv"]


# ---------------------------------------------------------------------------------------------- scenes


def write_raster(path: Path, array: np.ndarray, crs: str = "EPSG:32633", **tags: Any) -> None:
    transform = rasterio.Affine(30, 0, 500000, 0, -30, 5400000)
    bands, rows, columns = array.shape
    profile = {"driver": "GTiff", "count": bands, "height": rows, "width": columns, "dtype": array.dtype}
    with rasterio.open(path, "w", **profile, crs=crs, transform=transform) as file:
        file.write(array)
        for band, nm in enumerate(tags.get("wavelengths", ()), 1):
            file.update_tags(band, wavelength=str(nm), wavelength_units="nm")


NM = np.linspace(450, 900, 6).tolist()


def scene(path: Path, nan_band: int | None = None) -> None:
    rng = np.random.default_rng(0)
    cube = rng.normal(1, 0.1, (6, 96, 96)).astype("float32")
    if nan_band is not None:
        cube[nan_band] = np.nan
    write_raster(path, cube, wavelengths=NM)


def labels(rows: int = 96) -> np.ndarray:
    index = np.arange(rows) // 8
    return (1 + (index[:, None] + index[None, :]) % 2).astype("uint8")[None]


def train_scene(capfd: pytest.CaptureFixture[str], folder: Path) -> str:
    before = sorted(p.name for p in folder.iterdir())
    said = refused(capfd, "train", CLASSIFY, "--data", "scene.tif", "--set", "labels=labels.tif")
    assert sorted(p.name for p in folder.iterdir()) == before
    return said


def test_a_truncated_scene(capfd: pytest.CaptureFixture[str], here: Path) -> None:  # noqa: F811
    scene(here / "scene.tif")
    write_raster(here / "labels.tif", labels())
    content = (here / "scene.tif").read_bytes()
    (here / "scene.tif").write_bytes(content[: len(content) // 2])
    assert "scene.tif" in train_scene(capfd, here)
    (here / "scene.tif").write_text("this is no raster")
    assert "scene.tif" in train_scene(capfd, here)


def test_labels_of_another_shape_or_crs(capfd: pytest.CaptureFixture[str], here: Path) -> None:  # noqa: F811
    scene(here / "scene.tif")
    write_raster(here / "labels.tif", labels(64))
    said = train_scene(capfd, here)
    assert "labels.tif" in said
    assert "64" in said
    write_raster(here / "labels.tif", labels(), crs="EPSG:32634")
    said = train_scene(capfd, here)
    assert "32634" in said
    assert "32633" in said


def test_a_class_with_too_few_blocks(capfd: pytest.CaptureFixture[str], here: Path) -> None:  # noqa: F811
    scene(here / "scene.tif")
    few = labels()
    few[0, :4, :4] = 9
    write_raster(here / "labels.tif", few)
    said = train_scene(capfd, here)
    assert "9" in said
    assert "block" in said


def test_a_band_without_data(capfd: pytest.CaptureFixture[str], here: Path) -> None:  # noqa: F811
    scene(here / "scene.tif", nan_band=2)
    write_raster(here / "labels.tif", labels())
    before = sorted(p.name for p in here.iterdir())
    said = refused(
        capfd, "train", CLASSIFY, "--data", "scene.tif", "--set", "labels=labels.tif", "--set", "split.block=8"
    )
    assert "band [3] without data" in said
    assert "dead_bands=drop" in said
    assert sorted(p.name for p in here.iterdir()) == before


def test_labels_missing(capfd: pytest.CaptureFixture[str], here: Path) -> None:  # noqa: F811
    scene(here / "scene.tif")
    assert "labels" in train_scene(capfd, here)
    assert "labels" in refused(capfd, "train", CLASSIFY, "--data", "scene.tif")


# ---------------------------------------------------------------------------------------------- a model elsewhere


def untrained(folder: Path, task: str, data: str, *sets: str) -> Path:
    """A run of a domain's task as training would leave it, with untrained weights."""
    import json

    import torch

    from pipelines.config import build_preset, build_task, resolve, to_yaml
    from pipelines.runs import save_model

    config = resolve(task, data=data, sets=sets)
    built, preset = build_task(config), build_preset(config)
    opened = built.open(data)
    split = built.split(opened)
    fitted = json.loads(json.dumps(built.fit(opened, split)))
    torch.manual_seed(0)
    model = built.build(fitted, preset)
    with torch.no_grad():
        built.calibrate(model, opened, split, fitted)
    folder.mkdir(parents=True)
    save_model(folder, config, preset, fitted, model, run=folder.name)
    (folder / "config.yaml").write_text(to_yaml(config))
    return folder


def test_series_that_the_model_was_not_trained_on(capfd: pytest.CaptureFixture[str], here: Path) -> None:  # noqa: F811
    frame().to_csv(here / "series.csv", index=False)
    run = untrained(here / "run", FORECAST, "series.csv", *SMALL[1::2])
    frame().rename(columns={"wind": "wnd"}).to_csv(here / "other.csv", index=False)
    frame().iloc[::24].to_csv(here / "daily.csv", index=False)
    for name, said in (
        ("other.csv", "wind"),
        ("daily.csv", "daily.csv"),
        ("gone.csv", "gone.csv"),
    ):
        assert said in refused(capfd, "predict", str(run), name, "--out", "out")
        assert not (here / "out").exists()
    frame(8).to_csv(here / "short.csv", index=False)  # shorter than the look-back of 12: told, and said to be
    assert call(capfd, "predict", str(run), "short.csv", "--out", "out")[0] == 0
    told = pd.read_csv(here / "out" / "short" / "forecast.csv")
    assert set(told["basis"]) == {"trained, short look-back"}
    assert np.isfinite(told["forecast"]).all()


def test_bands_that_the_model_was_not_trained_on(capfd: pytest.CaptureFixture[str], here: Path) -> None:  # noqa: F811
    scene(here / "scene.tif")
    write_raster(here / "labels.tif", labels())
    run = untrained(here / "run", CLASSIFY, "scene.tif", "labels=labels.tif")
    cube = np.ones((6, 40, 40), "float32")
    write_raster(here / "shifted.tif", cube, wavelengths=[nm + 40 for nm in NM])
    write_raster(here / "fewer.tif", cube[:4], wavelengths=NM[:4])
    write_raster(here / "unnamed.tif", cube[:5])
    for name in ("shifted.tif", "fewer.tif", "unnamed.tif"):
        assert name in refused(capfd, "predict", str(run), name, "--out", "out")
        assert not (here / "out").exists()
