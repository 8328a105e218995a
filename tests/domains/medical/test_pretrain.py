"""`medical/pretrain`: nothing hidden is read, errors are counted on what is hidden, and others can start from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from domains import probing
from domains.medical.classify import Classify
from domains.medical.pretrain import Features, Pretrain
from domains.medical.pretrain_config import PretrainOptions
from domains.medical.pretrain_masks import drawn, fixed, hidden_count, unseen_pixels
from domains.medical.pretrain_scoring import interpolated
from domains.probing import ABSENT, fitted_probe
from shared_backbones.errors import BadInput, BadRequest
from shared_backbones.layout import Layout
from shared_backbones.presets import load_preset

from .dicoms import WORDS, write
from .made import Folder, options, scan

SMALL: dict[str, Any] = {"simulated": {"patients": 16, "slices": 2}, "size": 32, "decoder_dim": 16, "decoder_depth": 1}


def pretrain(**changes: Any) -> Pretrain:
    return Pretrain(PretrainOptions.model_validate({**SMALL, **changes}))


def opened(task: Pretrain, source: str = "simulated") -> tuple[Any, Any, dict[str, Any]]:
    data = task.open(source)
    split = task.split(data)
    return data, split, json.loads(json.dumps(task.fit(data, split)))


def built(task: Pretrain, fitted: dict[str, Any], preset: str = "medical_mae") -> Any:
    torch.manual_seed(0)
    return task.build(fitted, load_preset(preset)).eval()


@given(st.integers(2, 12), st.floats(0.01, 0.99), st.integers(0, 50))
def test_the_share_is_hidden_and_the_same_squares_for_the_same_case(grid: int, share: float, row: int) -> None:
    places = grid * grid
    count = hidden_count(places, share)
    assert 1 <= count < places
    assert abs(count - share * places) <= 1
    known = fixed([row, row + 1], places, share)
    assert torch.equal(known[:1], fixed([row], places, share))
    assert set(known.sum(1).tolist()) | set(drawn(3, places, share).sum(1).tolist()) == {count}
    pixels = unseen_pixels(known, grid * 3)
    assert int(pixels.sum()) == 2 * count * 9
    y, x = row % (grid * 3), (row * 7) % (grid * 3)
    assert bool(pixels[0, 0, y, x]) == bool(known[0, (y // 3) * grid + x // 3])


@pytest.mark.parametrize("preset", ["medical_mae", "medical_mixer", "medical_vit"])
def test_nothing_that_is_hidden_is_read(preset: str) -> None:
    """Also through overlapping stems, coarser stages, norms, and the image's own mean."""
    task = pretrain(patch=16)
    _, _, fitted = opened(task)
    model = built(task, fitted, preset)
    hidden = torch.tensor([[True, True, False, True]])
    image, other = torch.rand(2, 1, 1, 32, 32)
    unseen = unseen_pixels(hidden, 32)
    with torch.no_grad():
        made = model(image, hidden).made
        torch.testing.assert_close(made, model(torch.where(unseen, other, image), hidden).made)
        assert not torch.allclose(made, model(torch.where(unseen, image, other), hidden).made)


def test_masked_tokens_are_as_good_as_dropped_ones() -> None:
    """He et al. drop what is hidden; a mask in the layout gives the seen tokens the same values."""
    task = pretrain()
    _, _, fitted = opened(task)
    model, x, hidden = built(task, fitted), torch.randn(1, 1, 32, 32), fixed([3], 16, 0.75)
    with torch.no_grad():
        tokens, layout = model.encode(x, unseen_pixels(hidden, 32))
        alone = model.stem(x)[0][:, ~hidden[0]]
        dropped, _ = model.backbone(alone, Layout((alone.shape[1], 1)))
    assert torch.equal(layout.mask, ~hidden)
    torch.testing.assert_close(tokens[:, ~hidden[0]], dropped)


