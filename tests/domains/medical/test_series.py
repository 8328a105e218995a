"""Volumes that are not NIfTI: NRRD and MetaImage through SimpleITK, and a folder of DICOM slices as one input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

from domains.medical.data.itk import read_itk, read_itk_header
from domains.medical.data.pairs import header_of
from domains.medical.data.volume import read_nifti
from domains.medical.segment import Segment
from domains.medical.segment_config import SegmentOptions
from pipelines.predict import expand, input_digests
from shared_backbones.errors import BadInput
from shared_backbones.presets import load_preset

from .dicoms import write
from .made import Folder

ITK = [".nrrd", ".mha", ".mhd", ".nhdr"]


def oblique(voxels: np.ndarray) -> Any:
    """An image of ITK (k, j, i) that stands obliquely, with three spacings."""
    image = sitk.GetImageFromArray(voxels)
    turn = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.5)
    image.SetDirection(turn.GetMatrix())
    image.SetSpacing((0.7, 1.5, 3.0))
    image.SetOrigin((-12.0, 30.5, 7.25))
    return image


@pytest.mark.parametrize("ending", ITK)
@pytest.mark.parametrize("kind", [np.int16, np.float64, np.uint8])
def test_itk_files_stand_where_nifti_ones_do(ending: str, kind: Any, tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 99, (4, 5, 6)).astype(kind)
    sitk.WriteImage(oblique(voxels), tmp_path / f"a{ending}")
    sitk.WriteImage(oblique(voxels), tmp_path / "a.nii.gz")
    found, wanted = read_itk(tmp_path / f"a{ending}"), read_nifti(tmp_path / "a.nii.gz")
    assert np.array_equal(found.voxels, wanted.voxels)
    assert found.voxels.dtype == wanted.voxels.dtype
    np.testing.assert_allclose(found.affine, wanted.affine, atol=1e-5)
    header = read_itk_header(tmp_path / f"a{ending}")
    assert header.shape == header_of(tmp_path / f"a{ending}")[0] == (6, 5, 4)
    np.testing.assert_allclose(header.affine, found.affine)
    assert read_itk(tmp_path / f"a{ending}", labels=True).voxels.dtype == np.int32


def test_itk_files_are_refused_with_a_reason(tmp_path: Path) -> None:
    def saved(name: str, image: Any) -> Path:
        sitk.WriteImage(image, tmp_path / name)
        return tmp_path / name

    whole = saved("whole.nrrd", sitk.GetImageFromArray(np.ones((3, 3, 3), np.int16)))
    (tmp_path / "cut.nrrd").write_bytes(whole.read_bytes()[:-20])
    (tmp_path / "text.mha").write_text("hello")
    (tmp_path / "empty.nrrd").write_bytes(b"")
    spoilt = np.ones((3, 3, 3), np.float32)
    spoilt[1, 1, 1] = np.nan
    for path, says in (
        (saved("flat.mha", sitk.GetImageFromArray(np.ones((3, 3), np.int16))), "three axes"),
        (saved("four.nrrd", sitk.GetImageFromArray(np.ones((2, 3, 3, 3), np.int16), isVector=False)), "three axes"),
        (saved("two.nrrd", sitk.GetImageFromArray(np.ones((3, 3, 3, 2)), isVector=True)), "2 values per voxel"),
        (saved("nan.mha", sitk.GetImageFromArray(spoilt)), "NaN or infinite"),
        (tmp_path / "cut.nrrd", "damaged or cut"),
        (tmp_path / "text.mha", "not a readable MHA file"),
        (tmp_path / "empty.nrrd", "not a readable NRRD file"),
        (tmp_path / "gone.nrrd", "no such file"),
    ):
        with pytest.raises(BadInput, match=says):
            read_itk(path)


def scene(i: int) -> tuple[np.ndarray, np.ndarray]:
    """(i, j, k) a box that is brighter than the rest, and where it is."""
    voxels = np.random.default_rng(i).normal(0, 20, (16, 20, 14)).astype(np.int16)
    labels = np.zeros(voxels.shape, np.uint8)
    labels[4 : 9 + i, 5:12, 3:10] = 1
    return voxels + 100 * labels.astype(np.int16), labels


def test_a_folder_of_slices_is_predicted_like_its_nifti_by_a_model_of_nrrd_files(tmp_path: Path) -> None:
    for i in range(5):
        for folder, voxels in zip(("images", "masks"), scene(i), strict=True):
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
            image = sitk.GetImageFromArray(voxels.transpose(2, 1, 0).copy())
            image.SetSpacing((0.25, 0.5, 2.0))
            sitk.WriteImage(image, tmp_path / "set" / folder / f"{i}.nrrd")
    task = Segment(SegmentOptions.model_validate({"patches": 4, "dimensions": 3, "depth": 1}))
    data = task.open(str(tmp_path / "set"))
    fitted = json.loads(json.dumps(task.fit(data, task.split(data))))
    assert fitted["plan"]["spacing"] == [0.25, 0.5, 2.0]
    torch.manual_seed(0)
    model = task.build(fitted, load_preset("light_unet")).eval()
    voxels = scene(7)[0]
    series = tmp_path / "series"
    for k in range(voxels.shape[2]):
        place = {"ImagePositionPatient": [-3.0, 4.0, 2.0 * k], "InstanceNumber": k}
        write(series / f"s{(k * 5) % 14}", voxels[:, :, k].T.copy(), **place)
    affine = np.diag([-0.25, -0.5, 2.0, 1.0])  # left, back and up in DICOM; right, front and up in NIfTI
    affine[:3, 3] = (3.0, -4.0, 0.0)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "same.nii.gz")
    assert Segment.takes_folder(series)
    assert not Segment.takes_folder(tmp_path / "set" / "images")
    out = tmp_path / "out"
    assert expand([str(series)], out, (), Segment.takes_folder) == [str(series.resolve())]
    assert set(expand([str(tmp_path)], out, (), Segment.takes_folder)) == {
        str(p.resolve()) for p in (series, tmp_path / "same.nii.gz")
    }
    everything = expand([str(tmp_path / "**")], out, (".nii.gz", "s0"), Segment.takes_folder)  # a folder and its files
    assert set(everything) == {str(p.resolve()) for p in (series, tmp_path / "same.nii.gz")}
    before = input_digests([str(series)])
    out.mkdir()
    for source in (series, tmp_path / "same.nii.gz"):
        task.predict(model, fitted, str(source), Folder(out))
    for what in ("labels", "certainty"):
        a, b = (nibabel.load(out / f"{name}_{what}.nii.gz") for name in ("series", "same"))
        np.testing.assert_allclose(a.affine, b.affine, atol=1e-5)
        assert np.array_equal(np.asarray(a.dataobj), np.asarray(b.dataobj))
    assert len(np.unique(np.asarray(a.dataobj))) > 3
    (series / "s1").unlink()
    assert input_digests([str(series)]) != before
    with pytest.raises(BadInput, match=r"(?i)missing|distance|gap"):
        task.predict(model, fitted, str(series), Folder(out))
