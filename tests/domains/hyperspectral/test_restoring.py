"""Restoring cubes: metrics and baselines beside plain references, noises by their names, windows, georeference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.hyperspectral.data import copy_cube, open_scene
from domains.hyperspectral.restoring.baselines import _divergence, _gradient, low_rank, total_variation
from domains.hyperspectral.restoring.collaborative import _alike, _starts, collaborative, noise_level
from domains.hyperspectral.restoring.config import DenoiseOptions, SuperresOptions
from domains.hyperspectral.restoring.degrade import NOISES, coarser, finer, noisy
from domains.hyperspectral.restoring.scoring import SIDE, evidence_of, row, scores, spectral_angles, ssim_map
from domains.hyperspectral.restoring.source import blocks_of
from domains.hyperspectral.restoring.task import Denoise, Superres
from domains.hyperspectral.unmixing.simulate import simulate_mixture
from pipelines.sink import FolderSink
from shared_backbones.errors import BadInput, BadRequest
from shared_backbones.presets import adjust, load_preset, parse_preset

from .conftest import Folder, scene_of

TINY = """
paper: none
ranks: [2]
stem: image
stem_options: {layers: [{kernel: 3, stride: 1}]}
stages: [{dim: 8, layers: [{mixer: depthwise, kernel: 3, channel: none}]}]
"""
SMALL = {"simulated": {"rows": 40, "cols": 40, "bands": 12}, "block": 10, "components": 6, "predict_tile": 16}


def made(task: Any, preset: str = TINY) -> dict[str, Any]:
    data = task.open("simulated")
    split = task.split(data)
    fitted = task.fit(data, split)
    torch.manual_seed(0)
    model = task.build(fitted, parse_preset("tiny", preset))
    task.initialise(model, data, split)
    return {"task": task, "data": data, "split": split, "fitted": fitted, "model": model.eval()}


@pytest.fixture(scope="module")
def clean() -> dict[str, Any]:
    return made(Denoise(DenoiseOptions.model_validate(SMALL)))


def test_ssim_and_angles_are_those_of_plain_loops() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 1, (2, 9, 10)), rng.uniform(0, 1, (2, 9, 10))
    w = np.exp(-0.5 * ((np.arange(SIDE) - SIDE // 2) / 1.5) ** 2)
    w = np.outer(w, w) / w.sum() ** 2
    found = ssim_map(x, y)
    assert found.shape == (2, 9 - SIDE + 1, 10 - SIDE + 1)
    for b, r, c in np.ndindex(*found.shape):
        p, q = (v[b, r : r + SIDE, c : c + SIDE] for v in (x, y))
        mp, mq = (w * p).sum(), (w * q).sum()
        vp, vq, vpq = (w * (p - mp) ** 2).sum(), (w * (q - mq) ** 2).sum(), (w * (p - mp) * (q - mq)).sum()
        wanted = (2 * mp * mq + 1e-4) * (2 * vpq + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))
        assert np.isclose(found[b, r, c], wanted)
    x[:, 0, 0] = 0
    angle = spectral_angles(x, y)
    assert np.isnan(angle[0, 0])
    assert np.isclose(
        angle[3, 4], np.arccos(x[:, 3, 4] @ y[:, 3, 4] / np.sqrt((x[:, 3, 4] ** 2).sum() * (y[:, 3, 4] ** 2).sum()))
    )


def test_metrics_are_those_of_the_whole_and_leave_out_what_was_not_measured() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 1, (3, 8, 20)), rng.uniform(0, 1, (3, 8, 20))
    seen = np.ones(x.shape, dtype=bool)
    rows = {i: row(y[:, :, s], x[:, :, s], seen[:, :, s]) for i, s in enumerate((slice(0, 9), slice(9, 20)))}
    found = scores(evidence_of(rows))
    assert np.isclose(found["psnr"], np.mean(-10 * np.log10(((x - y) ** 2).mean((1, 2)))))
    assert np.isclose(found["rmse"], np.sqrt(((x - y) ** 2).mean()))
    assert np.isclose(found["sam"], spectral_angles(x, y).mean())
    y[:, 2, 3], seen[:, 2, 3] = 1e9, False
    again = scores(evidence_of({0: row(y, x, seen)}))
    assert again["rmse"] < 2


@pytest.mark.parametrize("kind", NOISES)
def test_noises_are_what_they_are_called(kind: str) -> None:
    x = np.full((12, 30, 40), 0.5)
    y = noisy(kind, x, np.random.default_rng(0), 1e-4)
    assert np.array_equal(y, noisy(kind, x, np.random.default_rng(0), 1e-4))
    strange = np.abs(y - x) > 1e-3
    columns, bands = strange.all(1), strange.any((1, 2))
    if kind in ("gaussian", "noniid"):
        assert not strange.any()
        spread = y.std((1, 2))
        assert (spread.max() / spread.min() > 1.5) == (kind == "noniid")
    if kind in ("stripes", "deadlines"):
        assert bands.sum() == 4
        assert columns.any()
        assert (strange == columns[:, None]).all()
    if kind == "deadlines":
        assert (y[strange] == 0).all()
    if kind == "impulse":
        assert bands.sum() == 4
        assert set(np.unique(y[strange])) == {0.0, 1.0}
    if kind == "mixture":
        assert columns.any()
        assert (strange & ~columns[:, None]).any()


def test_bicubic_is_that_of_pillow() -> None:
    from PIL import Image

    x = np.random.default_rng(0).uniform(0, 1, (24, 36)).astype(np.float32)
    image = Image.fromarray(x)
    small = np.asarray(image.resize((18, 12), Image.Resampling.BICUBIC))
    assert np.allclose(coarser(torch.from_numpy(x), 2).numpy(), small, atol=1e-5)
    large = np.asarray(Image.fromarray(small).resize((36, 24), Image.Resampling.BICUBIC))
    assert np.allclose(finer(torch.from_numpy(small.copy()), 2).numpy(), large, atol=1e-5)


def test_low_rank_is_the_best_of_its_rank_and_tv_solves_its_problem() -> None:
    rng = np.random.default_rng(0)
    flat = rng.standard_normal((6, 2)) @ rng.standard_normal((2, 30))
    assert np.allclose(low_rank(flat.reshape(6, 5, 6), 2), flat.reshape(6, 5, 6))
    y = np.kron(rng.uniform(0, 1, (1, 3, 3)), np.ones((1, 4, 4))) + 0.1 * rng.standard_normal((1, 12, 12))

    def cost(x: Any, weight: float = 0.1) -> float:
        return float(0.5 * ((x - y) ** 2).sum() + weight * np.sqrt((_gradient(x) ** 2).sum(0)).sum())

    found = total_variation(y, 0.1)
    assert cost(found) < cost(y)
    for _ in range(5):
        assert cost(found) < cost(found + 0.02 * rng.standard_normal(y.shape))
    p = rng.standard_normal((2, 1, 12, 12))
    assert np.isclose((_gradient(y) * p).sum(), -(y * _divergence(p)).sum())


def test_the_collaborative_filter_groups_alike_cubes_and_takes_noise_away() -> None:
    rng = np.random.default_rng(0)
    clean = np.kron(rng.uniform(0.2, 0.8, (6, 3, 3)), np.ones((1, 5, 5)))
    given = clean + 0.1 * rng.standard_normal(clean.shape)
    assert abs(noise_level(given) - 0.1) < 0.02
    found = collaborative(given)
    assert ((found - clean) ** 2).mean() < 0.35 * ((given - clean) ** 2).mean()
    assert np.array_equal(collaborative(np.ones((3, 9, 9))), np.ones((3, 9, 9)))
    assert collaborative(given[:2, :3]).shape == (2, 3, 15)  # smaller than a cube of voxels
    x = rng.standard_normal((5, 9, 9)).astype(np.float32)
    corners = np.stack([g.ravel() for g in np.meshgrid(*map(_starts, x.shape), indexing="ij")], 1)
    groups = _alike(x, corners)

    def cube(at: Any) -> Any:
        return x[tuple(slice(a, a + 4) for a in at)]

    for own, group in zip(corners, groups, strict=True):
        far = [((cube(own) - cube(g)) ** 2).sum() for g in group]
        assert far == pytest.approx(sorted(far), abs=1e-3)
        near = [g for g in np.ndindex(2, 6, 6) if abs(g[0] - own[0]) <= 1 and np.abs(np.array(g) - own)[1:].max() <= 4]
        wanted = sorted(((cube(own) - cube(g)) ** 2).sum() for g in near)[: len(far)]
        assert far == pytest.approx(wanted, abs=1e-3)


@settings(max_examples=20)
@given(rows=st.integers(8, 90), cols=st.integers(8, 90), side=st.integers(8, 40))
def test_blocks_cover_everything_once(rows: int, cols: int, side: int) -> None:
    hit = np.zeros((rows, cols), dtype=int)
    for block in blocks_of((rows, cols), side):
        hit[block] += 1
    assert (hit == 1).all()


def test_closed_form_beats_low_rank_and_training_helps(clean: dict[str, Any]) -> None:
    task, data, split, fitted = (clean[k] for k in ("task", "data", "split", "fitted"))
    start = task.metrics(task.evidence(clean["model"], data, split, fitted, "test"))
    rivals = {n: task.metrics(e) for n, e in task.baselines(data, split, fitted).items()}
    assert start == pytest.approx(rivals["closed_form"])  # the network says nothing yet
    assert start["psnr"] > rivals["low_rank"]["psnr"] > rivals["given"]["psnr"]
    assert start["sam"] < rivals["total_variation"]["sam"]
    torch.manual_seed(0)
    model = task.build(fitted, parse_preset("tiny", TINY))
    task.initialise(model, data, split)
    items = task.items(data, split, fitted, "train")
    optimiser = torch.optim.Adam(model.parameters(), 3e-4)
    model.train()
    for _ in range(20):
        optimiser.zero_grad()
        task.loss(model, items.batch(range(8)))[0].backward()
        optimiser.step()
    after = task.metrics(task.evidence(model, data, split, fitted, "train"))
    before = task.metrics(task.evidence(clean["model"], data, split, fitted, "train"))
    assert after["rmse"] < before["rmse"]


@pytest.mark.parametrize("kind", ["exact", "blended"])
def test_windows_restore_what_the_whole_scene_gives(clean: dict[str, Any], tmp_path: Path, kind: str) -> None:
    task, fitted = clean["task"], clean["fitted"]
    array = clean["data"].scene.array.copy()
    array[:, 5:9, 30:] = -1.0
    scene = scene_of(array, nodata=-1.0, transform=(20.0, 5.0, 1e5, 5.0, -20.0, 2e5))
    scene = type(scene)("made", array, clean["data"].scene.bands, scene.crs, scene.transform, -1.0)
    path = tmp_path / "scene.tif"
    copy_cube(scene, path)
    model = (
        clean["model"] if kind == "exact" else made(task, TINY.replace("depthwise, kernel: 3", "attention"))["model"]
    )
    torch.nn.init.normal_(model.head.weight, 0, 0.05)
    facts = task.predict(model, fitted, str(path), Folder(tmp_path))
    opened = open_scene(tmp_path / "scene_denoised.tif")
    found, seen = opened.read(slice(0, 40), slice(0, 40))
    assert facts["windows"].startswith(kind)
    assert not seen[:, 5:9, 30:].any()
    assert seen.sum() == 12 * (1600 - 40)
    assert np.allclose(opened.transform, scene.transform)
    assert opened.bands.wavelength_nm == scene.bands.wavelength_nm
    assert opened.bands.fwhm_nm == scene.bands.fwhm_nm
    if kind == "exact":
        values, there = open_scene(path).read(slice(0, 40), slice(0, 40))
        put = (values - fitted["low"]) / (fitted["high"] - fitted["low"]) * there
        with torch.no_grad():
            whole = model(torch.from_numpy(put.astype(np.float32))[None], torch.from_numpy(there)[None])[0].numpy()
        whole = whole * (fitted["high"] - fitted["low"]) + fitted["low"]
        assert np.abs(whole - found)[seen].max() < 1e-4
    torch.nn.init.zeros_(model.head.weight)


def test_envi_in_and_out_keeps_everything(tmp_path: Path) -> None:
    ready = made(Denoise(DenoiseOptions.model_validate({**SMALL, "drop_bad": False, "output": "envi"})))
    bands = ready["data"].scene.bands
    flagged = replace(bands, good=tuple(i != 3 for i in range(12)))
    scene = replace(ready["data"].scene, bands=flagged, nodata=-7.0)
    copy_cube(scene, tmp_path / "scene.img")
    sink = FolderSink(tmp_path, "out")
    ready["task"].predict(ready["model"], ready["fitted"], str(tmp_path / "scene.hdr"), sink)
    sink.publish()
    given, found = open_scene(tmp_path / "scene.hdr"), open_scene(tmp_path / "out" / "scene_denoised.hdr")
    assert found.bands.good == flagged.good
    assert found.bands.wavelength_nm == given.bands.wavelength_nm
    assert found.bands.fwhm_nm == given.bands.fwhm_nm
    assert np.allclose(found.transform, given.transform)
    assert found.nodata == -9999.0
    assert "32" in str(found.crs)
    clean, seen = given.read(slice(0, 40), slice(0, 40))
    assert np.abs(found.read(slice(0, 40), slice(0, 40))[0] - clean)[seen].mean() < 0.1


def test_finer_pixels_lie_where_the_coarse_ones_did(tmp_path: Path) -> None:
    ready = made(Superres(SuperresOptions.model_validate({**SMALL, "scale": 2, "predict_tile": 13})))
    path = tmp_path / "scene.tif"
    copy_cube(ready["data"].scene, path)
    ready["task"].predict(ready["model"], ready["fitted"], str(path), Folder(tmp_path))
    with rasterio.open(tmp_path / "scene_x2.tif") as fine, rasterio.open(path) as coarse:
        assert fine.shape == (80, 80)
        assert fine.bounds == coarse.bounds
        assert fine.crs == coarse.crs
        found, given = fine.read(), coarse.read()
    assert np.abs(coarser(torch.from_numpy(found), 2).numpy() - given)[:, 2:-2, 2:-2].mean() < 0.1 * given.std()
    whole = made(Superres(SuperresOptions.model_validate({**SMALL, "scale": 2, "predict_tile": 80})))
    whole["task"].predict(ready["model"], ready["fitted"], str(path), Folder(tmp_path))
    with rasterio.open(tmp_path / "scene_x2.tif") as fine:
        assert np.allclose(fine.read(), found, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["hsdt", "essa_former", "scene_restorer", "dlgsanet", "catanet", "rgt", "hat", "drs_former", "drct"]
)
def test_published_restorers_run_on_cubes(name: str, clean: dict[str, Any]) -> None:
    from shared_backbones.presets import shallow

    preset = shallow(load_preset(name))
    model = clean["task"].build(clean["fitted"], preset).eval()
    torch.nn.init.normal_(model.head.weight, 0, 0.01)
    x = torch.rand(1, 12, 16, 16)
    with torch.no_grad():
        y = model(x, torch.ones_like(x, dtype=torch.bool))
    assert y.shape == x.shape
    assert bool(y.isfinite().all())


def test_bad_requests_say_what_to_do(clean: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="samson"):
        Denoise(DenoiseOptions()).open("samsn")
    task = Denoise(DenoiseOptions.model_validate({**SMALL, "block": 40}))
    with pytest.raises(BadInput, match="smaller blocks"):
        task.split(clean["data"])
    with pytest.raises(BadRequest, match="stride 1"):
        clean["task"].build(clean["fitted"], load_preset("vit_s"))
    other = simulate_mixture(0, shape=(20, 20), bands=9).scene
    copy_cube(other, tmp_path / "other.tif")
    with pytest.raises(BadInput, match="9 bands"):
        clean["task"].predict(clean["model"], clean["fitted"], str(tmp_path / "other.tif"), Folder(tmp_path))
    assert not list(tmp_path.glob("*denoised*"))
    assert adjust(load_preset("scene_restorer"), dim=16).backbone.stages[0].dim == 16
