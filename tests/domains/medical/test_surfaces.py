"""Overlap and distances against brute force and MONAI; what is empty or missed is never left out."""

from __future__ import annotations

import warnings
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from domains.medical.surfaces import agreement, border, boundary_agreement, cells, distances, filled, v_rand

SPACING = (1.0, 2.5, 0.7)


def blobs(seed: int, rank: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (9, 11, 8)[:rank]
    at = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    masks = []
    for _ in range(2):
        centre = rng.uniform(0.3, 0.7, rank) * shape
        masks.append((((at - centre) / (rng.uniform(0.15, 0.4, rank) * shape)) ** 2).sum(-1) < 1)
    return masks[0], masks[1]


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_distances_are_those_of_all_pairs(seed: int, rank: int) -> None:
    truth, guess = blobs(seed, rank)
    a, b = (np.argwhere(border(m)) * SPACING[:rank] for m in (truth, guess))
    pairs = cdist(a, b)
    forth, back = distances(truth, guess, SPACING[:rank])
    np.testing.assert_allclose(np.sort(forth), np.sort(pairs.min(1)))
    np.testing.assert_allclose(np.sort(back), np.sort(pairs.min(0)))
    got = agreement(truth, guess, SPACING[:rank], 1.5)
    assert got.assd == pytest.approx(np.concatenate([pairs.min(1), pairs.min(0)]).mean())
    assert got.hd95 == pytest.approx(max(np.percentile(pairs.min(1), 95), np.percentile(pairs.min(0), 95)))
    within = np.concatenate([pairs.min(1), pairs.min(0)]) <= 1.5
    assert got.nsd == pytest.approx(within.mean())
    both = (truth & guess).sum()
    assert got.dice == pytest.approx(2 * both / (truth.sum() + guess.sum()))
    assert got.iou == pytest.approx(both / (truth | guess).sum())


@pytest.mark.filterwarnings("ignore")
def test_monai_measures_the_same() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_iou
        from monai.metrics.meandice import compute_dice
    for seed in range(6):
        truth, guess = blobs(seed, 3)
        hot = [torch.from_numpy(np.stack([~m, m])[None]) for m in (guess, truth)]
        got = agreement(truth, guess, SPACING, 1.0)
        assert got.dice == pytest.approx(float(compute_dice(*hot, include_background=False)))
        assert got.iou == pytest.approx(float(compute_iou(*hot, include_background=False)))
        options = {"include_background": False, "spacing": SPACING}
        hd = compute_hausdorff_distance(*hot, percentile=95, **options)
        assert got.hd95 == pytest.approx(float(hd), rel=1e-5)
        asd = compute_average_surface_distance(*hot, symmetric=True, **options)
        assert got.assd == pytest.approx(float(asd), rel=1e-5)


def test_what_is_missed_or_made_up_counts_as_the_worst() -> None:
    nothing, some = np.zeros((6, 8), bool), np.zeros((6, 8), bool)
    some[2:4, 3:5] = True
    far = np.hypot(5 * 2.0, 7 * 0.5)
    assert agreement(nothing, nothing, (2.0, 0.5), 1).state == "absent"
    for truth, guess, state in ((some, nothing, "missed"), (nothing, some, "false")):
        got = agreement(truth, guess, (2.0, 0.5), 1)
        assert (got.state, got.dice, got.iou, got.nsd) == (state, 0, 0, 0)
        assert got.hd95 == got.assd == pytest.approx(far)
    same = agreement(some, some, (2.0, 0.5), 1)
    assert (same.state, same.dice, same.hd95, same.assd, same.nsd) == ("found", 1, 0, 0, 1)


def test_rand_is_that_of_counted_pairs() -> None:
    rng = np.random.default_rng(3)
    truth, guess = rng.integers(0, 4, (7, 6)), rng.integers(0, 3, (7, 6))
    a, b = truth[truth > 0], guess[truth > 0]
    n = len(a)
    pairs = list(combinations(range(n), 2))
    same_a, same_b = (np.array([x[i] == x[j] for i, j in pairs]) for x in (a, b))
    share = [2 * same.sum() + n for same in (same_a & same_b, same_a, same_b)]  # ordered pairs, and each with itself
    assert v_rand(truth, guess) == pytest.approx(share[0] / (0.5 * share[1] + 0.5 * share[2]))
    assert v_rand(truth, truth) == pytest.approx(1)
    assert np.isnan(v_rand(np.zeros((2, 2), int), guess[:2, :2]))


def test_a_gap_in_a_boundary_merges_cells() -> None:
    wall = np.zeros((20, 21), bool)
    wall[:, 10] = True
    assert cells(wall).max() == 2
    assert boundary_agreement(wall, wall) == pytest.approx(1)
    thick = wall.copy()
    thick[:, 9:12] = True  # thicker, at the same place: nearly the same cells
    leaking = wall.copy()
    leaking[5, 10] = False  # one pixel: one cell
    assert boundary_agreement(wall, thick) > 0.99
    assert boundary_agreement(wall, leaking) == pytest.approx(0.5 / (0.5 * 0.5 + 0.5), abs=0.01)
    assert set(np.unique(filled(cells(wall)))) == {1, 2}
