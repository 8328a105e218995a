"""`medical/segment` for use without Cambium: an exported program and its runner say what predictions say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from domains.medical.data import run_segment
from domains.medical.plan import Plan
from domains.medical.segment import Segment
from domains.medical.segment_config import SegmentOptions
from domains.medical.segment_predicting import blend_of
from domains.medical.segment_windows import segment
from domains.task import Portable
from pipelines.export import export
from pipelines.runs import load_run, save_model
from shared_backbones.export import unchecked_shapes
from shared_backbones.presets import adjust, load_preset
from tests.pipelines.made import untrained_run

from .made import Folder


def test_an_exported_segmenter_runs_alone_on_a_file_in_any_orientation(tmp_path: Path) -> None:
    made = {"dimensions": 3, "cases": 5, "size": 8}
    small = {"simulated": made, "dimensions": 3, "depth": 1, "model.mixer": "identity"}
    run = untrained_run("medical/segment", {**small, "patch": [8, 16, 12], "spacing": [2.8, 1.45, 1.5]}, tmp_path / "r")
    trained = load_run(run)
    for name, value in trained.model.state_dict().items():  # an answer that depends on the image
        if name.startswith(("expand", "refine")):
            value.mul_(3)
    save_model(run, trained.config, trained.preset, trained.fitted, trained.model, run="x", data_sha256="x")
    assert isinstance(trained.task.portable(trained.model, trained.fitted), Portable)  # type: ignore[attr-defined]
    with unchecked_shapes():
        written = export(run, "torch", tmp_path / "out")
    assert written["parity"]["other_size"]["largest_difference"] <= 1e-5
    affine = np.array([[0, 0, -1.4, 12], [2.9, 0.2, 0, -5], [-0.2, 1.5, 0, 3], [0, 0, 0, 1.0]])
    affine[:3, 1] = np.cross(affine[:3, 0] / 2.9, affine[:3, 2] / 1.4) * 1.5
    voxels = np.random.default_rng(0).normal(0, 300, (7, 20, 24)).astype(np.int16)  # 2 or 3 windows along each axis
    voxels[2:5, 3:14, 4:15] += 900
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "a.nii.gz")
    command = [sys.executable, str(tmp_path / "out" / "run_segment.py"), str(tmp_path / "a.nii.gz")]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    alone = nibabel.load(tmp_path / "out" / "a_labels.nii.gz")
    torch.manual_seed(0)
    trained.task.predict(load_run(run).model.eval(), trained.fitted, str(tmp_path / "a.nii.gz"), Folder(tmp_path))
    here = nibabel.load(tmp_path / "a_labels.nii.gz")
    np.testing.assert_allclose(alone.affine, here.affine, atol=1e-5)
    assert len(np.unique(np.asarray(here.dataobj))) > 1
    assert (np.asarray(alone.dataobj) == np.asarray(here.dataobj)).mean() > 0.9999
    about = json.loads((tmp_path / "out" / "description.json").read_text())["about"]
    assert about["spacing"] == [2.8, 1.45, 1.5]


@pytest.mark.parametrize(
    ("made", "options", "shape", "spacing"),
    [
        ({"cases": 5, "size": 24}, {"patch": [12, 16], "blend": "hann"}, (30, 41), (1.0, 1.0)),
        (
            {"dimensions": 3, "cases": 5, "size": 12},
            {"dimensions": 3, "patch": [8, 9, 10], "overlap": 0.3},
            (11, 13, 21),
            (1.1, 0.9, 2),
        ),
        ({"dimensions": 3, "cases": 5, "size": 12}, {"dimensions": 2, "overlap": 0.6}, (25, 14, 9), (1.2, 1.5, 2.5)),
    ],
)
def test_the_runners_windows_are_those_of_predictions(
    made: dict[str, int], options: dict[str, Any], shape: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    task = Segment(SegmentOptions.model_validate({"simulated": made, "depth": 1, "normalise": "image", **options}))
    data = task.open("simulated")
    fitted = task.fit(data, task.split(data))
    torch.manual_seed(0)
    model = task.build(fitted, adjust(load_preset("light_unet"), mixer="identity")).eval()
    with torch.no_grad():  # an answer that depends on the image
        for name, value in model.named_parameters():
            if name.startswith(("expand", "refine")):
                value.mul_(0 if value.ndim == 1 else 4)
    module = task.portable(model, fitted).module
    plan = Plan.from_json(fitted["plan"])
    image = np.random.default_rng(0).integers(0, 1000, (1, *shape)).astype(np.int16)

    def run(*x: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [y.numpy() for y in module(*map(torch.from_numpy, x))]

    about = task.portable(model, fitted).about
    found = run_segment.answered(run, image, spacing, about)
    wanted = segment(model, image, spacing, plan, blend_of(task.config)).labels
    assert len(np.unique(wanted)) > 1
    assert (found == np.array(fitted["values"])[wanted]).mean() > 0.9999
