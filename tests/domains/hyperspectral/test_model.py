"""The model is local, fully convolutional, blind to what was not measured, and free in its bands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.hyperspectral.model import SceneClassifier, box_mean
from domains.hyperspectral.reach import measured_reach
from shared_backbones.errors import BadRequest
from shared_backbones.presets import load_preset, parse_preset, preset_names
from shared_backbones.stems import SpectrumStem

from .conftest import SMALL

SPECTRUM = """
paper: none
stem: spectrum
stem_options: {centres: 10, basis: 3}
stages:
  - dim: 8
    layers: [{mixer: attention, heads: 2, channel: mlp, channel_options: {ratio: 1.0}}]
model:
  spatial: [{mixer: depthwise, kernel: 5, channel: mlp, channel_options: {ratio: 1.0}}]
"""
NM = np.linspace(420, 2400, 16).tolist()


def build(text: str = SMALL, radius: int = 4, bands: int = 16) -> SceneClassifier:
    torch.manual_seed(0)
    nm = np.linspace(420, 2400, bands).tolist()
    model = SceneClassifier(nm, [0.0] * bands, [1.0] * bands, [1.0] * 3, parse_preset("t", text), radius).eval()
    with torch.no_grad():
        for p in (model.head.weight, model.skip.weight):  # type: ignore[union-attr]
            p.normal_()
        model.skip.radius.fill_(1)  # type: ignore[union-attr, operator]
    return model


def scene(rows: int, cols: int, holes: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    cube = torch.randn(1, 16, rows, cols)
    return cube, torch.rand(1, 16, rows, cols) >= holes


@pytest.mark.parametrize("text", [SMALL, SPECTRUM])
def test_the_centre_of_a_patch_equals_the_whole_scene(text: str) -> None:
    model = build(text)
    assert 1 <= model.reach <= 4
    cube, seen = scene(17, 15)
    seen[..., 3:5, 6] = False  # pixels without any band
    with torch.no_grad():
        whole = model(cube, seen)
        for row, col in [(0, 0), (3, 7), (8, 14), (16, 2), (9, 9)]:
            rows = slice(max(0, row - model.reach), row + model.reach + 1)
            cols = slice(max(0, col - model.reach), col + model.reach + 1)
            patch = model(cube[..., rows, cols], seen[..., rows, cols])
            got = patch[..., row - rows.start, col - cols.start]
            torch.testing.assert_close(got, whole[..., row, col], rtol=0, atol=2e-5)


@pytest.mark.parametrize("text", [SMALL, SPECTRUM])
def test_nothing_leaks_from_what_was_not_measured(text: str) -> None:
    model = build(text)
    cube, seen = scene(9, 9, holes=0.3)
    seen[..., 4, 4] = False
    spoilt = torch.where(seen, cube, torch.full_like(cube, torch.nan))
    with torch.no_grad():
        clean, poisoned = model(cube, seen), model(spoilt, seen)
    assert torch.equal(clean, poisoned)
    assert torch.equal(clean[..., 4, 4], torch.zeros(1, 3))
    model.train()
    model(spoilt, seen).square().sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_a_batch_gives_what_its_items_give() -> None:
    model = build()
    cubes, masks = zip(*(scene(8, 7) for _ in range(3)), strict=True)
    with torch.no_grad():
        together = model(torch.cat(cubes), torch.cat(masks))
        for i in range(3):
            torch.testing.assert_close(together[i : i + 1], model(cubes[i], masks[i]), rtol=0, atol=2e-5)


def test_moments_are_those_of_the_shared_stem() -> None:
    """The spectrum stem's own (per item, quadratic in bands) path gives the same tokens as the factored one here."""
    model = build(SPECTRUM)
    x, seen = torch.randn(20, 16), torch.rand(20, 16) > 0.4
    seen[0] = True
    stem: SpectrumStem = model.spectral.stem
    tokens, layout = stem(x, torch.tensor(NM), seen)
    moments, real = model.moments(x, seen)
    assert torch.equal(layout.mask, real)
    torch.testing.assert_close((stem.embed(moments) + stem.place)[real], tokens[real], rtol=1e-4, atol=1e-5)


