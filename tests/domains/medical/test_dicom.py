"""DICOM: every one of pydicom's test files read, refused or rendered; series in space; no identity gets out."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from domains.medical.data.dicom import read_series, scan_series
from domains.medical.data.dicom_file import SECRET, pseudonym, read_dicom, read_picture, windowed
from shared_backbones.errors import BadInput

from .dicoms import WORDS, write

RANDOM = np.random.default_rng(0)


@pytest.fixture
def files(public_data: Path) -> Path:
    folder = public_data / "medical" / "dicom_pydicom"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


def raw(path: Path, dtype: str, shape: tuple[int, ...]) -> Any:
    """The last bytes of an uncompressed file."""
    return np.frombuffer(pydicom.dcmread(path).PixelData, dtype)[: int(np.prod(shape))].reshape(shape)


@pytest.mark.data
def test_ct_is_in_hounsfield_units_and_padding_is_not_air(files: Path) -> None:
    volume = read_series(files / "CT_small.dcm")
    stored = raw(files / "CT_small.dcm", "<i2", (128, 128)).astype(np.float32)
    real = stored != -2000
    np.testing.assert_array_equal(volume.voxels[:, :, 0].T[real], stored[real] - 1024)
    assert volume.voxels.min() == stored[real].min() - 1024
    assert volume.spacing == pytest.approx((0.661468, 0.661468, 5.0))
    assert volume.affine[:, 3] == pytest.approx((158.135803, 179.035797, -75.699997, 1))  # LPS -> RAS


@pytest.mark.data
@pytest.mark.parametrize(("name", "shape"), [("MR_small", (64, 64)), ("examples_overlay", (300, 484))])
def test_mr_is_shown_by_its_own_window(name: str, shape: tuple[int, int], files: Path) -> None:
    found = pydicom.dcmread(files / f"{name}.dcm")
    stored = found.pixel_array.astype(np.float64)  # the overlay lies in planes of its own, not in the pixels
    c, w = (float(v[0] if hasattr(v, "__len__") else v) for v in (found.WindowCenter, found.WindowWidth))
    expected = np.where(
        stored <= c - 0.5 - (w - 1) / 2,
        0,
        np.where(stored > c - 0.5 + (w - 1) / 2, 1, (stored - c + 0.5) / (w - 1) + 0.5),
    )
    picture = read_picture(files / f"{name}.dcm")
    assert picture.pixels.shape == (*shape, 1)
    np.testing.assert_allclose(picture.pixels[..., 0], expected, atol=1e-6)


@pytest.mark.data
def test_palette_and_rgb_are_colours(files: Path) -> None:
    found = pydicom.dcmread(files / "examples_palette.dcm")
    tables = [np.frombuffer(found[f"{c}PaletteColorLookupTableData"].value, "<u2") for c in ("Red", "Green", "Blue")]
    index = raw(files / "examples_palette.dcm", "u1", (350, 800)).astype(int)
    expected = np.stack([t[index] for t in tables], -1) / 65535
    np.testing.assert_allclose(read_picture(files / "examples_palette.dcm").pixels, expected, atol=0.5 / 255 + 1e-6)
    stored = raw(files / "examples_rgb_color.dcm", "u1", (240, 320, 3)) / 255
    np.testing.assert_allclose(read_picture(files / "examples_rgb_color.dcm").pixels, stored, atol=1e-6)


@pytest.mark.data
def test_a_segmentation_is_labels_in_space(files: Path) -> None:
    volume = read_series(files / "liver_1frame.dcm")
    bits = np.unpackbits(
        np.frombuffer(pydicom.dcmread(files / "liver_1frame.dcm").PixelData, np.uint8), bitorder="little"
    )
    np.testing.assert_array_equal(volume.voxels[:, :, 0].T, bits[: 512 * 512].reshape(512, 512))
    assert volume.stored["segments"] == {1: "Liver"}
    assert volume.spacing == pytest.approx((0.810547, 0.810547, 1.0))
    with pytest.raises(BadInput, match="a segmentation, not an image"):
        read_picture(files / "liver_1frame.dcm")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "says"),
    [("rtplan", "holds no pixels.*RTPLAN"), ("waveform_ecg", "waveform and no pixels.*medical/signal")],
)
def test_files_without_pixels_are_refused_with_the_reason(name: str, says: str, files: Path) -> None:
    for read in (read_picture, read_series):
        with pytest.raises(BadInput, match=says):
            read(files / f"{name}.dcm")


@pytest.mark.data
def test_a_folder_is_scanned_by_headers_alone(files: Path) -> None:
    found = scan_series(files)
    assert sorted(s.modality for s in found) == ["CT", "ECG", "MR", "MR", "RTPLAN", "SEG", "US", "US"]
    assert sum(s.pixels for s in found) == 6
    with pytest.raises(BadInput, match="8 series"):
        read_series(files)


def test_monochrome1_is_turned_for_the_eye_alone(tmp_path: Path) -> None:
    pixels = RANDOM.integers(0, 4096, (16, 12)).astype(np.uint16)
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    plain = write(tmp_path / "a.dcm", pixels, **window)
    turned = write(tmp_path / "b.dcm", pixels, PhotometricInterpretation="MONOCHROME1", **window)
    np.testing.assert_allclose(read_picture(turned).pixels, 1 - read_picture(plain).pixels, atol=1e-6)
    np.testing.assert_array_equal(read_dicom(turned).values, read_dicom(plain).values)


def test_slope_and_table_of_values(tmp_path: Path) -> None:
    pixels = RANDOM.integers(-500, 500, (8, 9)).astype(np.int16)
    found = read_dicom(write(tmp_path / "a.dcm", pixels, RescaleSlope=2.5, RescaleIntercept=-7))
    np.testing.assert_allclose(found.values[0], pixels * 2.5 - 7)
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [4, 0, 16], "US"
    table.add_new("LUTData", "US", [10, 20, 40, 80])
    steps = RANDOM.integers(0, 4, (8, 9)).astype(np.uint16)
    found = read_dicom(write(tmp_path / "b.dcm", steps, ModalityLUTSequence=Sequence([table])))
    np.testing.assert_array_equal(found.values[0], np.array([10, 20, 40, 80])[steps])


def enhanced(tmp_path: Path, frames: Any, heights: list[float], slopes: list[float]) -> Path:
    """One file of many frames, each with its place and its slope."""
    groups = []
    for z, slope in zip(heights, slopes, strict=True):
        place, value, group = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [1, 2, z]
        value.RescaleSlope, value.RescaleIntercept = slope, 0
        group.PlanePositionSequence, group.PixelValueTransformationSequence = Sequence([place]), Sequence([value])
        groups.append(group)
    turn, size, shared = Dataset(), Dataset(), Dataset()
    turn.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    size.PixelSpacing, size.SliceThickness = [2, 3], 4
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([turn]), Sequence([size])
    return write(
        tmp_path / "many.dcm", frames, ImagePositionPatient=None, ImageOrientationPatient=None, PixelSpacing=None,
        PerFrameFunctionalGroupsSequence=Sequence(groups), SharedFunctionalGroupsSequence=Sequence([shared]),
    )  # fmt: skip


def test_a_file_of_many_frames_is_a_volume(tmp_path: Path) -> None:
    frames = RANDOM.integers(0, 99, (3, 8, 10)).astype(np.uint16)
    path = enhanced(tmp_path, frames, [8.0, 0.0, 4.0], [1.0, 2.0, 3.0])
    volume = read_series(path)
    expected = np.stack([frames[1] * 2.0, frames[2] * 3.0, frames[0] * 1.0], 2).transpose(1, 0, 2)
    np.testing.assert_allclose(volume.voxels, expected)
    np.testing.assert_allclose(volume.affine, [[-3, 0, 0, -1], [0, -2, 0, -2], [0, 0, 4, 0], [0, 0, 0, 1]])
    with pytest.raises(BadInput, match="3 frames, one is needed"):
        read_picture(path)


def turn(angles: tuple[float, float, float]) -> Any:
    from scipy.spatial.transform import Rotation

    return Rotation.from_euler("xyz", angles, degrees=True).as_matrix()


def series(
    folder: Path, count: int = 4, axes: Any = None, step: float = 3.0, skip: tuple[int, ...] = (), **tags: Any
) -> Any:
    """Slices of one value per slice and a bright first pixel, written in a shuffled order; returns the axes."""
    axes = np.eye(3) if axes is None else axes
    for name, k in enumerate(np.random.default_rng(1).permutation(count)):
        if k in skip:
            continue
        pixels = np.full((6, 5), 10 * (k + 1), np.int16)
        pixels[0, 0], pixels[0, 4], pixels[5, 0] = 100, 200, 300
        at = axes[:, 2] * step * k + np.array([5.0, -3.0, 7.0])
        write(
            folder / f"{name}.dcm", pixels, ImagePositionPatient=[float(v) for v in at],
            ImageOrientationPatient=[float(v) for v in (*axes[:, 0], *axes[:, 1])], **tags,
        )  # fmt: skip
    return axes


@settings(max_examples=10)
@given(angles=st.tuples(*[st.floats(-170, 170)] * 3))
def test_slices_stand_where_their_headers_say(angles: tuple[float, float, float], tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("series")
    axes = series(folder, axes=turn(angles))
    volume = read_series(folder)
    assert [float(v) for v in volume.voxels[2, 2]] == [10, 20, 30, 40]
    assert (volume.voxels[0, 0, 0], volume.voxels[4, 0, 0], volume.voxels[0, 5, 0]) == (100, 200, 300)
    first = np.array([5.0, -3.0, 7.0])
    for voxel, lps in (
        ((0, 0, 0), first),
        ((4, 0, 0), first + axes[:, 0] * 4 * 0.25),
        ((0, 5, 2), first + axes[:, 1] * 5 * 0.5 + axes[:, 2] * 6.0),
    ):
        np.testing.assert_allclose((volume.affine @ [*voxel, 1])[:3], lps * [-1, -1, 1], atol=1e-3)


def test_missing_doubled_and_mixed_slices(tmp_path: Path) -> None:
    series(tmp_path / "gap", 6, skip=(3,))
    with pytest.raises(BadInput, match=r"6 mm between .* and .*, 3 mm between others: about 1 missing"):
        read_series(tmp_path / "gap")
    series(tmp_path / "twice", 3)
    (tmp_path / "twice" / "copy.dcm").write_bytes((tmp_path / "twice" / "0.dcm").read_bytes())
    assert read_series(tmp_path / "twice").stored["copies_dropped"] == 1
    series(tmp_path / "echo", 3)
    write(tmp_path / "echo" / "other.dcm", np.zeros((6, 5), np.int16), ImagePositionPatient=[5, -3, 7])
    with pytest.raises(BadInput, match="two different images at one place"):
        read_series(tmp_path / "echo")
    for i, (what, tags) in enumerate(
        {"spacing": {"PixelSpacing": [1, 1]}, "orientation": {"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}}.items()
    ):
        series(tmp_path / f"mixed{i}", 3)
        write(tmp_path / f"mixed{i}" / "x.dcm", np.zeros((6, 5), np.int16), ImagePositionPatient=[5, -3, 16], **tags)
        with pytest.raises(BadInput, match=f"mixed geometry, {what}"):
            read_series(tmp_path / f"mixed{i}")
    series(tmp_path / "pixels", 3)
    write(tmp_path / "pixels" / "x.dcm", np.zeros((4, 4), np.int16), ImagePositionPatient=[5, -3, 16])
    with pytest.raises(BadInput, match="mixed geometry, pixels"):
        read_series(tmp_path / "pixels")


def test_a_tilted_gantry_is_refused(tmp_path: Path) -> None:
    for k in range(3):
        write(tmp_path / f"{k}.dcm", np.full((4, 4), k, np.int16), ImagePositionPatient=[0, 1.5 * k, 3 * k])
    with pytest.raises(BadInput, match="tilt"):
        read_series(tmp_path)


def spoilt(path: Path, how: str) -> Path:
    whole = write(path, RANDOM.integers(0, 99, (16, 16)).astype(np.uint16)).read_bytes()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(whole[:-100])
    elif how == "text":
        path.write_bytes(b"Patient: Zebulon Quillfeather\n" * 20)
    elif how == "no place":
        write(path, np.zeros((8, 8), np.int16), ImagePositionPatient=None)
    elif how == "odd kind":
        write(path, np.zeros((8, 8), np.int16), PhotometricInterpretation="QUILLFEATHER")
    elif how == "bad dates":
        write(path, np.zeros((8, 8), np.int16), SliceThickness=None)
        path.write_bytes(path.read_bytes().replace(b"19370415", b"Zebulon1"))
    elif how == "bad rows":
        path.write_bytes(whole.replace(b"(\x00\x10\x00US\x02\x00\x10\x00", b"(\x00\x10\x00US\x02\x00\xff\x00"))
    return path


@pytest.mark.parametrize("how", ["empty", "cut", "text", "no place", "odd kind", "bad dates", "bad rows"])
def test_refusals_name_the_file_and_never_the_patient(how: str, tmp_path: Path, caplog: Any, capfd: Any) -> None:
    path = spoilt(tmp_path / "slice.dcm", how)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(BadInput, match=r"slice\.dcm") as refused:
            read_series(path)
    out = capfd.readouterr()
    told = f"{refused.value}{refused.value.__cause__}{caplog.text}{out.out}{out.err}{[str(w.message) for w in seen]}"
    assert not [word for word in WORDS if word in told]
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


def test_what_is_read_holds_no_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.dcm", RANDOM.integers(0, 99, (16, 16)).astype(np.uint16))
    other = write(tmp_path / "b.dcm", RANDOM.integers(0, 99, (16, 16)).astype(np.uint16), PatientID="MRN-1")
    picture = read_picture(path)
    told = f"{picture}{read_dicom(path)}{read_series(path)}{scan_series(tmp_path)}"
    assert not [word for word in WORDS if word in told]
    assert picture.patient
    assert picture.patient == read_picture(path).patient != read_picture(other).patient
    monkeypatch.setenv(SECRET, "one secret")
    kept = pseudonym("MRN-77421903")
    monkeypatch.setenv(SECRET, "another")
    assert kept != pseudonym("MRN-77421903") == read_picture(path).patient
    assert pseudonym("") == ""


def test_windows_are_those_of_the_standard() -> None:
    from pydicom.pixels import apply_windowing

    values = np.arange(-200, 300, dtype=np.int16)
    found = Dataset()
    found.WindowCenter, found.WindowWidth, found.PhotometricInterpretation = 40, 80, "MONOCHROME2"
    found.BitsStored, found.PixelRepresentation, found.RescaleSlope, found.RescaleIntercept = 12, 1, 1, 0
    expected = apply_windowing(values, found)
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    np.testing.assert_allclose(windowed(values.astype(np.float32)[None], 40, 80)[0], expected, atol=1e-6)
