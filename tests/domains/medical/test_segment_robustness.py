"""Corruption curves of a segmenter, and mirrored views with their uncertainty."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from domains.medical.corruptions import CORRUPTIONS
from domains.medical.plan import Plan
from domains.medical.segment import Segment
from domains.medical.segment_config import SegmentOptions
from domains.medical.segment_figures import draw, overlays
from domains.medical.segment_model import Segmenter
from domains.medical.segment_reliability import summary, voxel_calibration
from domains.medical.segment_robustness import (
    around_structures,
    chosen_rows,
    corruption_scores,
    mean_dice,
    overlap_counts,
    spoiled,
)
from domains.medical.segment_windows import Blend, mirrors, segment
from shared_backbones.presets import adjust, load_preset

from .made import Folder

FLAT = {"simulated": {"cases": 8, "size": 24}, "patches": 4, "batch": 2}
DEEP = {"simulated": {"dimensions": 3, "cases": 6, "size": 16}, "dimensions": 3, "depth": 1, "patches": 2, "batch": 1}


class Threshold(torch.nn.Module):
    """What is brighter than the rest is the first structure."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.zeros(len(x), self.classes, *x.shape[2:])
        z[:, 1] = 4 * x[:, 0]
        return z


def fitted_of(options: dict[str, Any]) -> tuple[Segment, Any, Any, Any]:
    task = Segment(SegmentOptions.model_validate(options))
    data = task.open("simulated")
    split = task.split(data)
    return task, data, split, task.fit(data, split)


@pytest.mark.parametrize(("options", "columns"), [(FLAT, 3), (DEEP, 7)])
def test_the_deviation_over_views_is_shown_beside_the_errors(options: dict[str, Any], columns: int) -> None:
    task, data, split, fitted = fitted_of({**options, "views": 2})
    model = task.build(fitted, adjust(load_preset("light_unet"), mixer="identity")).eval()
    assert isinstance(model, Segmenter)
    evidence = task.evidence(model, data, split, fitted, "test")
    shown = overlays(task, model, data, split, fitted, evidence).axes[:columns]
    assert shown[-1].get_title().startswith("deviation over views")
    assert 0 < float(np.max(shown[-1].get_images()[0].get_array())) <= 0.5


@pytest.mark.parametrize("options", [FLAT, DEEP, {**DEEP, "dimensions": 2}])
def test_dice_is_told_clean_and_under_every_corruption(options: dict[str, Any]) -> None:
    _, data, split, fitted = fitted_of(options)
    plan = Plan.from_json(fitted["plan"])
    model: Any = Threshold(len(fitted["values"]))
    rows = chosen_rows(split.parts["test"], 1)
    assert len(rows) == 1
    scores = corruption_scores(model, data, rows, plan)
    assert list(scores) == list(CORRUPTIONS)
    assert all(len(values) == 6 and np.isfinite(values).all() for values in scores.values())
    assert len({values[0] for values in scores.values()}) == 1
    assert scores == corruption_scores(model, data, rows, plan)
    assert scores["blur"][5] != scores["blur"][0]


def test_overlap_is_dice_and_misses_count() -> None:
    truth = torch.tensor([[1, 1, 2, 0, -1]])
    guess = torch.tensor([[1, 0, 0, 0, 1]])
    found = overlap_counts(truth, guess, 3)
    np.testing.assert_allclose(found, [2 / 3, 0.0, np.nan])
    assert mean_dice([found, np.array([1.0, np.nan, np.nan])]) == pytest.approx((5 / 6 + 0) / 2)


def test_only_the_part_around_the_structures_of_a_large_volume_is_corrupted() -> None:
    _, data, split, fitted = fitted_of(DEEP)
    grid = data.piece(split.parts["test"][0])
    part = around_structures(grid, most=300)
    assert np.prod(part.shape) <= 300
    assert part.labels is not None
    assert (part.labels > 0).any()
    again = spoiled(part, Plan.from_json(fitted["plan"]), "contrast", 1, seed=0).image
    low, high = part.image.min(), np.percentile(part.image, 99.9)
    kept = part.image.clip(low, high)
    np.testing.assert_allclose(again, (kept - kept.mean()) * 0.8 + kept.mean(), rtol=1e-3, atol=1e-3 * (high - low))


