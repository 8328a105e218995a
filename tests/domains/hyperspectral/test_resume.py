"""A scene that was killed half-way goes on where it stopped, and the files are those of an undisturbed run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from torch import Tensor

from domains.hyperspectral.data import copy_cube
from domains.hyperspectral.restoring.config import DenoiseOptions
from domains.hyperspectral.restoring.task import Denoise
from domains.hyperspectral.simulate import simulate
from domains.journal import Journal, Share, Shared
from pipelines.sink import SHELF, FolderSink

from .conftest import Ready
from .test_restoring import SMALL, TINY, made


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


class Calls:
    """Counts a model's calls; dies at call ``at``."""

    def __init__(self, model: torch.nn.Module, at: int | None = None) -> None:
        self.n, self.at = 0, at
        self.handle = model.register_forward_pre_hook(self)

    def __call__(self, module: torch.nn.Module, given: Any) -> None:
        self.n += 1
        if self.n == self.at:
            raise Killed

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


def outputs(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def run(ready: Any, scene: Path, out: Path, at: int | None = None, key: str = "k") -> int:
    """Predict into out/scene; returns how often the model was called."""
    sink = FolderSink(out, "scene", key)
    with Calls(ready["model"], at) as calls:
        try:
            ready["task"].predict(ready["model"], ready["fitted"], str(scene), sink)
            sink.publish()
        except Killed:
            pass  # a killed process leaves its folders as they are
    return calls.n


@pytest.fixture(scope="module", params=["classes", "exact cube", "blended cube"])
def ready(request: pytest.FixtureRequest, small: Ready) -> dict[str, Any]:
    if request.param == "classes":
        config = small.task.config.model_copy(update={"predict_tile": 12})
        task = type(small.task)(config)
        return {"task": task, "model": small.model, "fitted": small.fitted, "bands": 24}
    options = {**SMALL, "predict_tile": 12, "patch_radius": 16 if request.param == "exact cube" else 0}
    return {**made(Denoise(DenoiseOptions.model_validate(options)), TINY), "bands": 12}


def test_a_killed_scene_goes_on_and_ends_byte_for_byte_the_same(ready: dict[str, Any], tmp_path: Path) -> None:
    scene = tmp_path / "scene.tif"
    if ready["bands"] == 24:
        copy_cube(simulate(7, shape=(50, 40), bands=24).scene, scene, "int16")
    else:
        copy_cube(ready["data"].scene, scene)
    whole = run(ready, scene, tmp_path / "whole")
    first = run(ready, scene, tmp_path / "out", at=whole // 2)
    assert (tmp_path / "out" / f"{SHELF}scene").is_dir()
    assert not (tmp_path / "out" / "scene").exists()
    second = run(ready, scene, tmp_path / "out", at=3 * whole // 4)  # killed once more, or already through
    third = run(ready, scene, tmp_path / "out") if not (tmp_path / "out" / "scene").exists() else 0
    assert second < whole
    assert first + second + third < 2 * whole
    assert outputs(tmp_path / "out" / "scene") == outputs(tmp_path / "whole" / "scene")
    assert not (tmp_path / "out" / f"{SHELF}scene").exists()


@pytest.mark.parametrize("died", [False, True])
def test_processes_share_a_scene_and_the_files_are_those_of_one(
    ready: dict[str, Any], tmp_path: Path, died: bool
) -> None:
    scene = tmp_path / "scene.tif"
    if ready["bands"] == 24:
        copy_cube(simulate(7, shape=(50, 40), bands=24).scene, scene, "int16")
    else:
        copy_cube(ready["data"].scene, scene)
    whole = run(ready, scene, tmp_path / "whole")
    out, asked = tmp_path / "out", []

    def share(name: str, number: int) -> int:
        sink = FolderSink(out, "scene", "k")
        sink.staging, sink.share = out / f"share-{number}", Share(name, number, 3)
        with Calls(ready["model"]) as calls:
            try:
                ready["task"].predict(ready["model"], ready["fitted"], str(scene), sink)
            except Shared:
                sink.discard()
        return calls.n

    def fan_out(name: str) -> None:
        asked.append([0 if died and number == 1 else share(name, number) for number in range(3)])

    sink = FolderSink(out, "scene", "k")
    sink.fan_out = fan_out
    with Calls(ready["model"]) as calls:
        ready["task"].predict(ready["model"], ready["fitted"], str(scene), sink)
        sink.publish()
    assert outputs(out / "scene") == outputs(tmp_path / "whole" / "scene")
    if not asked:
        assert calls.n == whole  # overlapping windows are one process's
        return
    [made] = asked
    assert max(made) < whole / 2  # calls of the shares are counted by both
    if died:
        assert calls.n > whole  # what lay behind the gap is made again
    else:
        assert calls.n == whole  # no window twice
        assert min(made) > 0


def test_what_another_model_or_input_left_is_not_used(ready: dict[str, Any], tmp_path: Path) -> None:
    if ready["bands"] == 24:
        pytest.skip("one task is enough")
    scene = tmp_path / "scene.tif"
    copy_cube(ready["data"].scene, scene)
    whole = run(ready, scene, tmp_path / "whole")
    run(ready, scene, tmp_path / "out", at=whole - 1)
    assert run(ready, scene, tmp_path / "out", key="other") == whole
    assert outputs(tmp_path / "out" / "scene") == outputs(tmp_path / "whole" / "scene")


def test_a_journal_ends_at_the_first_slab_that_is_not_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", {"tile": 2})
    for start in (0, 2, 4):
        journal.add(start, torch.full((1, 2, 3), float(start)), [f"at {start}"] if start else [])
    seen: list[tuple[slice, Tensor]] = []
    notes: list[str] = []
    again = Journal(tmp_path / "j", {"tile": 2})
    assert again.replay(lambda at, slab: seen.append((at[0], slab)), notes) == 6
    assert [at.start for at, _ in seen] == [0, 2, 4]
    assert notes == ["at 2", "at 4"]
    path = tmp_path / "j" / "00000001.npy"
    path.write_bytes(path.read_bytes()[:-4])
    assert Journal(tmp_path / "j", {"tile": 2}).replay(lambda at, slab: None, []) == 2
    assert Journal(tmp_path / "j", {"tile": 3}).replay(lambda at, slab: None, []) == 0


@pytest.mark.parametrize("output", ["geotiff", "cog"])
def test_large_outputs_have_overviews(small: Ready, tmp_path: Path, output: str) -> None:
    config = small.task.config.model_copy(update={"output": output})
    copy_cube(simulate(7, shape=(20, 1100), bands=24).scene, tmp_path / "scene.tif", "int16")
    sink = FolderSink(tmp_path / "out", "scene")
    type(small.task)(config).predict(small.model, small.fitted, str(tmp_path / "scene.tif"), sink)
    sink.publish()
    with rasterio.open(tmp_path / "out" / "scene" / "scene_class.tif") as file:
        assert file.overviews(1)[0] == 2
        assert file.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == ("COG" if output == "cog" else None)
        assert file.tags()["CLASS_7"] == "bare soil"
        assert file.nodata == 0
        assert set(np.unique(file.read(1))) <= {0, *small.fitted["class_ids"]}
        half = file.read(1, out_shape=(10, 550))
        assert set(np.unique(half)) <= {0, *small.fitted["class_ids"]}  # no class between two others
        assert file.colormap(1)[small.fitted["class_ids"][0]][3] == 255
