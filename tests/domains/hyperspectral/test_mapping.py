"""Whole scenes: georeferenced outputs, no seams, bounded memory, and a refusal for what the model was not made for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch

from domains.hyperspectral.data import ArrayScene, copy_cube
from domains.hyperspectral.mapping import _id_type, answer, palette
from domains.hyperspectral.simulate import simulate
from domains.hyperspectral.windows import window_size
from shared_backbones.errors import BadInput

from .conftest import SIMULATED, Folder, Ready, ready, scene_of


def _scene(**more: Any) -> Any:
    made = simulate(7, shape=(50, 61), bands=24, rotation=30.0).scene
    return replace(made, **more)


@pytest.fixture
def scene_file(tmp_path: Path) -> Path:
    copy_cube(_scene(), tmp_path / "scene.tif", "int16")
    return tmp_path / "scene.tif"


def test_outputs_keep_the_georeference(small: Ready, scene_file: Path, tmp_path: Path) -> None:
    facts = small.task.predict(small.model, small.fitted, str(scene_file), Folder(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scene.tif", "scene_class.tif", "scene_confidence.tif"]
    with rasterio.open(scene_file) as scene, rasterio.open(tmp_path / "scene_class.tif") as classes:
        assert classes.crs == scene.crs
        assert classes.transform.almost_equals(scene.transform)
        assert not classes.transform.is_rectilinear
        assert (classes.count, classes.dtypes[0], classes.nodata) == (1, "uint8", 0)
        ids = classes.read(1)
        colours = classes.colormap(1)
        assert len({colours[i] for i in small.fitted["class_ids"]}) == len(small.fitted["class_ids"])
        assert classes.tags()["CLASS_7"] == "bare soil"
        assert (ids[:, -3:] == 0).all()  # beyond the swath
        assert set(np.unique(ids)) <= {0, *small.fitted["class_ids"]}
    with rasterio.open(tmp_path / "scene_confidence.tif") as file:
        assert file.descriptions == ("confidence", "entropy")
        assert file.transform.almost_equals(scene.transform)
        confidence, entropy = file.read()
        assert (confidence[:, -3:] == file.nodata).all()
        inside = ids > 0
        assert confidence[inside].min() >= 1 / 6 - 1e-6
        assert confidence[inside].max() <= 1 + 1e-6
        assert entropy[inside].max() <= np.log(6) + 1e-5
    assert facts["pixels_without_data"] == 150
    assert facts["pixels"] == 50 * 61
    assert sum(facts["class_pixels"].values()) == 50 * 61 - 150


@pytest.mark.parametrize("tile", [7, 16, 1000])
def test_windows_have_no_seams(small: Ready, scene_file: Path, tmp_path: Path, tile: int) -> None:
    task = type(small.task)(small.task.config.model_copy(update={"predict_tile": tile}))
    task.predict(small.model, small.fitted, str(scene_file), Folder(tmp_path))
    values, seen = _scene().read(slice(0, 50), slice(0, 61))
    cube = torch.from_numpy(np.where(seen, values, np.nan).astype(np.float32))[small.fitted["used"]]
    position, confidence, _ = answer(small.model, cube).numpy()
    ids = np.array([*small.fitted["class_ids"], 0])[position.astype(int)]
    with rasterio.open(tmp_path / "scene_class.tif") as file:
        assert (file.read(1) == ids).mean() > 0.999  # a tie may turn on rounding
    with rasterio.open(tmp_path / "scene_confidence.tif") as file:
        np.testing.assert_allclose(file.read(1), np.where(position < 0, -1, confidence), atol=1e-4)


def test_class_map_beats_chance_by_far(small: Ready, tmp_path: Path) -> None:
    small.task.predict(small.model, small.fitted, "simulated", Folder(tmp_path))
    with rasterio.open(tmp_path / "simulated_class.tif") as file:
        ids = file.read(1)
    truth = np.array([*small.data.class_ids, -1])[small.data.index]
    assert (ids == truth)[truth >= 0].mean() > 0.9


def _refused(small: Ready, path: Path, says: str) -> None:
    out = path.parent / "out"
    out.mkdir()
    with pytest.raises(BadInput, match=says):
        small.task.predict(small.model, small.fitted, str(path), Folder(out))
    assert not list(out.iterdir())


def test_other_band_count_is_refused(small: Ready, write_scene: Callable[..., Path]) -> None:
    _refused(small, write_scene(np.ones((5, 6, 6), np.int16)), "5 bands, the model was trained on 24")


def test_other_wavelengths_are_refused(small: Ready, tmp_path: Path) -> None:
    bands = _scene().bands
    moved = [w + 40 for w in bands.wavelength_nm]
    copy_cube(_scene(bands=bands.placed(moved)), tmp_path / "a.tif", "int16")
    _refused(small, tmp_path / "a.tif", r"band 1 is at 460 nm, in training it was at 420 nm.*other_bands=resample")


def test_missing_wavelengths_are_refused(small: Ready, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((6, 6, 24), np.float32))
    _refused(small, tmp_path / "a.npy", "states no wavelengths.*side-car")


def test_another_unit_is_refused_by_name_and_by_size(small: Ready, tmp_path: Path) -> None:
    bands = _scene().bands
    copy_cube(_scene(bands=replace(bands, unit="radiance")), tmp_path / "a.tif", "int16")
    _refused(small, tmp_path / "a.tif", "in 'radiance', in training they were in 'reflectance'")
    (tmp_path / "out").rmdir()
    plain = replace(bands, unit="", scale=(1.0,) * 24)  # the same numbers, without their scale
    copy_cube(_scene(bands=plain), tmp_path / "b.tif", "int16")
    _refused(small, tmp_path / "b.tif", "another unit")


def test_another_sensor_is_resampled_where_that_was_asked_for(tmp_path: Path) -> None:
    made = ready(other_bands="resample")
    copy_cube(simulate(0, shape=(72, 72), bands=37, pixels_per_field=90).scene, tmp_path / "a.tif", "int16")
    facts = made.task.predict(made.model, made.fitted, str(tmp_path / "a.tif"), Folder(tmp_path))
    assert "resampled from" in facts["notes"][0]
    assert sum(facts["class_pixels"].values()) == 72 * 69


def test_a_damaged_block_is_nodata_and_named(small: Ready, scene_file: Path, tmp_path: Path) -> None:
    whole = scene_file.read_bytes()
    with rasterio.open(scene_file) as file:
        assert file.compression is None
    scene_file.write_bytes(whole[: int(len(whole) * 0.8)])
    facts = small.task.predict(small.model, small.fitted, str(scene_file), Folder(tmp_path))
    assert facts["corrupt_windows"]
    assert "rows" in facts["corrupt_windows"][0]
    task = type(small.task)(small.task.config.model_copy(update={"predict_tile": 8}))
    facts = task.predict(small.model, small.fitted, str(scene_file), Folder(tmp_path))
    with rasterio.open(tmp_path / "scene_class.tif") as file:
        ids = file.read(1)
    assert (ids[-4:] == 0).all()
    assert (ids[:24, :-3] > 0).all()  # the undamaged windows have their answer
    assert facts["pixels_without_data"] == int((ids == 0).sum())


def test_a_scene_without_any_data_is_all_nodata(small: Ready, tmp_path: Path) -> None:
    scene = _scene()
    copy_cube(replace(scene, array=np.full_like(scene.array, -9999)), tmp_path / "a.tif", "int16")
    facts = small.task.predict(small.model, small.fitted, str(tmp_path / "a.tif"), Folder(tmp_path))
    assert facts["pixels_without_data"] == facts["pixels"] == 50 * 61


@pytest.mark.parametrize(
    ("ids", "dtype", "nodata"),
    [([1, 5], "uint8", 0), ([0, 5], "uint8", 255), ([1, 255], "uint16", 0), ([0, 70000], "int32", -1)],
)
def test_the_nodata_value_is_no_class(ids: list[int], dtype: str, nodata: int) -> None:
    assert _id_type(ids)[1:] == (dtype, nodata)


def test_colours_differ() -> None:
    assert len(set(palette(40))) == 40


@pytest.mark.parametrize(
    ("shape", "block", "bands"),
    [
        ((3000, 3000), (1, 3000), 60),
        ((9000, 200), (64, 64), 200),
        ((5, 4), (5, 4), 3),
        ((100, 90_000), (1, 90_000), 400),
    ],
)
def test_window_sizes_keep_to_the_budget(shape: tuple[int, int], block: tuple[int, int], bands: int) -> None:
    class Stored(ArrayScene):
        @property
        def block(self) -> tuple[int, int]:
            return block

    empty = scene_of(np.broadcast_to(np.zeros(1, np.int16), (bands, *shape)))
    rows, cols = window_size(Stored("x", empty.array, empty.bands), 0)
    assert 1 <= rows <= shape[0]
    assert 1 <= cols <= shape[1]
    assert rows * cols <= 128 * 128


MEMORY = """
import json, sys, torch
from pathlib import Path
from domains.hyperspectral.simulate import write_large
torch.set_num_threads(1)
import numpy as np
from tests.domains.hyperspectral.conftest import Folder, ready
rows, folder = int(sys.argv[1]), Path(sys.argv[2])
def peak():
    return [int(l.split()[1]) / 1024 for l in open("/proc/self/status") if l.startswith("VmHWM")][0]
made = ready(simulated={"rows": 72, "cols": 72, "bands": 60, "pixels_per_field": 90})
write_large(folder / "big.tif", shape=(rows, 300), bands=60)
made.task.predict(made.model, made.fitted, "simulated", Folder(folder))  # what is loaded once, is loaded
Path("/proc/self/clear_refs").write_text("5")
before = peak()
made.task.predict(made.model, made.fitted, str(folder / "big.tif"), Folder(folder))
print(json.dumps(peak() - before))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to read the peak of memory")
def test_memory_does_not_grow_with_the_scene(tmp_path: Path) -> None:
    grown = []
    for rows in (300, 1200):
        folder = tmp_path / str(rows)
        folder.mkdir()
        done = subprocess.run([sys.executable, "-c", MEMORY, str(rows), str(folder)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        grown.append(json.loads(done.stdout))
    assert max(grown) < 300
    assert grown[1] < grown[0] + 40  # as float32 the larger scene alone is 86 MB


def test_simulated_options_are_the_models(small: Ready) -> None:
    assert len(small.data.scene.bands) == SIMULATED["bands"]
