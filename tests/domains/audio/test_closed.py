"""The line on statistics of clips that stands beside the backbone of `audio/classify`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import librosa
import numpy as np
import pytest
import torch

from domains.audio.classify import Classify
from domains.audio.clips import Clips
from domains.audio.closed import SHARES, fit_line, folds, joined, regressed
from domains.audio.items import ClipItems, collate
from domains.audio.statistics import SPANS, ClipStatistics, statistics_of
from shared_backbones.errors import BadRequest
from shared_backbones.presets import adjust, load_preset

RATE = 8000


@pytest.fixture(scope="module")
def model(task: Classify, clips: Clips) -> Any:
    split = task.split(clips)
    torch.manual_seed(0)
    model = task.build(task.fit(clips, split), load_preset("audio_mixer"))
    task.initialise(model, clips, split)
    task.calibrate(model, clips, split, {})
    return model


@pytest.mark.parametrize("samples", [300, 399, 480, 3001])
def test_statistics_are_librosas_mfcc_span_by_span(samples: int) -> None:
    random = np.random.default_rng(samples)
    wave = random.standard_normal(samples).astype(np.float32)
    told = ClipStatistics(RATE)(**collate([wave, random.standard_normal(5000).astype(np.float32)]))[0].numpy()
    level = wave * 0.1 / np.sqrt(np.mean(wave**2))
    mfcc = librosa.feature.mfcc(
        y=level, sr=RATE, n_mfcc=20, n_mels=40, fmin=20, n_fft=256, win_length=200, hop_length=80, pad_mode="constant"
    ).T
    # librosa's decibels stop 80 below the loudest; noise is never that quiet
    spans = np.array_split(mfcc, SPANS) if len(mfcc) >= SPANS else [mfcc] * SPANS
    wanted = np.concatenate([*(span.mean(0) for span in spans), mfcc.std(0), [np.log(samples / RATE)]])
    np.testing.assert_allclose(told, wanted, atol=2e-3, rtol=1e-3)


def test_a_line_is_scikit_learns_and_leaves_an_unheard_class_below() -> None:
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(0)
    x, y = random.standard_normal((90, 4)) * [1, 5, 0.1, 1] + 3, random.integers(0, 3, 90)
    x[:, 3] = 7.0  # says nothing
    z = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1)
    wanted = LogisticRegression(C=1 / (0.2 * 90), max_iter=2000).fit(z, y).decision_function(z)
    np.testing.assert_allclose(regressed(x, y, 3, 0.2)(x), wanted, atol=1e-6)
    two = regressed(x[y < 2], 2 * y[y < 2], 4, 0.2)(x)  # classes 1 and 3 were never heard
    assert (two[:, [1, 3]].max(1) < two[:, [0, 2]].min(1)).all()
    binary = LogisticRegression(C=1 / (0.2 * (y < 2).sum()), max_iter=2000)
    mean, std = x[y < 2].mean(0), np.where(x[y < 2].std(0) > 1e-9, x[y < 2].std(0), 1)
    margin = binary.fit((x[y < 2] - mean) / std, y[y < 2]).decision_function((x - mean) / std)
    np.testing.assert_allclose(two[:, 2] - two[:, 0], margin, atol=1e-6)


def test_folds_hold_out_whole_groups() -> None:
    groups = ["a", "b", "c", "a", "b", "c", "d"]
    held = list(folds(groups))
    assert len(held) == 4
    assert sorted(i for out in held for i in np.flatnonzero(out)) == list(range(7))
    assert all(
        {groups[i] for i in np.flatnonzero(out)}.isdisjoint(groups[i] for i in np.flatnonzero(~out)) for out in held
    )
    assert len(list(folds(["", "b", "c", "b", "c", "b"]))) == 5  # not all known: any clips


def test_the_temperature_is_that_of_groups_that_were_held_out() -> None:
    """A number that gives away the class within each group, differently in each, must not make the line sure."""
    random = np.random.default_rng(1)
    y, group = random.integers(0, 2, 400), random.integers(0, 4, 400)
    x = random.standard_normal((400, 2))
    x[:, 0] += np.where(group % 2, 4.0, -4.0) * (2 * y - 1)
    unknown = fit_line([x], y, [str(g) for g in group], 2)
    x[:, 0] = random.standard_normal(400) + 3 * y  # the same in every group
    sure = fit_line([x], y, [str(g) for g in group], 2)
    assert float(np.mean(sure(x).argmax(1) == y)) > 0.9
    assert np.abs(sure.weight).max() > 10 * np.abs(unknown.weight).max()


def test_one_group_per_class_and_one_clip_are_no_obstacle() -> None:
    line = fit_line([np.eye(2, 3), np.eye(2, 3)], np.array([0, 1]), ["a", "b"], 2)
    assert np.isfinite(line.weight).all()
    assert (line(np.eye(2, 3)).argmax(1) == [0, 1]).all()


def test_the_share_of_the_backbone_is_what_validation_speaks_for() -> None:
    truth = torch.arange(60) % 3
    right, noise = 3 * torch.eye(3)[truth], torch.from_numpy(np.random.default_rng(0).standard_normal((60, 3)))
    gate, temperature = joined(right.double(), noise, truth)
    assert gate == 0.0
    assert temperature == 1.0  # validation would have it surer
    gate, _ = joined(0.1 * noise, right.double() + noise, truth)
    assert gate > 0
    assert joined(-right.double(), noise, truth)[1] > 1
    assert SHARES[0] == 0.0


def test_scores_are_the_lines_and_a_share_of_the_backbones(model: Any, clips: Clips, task: Classify) -> None:
    batch = ClipItems(clips, np.arange(5)).batch(range(5))
    with torch.no_grad():
        own = model.every(batch["wave"], batch["length"])[0]
        line = model.closed(batch["wave"], batch["length"])
        both = model(batch["wave"], batch["length"])
    torch.testing.assert_close(both, line + model.closed.gate * own)
    x = statistics_of(model.closed.statistics, ClipItems(clips, np.arange(5)))
    np.testing.assert_allclose(line.numpy(), x @ model.closed.weight.numpy() + model.closed.bias.numpy(), atol=1e-4)
    assert float(line.std()) > 0.1
    loss = task.loss(model, batch)[0]
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(own, batch["target"]), atol=1e-5, rtol=1e-5)


def test_the_line_hears_training_alone_and_leaves_other_draws(task: Classify, clips: Clips, model: Any) -> None:
    split = task.split(clips)
    before = torch.random.get_rng_state()
    weight = model.closed.weight.clone()
    task.initialise(model, task.poison(clips, split), split)
    assert torch.equal(model.closed.weight, weight)
    assert torch.equal(torch.random.get_rng_state(), before)
    other = replace(clips, labels=(clips.labels + 1) % len(clips.classes))
    task.initialise(model, other, split)
    assert not torch.equal(model.closed.weight, weight)


def test_widths_and_a_line_are_refused_together(task: Classify, clips: Clips) -> None:
    fitted = task.fit(clips, task.split(clips))
    for change in ({"widths": [0.5]}, {"width": 0.5}):
        with pytest.raises(BadRequest, match=r"model\.skip"):
            task.build(fitted, adjust(load_preset("audio_mixer"), **change))
    assert task.build(fitted, adjust(load_preset("audio_mixer"), skip="none")).closed is None
