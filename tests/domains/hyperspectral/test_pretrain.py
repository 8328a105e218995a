"""`hyperspectral/pretrain`: nothing hidden is read, baselines are what they say, and classify starts from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from domains.hyperspectral.classify import Classify, ClassifyOptions
from domains.hyperspectral.data import copy_cube
from domains.hyperspectral.pretraining.baselines import along_spectrum, low_rank, low_rank_around, neighbours, principal
from domains.hyperspectral.pretraining.config import PretrainOptions
from domains.hyperspectral.pretraining.masks import hidden_cells, spans_of
from domains.hyperspectral.pretraining.model import halved
from domains.hyperspectral.pretraining.scoring import Sums, scores
from domains.hyperspectral.pretraining.source import trained_on
from domains.hyperspectral.pretraining.task import Pretrain
from shared_backbones.presets import parse_preset

from .conftest import SMALL, Folder

OPTIONS: dict[str, Any] = {
    "simulated": {"rows": 48, "cols": 48, "bands": 16, "pixels_per_field": 60},
    "split": {"block": 12},
    "tile": 16,
    "patch_radius": 3,
    "decoder_dim": 16,
    "decoder_depth": 1,
    "spans": 4,
}
SPECTRUM = """
paper: none
stem: spectrum
stem_options: {centres: 6, basis: 2}
stages: [{dim: 8, layers: [{mixer: attention, heads: 2}]}]
model: {spatial: [{mixer: depthwise, kernel: 3}]}
"""
VOLUME = """
paper: none
stem: volume
stem_options: {centres: 6, basis: 2}
ranks: [3]
stages: [{dim: 8, layers: [{mixer: neighborhood, heads: 2, window: [3, 3, 3]}]}]
"""


def pretrain(**changes: Any) -> Pretrain:
    return Pretrain(PretrainOptions.model_validate({**OPTIONS, **changes}))


def opened(task: Pretrain, source: str = "simulated") -> tuple[Any, Any, dict[str, Any]]:
    data = task.open(source)
    split = task.split(data)
    return data, split, json.loads(json.dumps(task.fit(data, split)))


def built(task: Pretrain, fitted: dict[str, Any], text: str = SMALL) -> Any:
    torch.manual_seed(0)
    return task.build(fitted, parse_preset("small", text)).eval()


@given(st.sampled_from(["cells", "spans", "places"]), st.floats(0.05, 0.95), st.integers(0, 99), st.integers(1, 4))
def test_the_share_of_cells_is_hidden(mask: Any, share: float, seed: int, patch: int) -> None:
    options = PretrainOptions(mask=mask, hide=share, patch=patch, tile=4 * patch)
    rng = np.random.default_rng(seed)
    seen = torch.from_numpy(rng.random((7, 4 * patch, 4 * patch)) < 0.9)
    seen[:, :patch] = False  # a row of cells holds nothing
    span = spans_of(rng.permutation(7).astype(float).tolist(), 3)
    draw = torch.Generator().manual_seed(seed)
    hidden = hidden_cells(seen, span, options, draw)
    assert not (hidden & ~seen).any()
    assert hidden.any()
    assert (seen & ~hidden).any()
    grid = np.zeros((3, 4, 4), dtype=bool)
    held = np.zeros((3, 4, 4), dtype=bool)
    for b, g in enumerate(span.tolist()):
        for r, c in np.ndindex(4, 4):
            cell = (b, slice(r * patch, (r + 1) * patch), slice(c * patch, (c + 1) * patch))
            held[g, r, c] |= bool(seen[cell].any())
            grid[g, r, c] |= bool(hidden[cell].any())
            assert not hidden[cell].any() or bool((hidden[cell] == seen[cell]).all())  # whole cells
    full = {"cells": held, "spans": held.any((1, 2)), "places": held.any(0)}[mask]
    got = {"cells": grid, "spans": grid.any((1, 2)), "places": grid.any(0)}[mask]
    if (seen.any(0).unfold(0, patch, patch).unfold(1, patch, patch).flatten(2).any(2)).all() or patch > 1:
        assert abs(int(got.sum()) - min(max(1, round(share * full.sum())), full.sum() - 1)) <= 1
    again = hidden_cells(seen, span, options, torch.Generator().manual_seed(seed))
    assert torch.equal(hidden, again)


def test_spans_hold_neighbours_in_wavelength() -> None:
    nm = [900.0, 400.0, 500.0, 800.0, 700.0]
    assert spans_of(nm, 2).tolist() == [1, 0, 0, 1, 0]
    assert spans_of(nm, 9).unique().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("scales", [1, 2])
@pytest.mark.parametrize("text", [SMALL, SPECTRUM, VOLUME])
def test_nothing_that_is_hidden_is_read(text: str, scales: int) -> None:
    task = pretrain(scales=scales)
    data, split, fitted = opened(task)
    model = built(task, fitted, text)
    batch = task.items(data, split, fitted, "test").batch([0])
    cube, seen, hidden = batch["cube"], batch["seen"], batch["hidden"]
    other = torch.randn_like(cube) * 1e3
    with torch.no_grad():
        made = model(cube, seen, hidden)[0].made
        torch.testing.assert_close(made, model(torch.where(hidden, other, cube), seen, hidden)[0].made)
        changed = torch.where(seen & ~hidden, other, cube)
        assert not torch.allclose(made, model(changed, seen, hidden)[0].made)


def test_loss_counts_hidden_values_and_the_steps_beside_them() -> None:
    task = pretrain(sequence=0.25)
    data, split, fitted = opened(task)
    model = built(task, fitted)
    batch = task.items(data, split, fitted, "val").batch([0, 1])
    with torch.no_grad():
        loss, weight = task.loss(model, batch)
        made = model(batch["cube"], batch["seen"], batch["hidden"])[0].made.numpy()
    mean, std = (np.array(fitted[k])[:, None, None] for k in ("mean", "std"))
    cube, hidden = batch["cube"].numpy(), batch["hidden"].numpy()
    off = np.where(hidden, made - (cube - mean) / std, 0.0)[:, np.argsort(fitted["nm"])]
    wanted = ((off**2).sum() + 0.25 * ((off[:, 1:] - off[:, :-1]) ** 2).sum()) / hidden.sum()
    assert float(weight) == hidden.sum()
    assert float(loss) == pytest.approx(wanted, rel=1e-4)


def test_half_the_resolution_is_the_mean_of_what_was_measured() -> None:
    x, seen = torch.arange(16.0).view(1, 1, 4, 4), torch.ones(1, 1, 4, 4, dtype=torch.bool)
    seen[0, 0, :2, :2] = False
    seen[0, 0, 0, 3] = seen[0, 0, 2, 0] = False
    small, there = halved(x, seen)
    assert there[0, 0].tolist() == [[False, True], [True, True]]
    assert small[0, 0].tolist() == [[0.0, pytest.approx((2 + 6 + 7) / 3)], [pytest.approx((9 + 12 + 13) / 3), 12.5]]


def test_scores_are_sums_over_hidden_values() -> None:
    rng = np.random.default_rng(0)
    made, truth, hidden = rng.normal(size=(3, 8)), rng.normal(size=(3, 8)), rng.random((3, 8)) < 0.6
    sums = Sums([2.0, 3.0, 4.0], [1.0, 0.5, 2.0])
    unit = np.arange(8) % 3
    sums.add(unit[:5], made[:, :5], truth[:, :5], hidden[:, :5])
    sums.add(unit[5:], made[:, 5:], truth[:, 5:], hidden[:, 5:])
    found = scores(sums.evidence())
    assert found["mse"] == pytest.approx(((made - truth)[hidden] ** 2).mean())
    assert found["explained"] == pytest.approx(1 - ((made - truth)[hidden] ** 2).sum() / (truth[hidden] ** 2).sum())
    angles = []
    for i in range(8):
        if hidden[:, i].sum() > 1:
            a, b = (v[:, i] * [1.0, 0.5, 2.0] + [2.0, 3.0, 4.0] for v in (made, truth))
            a, b = a[hidden[:, i]], b[hidden[:, i]]
            angles.append(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
    assert found["sam"] == pytest.approx(np.mean(angles))
    assert np.isnan(found["probe_oa"])


def test_baselines_are_what_they_say() -> None:
    nm = [400.0, 600.0, 500.0, 900.0]
    ramp = np.array(nm)[:, None, None] * np.ones((4, 2, 2))
    visible = np.ones((4, 2, 2), dtype=bool)
    visible[2], visible[1, 0, 0], visible[:, 1, 1] = False, False, False
    made = along_spectrum(nm)(np.where(visible, ramp, 0.0), visible)
    np.testing.assert_allclose(made[:, 0], ramp[:, 0])
    assert (made[:, 1, 1] == 0).all()
    edge = visible.copy()
    edge[0] = False
    assert along_spectrum(nm)(np.where(edge, ramp, 0.0), edge)[0, 0, 1] == 600.0  # the nearest beyond the ends

    rng = np.random.default_rng(0)
    mix = rng.normal(size=(2, 6))
    z = rng.normal(size=(400, 2)) @ mix + 0.05 * rng.normal(size=(400, 6))
    p = principal(z, 2)
    cube, shown = z[:4].T.reshape(6, 2, 2), np.ones((6, 2, 2), dtype=bool)
    shown[4:], shown[:, 1, 1] = False, False
    made = low_rank(p)(np.where(shown, cube, 0.0), shown)
    cov = p.basis.T @ np.diag(p.variance) @ p.basis + p.rest * np.eye(6)  # the Gaussian's conditional mean, by hand
    wanted = p.mean[4:, None] + cov[4:, :4] @ np.linalg.solve(cov[:4, :4], cube.reshape(6, 4)[:4] - p.mean[:4, None])
    np.testing.assert_allclose(made.reshape(6, 4)[4:, :3], wanted[:, :3], rtol=1e-6)
    np.testing.assert_allclose(made[:, 1, 1], p.mean)
    flat = np.full((1, 9, 9), 3.0)
    some = rng.random((1, 9, 9)) < 0.5
    np.testing.assert_allclose(neighbours(1.5)(flat * some, some), flat)
    assert low_rank_around(p, 1.5)(np.where(shown, cube, 0.0), shown)[:, 1, 1] != pytest.approx(p.mean)


def test_what_is_trained_on_lies_away_from_test_and_covers_more_than_labels() -> None:
    task = pretrain()
    data, split, fitted = opened(task)
    inside = trained_on(data, split, 3)
    held = np.zeros(inside.size, dtype=bool)
    held[np.concatenate([split.parts["val"], split.parts["test"]])] = True
    rows, cols = np.nonzero(held.reshape(inside.shape))
    for r, c in np.argwhere(inside)[::7]:
        assert np.maximum(np.abs(rows - r), np.abs(cols - c)).min() > 3
    assert inside.ravel()[split.parts["train"]].all()
    assert inside.sum() > len(split.parts["train"])
    items = task.items(data, split, fitted, "train").tiles
    batch = items.batch(range(len(items)))
    assert int(batch["seen"].any(1).sum()) <= inside.sum()  # nothing beside it is handed out
    assert all(a.passed for a in task.audit(data, split) if a.name != "accuracy of coordinates alone")


def test_it_learns() -> None:
    task = pretrain()
    data, split, fitted = opened(task)
    model = built(task, fitted).train()
    items = task.items(data, split, fitted, "val")
    batch = items.batch([0])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = task.loss(model, batch)[0]
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert min(losses[-3:]) < 0.9 * losses[0]


def test_a_scene_without_labels_is_enough(tmp_path: Path) -> None:
    task = pretrain(predict_tile=13)
    data = task.open("simulated")
    path = tmp_path / "scene.tif"
    copy_cube(data.scene, path, "int16")
    plain, parts, known = opened(task, str(path))
    assert plain.labelled is None
    assert known["class_ids"] == []
    model = built(task, known)
    task.calibrate(model, plain, parts, known)
    found = task.metrics(task.evidence(model, plain, parts, known, "test"))
    assert np.isfinite(found["mse"])
    assert np.isnan(found["probe_oa"])
    facts = task.predict(model, known, str(path), Folder(tmp_path))
    with rasterio.open(tmp_path / "scene_features.tif") as file:
        written, where = file.read(), file.transform
    assert tuple(where)[:6] == data.scene.transform
    values, seen = data.plain.read(slice(0, 48), slice(0, 48))
    cube, shown = torch.from_numpy(values[known["used"]])[None], torch.from_numpy(seen[known["used"]])[None]
    with torch.no_grad():
        whole = model.encoded(cube, shown)
    there = shown[0].any(0).numpy()
    np.testing.assert_allclose(written[:, there].T, whole.numpy(), atol=2e-4)
    assert np.isnan(written[:, ~there]).all()
    assert facts["pixels_without_data"] == (~there).sum()


def test_bands_are_sampled_once_per_batch() -> None:
    task = pretrain(sample_bands=True)
    data, split, fitted = opened(task)
    items = task.items(data, split, fitted, "train")
    counts = set()
    for seed in range(12):
        torch.manual_seed(seed)
        seen = items.batch([0, 1])["seen"]
        shown = seen.flatten(2).any(2)
        assert torch.equal(shown[0], shown[1])
        counts.add(int(shown[0].sum()))
    assert len(counts) > 4
    same = {k: OPTIONS[k] for k in ("simulated", "split", "tile", "patch_radius")}
    classify = Classify(ClassifyOptions.model_validate({**same, "sample_bands": True}))
    one = classify.open("simulated")
    parts = classify.split(one)
    torch.manual_seed(1)
    known = classify.fit(one, parts)
    assert not classify.items(one, parts, known, "train").batch([0])["seen"].flatten(2).any(2).all()
    assert classify.items(one, parts, known, "val").batch([0])["seen"].flatten(2).any(2).all()


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValidationError, match="divide tile"):
        pretrain(patch=5)
    with pytest.raises(ValidationError, match="even"):
        pretrain(scales=2, patch=1)


def test_classify_can_start_from_it() -> None:
    """The encoder's weights have the same names and shapes there, give the same features, and the split is one.

    That `train.start` takes what has the same name and shape is tested with the trainer.
    """
    task = pretrain(split={"block": 12, "per_class": 5})
    data, split, fitted = opened(task)
    same = {k: getattr(task.config, k) for k in ("simulated", "split", "tile", "patch_radius")}
    classify = Classify(ClassifyOptions.model_validate(same))
    labelled = classify.open("simulated")
    parts = classify.split(labelled)
    assert (labelled.manifest.sha256, parts.digest) == (data.manifest.sha256, split.digest)
    assert max(np.bincount(labelled.index.ravel()[parts.parts["train"]])) == 5
    known = {**classify.fit(labelled, parts), **{k: fitted[k] for k in ("mean", "std")}}
    model, after = built(task, fitted), classify.build(known, parse_preset("small", SMALL)).eval()
    there = dict(model.named_parameters())
    shared = [n for n, p in after.named_parameters() if n in there and there[n].shape == p.shape]
    own = {n.split(".")[0] for n, _ in after.named_parameters() if n not in shared}
    assert own == {"head", "skip"}
    with torch.no_grad():
        for name, value in after.named_parameters():
            if name in shared:
                value.copy_(there[name])
        batch = task.items(data, split, fitted, "test").batch([0])
        seen = batch["seen"]
        x, shown = batch["cube"].movedim(1, -1)[seen.any(1)], seen.movedim(1, -1)[seen.any(1)]
        found = after.features(*after.moments(x, shown), seen.any(1))
        torch.testing.assert_close(found, model.encoded(batch["cube"], seen))
