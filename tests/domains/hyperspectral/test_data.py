"""Readers and writers: nothing that a file says is lost, nothing that is wrong with it passes."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from domains.hyperspectral.data import CorruptBlock, RasterWriter, copy_cube, open_scene, read_labels
from domains.hyperspectral.data.labels import outlines, write_polygons
from domains.hyperspectral.data.scene import measured
from domains.hyperspectral.simulate import simulate, write_large
from shared_backbones.errors import BadInput

from .conftest import scene_of

WHOLE = slice(0, 6), slice(0, 5)
TURNED = (26.0, 15.0, 5e5, 15.0, -26.0, 5.4e6)


def _cube(seed: int = 0, bands: int = 4) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(1, 9000, (bands, 6, 5)).astype(np.int16)


@pytest.mark.parametrize("ending", ["tif", "img"])
@pytest.mark.parametrize("transform", [None, TURNED])
def test_round_trip(tmp_path: Path, ending: str, transform: tuple[float, ...] | None) -> None:
    array = _cube()
    array[:, 2, 3] = -9999
    scene = scene_of(array, nodata=-9999, transform=transform)
    flags = (True, False, True, True)
    bands = replace(scene.bands, fwhm_nm=(9.5, 10.0, 10.5, 11.0), good=flags, scale=(1e-4,) * 4, unit="reflectance")
    scene = replace(scene, bands=bands)
    path = tmp_path / f"cube.{ending}"
    copy_cube(scene, path, "int16")
    again = open_scene(path if ending == "tif" else path.with_suffix(".hdr"))
    assert again.bands.wavelength_nm == pytest.approx(bands.wavelength_nm, abs=1e-6)
    assert again.bands.fwhm_nm == pytest.approx(bands.fwhm_nm)
    assert (again.bands.good, again.bands.unit, again.nodata) == (flags, "reflectance", -9999)
    assert again.bands.scale == pytest.approx(bands.scale)
    assert CRS.from_wkt(again.crs) == CRS.from_epsg(32632)
    assert again.transform == pytest.approx(scene.transform)
    for a, b in zip(again.read(*WHOLE), scene.read(*WHOLE), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_the_rotated_raster_without_crs_keeps_its_transform(public_data: Path, tmp_path: Path) -> None:
    scene = open_scene(public_data / "hyperspectral/landsat_rgb_rasterio/rotated.tif")
    assert scene.crs is None
    copy_cube(scene, tmp_path / "out.tif", "uint8")
    assert open_scene(tmp_path / "out.tif").transform == scene.transform
    with pytest.raises(BadInput, match="write a GeoTIFF"):  # its pixels are oblong: an ENVI header cannot say so
        copy_cube(scene, tmp_path / "out.img", "uint8")


def test_zero_as_nodata_counts_only_in_all_bands(public_data: Path) -> None:
    scene = open_scene(public_data / "hyperspectral/landsat_rgb_rasterio/RGB.byte.tif")
    _, seen = scene.read(slice(0, 718), slice(0, 791))
    assert 1 - seen.any(0).mean() == pytest.approx(0.325, abs=0.001)
    assert (seen.all(0) == seen.any(0)).all()


def test_labels_of_real_tiles_are_accepted_or_refused_with_a_reason(public_data: Path) -> None:
    folder = public_data / "hyperspectral/hls_terratorch"
    scene = open_scene(folder / "segmentation_test_0_input.tif")
    labels = read_labels(folder / "segmentation_test_0_label.tif", scene, unlabelled=())
    assert set(np.unique(labels.ids)) == {0, 1}
    assert "no CRS" in labels.notes[0]
    with pytest.raises(BadInput, match=r"whole class ids, got 6\.\d+ at row 88, column 223"):
        read_labels(folder / "regression_test_0_label.tif", scene)


def test_a_spectral_library_is_refused_with_a_reason(public_data: Path) -> None:
    with pytest.raises(BadInput, match="Spectral Library"):
        open_scene(public_data / "hyperspectral/enmap_berlin_library/library_berlin.sli")


def test_micrometres_in_an_envi_header(tmp_path: Path) -> None:
    copy_cube(scene_of(_cube()), tmp_path / "a.img", "int16")
    header = tmp_path / "a.hdr"
    text = header.read_text().replace("Nanometers", "Micrometers")
    header.write_text(text)
    with pytest.raises(BadInput, match="cannot be micrometres"):
        open_scene(header)
    start = text.index("wavelength = {")
    header.write_text(text[:start] + "wavelength = {0.42, 1.0, 1.5, 2.4}\nfwhm = {0.01, 0.01, 0.01, 0.01}\n")
    bands = open_scene(header).bands
    assert bands.wavelength_nm == (420.0, 1000.0, 1500.0, 2400.0)
    assert bands.fwhm_nm == (10.0,) * 4


def test_an_envi_header_without_its_data(tmp_path: Path) -> None:
    (tmp_path / "a.hdr").write_text("ENVI\n")
    with pytest.raises(BadInput, match="no data file beside this header"):
        open_scene(tmp_path / "a.hdr")


@pytest.mark.parametrize("name", ["missing.tif", "missing.npy", "missing.hdr"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=f"{name}: no such file"):
        open_scene(tmp_path / name)


def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="a folder"):
        open_scene(tmp_path)


@pytest.mark.parametrize("name", ["a.tif", "a.npy", "a.mat", "a.img"])
def test_not_a_raster(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"this is a letter, not a picture" * 20)
    with pytest.raises(BadInput, match=name):
        open_scene(path)


def test_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "large.tif"
    write_large(path, shape=(300, 260), bands=8)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    scene = open_scene(path)
    scene.read(slice(0, 16), slice(0, 260))
    with pytest.raises(CorruptBlock, match=r"rows 280 to 300.*damaged or incomplete"):
        scene.read(slice(280, 300), slice(0, 260))


def test_npy_with_a_side_car(tmp_path: Path) -> None:
    array = _cube().transpose(1, 2, 0)
    np.save(tmp_path / "cube.npy", array)
    (tmp_path / "cube.json").write_text(
        json.dumps({"wavelength": [0.4, 0.5, 0.6, 0.7], "wavelength_units": "um", "bbl": [1, 1, 0, 1], "nodata": 7})
    )
    scene = open_scene(tmp_path / "cube.npy")
    assert scene.bands.wavelength_nm == (400.0, 500.0, 600.0, 700.0)
    assert scene.bands.good == (True, True, False, True)
    np.testing.assert_array_equal(scene.read(*WHOLE)[0], array.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"wavelengths": [1]}, "did you mean 'wavelength'"),
        ({"wavelength": [400, 500]}, "4 bands but 2 values"),
        ({"axes": "bands,cols"}, "rows,cols,bands"),
        ([], "expected an object"),
    ],
)
def test_side_cars_are_checked(tmp_path: Path, content: Any, says: str) -> None:
    np.save(tmp_path / "cube.npy", _cube().transpose(1, 2, 0))
    (tmp_path / "cube.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match=says):
        open_scene(tmp_path / "cube.npy")


def test_npy_is_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "cube.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BadInput, match="not a plain"):
        open_scene(tmp_path / "cube.npy")


def test_mat_asks_when_several_variables_fit(tmp_path: Path) -> None:
    path = tmp_path / "two.mat"
    scipy.io.savemat(path, {"first": np.ones((3, 4, 5)), "second": np.zeros((3, 4, 6)), "size": 3})
    with pytest.raises(BadInput, match="first 3x4x5, second 3x4x6"):
        open_scene(path)
    assert len(open_scene(path, variable="second").bands) == 6
    with pytest.raises(BadInput, match="did you mean 'second'"):
        open_scene(path, variable="secnd")


def test_a_damaged_mat_of_version_7_3_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64" + bytes(600))
    with pytest.raises(BadInput, match="not an HDF5"):
        open_scene(tmp_path / "a.mat")


@pytest.mark.parametrize("given_nm", ["400-700", (400.0, 500.0, 600.0, 700.0)])
def test_wavelengths_from_the_user(tmp_path: Path, given_nm: Any) -> None:
    np.save(tmp_path / "cube.npy", _cube().transpose(1, 2, 0))
    assert open_scene(tmp_path / "cube.npy", wavelengths=given_nm).bands.wavelength_nm == (400.0, 500.0, 600.0, 700.0)


@pytest.mark.parametrize("given_nm", ["400", "a-b", (400.0, 500.0)])
def test_wrong_wavelengths_from_the_user(tmp_path: Path, given_nm: Any) -> None:
    np.save(tmp_path / "cube.npy", _cube().transpose(1, 2, 0))
    with pytest.raises(BadInput, match="wavelengths"):
        open_scene(tmp_path / "cube.npy", wavelengths=given_nm)


@given(
    st.sampled_from(["int16", "uint8", "float32", "float64"]),
    st.sampled_from([None, 0.0, 7.0, -9999.0, 0.5, float("nan")]),
    st.integers(0, 2**20),
)
def test_measured_against_a_loop(dtype: str, nodata: float | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    raw = rng.choice([0, 1, 7, 100], (3, 2, 4)).astype(dtype)
    if dtype.startswith("float"):
        raw[rng.random(raw.shape) < 0.1] = np.nan
    got = measured(raw, nodata)
    for i in np.ndindex(raw.shape):
        missing = bool(np.isnan(float(raw[i])))
        if nodata == 0:
            missing |= bool((raw[:, i[1], i[2]] == 0).all())
        elif nodata is not None:
            missing |= float(raw[i]) == nodata
        assert got[i] == (not missing)


# --- labels -----------------------------------------------------------------------------------------------------------


def _label_raster(path: Path, ids: np.ndarray[Any, Any], crs: str | None, transform: Any = None) -> Path:
    more = {"crs": crs, "transform": transform or rasterio.Affine(30, 0, 5e5, 0, -30, 5.4e6)} if crs else {}
    with rasterio.open(
        path, "w", driver="GTiff", height=ids.shape[0], width=ids.shape[1], count=1, dtype=ids.dtype, **more
    ) as f:
        f.write(ids, 1)
    return path


def test_label_ids_need_not_be_contiguous(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 700], [12, 0, 12]], dtype=np.uint16)
    labels = read_labels(_label_raster(tmp_path / "l.tif", ids, "EPSG:32632"), scene_of(np.ones((2, 2, 3))))
    assert labels.ids.tolist() == [[-1, 1, 700], [12, -1, 12]]


@pytest.mark.parametrize(
    ("ids", "crs", "transform", "says"),
    [
        (np.ones((3, 3), np.uint8), "EPSG:32632", None, "labels are 3 x 3, the scene made is 2 x 3"),
        (np.ones((2, 3), np.uint8), "EPSG:32633", None, "labels are in EPSG:32633.*rio warp"),
        (np.ones((2, 3), np.uint8), "EPSG:32632", rasterio.Affine(30, 0, 5e5 + 30, 0, -30, 5.4e6), "another grid"),
        (np.full((2, 3), 1.5, np.float32), "EPSG:32632", None, "whole class ids, got 1.5 at row 0, column 0"),
        (np.zeros((2, 3), np.uint8), "EPSG:32632", None, "no pixel of made has a label"),
    ],
)
def test_label_rasters_that_do_not_fit(
    tmp_path: Path, ids: np.ndarray[Any, Any], crs: str, transform: Any, says: str
) -> None:
    path = _label_raster(tmp_path / "l.tif", ids, crs, transform)
    with pytest.raises(BadInput, match=says):
        read_labels(path, scene_of(np.ones((2, 2, 3))))


def _squares(tmp_path: Path, crs: str | None, name: str = "l.geojson", values: tuple[Any, Any] = (5, 9)) -> Path:
    def square(x: float, y: float, side: float) -> dict[str, Any]:
        ring = [[x, y], [x + side, y], [x + side, y - side], [x, y - side], [x, y]]
        return {"type": "Polygon", "coordinates": [ring]}

    path = tmp_path / name
    write_polygons(path, [(square(5e5, 5.4e6, 60), values[0]), (square(5e5 + 90, 5.4e6, 60), values[1])], crs)
    return path


@pytest.mark.parametrize("name", ["l.gpkg", "l.fgb"])
def test_polygons_are_kept_as_groups(tmp_path: Path, name: str) -> None:
    labels = read_labels(_squares(tmp_path, "EPSG:32632", name), scene_of(np.ones((2, 3, 6))))
    assert labels.ids.tolist() == [[5, 5, -1, 9, 9, -1], [5, 5, -1, 9, 9, -1], [-1] * 6]
    assert labels.polygons is not None
    a, _, gap, b = labels.polygons[0, :4].tolist()
    assert gap == -1
    assert {a, b} == {0, 1}  # a FlatGeobuf file keeps its polygons in an order of its own
    assert labels.polygons[0].tolist() == [a, a, -1, b, b, -1]


def test_words_become_class_names(tmp_path: Path) -> None:
    path = _squares(tmp_path, "EPSG:32632", "l.gpkg", ("water", "forest"))
    labels = read_labels(path, scene_of(np.ones((2, 3, 6))))
    assert labels.names == {1: "forest", 2: "water"}
    assert labels.ids[0].tolist() == [2, 2, -1, 1, 1, -1]


def test_polygons_in_another_crs_are_transformed(tmp_path: Path) -> None:
    from rasterio.warp import transform_geom

    ids = np.full((40, 40), -1, np.int32)
    ids[5:20, 5:18], ids[25:36, 20:38] = 3, 8
    scene = scene_of(np.ones((2, 40, 40)))
    areas = [(transform_geom(scene.crs, "EPSG:4326", g), i) for g, i in outlines(ids, scene.transform)]  # type: ignore[arg-type]
    write_polygons(tmp_path / "l.gpkg", areas, "EPSG:4326")
    labels = read_labels(tmp_path / "l.gpkg", scene)
    np.testing.assert_array_equal(labels.ids, ids)
    assert "transformed from EPSG:4326" in labels.notes[0]


def test_polygons_off_the_scene(tmp_path: Path) -> None:
    scene = replace(scene_of(np.ones((2, 3, 6))), transform=(30.0, 0.0, 9e5, 0.0, -30.0, 5.4e6))
    with pytest.raises(BadInput, match="none of its 2 polygons"):
        read_labels(_squares(tmp_path, "EPSG:32632", "l.gpkg"), scene)


def test_wrong_attribute_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="did you mean 'class'"):
        read_labels(_squares(tmp_path, "EPSG:32632", "l.gpkg"), scene_of(np.ones((2, 3, 6))), attribute="clas")


# --- writing ----------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5))
def test_windows_fill_the_whole(tmp_path_factory: pytest.TempPathFactory, rows: int, cols: int, step: int) -> None:
    scene = scene_of(np.random.default_rng(0).random((2, rows, cols)).astype(np.float32))
    path = tmp_path_factory.mktemp("w") / "a.tif"
    with RasterWriter(path, scene, 2, "float32", nodata=None) as writer:
        for top in range(0, rows, step):
            span = slice(top, min(rows, top + step))
            writer.write(span, slice(0, cols), scene.array[:, span])
    np.testing.assert_array_equal(open_scene(path).read(slice(0, rows), slice(0, cols))[0], scene.array)


FULL_DISK = """
import resource, signal, sys, numpy as np
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from domains.hyperspectral.simulate import write_large
from shared_backbones.errors import BadInput
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    write_large(Path(sys.argv[1]), shape=(400, 400), bands=20, **eval(sys.argv[2]))
except BadInput as e:
    print("refused:", e)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit on file size to play a full disk")
