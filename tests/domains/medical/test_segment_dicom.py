"""Segmentation learned from DICOM alone: a folder of slices per case, masks as DICOM segmentations of some slices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from pydicom.dataset import Dataset

from domains.medical.data.pairs import embedded, read_labels
from domains.medical.data.volume import Volume
from domains.medical.segment import Segment
from shared_backbones.errors import BadInput

from .dicoms import WORDS, write

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
PLACE = {"PixelSpacing": None, "ImageOrientationPatient": None, "ImagePositionPatient": None, "SliceThickness": None}


def of(**tags: Any) -> Dataset:
    found = Dataset()
    for name, value in tags.items():
        setattr(found, name, value)
    return found


def series(folder: Path, voxels: np.ndarray) -> None:
    """(k, rows, columns) as slices 2 mm apart, in files of no particular order."""
    for k, plane in enumerate(voxels):
        place = {"ImagePositionPatient": [-3.0, 4.0, 2.0 * k], "InstanceNumber": k}
        write(folder / f"s{(k * 5) % 12}", plane, **place)


def segmentation(path: Path, labels: np.ndarray) -> None:
    """(k, rows, columns): a frame for every slice and segment that has voxels, and no others."""
    frames, groups = [], []
    for number in (1, 2):
        for k in np.flatnonzero((labels == number).any((1, 2))):
            frames.append((labels[k] == number).astype(np.uint8))
            groups.append(
                of(
                    PlanePositionSequence=[of(ImagePositionPatient=[-3.0, 4.0, 2.0 * int(k)])],
                    SegmentIdentificationSequence=[of(ReferencedSegmentNumber=number)],
                )
            )
    shared = of(
        PlaneOrientationSequence=[of(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelMeasuresSequence=[of(PixelSpacing=[0.5, 0.25], SliceThickness=2.0)],
    )
    write(
        path, np.stack(frames), **PLACE, SOPClassUID=SEGMENTATION, Modality="SEG", SegmentationType="BINARY",
        SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=groups,
        SegmentSequence=[of(SegmentNumber=n, SegmentLabel=f"part {n}") for n in (1, 2)],
    )  # fmt: skip


def case(i: int) -> tuple[np.ndarray, np.ndarray]:
    voxels = np.random.default_rng(i).normal(0, 20, (12, 10, 14)).astype(np.int16)
    labels = np.zeros(voxels.shape, np.int32)
    labels[3:7, 2:6, 3 : 6 + i] = 1
    labels[5:8, 7:9, 2:8] = 2
    return voxels + 100 * labels.astype(np.int16), labels


def test_series_with_segmentations_are_learned_like_their_nifti(tmp_path: Path) -> None:
    affine = np.diag([-0.25, -0.5, 2.0, 1.0])  # left, back and up in DICOM; right, front and up in NIfTI
    affine[:3, 3] = (3.0, -4.0, 0.0)
    for i in range(4):
        voxels, labels = case(i)
        series(tmp_path / "a" / "images" / f"{i}", voxels)
        segmentation(tmp_path / "a" / "masks" / f"{i}.dcm", labels)
        for folder, x in (("images", voxels), ("masks", labels.astype(np.uint8))):
            (tmp_path / "b" / folder).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(x.transpose(2, 1, 0), affine), tmp_path / "b" / folder / f"{i}.nii.gz")
    task = Segment(Segment.Config.model_validate({"patches": 2}))
    ours, theirs = (task.open(str(tmp_path / name)) for name in "ab")
    for i in range(4):
        a, b = ours.grid(i), theirs.grid(i)
        assert a.spacing == pytest.approx(b.spacing)
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.labels, b.labels)
    assert ours.manifest.sha256 == task.open(str(tmp_path / "a")).manifest.sha256
    assert not any(word in str(ours.manifest.to_json()) for word in WORDS)
    split = task.split(ours)
    assert task.fit(ours, split)["plan"]["spacing"] == task.fit(theirs, split)["plan"]["spacing"]


def test_a_mask_between_the_slices_is_refused(tmp_path: Path) -> None:
    for i in range(3):
        voxels, labels = case(i)
        series(tmp_path / "images" / f"{i}", voxels)
        (tmp_path / "masks").mkdir(exist_ok=True)
        segmentation(tmp_path / "masks" / f"{i}.dcm", labels)
    shifted = tmp_path / "images" / "2"
    for k, plane in enumerate(case(2)[0]):
        write(shifted / f"s{(k * 5) % 12}", plane, ImagePositionPatient=[-3.0, 4.0, 2.0 * k + 0.7], InstanceNumber=k)
    with pytest.raises(BadInput, match=r"2\.dcm: has \(14, 10, 5\) voxels, its image"):
        Segment(Segment.Config()).open(str(tmp_path))


def test_what_lies_beyond_the_image_is_left_as_it_is() -> None:
    image = Volume(np.zeros((4, 5, 6), np.int32), np.diag([1.0, 2.0, 3.0, 1.0]))
    part = Volume(np.ones((4, 5, 2), np.int32), np.array([[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 3, 9], [0, 0, 0, 1.0]]))
    whole = embedded(part, image)
    assert whole.voxels.shape == (4, 5, 6)
    assert whole.voxels.sum((0, 1)).tolist() == [0, 0, 0, 20, 20, 0]
    beyond = Volume(part.voxels, part.affine + np.array([[0, 0, 0, 0]] * 2 + [[0, 0, 0, 9.0]] + [[0] * 4]))
    assert embedded(beyond, image) is beyond


def test_slices_of_labels_are_whole_numbers(tmp_path: Path) -> None:
    series(tmp_path / "a", case(0)[1].astype(np.int16))
    labels, stored = read_labels(tmp_path / "a")
    assert labels.dtype == np.int32
    assert stored is not None
    assert np.unique(labels).tolist() == [0, 1, 2]
    for k, plane in enumerate(case(0)[1].astype(np.int16)):
        place = {"ImagePositionPatient": [0, 0, 2.0 * k], "RescaleSlope": 0.5, "RescaleIntercept": 0}
        write(tmp_path / "b" / f"{k}", plane, **place)
    with pytest.raises(BadInput, match=r"a label is a whole number, got 0\.5"):
        read_labels(tmp_path / "b")