def test_a_smooth_spectrum_is_read_alike_on_another_sensor() -> None:
    model = build(SMALL, bands=48)
    fine, coarse = (torch.linspace(420, 2400, n) for n in (48, 33))

    def spectra(nm: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.sin(nm / 300 + k) for k in range(4)], 1).T.mT[None, ..., None].expand(1, -1, 4, 5)

    moved = model.on_bands(coarse.tolist())
    with torch.no_grad():
        a = model(spectra(fine), torch.ones(1, 48, 4, 5, dtype=torch.bool))
        b = moved(spectra(coarse), torch.ones(1, 33, 4, 5, dtype=torch.bool))
    scale = float(a.std())
    assert float((a - b).abs().max()) < 0.25 * scale
    assert len(model.moments.nm) == 48  # the model itself is as it was


@pytest.mark.parametrize(
    ("layers", "reach"),
    [
        ("{mixer: identity}", 0),
        ("{mixer: depthwise, kernel: 5}", 2),
        ("{mixer: depthwise, kernel: 3, times: 3}", 3),
        ("{mixer: pooling, window: 3}", 1),
    ],
)
def test_reach_is_measured(layers: str, reach: int) -> None:
    text = f"paper: none\nstem: pixels\nstem_options: {{centres: 6}}\nmodel: {{skip: false}}\nstages:\n  - {{dim: 8, layers: [{layers}]}}\n"  # noqa: E501
    nm = NM
    model = SceneClassifier(nm, [0.0] * 16, [1.0] * 16, [1.0] * 2, parse_preset("t", text), 4)
    assert model.reach == reach


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ("{mixer: attention, heads: 2}", "more than 2 apart"),
        ("{mixer: depthwise, kernel: 7}", "more than 2 apart"),
        ("{mixer: fourier}", "more than 2 apart|where the pixel lies"),
    ],
)
def test_mixers_that_look_too_far_are_refused(layers: str, says: str) -> None:
    text = f"paper: none\nstem: pixels\nstem_options: {{centres: 6}}\nstages:\n  - {{dim: 8, layers: [{layers}]}}\n"
    with pytest.raises(BadRequest, match=says):
        SceneClassifier(NM, [0.0] * 16, [1.0] * 16, [1.0] * 2, parse_preset("t", text), 2)


def test_windows_on_a_fixed_grid_are_refused() -> None:
    def blocks(x: torch.Tensor) -> torch.Tensor:
        even = x[..., : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
        mean = torch.nn.functional.avg_pool2d(even, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
        return x + torch.nn.functional.pad(mean, (0, x.shape[3] % 2, 0, x.shape[2] % 2))

    with pytest.raises(BadRequest, match="where the pixel lies"):
        measured_reach(blocks, 3, 4)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stem: pixels": "stem: variates"}, "unknown stem"),
        ({"dim: 8": "dim: 8\n    stride: 2"}, "stride 1 only"),
        ({"paper: none": "paper: none\nmodel: {spacial: []}"}, "did you mean 'spatial'"),
        ({"paper: none": "paper: none\nmodel: {spatial: [{mixer: identity}]}"}, "for presets with the stem 'spectrum'"),
        ({"centres: 12": "shortest_nm: 9000.0, longest_nm: 9900.0, centres: 12"}, "no band lies near"),
    ],
)
def test_impossible_presets_are_refused(change: dict[str, str], says: str) -> None:
    text = SMALL
    for old, new in change.items():
        text = text.replace(old, new)
    with pytest.raises(BadRequest, match=says):
        build(text)


@settings(max_examples=30)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 3), st.integers(0, 1000))
def test_box_mean_against_a_loop(rows: int, cols: int, radius: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    valid = rng.random((rows, cols)) < 0.7
    x = rng.standard_normal((rows, cols)) * valid
    got = box_mean(torch.tensor(x)[None, None], torch.tensor(valid)[None], radius)[0, 0].numpy()
    for r, c in np.argwhere(valid):
        window = slice(max(0, r - radius), r + radius + 1), slice(max(0, c - radius), c + radius + 1)
        assert got[r, c] == pytest.approx(x[window][valid[window]].mean())


def _for_scenes() -> list[Any]:
    return [n for n in preset_names() if "hyperspectral/classify" in load_preset(n).tasks]


@pytest.mark.parametrize("name", _for_scenes())
def test_shipped_presets_fit_the_default_patch(name: str) -> None:
    model = SceneClassifier(NM, [0.0] * 16, [1.0] * 16, [1.0] * 3, load_preset(name), 5).eval()
    cube, seen = scene(6, 5)
    with torch.no_grad():
        assert model(cube, seen).shape == (1, 3, 6, 5)
    assert model.reach <= 5
