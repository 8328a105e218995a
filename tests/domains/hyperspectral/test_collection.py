"""Restoring learned from several scenes and from images: dealt whole, scored as the field does, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from domains.hyperspectral.data import copy_cube, open_scene
from domains.hyperspectral.restoring.config import DenoiseOptions, SuperresOptions
from domains.hyperspectral.restoring.source import scene_of
from domains.hyperspectral.restoring.task import Denoise, Superres
from domains.hyperspectral.unmixing.simulate import simulate_mixture
from domains.task import PARTS
from shared_backbones.errors import BadInput, BadRequest
from shared_backbones.presets import parse_preset

from .conftest import Folder
from .test_restoring import TINY

NAMES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four colour images of different sizes: waves with grain."""
    from PIL import Image

    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i, name in enumerate(NAMES):
        y, x = np.mgrid[0 : 30 + i, 0 : 40 - i]
        waves = [np.sin(x / (2 + c)) * np.cos(y / (3 + i)) for c in range(3)]
        values = 120 + 70 * np.stack(waves, 2) + rng.normal(0, 3, (*x.shape, 3))
        Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")
    (folder / "SOURCE.txt").write_text("waves")
    return folder


def opened(task: Any, source: Path) -> tuple[Any, Any, Any]:
    data = task.open(str(source))
    split = task.split(data)
    return data, split, task.fit(data, split)


def test_an_image_is_left_out_whole_and_scored_in_eight_bits(images: Path, tmp_path: Path) -> None:
    from PIL import Image

    task = Superres(SuperresOptions(test=("b",), block=10, luma=True))
    data, split, fitted = opened(task, images)
    assert split.facts["scenes"]["test"] == ["b"]
    assert len(split.facts["scenes"]["train"]) == 2
    assert (fitted["low"], fitted["high"], len(fitted["used"])) == (0.0, 255.0, 1)
    given, clean, seen = task.items(data, split, fitted, "test").pair(0)
    assert clean.shape == (1, 1, 30, 38)  # 31 x 39, whole coarse pixels
    assert seen.all()
    rgb = np.asarray(Image.open(images / "b.png"), dtype=np.float64)[:30, :38]
    luma = np.round(16 + rgb @ np.array([65.481, 128.553, 24.966]) / 255).astype(np.uint8)
    assert np.allclose(clean[0, 0].numpy() * 255, luma, atol=1e-3)
    small = np.asarray(Image.fromarray(luma.astype(np.float32)).resize((19, 15), Image.Resampling.BICUBIC))
    rounded = Image.fromarray(small.round().clip(0, 255))
    large = np.asarray(rounded.resize((38, 30), Image.Resampling.BICUBIC)).round()
    wanted = 10 * np.log10(255**2 / ((large - luma.astype(float))[2:-2, 2:-2] ** 2).mean())
    scored = task.metrics(task.baselines(data, split, fitted)["bicubic"])
    assert abs(scored["psnr"] - wanted) < 0.01
    assert abs(given - torch.from_numpy(large)[None, None] / 255).max() < 0.51 / 255
    model = task.build(fitted, parse_preset("tiny", TINY))
    task.initialise(model, data, split)
    task.predict(model.eval(), fitted, str(images / "a.png"), Folder(tmp_path))
    assert open_scene(tmp_path / "a_x2.tif").shape == (60, 80)
    audits = {a.name: a for a in task.audit(data, split)}
    assert all(a.passed for a in audits.values())
    absurd = task.poison(data, split)
    assert task.fit(absurd, split) == fitted


def test_a_large_image_is_scored_in_windows_where_a_preset_looks_far(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Superres(SuperresOptions(test=("b",), block=10, luma=True, predict_tile=12, patch_radius=8))
    data, split, fitted = opened(task, images)
    given, _, seen = task.items(data, split, fitted, "test").pair(0)
    sizes: list[int] = []
    for text, whole in ((TINY, True), (TINY.replace("depthwise, kernel: 3", "attention"), False)):
        torch.manual_seed(0)
        model = task.build(fitted, parse_preset("tiny", text))
        task.initialise(model, data, split)
        model.eval()
        monkeypatch.setattr("domains.hyperspectral.restoring.task.LARGE", 20)
        wanted = task.restored(model, given, seen)
        hook = model.stem.register_forward_hook(lambda _m, x, _y: sizes.append(max(x[0].shape[2:])))
        found = task._as_predicted(model, given, seen)
        hook.remove()
        assert found.shape == wanted.shape
        assert (found - wanted).abs().max() < 1e-5  # the network says nothing yet, and the closed form looks 4 px
        assert (max(sizes) == 38) == whole
        sizes.clear()


def test_scenes_are_dealt_whole_and_as_their_table_says(tmp_path: Path) -> None:
    for i, name in enumerate(NAMES):
        scene = simulate_mixture(i, shape=(20, 24), bands=6, snr_db=40.0).scene
        copy_cube(scene, tmp_path / f"{name}.tif", "float32")
    task = Denoise(DenoiseOptions(block=10, components=4))
    data, split, fitted = opened(task, tmp_path)
    of = {p: {b[0].start // 21 for b in task.blocks_of_part(data, split, p)} for p in PARTS}
    assert sorted(map(len, of.values())) == [1, 1, 2]
    assert {n for s in of.values() for n in s} == {0, 1, 2, 3}
    assert len(task.items(data, split, fitted, "test").blocks) == 4
    (tmp_path / "split.csv").write_text("tile,part\na.tif,test\nb.tif,train\nc.tif,val\n")
    _, parted, _ = opened(task, tmp_path)
    assert parted.facts["scenes"] == {"train": ["b"], "val": ["c"], "test": ["a"]}
    (tmp_path / "list.csv").write_text("image,part,scene\na.tif,train,s\nb.tif,test,s\n")
    with pytest.raises(BadInput, match="scene s is in two parts"):
        task.open(str(tmp_path / "list.csv"))
    (tmp_path / "list.csv").write_text("image,part\na.tif,train\nb.tif,test\n")
    with pytest.raises(BadInput, match="nothing for val"):
        task.split(task.open(str(tmp_path / "list.csv")))


def test_what_does_not_fit_is_refused(images: Path, tmp_path: Path) -> None:
    task = Superres(SuperresOptions(test=("z",)))
    with pytest.raises(BadRequest, match="z"):
        task.split(task.open(str(images)))
    with pytest.raises(BadInput, match="name the files"):
        scene_of(str(images), SuperresOptions(), luma=False)
    with pytest.raises(BadRequest, match="one scene"):
        task.split(task.open("simulated"))
    for name in "ab":
        (tmp_path / f"{name}.png").symlink_to(images / f"{name}.png")
    task = Superres(SuperresOptions())
    few = task.open(str(tmp_path))
    with pytest.raises(BadInput, match="2 scenes; at least 3"):
        task.split(few)
    copy_cube(simulate_mixture(0, shape=(9, 9), bands=3).scene, tmp_path / "c.tif")
    with pytest.raises(BadInput, match="8-bit images"):
        task.open(str(tmp_path))
    with pytest.raises(BadInput, match="luma"):
        Denoise(DenoiseOptions(luma=True)).open(str(write_bands(tmp_path / "wide.tif", 9)))


def write_bands(path: Path, count: int) -> Path:
    copy_cube(simulate_mixture(0, shape=(9, 9), bands=count).scene, path)
    return path
