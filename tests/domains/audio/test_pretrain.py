"""`audio/pretrain`: nothing hidden is read, costs are counted on what is hidden, and others can start from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from domains.audio.config import FrontEndOptions
from domains.audio.data import write_wav
from domains.audio.frontend import FrontEnd
from domains.audio.items import ClipItems, collate
from domains.audio.pretrain import Pretrain
from domains.audio.pretrain_config import PretrainOptions
from domains.audio.pretrain_masks import Hiding, heard_samples
from domains.audio.pretrain_model import RandomCodes
from domains.audio.pretrain_scoring import Fillers, interpolated
from shared_backbones.errors import BadRequest
from shared_backbones.presets import load_preset, preset_names

from .conftest import SMALL, tone
from .test_classify import Folder

PRESETS = [n for n in preset_names() if "audio/pretrain" in load_preset(n).tasks]


def pretrain(**changes: Any) -> Pretrain:
    return Pretrain(PretrainOptions.model_validate({"simulated": SMALL, **changes}))


def opened(task: Pretrain, source: str = "simulated") -> tuple[Any, Any, dict[str, Any]]:
    data = task.open(source)
    split = task.split(data)
    return data, split, json.loads(json.dumps(task.fit(data, split)))


def built(task: Pretrain, fitted: dict[str, Any], preset: str = "audio_mixer") -> Any:
    torch.manual_seed(0)
    return task.build(fitted, load_preset(preset)).eval()


@given(st.integers(1, 200), st.integers(1, 40), st.floats(0.01, 0.99), st.integers(0, 20))
def test_spans_are_hidden_and_something_is_seen(n: int, width: int, share: float, row: int) -> None:
    hiding = Hiding(80, width, share)
    hidden = hiding.fixed(row, n)
    np.testing.assert_array_equal(hidden, hiding.fixed(row, n))
    if n == 1:
        assert not hidden.any()
        return
    assert 0 < hidden.sum() < n
    width = min(width, n // 2)
    assert abs(hidden.sum() - share * n) <= 2 * width
    starts = np.flatnonzero(np.diff(hidden.astype(int)) == 1) + 1
    inner = [s for s in starts if s + width <= n]
    assert all(hidden[s : s + width].all() for s in inner)  # spans are whole but at the ends of a clip


@pytest.mark.parametrize("preset", PRESETS)
def test_nothing_that_is_hidden_is_read(preset: str) -> None:
    """Neither frames, nor samples that no seen frame's window holds, through stems and the clip's level."""
    task = pretrain()
    model = built(task, opened(task)[2], preset)
    random = np.random.default_rng(0)
    batch = collate([random.standard_normal(n).astype(np.float32) for n in (2400, 4000)])
    hidden = torch.zeros(2, 51, dtype=torch.bool)
    hidden[0, 5:15], hidden[1, 20:40] = True, True
    other = batch["wave"].clone()
    front = model.front_end
    reach = front.fft // 2
    other[0, 5 * front.hop + reach : 14 * front.hop - reach] = 3.0
    other[1, 20 * front.hop + reach : 39 * front.hop - reach] *= -5.0
    with torch.no_grad():
        before = model(batch["wave"], batch["length"], hidden)
        after = model(other, batch["length"], hidden)
        torch.testing.assert_close(before.told, after.told)
        assert not torch.allclose(before.truth, after.truth)
        x, mask = model.frames(batch["wave"], batch["length"])
        changed = torch.where(hidden[..., None], torch.randn_like(x) * 9, x)
        torch.testing.assert_close(model.outputs(x, mask, hidden), model.outputs(changed, mask, hidden))
        seen = torch.where(hidden[..., None], x, torch.randn_like(x) * 9)
        assert not torch.allclose(model.outputs(x, mask, hidden), model.outputs(seen, mask, hidden))


def test_levels_are_those_of_what_is_heard() -> None:
    front, wave = FrontEnd(8000, FrontEndOptions()), torch.from_numpy(tone(440, 0.5))[None]
    hidden = torch.zeros(1, 51, dtype=torch.bool)
    hidden[0, 10:30] = True
    heard = heard_samples(hidden, torch.tensor([4000]), 4000, front.hop)
    assert heard[0].tolist() == [not 10 <= round(t / front.hop + 1e-9) < 30 for t in range(4000)]
    alone = torch.where(heard, wave, 0.0)
    power = float((alone**2).sum() / heard.sum())
    expected, _ = front(wave * 0.1 / power**0.5, torch.tensor([4000]), heard=torch.ones_like(heard) & heard)
    torch.testing.assert_close(front(wave * 7, torch.tensor([4000]), heard=heard)[0], expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("target", ["frames", "codes"])
def test_loss_and_scores_are_means_over_hidden_frames(target: str) -> None:
    task = pretrain(target=target, codes=8)
    data, split, fitted = opened(task)
    model = built(task, fitted)
    items = task.items(data, split, fitted, "test")
    batch = items.batch([0, 1, 2])
    costs, right, explained = [], [], []
    with torch.no_grad():
        loss, weight = task.loss(model, batch)
        for i in range(3):
            one = items.batch([i])
            found, n = model(**one), 1 + int(one["length"][0]) // 80
            heard = heard_samples(one["hidden"], one["length"], one["wave"].shape[1], 80)
            x = (model.front_end(one["wave"], one["length"], heard=heard)[0] - model.mean) / model.std
            for t in range(n):
                if one["hidden"][0, t]:
                    if target == "frames":
                        costs.append(float(((found.told[0, t] - x[0, t]) ** 2).mean()))
                        continue
                    y = x[0, t] @ model.codes.projection
                    distance = [float((y / y.norm() - c / c.norm()).norm()) for c in model.codes.book]
                    costs.append(-float(found.told[0, t].log_softmax(0)[int(np.argmin(distance))]))
                    right.append(int(found.told[0, t].argmax()) == int(np.argmin(distance)))
            explained.append(x[0][one["hidden"][0]])
    assert float(weight) == len(costs)
    assert float(loss) == pytest.approx(np.mean(costs), rel=1e-4)
    evidence = task.evidence(model, data, split, fitted, "test")
    first = evidence.reweighted({int(u): float(u in split.parts["test"][:3]) for u in evidence.units})
    scores = task.metrics(first)
    assert scores["loss"] == pytest.approx(np.mean(costs), rel=1e-4)
    if target == "codes":
        assert scores["code_accuracy"] == pytest.approx(np.mean(right))
        assert np.isnan(scores["explained"])
    else:
        spread = sum(float((x - x.mean(0)).square().mean(1).sum()) for x in explained)
        assert scores["explained"] == pytest.approx(1 - sum(costs) / spread, rel=1e-3)


@given(st.integers(2, 30), st.integers(0, 99))
def test_interpolation_is_that_of_numpy(n: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    x, hidden = random.standard_normal((n, 3)).astype(np.float32), random.random(n) < 0.6
    hidden[random.integers(n)] = False
    at, seen = np.arange(n), np.flatnonzero(~hidden)
    expected = np.stack([np.interp(at, seen, x[seen, f]) for f in range(3)], 1)
    np.testing.assert_allclose(interpolated(x, hidden), expected, atol=1e-5)


def test_baselines_are_what_they_say() -> None:
    task = pretrain()
    data, split, fitted = opened(task)
    found = {name: task.metrics(e) for name, e in task.baselines(data, split, fitted).items()}
    assert found["visible_mean"]["explained"] <= 0
    coded = Fillers(data, split, fitted, pretrain(target="codes", codes=8).config)
    trust, often = coded.code_shares()
    counts, hits, total = np.ones(8), 0, 0
    for i in range(len(coded.items["train"])):
        plain = coded.plain(coded.items["train"].batch([i]))
        truth, unseen = plain.truth[0].numpy(), plain.unseen[0].numpy()
        codes = coded.codes(plain.truth)[0].numpy()  # type: ignore[misc]
        guess = coded.codes(torch.from_numpy(interpolated(truth, unseen)))  # type: ignore[misc]
        np.add.at(counts, codes[unseen], 1)
        hits, total = hits + int((guess.numpy() == codes)[unseen].sum()), total + int(unseen.sum())
    assert trust == pytest.approx(hits / total)
    np.testing.assert_allclose(often.numpy(), counts / counts.sum(), rtol=1e-5)
    rivals = {name: task.metrics(e) for name, e in coded.evidence().items()}
    assert rivals["interpolation"]["code_accuracy"] > rivals["code_frequencies"]["code_accuracy"]
    assert rivals["interpolation"]["loss"] < rivals["code_frequencies"]["loss"] < np.log(8)


def test_codes_are_drawn_once_and_never_learned() -> None:
    torch.manual_seed(3)
    a = RandomCodes(4, PretrainOptions(codes=5))
    torch.manual_seed(4)
    b = RandomCodes(4, PretrainOptions(codes=5))
    assert torch.equal(a.book, b.book)
    assert torch.equal(a.projection, b.projection)
    assert not list(a.parameters())
    assert not torch.equal(a.book, RandomCodes(4, PretrainOptions(codes=5, code_seed=1)).book)


@pytest.mark.parametrize("target", ["frames", "codes"])
def test_it_learns_and_a_batch_is_its_items(target: str) -> None:
    task = pretrain(target=target, codes=16)
    data, split, fitted = opened(task)
    model = built(task, fitted)
    items = task.items(data, split, fitted, "test")
    batch = items.batch(range(4))
    batch["wave"][torch.arange(batch["wave"].shape[1]) >= batch["length"][:, None]] = float("nan")
    with torch.no_grad():
        together = model(**batch)
        for i in range(4):
            alone = model(**items.batch([i]))
            n = alone.told.shape[1]
            torch.testing.assert_close(together.told[i, :n][alone.unseen[0]], alone.told[0][alone.unseen[0]],
                                       atol=1e-4, rtol=1e-4)  # fmt: skip
    batch = items.batch(range(4))
    model.train()
    task.initialise(model, data, split)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss = task.loss(model, batch)[0]
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert min(losses[-3:]) < 0.85 * losses[0]


def test_labels_may_be_missing_and_features_are_predicted(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(8):
        write_wav(tmp_path / "in" / f"{i}.wav", tone(200 + 90 * i, 0.3 + 0.02 * i), 8000)
    write_wav(tmp_path / "in" / "long.wav", tone(300, 5.0), 8000)
    task = pretrain(split={"protocol": "clips"}, chunk_s=2.0)
    data, split, fitted = opened(task, str(tmp_path / "in"))
    assert fitted["classes"] == []
    model = built(task, fitted)
    task.calibrate(model, data, split, fitted)
    scores = task.metrics(task.evidence(model, data, split, fitted, "test"))
    assert np.isfinite(scores["loss"])
    assert np.isnan(scores["probe_accuracy"])
    facts = task.predict(model, fitted, str(tmp_path / "in"), Folder(tmp_path))
    table = pd.read_csv(tmp_path / "features.csv")
    assert (facts["clips"], facts["windows"], facts["features"]) == (9, len(table), 96)
    assert table["start"][table["file"].str.contains("long")].tolist() == pytest.approx(
        [0, 1, 2, 3, 4][: len(table) - 8]
    )
    short = [n for n in data.names if "long" not in n]
    expected = task.features(model, data, np.array([data.names.index(n) for n in short])).numpy()
    got = table[~table["file"].str.contains("long")].set_index("file")
    found = np.stack([got.loc[str(tmp_path / "in" / n), [f"f{i}" for i in range(96)]].to_numpy(float) for n in short])
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"must be 0: pretraining hides spans itself.*got 0\.1, 0 and 0"):
        pretrain(augment={"tempo": 0.1, "time_masks": 0, "band_masks": 0})
    task = pretrain()
    with pytest.raises(BadRequest, match="hides frames of 'frames'"):
        built(task, opened(task)[2], "audio_codes")


@pytest.mark.parametrize("name", ["audio/classify", "audio/recognise"])
def test_others_start_from_it(name: str, tmp_path: Path) -> None:
    """Every weight of stem and backbone is taken, the head is its own; of classes, the split is one."""
    from pipelines.config import build_preset, build_task, resolve
    from pipelines.runs import save_model
    from pipelines.trainer.start import pinned, take

    classes = name == "audio/classify"
    preset = "audio_mixer" if classes else "speech_squeezeformer"
    config = resolve("audio/pretrain", preset=preset, sets=["simulated={speakers: 4, takes: 3, words: 3}"])
    task = build_task(config)
    data, split, fitted = opened(task)
    before = built(task, fitted, preset)
    save_model(tmp_path, config, build_preset(config), fitted, before)
    size = "{speakers: 4, takes: 3, words: 3}" if classes else "{speakers: 4, strings: 6, words: 3}"
    asked = resolve(name, preset=preset, sets=[f"simulated={size}", f"train.start={tmp_path}"])
    other = build_task(asked)
    there = other.open("simulated")
    torch.manual_seed(1)
    after = other.build(other.fit(there, other.split(there)), build_preset(asked))
    begun = take(after, pinned(asked, tmp_path).train)
    here = {n for n, _ in after.named_parameters()}
    shared = {n for n in here if n.startswith(("stem.", "backbone."))}
    for at in shared:
        assert torch.equal(before.get_parameter(at), after.get_parameter(at)), at
    assert begun is not None
    assert {n for n in begun["left"] if n in here} == here - shared == {n for n in here if n.startswith("head.")}
    if classes:
        assert there.manifest.sha256 == data.manifest.sha256
        assert other.split(there).digest == split.digest


def test_validation_hides_the_same_and_training_does_not() -> None:
    task = pretrain()
    data, split, fitted = opened(task)
    for part, same in (("train", False), ("val", True)):
        items = task.items(data, split, fitted, part)
        a, b = items.batch([0])["hidden"], items.batch([0])["hidden"]
        assert (a.shape == b.shape and torch.equal(a, b)) is same
    assert isinstance(items.clips, ClipItems)
