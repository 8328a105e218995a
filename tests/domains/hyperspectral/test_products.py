"""Sensors' products as their makers lay them out, simulated small: values, wavelengths, place, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from domains.hyperspectral.bands import Bands, picked, plain_bands
from domains.hyperspectral.data import CorruptBlock, copy_cube, open_scene
from domains.hyperspectral.data.products import PRISMA
from domains.hyperspectral.restoring.config import DenoiseOptions
from domains.hyperspectral.restoring.source import load
from shared_backbones.errors import BadInput

from .conftest import scene_of

ROWS, COLS = 6, 7
ALL = slice(0, ROWS), slice(0, COLS)


def write_prisma(path: Path) -> dict[str, Any]:
    """PRISMA L2D: cubes (rows, bands, columns), wavelengths falling, unused bands at 0 nm."""
    rng = np.random.default_rng(0)
    nm = {"Vnir": np.array([0.0, 970.0, 700.0, 410.0]), "Swir": np.array([2490.0, 1500.0, 940.0])}
    made: dict[str, Any] = {"nm": nm}
    with h5py.File(path, "w") as f:
        for word, part in (("Vnir", "VNIR"), ("Swir", "SWIR")):
            cube = rng.integers(1, 65535, (ROWS, len(nm[word]), COLS), dtype=np.uint16)
            f[f"{PRISMA}/{part}_Cube"] = cube
            f.attrs[f"List_Cw_{word}"], f.attrs[f"List_Fwhm_{word}"] = nm[word], nm[word] / 100
            f.attrs[f"L2Scale{word}Min"], f.attrs[f"L2Scale{word}Max"] = 0.0, 1.0 if part == "VNIR" else 0.5
            made[part] = cube
        f.attrs["Epsg_Code"] = 32633
        for corner, x, y in (
            ("UL", 500_000.0, 4_500_000.0),
            ("LR", 500_000.0 + 30 * (COLS - 1), 4_500_000.0 - 30 * (ROWS - 1)),
        ):
            f.attrs[f"Product_{corner}corner_easting"], f.attrs[f"Product_{corner}corner_northing"] = x, y
    return made


def test_prisma_joins_its_cubes(tmp_path: Path) -> None:
    made = write_prisma(tmp_path / "p.he5")
    scene = open_scene(tmp_path / "p.he5")
    assert scene.shape == (ROWS, COLS)
    assert scene.bands.wavelength_nm == (410.0, 700.0, 970.0, 940.0, 1500.0, 2490.0)
    assert scene.bands.unit == "reflectance"
    assert scene.bands.fwhm_nm is not None
    assert np.isclose(scene.bands.fwhm_nm[1], 7.0)
    values, seen = scene.read(slice(1, 4), slice(2, 5))
    assert np.allclose(values[1], made["VNIR"][1:4, 2, 2:5] / 65535, atol=1e-6)
    assert np.allclose(values[4], 0.5 * made["SWIR"][1:4, 1, 2:5] / 65535, atol=1e-6)
    assert seen.all()
    assert scene.transform == (30.0, 0.0, 499_985.0, 0.0, -30.0, 4_500_015.0)
    assert scene.crs is not None
    assert "33N" in scene.crs


def write_emit(path: Path, table: bool = True) -> np.ndarray[Any, Any]:
    """EMIT L2A: reflectance (downtrack, crosstrack, bands), its bands in a group, a table that turns the swath."""
    cube = np.random.default_rng(1).uniform(0, 1, (ROWS, COLS, 3)).astype(np.float32)
    cube[2, 3] = -9999.0
    with h5py.File(path, "w") as f:
        f["reflectance"] = cube
        f["reflectance"].attrs["_FillValue"] = np.array([-9999.0], dtype=np.float32)
        f["sensor_band_parameters/wavelengths"] = np.array([450.0, 800.0, 1380.0])
        f["sensor_band_parameters/fwhm"] = np.array([8.5, 8.6, 8.7])
        f["sensor_band_parameters/good_wavelengths"] = np.array([1.0, 1.0, 0.0])
        if table:
            rows, cols = np.indices((ROWS, COLS))
            glt_x, glt_y = np.zeros((COLS + 1, ROWS), dtype=np.int32), np.zeros((COLS + 1, ROWS), dtype=np.int32)
            glt_x[:COLS], glt_y[:COLS] = cols.T + 1, rows.T + 1  # transposed, one row without any swath
            f["location/glt_x"], f["location/glt_y"] = glt_x, glt_y
            f.attrs["geotransform"] = np.array([10.0, 0.0005, 0.0, 50.0, 0.0, -0.0005])
            f.attrs["spatial_ref"] = "EPSG:4326"
    return cube


def test_emit_stands_on_the_lattice_of_its_table(tmp_path: Path) -> None:
    cube = write_emit(tmp_path / "e.nc")
    scene = open_scene(tmp_path / "e.nc")
    assert scene.shape == (COLS + 1, ROWS)
    assert scene.bands.good == (True, True, False)
    values, seen = scene.read(slice(1, COLS + 1), slice(0, ROWS))
    wanted = cube.transpose(2, 1, 0)[:, 1:]
    assert not seen[:, -1].any()
    assert not seen[:, 2, 2].any()  # the swath pixel (2, 3)
    assert np.array_equal(values[:, :-1][seen[:, :-1]], wanted[seen[:, :-1]])
    assert scene.transform == (0.0005, 0.0, 10.0, 0.0, -0.0005, 50.0)
    whole, _ = scene.read(slice(0, COLS + 1), slice(0, ROWS))
    assert np.array_equal(whole[:, 1:], values)
    write_emit(tmp_path / "swath.nc", table=False)
    assert open_scene(tmp_path / "swath.nc").shape == (ROWS, COLS)


def test_a_geolocation_table_that_points_outside_is_refused(tmp_path: Path) -> None:
    write_emit(tmp_path / "e.nc")
    with h5py.File(tmp_path / "e.nc", "a") as f:
        f["location/glt_x"][0, 0] = COLS + 5
    with pytest.raises(BadInput, match="glt_x points to 12"):
        open_scene(tmp_path / "e.nc")


def test_enmap_bands_come_from_its_metadata(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).integers(0, 9000, (3, ROWS, COLS)).astype(np.int16)
    image = tmp_path / "ENMAP01-____L2A-X-SPECTRAL_IMAGE.TIF"
    copy_cube(scene_of(raw, nodata=-32768.0), tmp_path / "a.tif", "int16")
    (tmp_path / "a.tif").rename(image)
    rows = "".join(
        f'<bandID number="{i + 1}"><wavelengthCenterOfBand>{w}</wavelengthCenterOfBand><FWHMOfBand>7</FWHMOfBand>'
        "<GainOfBand>0.0001</GainOfBand><OffsetOfBand>0.5</OffsetOfBand></bandID>"
        for i, w in enumerate((423.0, 700.5, 2440.1))
    )
    metadata = tmp_path / "ENMAP01-____L2A-X-METADATA.XML"
    metadata.write_text(f"<level_X><specific><bandCharacterisation>{rows}</bandCharacterisation></specific></level_X>")
    scene = open_scene(image)
    assert scene.bands.wavelength_nm == (423.0, 700.5, 2440.1)
    assert np.allclose(scene.read(*ALL)[0], raw * 1e-4 + 0.5, atol=1e-5)
    metadata.write_text(metadata.read_text().replace("423.0", "?"))
    with pytest.raises(BadInput, match="EnMAP"):
        open_scene(image)
    metadata.write_text("<!DOCTYPE x><a/>")
    with pytest.raises(BadInput, match="DOCTYPE"):
        open_scene(image)


def test_plain_hdf5_and_matlab_7_3(tmp_path: Path) -> None:
    cube = np.random.default_rng(0).uniform(0, 1, (ROWS, COLS, 4))
    with h5py.File(tmp_path / "a.h5", "w") as f:
        f["cube"], f["wavelength"] = cube, np.array([0.5, 0.6, 0.7, 0.8])
        f["cube"].attrs["scale_factor"] = 2.0
    scene = open_scene(tmp_path / "a.h5")
    assert scene.bands.wavelength_nm == (500.0, 600.0, 700.0, 800.0)
    assert np.allclose(scene.read(*ALL)[0], 2 * cube.transpose(2, 0, 1))
    with h5py.File(tmp_path / "b.mat", "w", userblock_size=512) as f:
        f["X"] = cube.transpose(2, 1, 0)
    with (tmp_path / "b.mat").open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + bytes([0, 2]) + b"IM")
    assert np.allclose(open_scene(tmp_path / "b.mat").read(*ALL)[0], cube.transpose(2, 0, 1))
    with h5py.File(tmp_path / "two.h5", "w") as f:
        f["cube"], f["other"] = cube, cube
    with pytest.raises(BadInput, match=r"several.*variable=NAME"):
        open_scene(tmp_path / "two.h5")
    assert open_scene(tmp_path / "two.h5", variable="other").shape == (ROWS, COLS)
    (tmp_path / "c.nc").write_bytes(b"CDF no")
    with pytest.raises(BadInput, match="not an HDF5"):
        open_scene(tmp_path / "c.nc")


def test_a_damaged_chunk_is_one_corrupt_window(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as f:
        f.create_dataset(
            "cube", data=np.random.default_rng(0).uniform(0, 1, (8, 8, 3)), chunks=(4, 8, 3), compression="gzip"
        )
        at = f["cube"].id.get_chunk_info(1).byte_offset
    with path.open("r+b") as raw:
        raw.seek(at + 4)
        raw.write(b"\x00" * 40)
    scene = open_scene(path)
    assert scene.block == (4, 8)
    scene.read(slice(0, 4), slice(0, 8))
    with pytest.raises(CorruptBlock, match="rows 4 to 8"):
        scene.read(slice(4, 8), slice(0, 8))


def test_zarr_says_what_a_side_car_would(tmp_path: Path) -> None:
    cube = np.random.default_rng(0).integers(0, 9, (ROWS, COLS, 3)).astype(np.int16)
    path = tmp_path / "s.zarr"
    store = zarr.create_array(str(path), data=cube, chunks=(4, 4, 3))
    store.attrs.update(
        {
            "wavelength": [0.45, 0.55, 0.65],
            "nodata": 0,
            "crs": "EPSG:32632",
            "transform": [30, 0, 5e5, 0, -30, 5e6],
            "scale": 0.5,
        }
    )
    scene = open_scene(path)
    assert scene.bands.wavelength_nm == (450.0, 550.0, 650.0)
    assert np.allclose(scene.read(*ALL)[0], 0.5 * cube.transpose(2, 0, 1))
    assert scene.transform == (30.0, 0.0, 5e5, 0.0, -30.0, 5e6)
    data = load(str(path), DenoiseOptions())
    assert data.manifest.sha256 == load(str(path), DenoiseOptions()).manifest.sha256
    (tmp_path / "x.zarr").mkdir()
    with pytest.raises(BadInput, match="Zarr"):
        open_scene(tmp_path / "x.zarr")


def test_bands_are_chosen_by_name_and_wavelength() -> None:
    bands = Bands.from_json({**plain_bands(4, [450, 550, 650, 850]).to_json(), "names": ("B2", "B3", "B4", "B8")})
    assert picked(bands, None).all()
    assert picked(bands, ["B8", 560.0, "451nm"]).tolist() == [True, True, False, True]
    with pytest.raises(BadInput, match="B4"):
        picked(bands, ["B44"])
    with pytest.raises(BadInput, match="nearest is at 850"):
        picked(bands, [1200.0])
    with pytest.raises(BadInput, match="only be chosen by name"):
        picked(plain_bands(2), [500.0])
