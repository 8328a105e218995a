"""`medical/segment` for use without Cambium: an exported program and its runner say what predictions say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import torch

from domains.task import Portable
from pipelines.export import export
from pipelines.runs import load_run, save_model
from shared_backbones.export import unchecked_shapes
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
    voxels = np.random.default_rng(0).normal(0, 300, (8, 12, 16)).astype(np.float32)
    voxels[2:5, 3:9, 4:11] += 900
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
    assert (np.asarray(alone.dataobj) == np.asarray(here.dataobj)).mean() > 0.99
    about = json.loads((tmp_path / "out" / "description.json").read_text())["about"]
    assert about["spacing"] == [2.8, 1.45, 1.5]