def test_views_are_mirrored_back_and_their_spread_is_the_deviation() -> None:
    assert mirrors(2, 8) == [(), (0,), (1,), (0, 1)]
    assert mirrors(3, 3) == [(), (0,), (1,)]
    task, data, split, fitted = fitted_of({**FLAT, "patch": [64, 64]})
    torch.manual_seed(0)
    model = task.build(fitted, adjust(load_preset("light_unet"), mixer="identity")).eval()
    with torch.no_grad():
        for p in model.expand.parameters():
            p.mul_(4)
    plan = Plan.from_json(fitted["plan"])
    grid = data.piece(split.parts["test"][0])
    x = task.items(data, split, fitted, "test").prepared(0).image[None]  # type: ignore[attr-defined]
    with torch.no_grad():
        seen = torch.stack([model(x.flip(t)).softmax(1).flip(t) for t in ([], [2], [3], [2, 3])])
    answer = segment(model, grid.image, grid.spacing, plan, Blend(views=4))
    assert answer.spread is not None
    assert np.array_equal(answer.labels, seen.mean(0)[0].argmax(0).numpy())
    wanted = seen.std(0, correction=0)[0].amax(0).numpy()
    assert wanted.max() > 0.01
    np.testing.assert_allclose(answer.spread / 510, wanted, atol=0.5 / 510 + 1e-5)
    assert answer.mean_spread == pytest.approx(float(wanted.mean()), abs=2e-3)
    plain = segment(model, grid.image, grid.spacing, plan, Blend())
    assert plain.spread is None
    assert plain.mean_spread == 0


def test_an_uncertainty_map_is_written_on_the_files_own_grid(tmp_path: Path) -> None:
    task, _, _, fitted = fitted_of({**DEEP, "views": 2})
    model = task.build(fitted, adjust(load_preset("light_unet"), mixer="identity")).eval()
    affine = np.array([[0, 0.1, -2, 5], [1, 0, 0, -3], [0, 1, 0.2, 0], [0, 0, 0, 1.0]])
    voxels = np.random.default_rng(0).normal(100, 30, (9, 14, 12)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "a.nii.gz")
    facts = task.predict(model, fitted, str(tmp_path / "a.nii.gz"), Folder(tmp_path))
    spread = nibabel.load(tmp_path / "a_uncertainty.nii.gz")
    assert spread.shape == (9, 14, 12)
    np.testing.assert_allclose(spread.affine, affine, atol=1e-5)
    assert facts["mean_uncertainty"] == pytest.approx(np.asarray(spread.dataobj).mean() / 510)
    flat, _, _, fitted = fitted_of({**FLAT, "views": 2})
    model = flat.build(fitted, adjust(load_preset("light_unet"), mixer="identity")).eval()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30), np.uint8)).save(tmp_path / "b.png")
    flat.predict(model, fitted, str(tmp_path / "b.png"), Folder(tmp_path))
    assert Image.open(tmp_path / "b_uncertainty.png").size == (30, 20)


def test_a_report_on_volumes_shows_errors_in_three_planes_and_the_curves() -> None:
    task, data, split, fitted = fitted_of({**DEEP, "corrupted": 1})
    torch.manual_seed(0)
    model = task.build(fitted, adjust(load_preset("light_unet"), mixer="identity")).eval()
    assert isinstance(model, Segmenter)
    found = draw(task, model, data, split, fitted, {"model": task.evidence(model, data, split, fitted, "test")})
    assert {"Overlays", "Dice of every case", "Structures", "Plan", "Corruptions", "Reliability"} <= set(found)
    shown = [ax.get_xlabel() for ax in found["Overlays"].axes][:6]
    assert [s.split()[0] for s in shown] == ["sagittal", "coronal", "axial", "missed", "missed", "missed"]
    curves = found["Corruptions"].subfigs[0].axes[0].get_lines()  # type: ignore[attr-defined]
    assert [len(line.get_xdata()) for line in curves] == [6] * 9
    assert all(a < b for a, b in itertools.pairwise(np.asarray(curves[0].get_xdata())))


class Sure(torch.nn.Module):
    """Says the second structure at odds of e^3 to the others, three times too surely."""

    temperature: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.tensor(3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.zeros(len(x), 2, *x.shape[2:])
        z[:, 1] = 3.0
        return z / self.temperature


def test_voxels_are_binned_before_and_after_the_temperature() -> None:
    class One:
        def __len__(self) -> int:
            return 1

        def batch(self, indices: list[int]) -> dict[str, torch.Tensor]:
            target = torch.tensor([[[1] * 6 + [0] * 3 + [-1]]])
            return {"image": torch.zeros(1, 1, 1, 10), "target": target}

    items: Any = One()
    model: Any = Sure()
    found = voxel_calibration(model, items)
    for name, z in (("before", 3.0), ("after", 1.0)):
        p = 1 / (1 + np.exp(-z))
        ece, brier = summary(found[name])
        assert found[name][0].sum() == 9
        assert ece == pytest.approx(abs(p - 6 / 9), abs=1e-6)
        assert brier == pytest.approx(2 * (6 * (1 - p) ** 2 + 3 * p**2) / 9, abs=1e-6)
