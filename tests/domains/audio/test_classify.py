"""`audio/classify`: ragged batches, presets, baselines, predictions over time, refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from domains.audio.baselines import SmallCNN
from domains.audio.classify import Classify
from domains.audio.clips import Clips
from domains.audio.codes import CodesStem
from domains.audio.config import ClassifyOptions
from domains.audio.data import open_audio, read_samples, write_wav
from domains.audio.items import ClipItems, collate
from shared_backbones.errors import BadInput, BadRequest
from shared_backbones.presets import adjust, load_preset, preset_names

from .conftest import SMALL, tone

PRESETS = [n for n in preset_names() if "audio/classify" in load_preset(n).tasks]


class Folder:
    """A sink."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        yield self.path / name


@pytest.fixture(scope="session")
def fitted(task: Classify, clips: Clips) -> dict[str, Any]:
    return json.loads(json.dumps(task.fit(clips, task.split(clips))))


def built(task: Classify, fitted: dict[str, Any], preset: str = "audio_mixer", **changes: Any) -> Any:
    torch.manual_seed(0)
    return task.build(fitted, adjust(load_preset(preset), **changes)).eval()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_batch_of_eight_is_eight_batches_of_one(
    preset: str, task: Classify, clips: Clips, fitted: dict[str, Any]
) -> None:
    model = built(task, fitted, preset)
    task.initialise(model, clips, task.split(clips))
    random = np.random.default_rng(0)
    waves = [random.standard_normal(n).astype(np.float32) for n in (400, 801, 1202, 2203, 3004, 3405, 4006, 5007)]
    batch = collate(waves)
    batch["wave"][torch.arange(batch["wave"].shape[1]) >= batch["length"][:, None]] = float("nan")
    with torch.no_grad():
        together = model(batch["wave"], batch["length"])
        alone = torch.cat([model(**collate([w])) for w in waves])
        turned = model(batch["wave"].flip(0), batch["length"].flip(0)).flip(0)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together, turned, atol=1e-4, rtol=1e-4)
    assert float(together.std(0).max()) > 1e-4


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_learn_one_batch(preset: str, task: Classify, clips: Clips, fitted: dict[str, Any]) -> None:
    model = built(task, fitted, preset)
    task.initialise(model, clips, task.split(clips))
    batch = ClipItems(clips, task.split(clips).parts["train"][:6]).batch(range(6))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    first = float(task.loss(model, batch)[0].detach())
    for _ in range(16):
        loss = task.loss(model, batch)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.8 * first


def test_the_small_network_is_exact_on_ragged_batches(task: Classify, fitted: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = SmallCNN(fitted, task.config).eval()
    waves = [np.random.default_rng(i).standard_normal(900 * (i + 1)).astype(np.float32) for i in range(4)]
    with torch.no_grad():
        together = model(**collate(waves))
        alone = torch.cat([model(**collate([w])) for w in waves])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_the_ablation_builds(task: Classify, fitted: dict[str, Any]) -> None:
    assert built(task, fitted, mixer="identity")(**collate([tone(300)])).shape == (1, 3)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"spanz": 2}, "did you mean 'spans'"), ({"pool": "maximum"}, "unknown pool"), ({"dropout": 2}, "model.dropout")],
)
def test_model_options_are_checked(change: dict[str, Any], says: str, task: Classify, fitted: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=says):
        built(task, fitted, **change)