def test_loss_and_scores_are_means_over_hidden_pixels() -> None:
    task = pretrain(patch=4, hide=0.6, intensity="train")
    data, split, fitted = opened(task)
    model = built(task, fitted)
    batch = task.items(data, split, fitted, "test").batch([0, 1, 2])
    with torch.no_grad():
        loss, weight = task.loss(model, batch)
        found = model(batch["image"], batch["hidden"])
    mean, std = fitted["mean"][0], fitted["std"][0]
    errors, full = [], []
    for b in range(3):
        for y in range(32):
            for x in range(32):
                if batch["hidden"][b, (y // 4) * 8 + x // 4]:
                    truth = (float(batch["image"][b, 0, y, x]) - mean) / std
                    errors.append((float(found.made[b, 0, y, x]) - truth) ** 2)
                    full.append(errors[-1] * std**2)
    assert float(weight) == len(errors) == 3 * 16 * round(0.6 * 64)
    assert float(loss) == pytest.approx(np.mean(errors), rel=1e-4)
    rows = split.parts["test"]
    whole = task.evidence(model, data, split, fitted, "test")
    three = whole.reweighted({int(u): float(u == data.group[rows[0]]) for u in whole.units})
    mine = np.flatnonzero(data.group[rows] == data.group[rows[0]])
    again = task.restored(model, data, rows[mine])[0]
    assert task.metrics(three)["mse"] == pytest.approx(float(again.squares().sum() / again.count().sum()), rel=1e-5)
    values = torch.stack([t[u.expand_as(t)] for t, u in zip(again.truth, again.unseen, strict=True)])
    explained = 1 - float(again.squares().sum() / (values - values.mean(1, keepdim=True)).square().sum())
    assert task.metrics(three)["explained"] == pytest.approx(explained, rel=1e-4)
    psnr = -10 * np.log10(float(again.squares().sum()) * std**2 / float(again.count().sum()))
    assert task.metrics(three)["psnr"] == pytest.approx(psnr, rel=1e-4)


def test_interpolation_is_exact_on_a_plane_and_the_baselines_are_what_they_say() -> None:
    y, x = np.mgrid[:16, :16].astype(np.float32)
    plane, unseen = np.stack([y + 2 * x, 1 - x]), np.zeros((16, 16), bool)
    unseen[4:12, 3:11] = True
    np.testing.assert_allclose(interpolated(plane, unseen), plane, atol=1e-4)
    one_seen = np.ones((16, 16), bool)
    one_seen[5, 5] = False
    assert (interpolated(plane, one_seen)[0] == 15).all()
    task = pretrain()
    data, split, fitted = opened(task)
    found = {name: task.metrics(e) for name, e in task.baselines(data, split, fitted).items()}
    assert found["visible_mean"]["explained"] <= 0
    assert found["training_mean"]["mse"] < found["visible_mean"]["mse"]
    assert np.isnan(found["interpolation"]["probe_auroc"])


def test_it_learns() -> None:
    task = pretrain()
    data, split, fitted = opened(task)
    model = built(task, fitted).train()
    batch = task.items(data, split, fitted, "val").batch(range(4))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = task.loss(model, batch)[0]
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert min(losses[-3:]) < 0.85 * losses[0]


@pytest.mark.parametrize("classes", [0, 2, 3])
def test_the_probe_is_logistic_regression(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """classes: exclusive ones that training has, of one more; 0: labels, of which one is never true."""
    monkeypatch.setattr(probing, "PENALTIES", (0.1,))
    random = np.random.default_rng(classes)
    x = {part: random.normal(3.0, 2.0, (60, 4)) for part in ("train", "val")}
    kind = {part: (v[:, 0] > 3).astype(int) + (v[:, 1] > 4) * (classes != 2) for part, v in x.items()}
    target = {part: np.eye(classes + 1)[k] for part, k in kind.items()} if classes else {}
    if not classes:
        target = {part: np.stack([k > 0, k > 9], 1).astype(float) for part, k in kind.items()}
        target["train"][:5, 0] = np.nan
    known = slice(None) if classes else slice(5, None)
    y = kind["train"] if classes else kind["train"] > 0
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(x["train"][known], y[known])
    probe = fitted_probe(x, target, bool(classes)).double()
    logits = torch.from_numpy(x["val"]) @ probe[:, :-1].mT + probe[:, -1]
    if classes:
        np.testing.assert_allclose(logits.softmax(1)[:, :-1], reference.predict_proba(x["val"]), atol=2e-3)
        assert (logits[:, -1] == ABSENT).all()
    else:
        np.testing.assert_allclose(logits[:, 0], reference.decision_function(x["val"]), atol=2e-3)
        assert (logits[:, 1] == 0).all()


def test_labels_may_be_missing_and_where_there_are_some_the_split_is_that_of_classify(tmp_path: Path) -> None:
    for i in range(20):
        folder = tmp_path / "labelled" / ("a" if i % 3 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scan(i)).save(folder / f"{i}.png")
        Image.fromarray(scan(i)).save(tmp_path / f"{i}.png")
    rows = "".join(f"{i}.png,p{i // 2},somewhat unclear {i % 4}\n" for i in range(20))
    (tmp_path / "list.csv").write_text("image,patient,remark,seen\n" + rows.replace("\n", ",yes\n"))
    (tmp_path / "flat").mkdir()
    for i in range(20):
        (tmp_path / f"{i}.png").rename(tmp_path / "flat" / f"{i}.png")
    (tmp_path / "list.csv").rename(tmp_path / "flat" / "list.csv")
    task = pretrain()
    labelled, split, fitted = opened(task, str(tmp_path / "labelled"))
    assert fitted["labels"] == ["a", "b"]
    other = Classify(options())
    same = other.open(str(tmp_path / "labelled"))
    assert same.manifest.sha256 == labelled.manifest.sha256
    assert other.split(same).digest == split.digest
    assert np.isfinite(task.metrics(task.evidence(built(task, fitted), labelled, split, fitted, "test"))["mse"])
    for source in (tmp_path / "flat", tmp_path / "flat" / "list.csv"):
        data, split, fitted = opened(task, str(source))
        assert fitted["labels"] == []
        assert data.manifest.facts["task"] == "no labels"
        assert sum(map(len, split.parts.values())) == 20
        model = built(task, fitted)
        task.calibrate(model, data, split, fitted)
        assert np.isnan(task.metrics(task.evidence(model, data, split, fitted, "test"))["probe_auroc"])
        assert task.audit(data, split)
    with pytest.raises(BadInput, match="no label"):
        other.open(str(tmp_path / "flat"))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(BadInput, match=r"32 pixels cannot be cut by patch=5; set patch to one of 2, 4, 8, 16"):
        opened(pretrain(patch=5))
    with pytest.raises(ValidationError, match="mixup"):
        pretrain(augment={"mixup": 0.2})
    task = pretrain()
    _, _, fitted = opened(task)
    for preset, says in (("medical_duo", "no whole number|one lattice"), ("itransformer", "images have rank 2")):
        with pytest.raises(BadRequest, match=says):
            built(task, fitted, preset)
    with pytest.raises(BadRequest, match=r"4 x 4 tokens for a canvas of 30"):
        built(task, {**fitted, "side": 30})


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_features_of_a_source_under_pseudonyms(form: str, tmp_path: Path) -> None:
    import pandas as pd

    for i in range(8):
        pixels = scan(i, (20, 20)).astype(np.uint16) * 4
        write(tmp_path / "in" / f"{i}.dcm", pixels, PatientID=f"MRN-77421903-{i}")
    task = pretrain(size=16, patch=4, table=form)
    data, _, fitted = opened(task, str(tmp_path / "in"))
    model = built(task, fitted)
    out = tmp_path / "out"
    out.mkdir()
    facts = task.predict(model, fitted, str(tmp_path / "in"), Folder(out))
    path = out / f"features.{form}"
    table = pd.read_parquet(path) if form == "parquet" else pd.read_csv(path)
    assert facts["images"] == len(table) == 8
    expected = task.features(model, data, np.arange(8)).numpy()
    np.testing.assert_allclose(table[[f"f{i}" for i in range(128)]], expected, atol=1e-4)
    assert not [word for word in WORDS if word in f"{data.manifest.to_json()}{facts}{table.to_csv()}"]
    portable = task.portable(model, fitted)
    assert isinstance(portable.module, Features)
    assert portable.module(*portable.example).shape == (2, 128)


def test_classify_starts_from_it(tmp_path: Path) -> None:
    """End to end: every weight of stem and backbone is taken, the head is its own, and both had one split."""
    from pipelines.config import resolve
    from pipelines.runs import load_run
    from pipelines.train import train

    common = ["size=32", "simulated.patients=10", "simulated.slices=1", "train.epochs=0"]
    common += ["split.fractions=[0.4,0.2,0.4]"]
    first = train(resolve("medical/pretrain", preset="medical_mae", sets=common, seed=1), tmp_path, quiet=True)
    settings = [*common, f"train.start={first}", "train.layer_decay=0.75", "cnn_epochs=0", "corrupted=0"]
    request = resolve("medical/classify", preset="medical_mae", sets=settings)
    run = train(request, tmp_path, quiet=True)
    before, after = load_run(first), load_run(run)
    here = {n for n, _ in after.model.named_parameters()}
    shared = {n for n in here if n.startswith(("stem.", "backbone."))}
    for name in shared:
        assert torch.equal(before.model.get_parameter(name), after.model.get_parameter(name)), name
    facts = json.loads((run / "metrics.json").read_bytes())
    begun = facts["training"]["start"]
    assert set(begun["left"]) == here - shared == {n for n in here if n.startswith("head.")}
    assert begun["taken"] == len(shared)
    assert begun["task"] == "medical/pretrain"
    assert next(a for a in facts["audits"] if a["name"] == "start_saw_test")["value"] == "same split"
    assert "start_saw_test" in (run / "report.html").read_text()
