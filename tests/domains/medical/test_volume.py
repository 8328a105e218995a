"""NIfTI in and out: real files, and files that are refused with a reason."""

from __future__ import annotations

import gzip
import os
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from domains.medical.data.volume import Volume, read_header, read_nifti, write_nifti
from shared_backbones.errors import BadInput

DATA = Path(os.environ.get("CAMBIUM_DATA", "/nowhere")) / "medical"
real = pytest.mark.skipif(not (DATA / "nifti_nibabel").is_dir(), reason="needs CAMBIUM_DATA with medical/nifti_nibabel")


def saved(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine, dtype=voxels.dtype), path)
    return path


@real
@pytest.mark.data
def test_real_files_come_back_as_they_were(tmp_path: Path) -> None:
    facts = {
        "anatomical.nii": ((33, 41, 25), "int16", (2, 2, 2)),
        "standard.nii.gz": ((4, 5, 7), "uint8", (1, 3, 2)),
        "reoriented_anat_moved.nii": ((21, 26, 22), "float32", (4, 4, 4)),
    }
    for name, (shape, kind, spacing) in facts.items():
        source = DATA / "nifti_nibabel" / name
        volume = read_nifti(source)
        assert (volume.shape, volume.voxels.dtype) == (shape, np.dtype(kind))  # of this machine's byte order
        assert np.allclose(volume.spacing, spacing, atol=1e-5)
        assert np.array_equal(volume.voxels, np.asarray(nibabel.load(source).dataobj).astype(kind))
        write_nifti(tmp_path / name, volume)
        again = read_nifti(tmp_path / name)
        assert np.array_equal(again.voxels, volume.voxels)
        assert np.allclose(again.affine, volume.affine, atol=1e-5)
        assert again.stored["sform"] == volume.stored["sform"]
        assert read_header(source).shape == shape


@real
@pytest.mark.data
@pytest.mark.parametrize("name", ["example4d.nii.gz", "functional.nii"])
def test_four_axes_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match="three axes"):
        read_nifti(DATA / "nifti_nibabel" / name)
    assert len(read_header(DATA / "nifti_nibabel" / name).shape) == 4


def test_trailing_axes_of_one_are_dropped(tmp_path: Path) -> None:
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4, 1)
    assert np.array_equal(read_nifti(saved(tmp_path / "a.nii", voxels)).voxels, voxels[..., 0])


def test_voxels_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    spoilt = np.zeros((3, 3, 3), np.float32)
    spoilt[1, 2, 0] = np.nan
    with pytest.raises(BadInput, match=r"1 voxels are NaN.*\(1, 2, 0\)"):
        read_nifti(saved(tmp_path / "nan.nii", spoilt))
    with pytest.raises(BadInput, match=r"whole number, got 0.5"):
        read_nifti(saved(tmp_path / "half.nii", np.full((2, 2, 2), 0.5, np.float32)), labels=True)
    colour = np.zeros((2, 2, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(BadInput, match="whole and real numbers"):
        read_nifti(saved(tmp_path / "rgb.nii", colour))


def test_damaged_and_missing_files_are_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 999, (20, 20, 20), dtype=np.int16))
    content = whole.read_bytes()
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(content[: len(content) // 2])
    flipped = tmp_path / "flipped.nii.gz"
    flipped.write_bytes(content[:2000] + b"\xff" * 200 + content[2200:])
    short = tmp_path / "short.nii"
    short.write_bytes(gzip.decompress(content)[:5000])
    text = tmp_path / "text.nii.gz"
    text.write_text("no volume")
    for path in (cut, flipped, short, text, tmp_path / "none.nii"):
        with pytest.raises(BadInput, match=path.name):
            read_nifti(path)


@pytest.mark.parametrize(
    ("affine", "says"),
    [
        (np.diag([1.0, 0.0, 1.0, 1.0]), "no length"),
        (np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "coincide"),
        (np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "right angles"),
        (np.full((4, 4), np.nan), "finite"),
    ],
)
def test_a_grid_without_a_place_is_refused(affine: np.ndarray, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        Volume(np.zeros((2, 2, 2)), affine)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    write_nifti(path, Volume(np.ones((2, 2, 2), bool), np.eye(4)))
    before = path.read_bytes()
    with pytest.raises(nibabel.spatialimages.HeaderDataError):
        write_nifti(path, Volume(np.array([[["text"]]]), np.eye(4)))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]
    assert read_nifti(path, labels=True).voxels.dtype == np.int32


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(BadInput, match=r"cambium\[medical\]"):
        read_nifti(tmp_path / "a.nii")