def test_codes_count_what_is_nearest() -> None:
    stem = CodesStem(2, 4, codes=3)
    centres = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    stem.get_buffer("book_1").copy_(centres)
    x = torch.tensor(
        [[[0.1, 0.0], [4.0, 1.0], [5.0, 0.2], [0.0, 9.0]], [[0.0, 4.0], [9.0, 9.0], [9.0, 9.0], [9.0, 9.0]]]
    )
    mask = torch.tensor([[True] * 4, [True, False, False, False]])
    expected = torch.tensor([[0.25, 0.5, 0.25], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(stem.counts(x, mask, 1), expected)


def test_another_stem_is_refused(task: Classify, fitted: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="unknown stem of an audio task"):
        built(task, fitted, "swin_t")


def test_training_draws_differ_and_validation_does_not(task: Classify, clips: Clips, fitted: dict[str, Any]) -> None:
    split = task.split(clips)
    for part, same in (("train", False), ("val", True)):
        items = task.items(clips, split, fitted, part)
        a, b = items.batch([0])["wave"], items.batch([0])["wave"]
        assert (a.shape == b.shape and torch.equal(a, b)) is same


def test_batches_by_length_hold_every_item_once(clips: Clips) -> None:
    items = ClipItems(clips, np.arange(len(clips)))
    batches = list(items.by_length(20_000))
    assert sorted(i for b in batches for i in b) == list(range(len(clips)))
    assert all(max(len(clips.waves[i]) for i in b) * len(b) <= 20_000 for b in batches if len(b) > 1)


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
def test_a_long_recording_is_heard_in_windows(form: str, fitted: dict[str, Any], tmp_path: Path) -> None:
    task = Classify(ClassifyOptions.model_validate({"simulated": SMALL, "table": form, "chunk_s": 1.0}))
    model = built(task, fitted)
    x = np.concatenate([tone(300 * (i % 3 + 1), 1.0) for i in range(11)])
    write_wav(tmp_path / "long.wav", x, 8000)
    facts = task.predict(model, fitted, str(tmp_path / "long.wav"), Folder(tmp_path))
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet, "jsonl": lambda p: pd.read_json(p, lines=True)}[form]
    table = read(tmp_path / f"predictions.{form}")
    assert (facts["clips"], facts["windows"], facts["seconds"]) == (1, len(table), 11.0)
    assert table["start"].tolist() == pytest.approx(np.arange(len(table)) * 0.5)
    assert table["end"].max() == pytest.approx(11.0)
    shares = table[[c for c in table if c.startswith("p_")]].to_numpy()
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-4)
    with torch.no_grad():
        heard = read_samples(open_audio(tmp_path / "long.wav"), 4000, 12000)[:, 0]
        z = model(**collate([heard])) / model.temperature
    np.testing.assert_allclose(shares[1], z.softmax(1)[0].numpy(), atol=1e-4)
    events = pd.read_csv(tmp_path / "events.csv")
    assert events["start"].iloc[0] == 0
    assert events["end"].iloc[-1] == pytest.approx(11.0)
    assert facts["events"] == len(events)


def test_clips_are_predicted_whole_and_spans_as_asked(
    task: Classify, fitted: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    model = built(task, fitted)
    facts = task.predict(model, fitted, str(folder), Folder(tmp_path))
    assert (facts["clips"], facts["windows"], facts["output"]) == (12, 12, "predictions.csv")
    (folder / "list.csv").write_text("path,start,end\nlow/low_a_0.wav,0.1,0.2\n")
    task.predict(model, fitted, str(folder / "list.csv"), Folder(tmp_path))
    row = pd.read_csv(tmp_path / "predictions.csv").iloc[0]
    assert (row["start"], row["end"]) == pytest.approx((0.1, 0.2))


@pytest.mark.parametrize("seconds", [1.0, 9.0])
def test_recordings_that_cannot_be_heard(
    seconds: float, task: Classify, fitted: dict[str, Any], tmp_path: Path
) -> None:
    model = built(task, fitted)
    write_wav(tmp_path / "silent.wav", 0 * tone(300, seconds), 8000)
    with pytest.raises(BadInput, match=r"silent\.wav.*all silence"):
        task.predict(model, fitted, str(tmp_path / "silent.wav"), Folder(tmp_path))
    write_wav(tmp_path / "slow.wav", tone(300, seconds), 4000)
    with pytest.raises(BadInput, match="needs at least 8000"):
        task.predict(model, fitted, str(tmp_path / "slow.wav"), Folder(tmp_path))
