"""Keywords in a stream: alarms are counted as said, a perfect ear misses nothing, and what cannot be is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from domains.audio.classify import Classify
from domains.audio.clips import Clips
from domains.audio.config import ClassifyOptions
from domains.audio.data import write_wav
from domains.audio.figures import detection_trade_off, spotting_picture
from domains.audio.spotting import PER_WINDOW, THRESHOLDS, alarmed, columns, spot_scores, stretches, trade_off
from domains.task import Evidence
from shared_backbones.errors import BadInput, BadRequest
from shared_backbones.presets import load_preset

from .conftest import SMALL, tone


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_neighbouring_windows_are_one_alarm_for_a_windows_length(scores: list[float]) -> None:
    found = alarmed(np.array(scores))
    for k in range(0, len(THRESHOLDS), 7):
        last, expected = -PER_WINDOW, []
        for i, score in enumerate(scores):
            on = score >= THRESHOLDS[k]
            fresh = on and (i == 0 or scores[i - 1] < THRESHOLDS[k] or i - last == PER_WINDOW)
            expected.append(float(fresh))
            last = i if fresh else last
        assert found[:, k].tolist() == expected


def test_scores_are_read_from_the_sums() -> None:
    alarms, missed = np.zeros((3, len(THRESHOLDS))), np.zeros((3, len(THRESHOLDS)))
    alarms[0, :40], alarms[0, :10], missed[2, 30:], missed[1, 60:] = 1, 5, 1, 1
    alarms[0, :5] = 0  # at the lowest thresholds neighbours became one alarm: no fewer count there
    evidence = Evidence(
        np.arange(3),
        {"alarms": alarms, "missed": missed, "stream_s": np.array([1800.0, 0, 0]), "keyword": np.array([0.0, 1, 1])},
    )
    misses, hourly = trade_off(evidence)
    assert hourly[:10].tolist() == [10.0] * 10
    assert hourly[10:41].tolist() == [2.0] * 30 + [0.0]
    assert spot_scores(evidence, 2.0) == {"keyword_misses": 0.0, "false_alarms": 2.0}
    assert spot_scores(evidence, 1.0)["keyword_misses"] == misses[40] == 0.5
    without = spot_scores(Evidence(np.arange(3), {"keyword": np.zeros(3)}), 1.0)
    assert all(np.isnan(value) for value in without.values())


def test_a_stream_holds_every_clip_where_it_says(clips: Clips) -> None:
    order = np.array([3, 1, 2, 1])
    ((wave, ends, rows),) = stretches(clips, order, np.random.default_rng(0))
    assert rows.tolist() == order.tolist()
    assert ends[-1] == len(wave)
    for first, last, row in zip([0, *ends[:-1]], ends, rows, strict=True):
        own = clips.waves[row]
        part = wave[first : first + len(own)]
        assert np.corrcoef(part, own)[0, 1] > 0.95
        assert 0.2 <= (last - first - len(own)) / clips.rate <= 0.8


def ear(wave: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """Hears the pitch of a tone: below 800 Hz the class "low", which stands behind "high"."""
    power = torch.fft.rfft(wave.double()).abs().square()
    at = torch.fft.rfftfreq(wave.shape[1], 1 / 8000)
    low = power[:, (at > 100) & (at < 800)].sum(1) / power[:, at > 100].sum(1)
    return torch.stack([40 * (0.5 - low), 40 * (low - 0.5)], 1)


@pytest.fixture
def tones(folder: Path) -> Any:
    task = Classify(ClassifyOptions.model_validate({"spot": {"keywords": ["low"], "minutes": 0.3}}))
    data = task.open(str(folder))
    return data, np.arange(len(data)), {"classes": list(data.classes), "median_s": 0.3}


@pytest.mark.parametrize("keyword", ["low", "high"])
def test_a_perfect_ear_misses_nothing_and_is_never_alarmed(keyword: str, tones: Any, folder: Path) -> None:
    data, rows, fitted = tones
    assert data.classes == ("high", "low")
    options = ClassifyOptions.model_validate({"spot": {"keywords": [keyword], "minutes": 0.3}})
    found = columns(ear, data, rows, fitted, options)
    evidence = Evidence(rows, found)
    assert spot_scores(evidence, 1.0) == {"keyword_misses": 0.0, "false_alarms": 0.0}
    assert found["keyword"].sum() == 6
    assert found["stream_s"].sum() >= 0.3 * 60
    assert (found["stream_s"] > 0).sum() == 6
    write_wav(folder / "beeps.wav", np.tile(np.r_[tone(300), np.zeros(4000, np.float32)], 20), 8000)
    recorded = options.model_copy(
        update={"spot": options.spot.model_copy(update={"negatives": str(folder / "beeps.wav")})}
    )
    found = columns(ear, data, rows, fitted, recorded)
    assert found["stream_s"].sum() == pytest.approx(16.0)
    alarms = found["alarms"].sum(0)[np.searchsorted(THRESHOLDS, 0.5)]
    assert (alarms >= 20) if keyword == "low" else (alarms == 0)


def test_the_task_scores_and_draws_it(task: Classify, clips: Clips) -> None:
    options = {"simulated": SMALL, "cnn_epochs": 0, "spot": {"keywords": [clips.classes[0]], "minutes": 0.2}}
    own = Classify(ClassifyOptions.model_validate(options))
    split = own.split(clips)
    fitted = own.fit(clips, split)
    torch.manual_seed(0)
    model = own.build(fitted, load_preset("audio_mixer")).eval()
    evidence = own.evidence(model, clips, split, fitted, "test")
    scores = own.metrics(evidence)
    assert 0 <= scores["keyword_misses"] <= 1
    assert "hours without a keyword" in spotting_picture(evidence, 1.0).axes[0].get_title()
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    x, y = detection_trade_off(p, np.array([0, 1, 0])).axes[0].lines[0].get_data()
    assert np.all(np.diff(x) <= 0)
    assert np.all(np.diff(y) >= 0)


def test_what_cannot_be_spotted_is_refused(task: Classify, clips: Clips) -> None:
    split = task.split(clips)
    for words, error, says in (
        (["no"], BadRequest, "unknown keyword"),
        (list(clips.classes), BadInput, "leave a class out"),
    ):
        own = Classify(ClassifyOptions.model_validate({"simulated": SMALL, "spot": {"keywords": words}}))
        with pytest.raises(error, match=says):
            own.fit(clips, split)