@pytest.mark.parametrize("creation", ["{}", "{'compress': 'deflate'}", "{'tiled': True}"])
def test_full_disk_is_one_clear_error(tmp_path: Path, creation: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "a.tif"), creation], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "refused:" in done.stdout
    assert "cannot be written" in done.stdout
    assert "Free some room" in done.stdout


def test_no_room_is_seen_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(BadInput, match="the disk has 0 MB left"):
        write_large(tmp_path / "a.tif", shape=(300, 300), bands=4)


def test_simulated_scenes_are_plausible_and_repeat(write_scene: Callable[..., Path]) -> None:
    a, b = simulate(3, shape=(64, 64), bands=40), simulate(3, shape=(64, 64), bands=40)
    np.testing.assert_array_equal(a.scene.array, b.scene.array)
    np.testing.assert_array_equal(a.ids, b.ids)
    assert not np.array_equal(a.scene.array, simulate(4, shape=(64, 64), bands=40).scene.array)
    values, seen = a.scene.read(slice(0, 64), slice(0, 64))
    assert not seen[:, :, -3:].any()
    nm = np.array(a.scene.bands.wavelength_nm)
    red, infrared, swir = (int(np.abs(nm - w).argmin()) for w in (670, 860, 2200))
    leaves, water = np.isin(a.ids, (1, 2, 4)), a.ids == 12
    assert (values[infrared][leaves] > 3 * values[red][leaves]).mean() > 0.95  # the red edge
    assert values[swir][water].mean() < 0.02
    assert values[seen].min() > -0.05
    assert values[seen].max() < 1.2
