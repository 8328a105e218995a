"""Stems: raw signals of any size, with gaps, become tokens that say what they stand for."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from shared_backbones.layout import Layout
from shared_backbones.stems import ChannelTokens, ImageStem, PatchStem, SpectrumStem, VariateStem, sinusoidal


def test_variates_become_a_set_whose_gaps_are_announced() -> None:
    stem, x = VariateStem(6, 8), torch.randn(2, 6, 3)
    tokens, layout = stem(x)
    assert tokens.shape == (2, 3, 8)
    assert (layout.axes, layout.ordered, layout.mask) == ((3,), False, None)
    torch.testing.assert_close(tokens[:, 1], stem.embed(x[:, :, 1]))
    mask = torch.ones(2, 6, 3, dtype=torch.bool)
    mask[0, :2, 1], mask[1, :, 2] = False, False
    gappy, layout = stem(torch.where(mask, x, torch.nan), mask)
    assert bool(gappy.isfinite().all())
    assert layout.mask is not None
    assert layout.mask.tolist() == [[True, True, True], [True, True, False]]
    want = stem.embed(torch.where(mask, x, 0.0)[0, :, 1]) + stem.missing.weight[:, :2].sum(1)
    torch.testing.assert_close(gappy[0, 1], want)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 9))
def test_patches_cover_every_step(length: int, patch: int, stride: int) -> None:
    stride = min(stride, patch)
    stem = PatchStem(1, 4, patch, stride)
    tokens, layout = stem(torch.randn(1, length, 1))
    assert tokens.shape[1] == stem.count(length) == layout.size
    assert (layout.size - 1) * stride + patch >= length
    assert layout.size == 1 or (layout.size - 2) * stride + patch < length  # and none is superfluous
    assert layout.positions is not None
    assert layout.positions[0, 0, 0] == (patch - 1) / 2


def test_a_patch_reads_its_own_steps_and_repeats_the_last() -> None:
    stem, x = PatchStem(2, 4, patch=4, stride=3), torch.randn(1, 9, 2)
    tokens, _ = stem(x)
    last = torch.cat([x[0, 6:], x[0, -1:]]).mT.flatten()  # features outside, steps inside
    torch.testing.assert_close(tokens[0, 2], stem.embed(last))


def test_unobserved_steps_do_not_matter_and_empty_patches_are_masked() -> None:
    stem = PatchStem(1, 4, patch=2, stride=2)
    mask = torch.tensor([[True, True, True, False, False, False]])
    a, layout = stem(torch.tensor([[1.0, 2, 3, math.nan, math.nan, math.inf]])[..., None], mask)
    b, _ = stem(torch.tensor([[1.0, 2, 3, 9, 9, 9]])[..., None], mask)
    assert torch.equal(a, b)
    assert layout.mask is not None
    assert layout.mask.tolist() == [[True, True, False]]


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 7), (9, 2), (3, 4, 5)])
def test_an_image_of_any_size_is_cut_into_patches(size: tuple[int, ...]) -> None:
    stem = ImageStem(3, 8, rank=len(size))
    x = torch.randn(2, 3, *size)
    tokens, layout = stem(x)
    assert layout.axes == tuple(math.ceil(n / 4) for n in size)
    assert tokens.shape == (2, layout.size, 8)
    block = torch.zeros(3, *(4,) * len(size))
    inside = tuple(slice(0, min(4, n)) for n in size)
    block[(slice(None), *inside)] = x[0][(slice(None), *inside)]
    weight, bias = stem.convs[0].conv.weight, stem.convs[0].conv.bias  # type: ignore[union-attr]
    torch.testing.assert_close(tokens[0, 0], (weight * block).flatten(1).sum(1) + bias, atol=1e-6, rtol=1e-5)


def test_overlapping_layers_are_torch_convolutions() -> None:
    rows = [{"kernel": 3, "stride": 2, "dim": 6, "act": "gelu"}, {"kernel": 7, "stride": 4, "norm": "layer"}]
    stem = ImageStem(3, 8, rows, learned=3).eval()
    x = torch.randn(2, 3, 32, 40)
    tokens, layout = stem(x)
    first, second = stem.convs[0], stem.convs[1]
    y = F.gelu(F.conv2d(x, first.conv.weight, first.conv.bias, stride=2, padding=1))  # type: ignore[union-attr,arg-type]
    y = F.conv2d(y, second.conv.weight, second.conv.bias, stride=4, padding=2)  # type: ignore[union-attr,arg-type]
    y = second.norm(y.flatten(2).mT)  # type: ignore[operator]
    assert layout.axes == (4, 5)
    assert stem.positions is not None
    torch.testing.assert_close(tokens, stem.positions(y, layout), atol=1e-5, rtol=1e-5)


@pytest.fixture
def spectra() -> SpectrumStem:
    torch.manual_seed(0)
    return SpectrumStem(8, centres=16, shortest_nm=400, longest_nm=1000)


def test_any_number_of_bands_in_any_order(spectra: SpectrumStem) -> None:
    for bands in (1, 7, 200):
        at, x = torch.linspace(400, 1000, bands), torch.randn(3, bands)
        tokens, layout = spectra(x, at)
        assert tokens.shape == (3, 16, 8)
        assert layout.axes == (16,)
        order = torch.randperm(bands)
        torch.testing.assert_close(spectra(x[:, order], at[order])[0], tokens)


def test_a_missing_band_is_as_if_it_were_not_there(spectra: SpectrumStem) -> None:
    at, x = torch.linspace(400, 1000, 60), torch.randn(2, 60)
    mask = torch.ones(2, 60, dtype=torch.bool)
    mask[:, 20:30] = False
    tokens, layout = spectra(torch.where(mask, x, torch.nan), at, mask)
    kept, kept_layout = spectra(x[:, mask[0]], at[mask[0]])
    torch.testing.assert_close(tokens, kept)
    assert layout.mask is not None
    assert kept_layout.mask is not None
    assert torch.equal(layout.mask, kept_layout.mask)
    assert bool(tokens.isfinite().all())


def test_a_smooth_spectrum_gives_the_same_tokens_on_other_bands(spectra: SpectrumStem) -> None:
    coarse, fine = torch.linspace(400, 1000, 120), torch.linspace(400, 1000, 333)
    a, b = (spectra(torch.sin(at / 150)[None], at)[0] for at in (coarse, fine))
    assert (a - b).norm() < 0.02 * b.norm()


def test_tokens_without_a_band_near_are_masked_and_positions_are_nanometres(spectra: SpectrumStem) -> None:
    _, layout = spectra(torch.randn(1, 10), torch.linspace(400, 500, 10))
    assert layout.mask is not None
    assert layout.positions is not None
    near = layout.positions[0, :, 0] <= 500 + 3 * spectra.spacing
    assert torch.equal(layout.mask[0], near)
    assert layout.positions[0, [0, -1], 0].tolist() == [400, 1000]


def test_tokens_on_a_lattice_are_embedded_one_by_one() -> None:
    stem = ChannelTokens(5, 8, rank=2)
    layout = Layout((2, 3), mask=torch.tensor([[True] * 5 + [False]]))
    x = torch.randn(1, 6, 5)
    x[0, 5] = torch.nan
    tokens, same = stem(x, layout)
    assert same is layout
    assert bool(tokens.isfinite().all())
    torch.testing.assert_close(tokens[0, 2], stem.embed(x[0, 2]))


@pytest.mark.parametrize("dim", [1, 4, 7])
def test_sinusoids_have_their_periods(dim: int) -> None:
    at = torch.tensor([0.0, 2.0, 100.0])
    y = sinusoidal(at, dim, shortest=2.0, longest=100.0)
    assert y.shape == (3, dim)
    torch.testing.assert_close(y[1, 0], y[0, 0], atol=1e-6, rtol=0)  # one whole shortest period
    assert bool((y.abs() <= 1).all())
