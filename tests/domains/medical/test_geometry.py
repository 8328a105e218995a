"""Orientation and spacing, against nibabel and torch, and back again."""

from __future__ import annotations

import itertools

import nibabel
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from domains.medical.data.volume import Volume
from domains.medical.geometry import SlabResampler, canonical, resample, resample_labels, shape_at, taps

PHANTOM = np.arange(4 * 5 * 7, dtype=np.int16).reshape(4, 5, 7)  # no two voxels alike, no two axes as long
ORIENTATIONS = [
    "".join(letters) for order in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*order)
]


def stored_as(letters: str, oblique: bool) -> Volume:
    """The phantom, which is right-anterior-superior, stored with its axes along ``letters``."""
    affine = np.diag([1.0, 3.0, 2.0, 1.0])
    affine[:3, 3] = (-11.0, 5.0, 40.0)
    if oblique:
        a, b = np.deg2rad(17), np.deg2rad(-9)
        turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) @ np.array(
            [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
        )
        affine[:3, :3] = turn @ affine[:3, :3]
    image = nibabel.Nifti1Image(PHANTOM, affine)
    codes = nibabel.orientations.axcodes2ornt(tuple(letters))
    turned = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), codes))
    return Volume(np.asarray(turned.dataobj), np.asarray(turned.affine, dtype=np.float64))


@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("letters", ORIENTATIONS)
def test_every_orientation_becomes_one_and_goes_back(letters: str, oblique: bool) -> None:
    assert len(ORIENTATIONS) == 48
    stored = stored_as(letters, oblique)
    inside, turn = canonical(stored)
    assert np.array_equal(inside.voxels, PHANTOM)
    reference = nibabel.as_closest_canonical(nibabel.Nifti1Image(stored.voxels, stored.affine))
    np.testing.assert_allclose(inside.affine, reference.affine, atol=1e-12)
    assert np.array_equal(turn.back(inside.voxels), stored.voxels)
    world = stored.affine @ [1, 2, 3, 1]  # one voxel's place in the patient stays
    at = np.linalg.solve(inside.affine, world)[:3].round().astype(int)
    assert inside.voxels[tuple(at)] == stored.voxels[1, 2, 3]


@given(st.integers(1, 9), st.integers(1, 23))
def test_linear_interpolation_is_that_of_torch(n: int, m: int) -> None:
    x = torch.randn(1, 2, n, generator=torch.Generator().manual_seed(n * 31 + m))
    ours = resample(x[0], (m,))
    wide = F.interpolate(x[:, :, None], (1, m), mode="bilinear", antialias=True, align_corners=False)[0, :, 0]
    assert torch.allclose(ours, wide, atol=1e-5)
    if m >= n:
        assert torch.allclose(ours, F.interpolate(x, m, mode="linear", align_corners=False)[0], atol=1e-5)


@given(st.tuples(st.integers(1, 7), st.integers(1, 5)), st.tuples(st.integers(1, 9), st.integers(1, 9)), st.data())
def test_slab_by_slab_is_the_whole(old: tuple[int, int], new: tuple[int, int], data: st.DataObject) -> None:
    x = torch.randn(3, *old, generator=torch.Generator().manual_seed(0))
    resampler = SlabResampler(old, new, rows=data.draw(st.integers(1, 4)))
    found, at = torch.full((3, *new), float("nan")), 0
    while at < old[0]:
        step = data.draw(st.integers(1, old[0] - at))
        for rows, value in resampler.feed(x[:, at : at + step]):
            found[:, rows] = value
        at += step
    assert torch.allclose(found, resample(x, new), atol=1e-6)


def test_labels_take_the_nearest_and_come_back() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (5, 6, 7))
    finer = resample_labels(labels, (10, 18, 7))
    assert np.array_equal(finer, labels.repeat(2, 0).repeat(3, 1))
    assert np.array_equal(resample_labels(finer, labels.shape), labels)


def test_a_constant_stays_and_shapes_keep_the_field_of_view() -> None:
    assert torch.allclose(resample(torch.full((1, 7, 5), 3.0), (3, 11)), torch.tensor(3.0))
    assert shape_at((122, 101, 30), (3, 3, 3), (1.5, 6, 3)) == (244, 50, 30)
    assert taps(6, 6).same
    assert shape_at((1,), (1,), (9,)) == (1,)
