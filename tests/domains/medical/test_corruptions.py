"""Corruptions: harmless shapes, growing harm, the same again; JPEG beside Pillow's own."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter

from domains.medical.corruptions import CORRUPTIONS, LEVELS, corrupted, cosine_basis
from shared_backbones.errors import BadRequest

from .made import scan


def pictures(size: tuple[int, int] = (48, 40), count: int = 2) -> torch.Tensor:
    return torch.stack([torch.from_numpy(scan(i, size).astype(np.float32) / 255)[None] for i in range(count)])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_harm_grows_with_the_level_and_repeats(name: str) -> None:
    x = pictures()
    harm = []
    for level in LEVELS:
        y = corrupted(x, name, level, seed=3)
        assert y.shape == x.shape
        assert y.dtype == x.dtype
        assert float(y.min()) >= 0
        assert float(y.max()) <= 1
        assert torch.equal(y, corrupted(x, name, level, seed=3))
        harm.append(float((y - x).square().mean()))
    assert harm[0] > 1e-6
    assert all(a < b for a, b in itertools.pairwise(harm))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_volumes_and_colours_are_taken_too(name: str) -> None:
    for shape in ((2, 1, 6, 18, 20), (2, 3, 17, 19)):
        x = torch.rand(shape)
        assert corrupted(x, name, 3).shape == x.shape


def test_what_moves_is_as_bright_as_before() -> None:
    x = torch.zeros(1, 1, 32, 32)
    x[..., 10:22, 12:20] = 0.5
    assert float(corrupted(x, "motion", 3).mean()) == pytest.approx(float(x.mean()), rel=0.3)
    assert float(corrupted(x, "ghosting", 2).mean()) == pytest.approx(float(x.mean()), rel=0.2)


def test_blur_is_a_gaussian() -> None:
    x = pictures((40, 40), 1)
    expected = gaussian_filter(x[0, 0].numpy(), 0.03 * 40, mode="nearest", radius=4)
    np.testing.assert_allclose(corrupted(x, "blur", 3)[0, 0].numpy(), expected, atol=1e-5)


def test_the_cosine_transform_is_that_of_scipy() -> None:
    x = np.random.default_rng(0).random((8, 8)).astype(np.float32)
    basis = cosine_basis().numpy()
    np.testing.assert_allclose(basis @ x @ basis.T, dctn(x, norm="ortho"), atol=1e-5)


@pytest.mark.parametrize(("level", "quality"), [(1, 40), (3, 15), (5, 5)])
def test_jpeg_is_that_of_a_jpeg_library(level: int, quality: int) -> None:
    grey = scan(5, (48, 40))
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "JPEG", quality=quality)
    expected = np.asarray(Image.open(file)).astype(np.float32)
    ours = corrupted(torch.from_numpy(grey.astype(np.float32) / 255)[None, None], "jpeg", level)[0, 0].numpy() * 255
    assert np.abs(ours - expected).mean() < 1.0


def test_unknown_names_and_levels_are_refused() -> None:
    with pytest.raises(BadRequest, match="did you mean 'blur'"):
        corrupted(pictures(), "blurr", 1)
    with pytest.raises(BadRequest, match="levels 1 to 5"):
        corrupted(pictures(), "blur", 6)
