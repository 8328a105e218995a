"""A folder of tiles: read as one lattice, dealt out whole, refused with a reason where files do not fit together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from domains.hyperspectral.classify import Classify, ClassifyOptions
from domains.hyperspectral.data import ArrayScene, copy_cube, mosaic
from domains.hyperspectral.ground import ground_audits
from domains.hyperspectral.pretraining.config import PretrainOptions
from domains.hyperspectral.pretraining.task import Pretrain
from domains.hyperspectral.simulate import UTM32, simulate
from domains.task import PARTS
from shared_backbones.errors import BadInput
from shared_backbones.presets import parse_preset

from .conftest import SMALL, Folder, scene_of

SIDE, BANDS = 20, 10
PARTED = "tile,part,scene\n" + "".join(
    f"t{i}.tif,{('train', 'train', 'val', 'test')[i % 4]},s{i % 4 + (i // 8) * 4}\n" for i in range(12)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve tiles of one simulated scene, every label of it in some."""
    root = tmp_path_factory.mktemp("tiles")
    made = simulate(3, shape=(4 * SIDE, 3 * SIDE), bands=BANDS, pixels_per_field=40)
    for name in ("images", "labels"):
        (root / name).mkdir()
    for i in range(12):
        at = (slice(i // 3 * SIDE, (i // 3 + 1) * SIDE), slice(i % 3 * SIDE, (i % 3 + 1) * SIDE - i % 2))
        a, b, c, d, e, f = made.scene.transform or (30.0, 0.0, 5e5, 0.0, -30.0, 5.4e6)
        x, y = at[1].start, at[0].start
        corner = (a, b, c + a * x + b * y, d, e, f + d * x + e * y)
        array = made.scene.array[:, at[0], at[1]]
        scene = replace(made.scene, array=array, where=f"t{i}", crs=UTM32, transform=corner)
        copy_cube(scene, root / "images" / f"t{i}.tif", "int16")
        np.save(root / "labels" / f"t{i}.npy", np.maximum(made.ids[at], 0).astype(np.int16))
    return root


def classify(**changes: Any) -> Classify:
    base = {"patch_radius": 3, "tile": 16, "dead_bands": "drop"}
    return Classify(ClassifyOptions.model_validate({**base, **changes}))


def test_tiles_are_one_lattice_and_keep_apart(folder: Path) -> None:
    data = classify().open(str(folder))
    assert data.scene.shape == (12 * SIDE + 11 * 3, SIDE)
    assert data.manifest.facts["tiles"] == 12
    assert data.polygons is not None
    names = sorted(f"t{i}" for i in range(12))
    values, seen = data.read(slice(0, data.scene.shape[0]), slice(0, SIDE))
    for i, name in enumerate(names):
        top = i * (SIDE + 3)
        ids = np.load(folder / "labels" / f"{name}.npy")
        own = data.index[top : top + SIDE, : ids.shape[1]]
        assert np.array_equal(np.where(own >= 0, np.array(data.class_ids)[own], 0), ids)
        assert (data.index[top + SIDE : top + SIDE + 3] == -1).all()
        assert not seen[:, top + SIDE : top + SIDE + 3].any()
        assert len(np.unique(data.polygons[top : top + SIDE, : ids.shape[1]])) == 1
    assert seen.any()
    assert (values[~seen] == 0).all()


def test_the_split_file_decides_and_scenes_are_whole(folder: Path, tmp_path: Path) -> None:
    named = tmp_path / "named"
    named.mkdir()
    for part in ("images", "labels"):
        (named / part).symlink_to(folder / part)
    (named / "split.csv").write_text(PARTED)
    task = classify()
    data = task.open(str(named))
    split = task.split(data)
    assert data.polygons is not None
    of = {p: set(data.polygons.ravel()[split.parts[p]].tolist()) for p in PARTS}
    assert not of["train"] & of["test"]
    assert not of["val"] & of["test"]
    assert sum(len(split.parts[p]) for p in PARTS) == (data.index >= 0).sum()
    assert split.protocol.startswith("whole scenes, dealt out by the data")
    audits = {a.name: a for a in task.audit(data, split)}
    assert audits["patch overlap"].value == 0.0
    assert audits["test tiles that overlap others on the ground"].passed
    assert audits["test tiles beside others on the ground"].value == 1.0
    assert data.manifest.sha256 != task.open(str(folder)).manifest.sha256
    (named / "split.csv").write_text(PARTED.replace("t4.tif,train,s0", "t4.tif,test,s0"))
    with pytest.raises(BadInput, match="scene s0 is in two parts"):
        task.open(str(named))
    (named / "split.csv").write_text("tile,part\nt99,train\n")
    with pytest.raises(BadInput, match=r"row 2.*t99"):
        task.open(str(named))
    (named / "split.csv").write_text("tile,part\nt1,trian\n")
    with pytest.raises(BadInput, match=r"row 2.*trian"):
        task.open(str(named))


def test_without_a_split_file_whole_tiles_are_dealt_out(folder: Path) -> None:
    task = classify()
    data = task.open(str(folder))
    split = task.split(data)
    assert data.polygons is not None
    of = [set(data.polygons.ravel()[split.parts[p]].tolist()) for p in PARTS]
    assert not of[0] & of[1] | of[0] & of[2] | of[1] & of[2]
    assert "whole tiles" in split.protocol


def test_a_model_of_tiles_predicts_one_and_pretraining_leaves_test_tiles_out(folder: Path, tmp_path: Path) -> None:
    task = classify()
    data = task.open(str(folder))
    split = task.split(data)
    fitted = task.fit(data, split)
    torch.manual_seed(0)
    model = task.build(fitted, parse_preset("small", SMALL)).eval()
    task.initialise(model, data, split)
    found = task.metrics(task.evidence(model, data, split, fitted, "test"))
    assert found["oa"] > 0.4
    facts = task.predict(model, fitted, str(folder / "images" / "t0.tif"), Folder(tmp_path))
    assert facts["pixels"] == SIDE * SIDE
    before = Pretrain(PretrainOptions(patch_radius=3, tile=16, dead_bands="drop", decoder_dim=16))
    unlabelled = before.open(str(folder))
    parts = before.split(unlabelled)
    assert parts.digest == split.digest
    at = before.items(unlabelled, parts, before.fit(unlabelled, parts), "train").tiles._near
    assert data.polygons is not None
    held = set(data.polygons.ravel()[np.concatenate([parts.parts["val"], parts.parts["test"]])].tolist())
    assert not held & set(data.polygons[at].tolist())


def test_files_that_do_not_fit_together_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(BadInput, match="labels/"):
        classify().open(str(tmp_path))
    (tmp_path / "labels").mkdir()
    with pytest.raises(BadInput, match="holds nothing"):
        classify().open(str(tmp_path))
    copy_cube(scene_of(np.ones((3, 4, 4), np.int16)), tmp_path / "images" / "a.tif", "int16")
    with pytest.raises(BadInput, match=r"a\.tif.*labels"):
        classify().open(str(tmp_path))
    np.save(tmp_path / "labels" / "a.npy", np.ones((4, 4), np.uint8))
    copy_cube(scene_of(np.ones((5, 4, 4), np.int16)), tmp_path / "images" / "b.tif", "int16")
    np.save(tmp_path / "labels" / "b.npy", np.ones((4, 4), np.uint8))
    with pytest.raises(BadInput, match=r"b\.tif.*5 bands.*one sensor"):
        classify().open(str(tmp_path))
    flat = tmp_path / "flat"
    flat.mkdir()
    for i in range(2):
        (flat / f"x{i}_image.tif").symlink_to(folder / "images" / f"t{i}.tif")
        np.save(flat / f"x{i}_label.npy", np.load(folder / "labels" / f"t{i}.npy"))
    assert classify().open(str(flat)).manifest.facts["tiles"] == 2
    (tmp_path / "list.csv").write_text(
        "image,label,part\nflat/x0_image.tif,flat/x0_label.npy,train\nflat/no.tif,x,val\n"
    )
    with pytest.raises(BadInput, match=r"row 3, column image.*no\.tif"):
        classify().open(str(tmp_path / "list.csv"))


@pytest.mark.parametrize(("shift", "shared", "beside"), [(20.0, False, True), (19.0, True, True), (26.0, False, False)])
def test_audits_know_where_tiles_lie_on_the_ground(shift: float, shared: bool, beside: bool) -> None:
    turned = (0.8, 0.6, 0.0, 0.6, -0.8, 0.0)  # pixels of 1, rotated
    there = (0.8, 0.6, 0.8 * shift, 0.6, -0.8, 0.6 * shift)
    scenes = [scene_of(np.ones((2, 20, 20), np.float32), transform=t) for t in (turned, there, turned)]
    scenes.append(replace(scenes[0], crs=None, transform=None))
    whole = mosaic("m", [lambda s=s: s for s in scenes], 1)  # type: ignore[misc]
    overlapping, near = ground_audits(whole, {"train": {0}, "val": {3}, "test": {1}}, 5)
    assert (overlapping.value, overlapping.passed) == (float(shared), not shared)
    assert "1 tiles have no georeference" in overlapping.meaning
    assert (near.value, near.passed) == (float(beside), None)
    assert ground_audits(whole, {"train": {0}, "val": set(), "test": {3}}, 5) == []


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=5), st.integers(1, 3), st.data())
def test_windows_of_a_mosaic_are_those_of_the_whole(sizes: list[tuple[int, int]], gap: int, data: Any) -> None:
    rng = np.random.default_rng(0)
    scenes: list[ArrayScene] = [scene_of(rng.normal(size=(2, *size)).astype(np.float32)) for size in sizes]
    whole = mosaic("m", [lambda s=s: s for s in scenes], gap)  # type: ignore[misc]
    rows, cols = whole.shape
    assert rows == sum(s[0] for s in sizes) + gap * (len(sizes) - 1)
    full, seen = whole.read(slice(0, rows), slice(0, cols))
    for i, scene in enumerate(scenes):
        at = (slice(None), *whole.place(i))
        assert np.array_equal(full[at], scene.array)
        assert seen[at].all()
    assert seen.sum() == 2 * sum(a * b for a, b in sizes)
    top, left = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, cols - 1))
    window = slice(top, data.draw(st.integers(top + 1, rows))), slice(left, data.draw(st.integers(left + 1, cols)))
    part, there = whole.read(*window)
    assert np.array_equal(part, full[:, window[0], window[1]])
    assert np.array_equal(there, seen[:, window[0], window[1]])
