"""Scenes of other sensors: wavelengths by name, models through spectral responses, and what is odd about numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domains.hyperspectral.bands import plain_bands
from domains.hyperspectral.baselines import AngleMapper
from domains.hyperspectral.data import conditions, copy_cube, open_scene
from domains.hyperspectral.data.multispectral import LANDSAT_8, SENTINEL_2, placed_by_sensor
from domains.hyperspectral.matching import matched_scene, responses
from domains.hyperspectral.restoring.config import DenoiseOptions
from domains.hyperspectral.restoring.task import Denoise
from shared_backbones.errors import BadInput

from .conftest import Folder, scene_of
from .test_restoring import SMALL, made


@pytest.mark.parametrize(
    ("names", "sensor", "wanted"),
    [
        (("B02", "B8A", "B11"), "sentinel-2", ["2", "8A", "11"]),
        (("SR_B2", "SR_B5"), "landsat-8", ["2", "5"]),
        (("red (B4)", "blue (B2)"), "Sentinel-2", ["4", "2"]),
        (tuple(f"band {i}" for i in range(10)), "hls-s30", ["2", "3", "4", "5", "6", "7", "8", "8A", "11", "12"]),
        (tuple(f"band {i}" for i in range(7)), "hls-l30", list("1234567")),
    ],
)
def test_a_stack_of_a_known_sensor_finds_its_wavelengths(names: Any, sensor: str, wanted: list[str]) -> None:
    table = SENTINEL_2 if "2" in sensor or "s30" in sensor else LANDSAT_8
    bands = placed_by_sensor("x.tif", replace(plain_bands(len(names)), names=names), sensor)
    assert bands.wavelength_nm == tuple(table[k][0] for k in wanted)
    assert bands.fwhm_nm == tuple(table[k][1] for k in wanted)


def test_a_stack_of_unknown_bands_is_refused_with_the_names_that_are_known(tmp_path: Path) -> None:
    scene = replace(scene_of(np.ones((3, 4, 4), np.float32)), bands=plain_bands(3))
    copy_cube(scene, tmp_path / "s.tif")
    with pytest.raises(BadInput, match=r"sentinel-2.*B8A.*10, 12, 13"):
        open_scene(tmp_path / "s.tif", wavelengths="sentinel-2")
    with pytest.raises(BadInput, match="landsat-8"):
        open_scene(tmp_path / "s.tif", wavelengths="sentinel-9")


@given(st.integers(5, 40), st.integers(2, 30), st.floats(0, 200))
def test_responses_keep_constants_and_leave_out_what_is_not_reached(own: int, wanted: int, shift: float) -> None:
    a = plain_bands(own, list(np.linspace(400, 1000, own)))
    b = plain_bands(wanted, list(np.linspace(450, 900, wanted) + shift))
    weights = responses(a, b)
    total = weights.sum(1)
    assert np.isclose(total[total > 0], 1).all()
    assert (weights >= 0).all()
    spacing = 600 / (own - 1)
    outside = np.array(b.wavelength_nm) > 1000 + spacing / 2 + 1e-6
    assert (total[outside] == 0).all()
    inside = np.array(b.wavelength_nm) <= 1000
    assert (total[inside] > 0).all()


def test_a_broad_band_is_the_mean_under_its_response_and_missing_values_are_not_used() -> None:
    nm = np.arange(400.0, 900.0, 5.0)
    values = np.sin(nm / 90)[:, None, None] * np.ones((1, 2, 3))
    scene = replace(scene_of(values.astype(np.float32), nodata=-1.0), bands=plain_bands(len(nm), list(nm)))
    wanted = replace(plain_bands(2, [500.0, 700.0]), fwhm_nm=(60.0, 30.0))
    matched, note = matched_scene(scene, wanted, [0, 1], "resample", "restore")
    assert "100 bands onto 2" in note
    found, seen = matched.read(slice(0, 2), slice(0, 3))
    for i, (centre, width) in enumerate(((500, 60), (700, 30))):
        w = np.exp(-0.5 * ((nm - centre) / (width / 2.3548)) ** 2)
        assert np.allclose(found[i], (w * np.sin(nm / 90)).sum() / w.sum(), atol=2e-3)
    assert seen.all()
    holed = values.copy()
    holed[:, 0, 0] = -1.0
    _, seen = replace(matched, inner=replace(scene, array=holed.astype(np.float32))).read(slice(0, 2), slice(0, 3))
    assert not seen[:, 0, 0].any()
    assert seen.sum() == 2 * 5
    with pytest.raises(BadInput, match="other_bands=resample"):
        matched_scene(scene, wanted, [0, 1], "refuse", "restore")
    with pytest.raises(BadInput, match="none of its bands"):
        matched_scene(scene, plain_bands(2, [2000.0, 2100.0]), [0, 1], "resample", "restore")


def test_a_cube_of_another_sensor_is_restored_on_the_bands_of_the_model(tmp_path: Path) -> None:
    ready = made(Denoise(DenoiseOptions.model_validate({**SMALL, "other_bands": "resample"})))
    scene = ready["data"].scene
    nm = np.array(scene.bands.wavelength_nm)
    finer = np.linspace(nm[0], nm[-1], 45)
    flat = scene.array.reshape(len(nm), -1)
    cube = np.stack([np.interp(finer, nm, column) for column in flat.T], 1).reshape(45, *scene.shape)
    other = replace(scene, array=cube.astype(np.float32), bands=plain_bands(45, list(finer), scene.bands.unit))
    copy_cube(other, tmp_path / "other.tif", "float32")
    facts = ready["task"].predict(ready["model"], ready["fitted"], str(tmp_path / "other.tif"), Folder(tmp_path))
    assert facts["notes"][0].startswith("resampled by spectral response from 45 bands onto 12")
    found = open_scene(tmp_path / "other_denoised.tif")
    assert found.bands.wavelength_nm == scene.bands.wavelength_nm
    values, _ = found.read(slice(0, 40), slice(0, 40))
    known, _ = scene.read(slice(0, 40), slice(0, 40))
    assert np.abs(values - known).mean() < 0.25 * known.std()


def test_odd_numbers_are_reported() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0.4, 0.1, (3, 300, 260)).astype(np.float32)
    assert conditions(scene_of(np.abs(x)))["saturated_bands"] == []
    assert "oddities" not in conditions(scene_of(np.abs(x)))
    x[1] = np.minimum(x[1], 0.5)
    x[2] -= 0.4
    found = conditions(scene_of(x))
    assert found["saturated_bands"] == [2]
    assert abs(found["negative_share"] - 1 / 6) < 0.01
    assert len(found["oddities"]) == 2
    assert conditions(scene_of(np.full((2, 8, 8), -1.0, np.float32), nodata=-1.0)) == {}
    eight_bit = np.clip(rng.normal(60, 10, (1, 90, 90)), 0, 255).astype(np.uint8)
    assert conditions(scene_of(eight_bit))["saturated_bands"] == []


def test_the_angle_mapper_does_not_see_brightness() -> None:
    rng = np.random.default_rng(0)
    means = rng.uniform(0.1, 1, (3, 8))
    y = rng.integers(0, 3, 200)
    x = means[y] * rng.uniform(0.2, 5, (200, 1))
    mapper = AngleMapper(x[:50], y[:50] + 4)
    assert (mapper.predict(x[50:]) == y[50:] + 4).all()
