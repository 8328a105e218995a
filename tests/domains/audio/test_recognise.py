"""`audio/recognise`: ragged batches, presets, the list before training, refusals, recordings of any length."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from domains.audio.clips import Clips
from domains.audio.data import write_wav
from domains.audio.items import collate
from domains.audio.recognise import Recognise
from domains.audio.recognise_config import RecogniseOptions
from domains.audio.recognise_items import needed
from domains.audio.utterances import hours
from domains.task import Split
from shared_backbones.errors import BadInput, BadRequest
from shared_backbones.presets import adjust, load_preset, preset_names

from .conftest import tone
from .test_classify import Folder

PRESETS = [n for n in preset_names() if "audio/recognise" in load_preset(n).tasks]
SMALL = {"speakers": 4, "strings": 5, "words": 3, "longest": 2}


def made(**options: Any) -> Recognise:
    return Recognise(RecogniseOptions.model_validate({"simulated": SMALL, "templates": 1, **options}))


@pytest.fixture(scope="module")
def task() -> Recognise:
    return made()


@pytest.fixture(scope="module")
def data(task: Recognise) -> Clips:
    return task.open("simulated")


@pytest.fixture(scope="module")
def fitted(task: Recognise, data: Clips) -> dict[str, Any]:
    return json.loads(json.dumps(task.fit(data, task.split(data))))


def built(task: Recognise, fitted: dict[str, Any], preset: str = "speech_squeezeformer", **changes: Any) -> Any:
    torch.manual_seed(0)
    return task.build(fitted, adjust(load_preset(preset), **changes)).eval()


def learn(task: Recognise, model: Any, batch: Any, steps: int) -> None:
    """Steps on one batch, in evaluation mode."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        loss, _ = task.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_batch_of_eight_is_eight_batches_of_one(preset: str, task: Recognise, fitted: dict[str, Any]) -> None:
    model = built(task, fitted, preset)
    random = np.random.default_rng(0)
    waves = [random.standard_normal(n).astype(np.float32) for n in (400, 801, 1202, 2203, 3004, 3405, 4006, 5007)]
    batch = collate(waves)
    batch["wave"][torch.arange(batch["wave"].shape[1]) >= batch["length"][:, None]] = float("nan")
    with torch.no_grad():
        together, count = model(batch["wave"], batch["length"])
        for w, row, n in zip(waves, together, count.tolist(), strict=True):
            alone, own = model(**collate([w]))
            assert n == int(own[0]) == model.tokens_of(len(w)) == alone.shape[1]
            torch.testing.assert_close(row[:n], alone[0], atol=1e-4, rtol=1e-4)
    assert float(together.std()) > 1e-4


def test_the_streaming_preset_hears_nothing_of_what_comes(fitted: dict[str, Any]) -> None:
    model = built(made(front_end={"level": "none"}), fitted, "speech_lmu")
    x = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    cut = 5000
    with torch.no_grad():
        whole = model(**collate([x]))[0][0]
        part = model(**collate([x[:cut]]))[0][0]
    known = (cut - model.front_end.fft // 2) // model.step - 1  # tokens whose frames lie before the cut
    torch.testing.assert_close(whole[:known], part[:known], atol=1e-4, rtol=1e-4)


def test_the_ablation_builds(task: Recognise, fitted: dict[str, Any]) -> None:
    assert built(task, fitted, mixer="identity")(**collate([tone(300)]))[0].shape[2] == len(fitted["symbols"]) + 1


@pytest.mark.parametrize(("change", "says"), [({"pool": "mean"}, "model option"), ({"dropout": 2}, "model.dropout")])
def test_model_options_are_checked(change: dict[str, Any], says: str, task: Recognise, fitted: Any) -> None:
    with pytest.raises(BadRequest, match=says):
        built(task, fitted, **change)


def test_utterances_without_enough_tokens_weigh_nothing(task: Recognise, data: Clips, fitted: Any) -> None:
    model = built(task, fitted)
    split = task.split(data)
    batch = dict(task.items(data, split, fitted, "val").batch([0, 1]))
    assert needed(torch.tensor([[1, 1, 2, 0]]), torch.tensor([3])).tolist() == [4]
    with torch.no_grad():
        whole, weight = task.loss(model, batch)
        batch["length"] = torch.tensor([int(batch["length"][0]), 100])
        one, less = task.loss(model, batch)
        batch["length"] = torch.tensor([100, 100])
        none, nothing = task.loss(model, batch)
    assert bool(torch.isfinite(whole))
    assert bool(torch.isfinite(one))
    assert float(less) == float(batch["label_length"][0]) < float(weight)
    assert (float(none), float(nothing)) == (0.0, 0.0)


def test_one_batch_is_learned_by_heart(data: Clips) -> None:
    task = made(unit="words")
    split = task.split(data)
    fitted = task.fit(data, split)
    model = built(task, fitted, "speech_lmu", dim=32, depth=2)
    few = Split("few", {**split.parts, "val": split.parts["train"][:4], "test": split.parts["train"][:4]})
    batch = task.items(data, few, fitted, "val").batch(range(4))
    learn(task, model, batch, 80)
    found = task.metrics(task.evidence(model, data, few, fitted, "test"))
    assert found["wer"] == 0.0
    assert 0 < found["blank_rate"] < 1
    assert found["wer_greedy"] == found["wer"]


def manifest(folder: Path, rows: list[dict[str, Any]]) -> str:
    for i, row in enumerate(rows):
        row.setdefault("path", f"{i}.wav")
        if not (folder / row["path"]).exists():
            write_wav(folder / row["path"], tone(300 + 50 * i, 1.0), 8000)
    path = folder / "list.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


SAID = [{"text": t, "speaker": s} for s in "abcdef" for t in ("one two", "two one", "one")]


def test_what_cannot_be_learned_is_listed(tmp_path: Path) -> None:
    rows = [*SAID, {"text": " - ", "speaker": "a"}, {"text": "three three", "speaker": "b", "end": 0.02}]
    source = manifest(tmp_path, [dict(r) for r in rows])
    with pytest.raises(BadInput, match=r"line 19: empty transcript.*preflight=skip"):
        made().open(source)
    task = made(preflight="skip", split={"test": ["f"], "val": ["e"]})
    data = task.open(source)
    assert len(data) == 19
    assert data.manifest.facts["skipped"] == [f"{source}, line 19: empty transcript"]
    split = task.split(data)
    fitted = task.fit(data, split)
    model = built(task, fitted)
    task.initialise(model, data, split)
    with pytest.raises(BadInput, match=r"19\.wav: too few frames.*needs .* tokens|19\.wav: too few frames"):
        made(split={"test": ["f"], "val": ["e"]}).initialise(model, data, split)


@pytest.mark.parametrize(
    ("row", "options", "says"),
    [
        ({"text": "three", "speaker": "a"}, {"symbols": "netow "}, r"18\.wav: unknown symbols \(\['h', 'r'\]"),
        ({"text": "one", "speaker": "a"}, {"symbols": "netowq "}, r"no training transcript holds \['q'\]"),
        ({"text": "one", "start": 0.5, "end": 0.2}, {}, "line 19: the segment goes from 0.5 s to 0.2 s"),
        ({"text": "one", "start": -1}, {}, "times are 0 or later"),
        ({"text": "one", "speaker": "a"}, {"symbols": "one", "unit": "words"}, "cannot go with unit=words"),
    ],
)
def test_bad_transcripts_are_refused(row: dict[str, Any], options: Any, says: str, tmp_path: Path) -> None:
    source = manifest(tmp_path, [dict(r) for r in [*SAID, row]])
    task = made(**options, split={"test": ["f"], "val": ["e"]})

    def fit() -> None:
        data = task.open(source)
        task.fit(data, task.split(data))

    with pytest.raises(BadInput, match=says):
        fit()


def test_recordings_without_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="columns path and text"):
        made().open(manifest(tmp_path, [{"label": "a"}, {"label": "b"}]))


def test_symbols_unknown_to_training_are_errors_and_not_dropped(tmp_path: Path) -> None:
    source = manifest(tmp_path, [*(dict(r) for r in SAID), {"text": "zebra", "speaker": "f"}])
    task = made(split={"test": ["f"], "val": ["e"]})
    data = task.open(source)
    split = task.split(data)
    fitted = task.fit(data, split)
    assert len(split.parts["test"]) == 4
    assert len(task.items(data, split, fitted, "test")) == 4
    assert task.evidence(built(task, fitted), data, split, fitted, "test").sum("words") == 6


@pytest.mark.parametrize("decoder", ["greedy", "beam"])
def test_a_long_recording_is_stitched_from_windows(
    decoder: str, task: Recognise, data: Clips, fitted: Any, tmp_path: Path
) -> None:
    options = {"decoder": decoder, "front_end": {"level": "none"}, "chunk_s": 1.0, "margin_s": 0.5, "pause_s": 0.2}
    local = adjust(load_preset("speech_lmu"), mixer="identity", dim=32, depth=2)  # hears less around than the margin
    torch.manual_seed(0)
    long = made(**options, whole_s=2.0)
    model = long.build(fitted, local).eval()
    whole = made(**options, whole_s=100.0)
    x = np.concatenate([w for w, _ in hours(9.0, SMALL, task.config.join)])
    write_wav(tmp_path / "long.wav", x, 8000)
    batch = task.items(data, task.split(data), fitted, "train").batch(range(12))
    learn(long, model, batch, 40)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    facts = long.predict(model, fitted, str(tmp_path / "long.wav"), Folder(tmp_path / "a"))
    whole.predict(model, fitted, str(tmp_path / "long.wav"), Folder(tmp_path / "b"))
    assert facts["windows"] >= 8
    assert facts["seconds"] == pytest.approx(len(x) / 8000, abs=0.01)
    stitched, at_once = (pd.read_csv(tmp_path / f / "words.csv") for f in "ab")
    said = pd.read_csv(tmp_path / "a" / "predictions.csv", keep_default_na=False)
    assert facts["words"] == len(stitched)
    assert facts["utterances"] == len(said[said["text"] != ""])
    content, follower = (tmp_path / "long.wav").read_bytes(), long.follow(model, fitted)
    rows = [row for i in range(0, len(content), 7001) for row in follower.push(content[i : i + 7001])]
    assert len(rows) >= len(said) - 4  # those of the last window are not told yet
    assert [row["text"] for row in rows] == said["text"].astype(str).tolist()[: len(rows)]
    assert [row["start"] for row in rows] == pytest.approx(said["start"].tolist()[: len(rows)])
    if decoder == "greedy":
        together = "".join(at_once["word"].astype(str))
        assert "".join(stitched["word"].astype(str)) == together


def test_recordings_that_cannot_be_heard(task: Recognise, fitted: Any, tmp_path: Path) -> None:
    model = built(task, fitted)
    for seconds in (1.0, 30.0):
        write_wav(tmp_path / "silent.wav", 0 * tone(300, seconds), 8000)
        with pytest.raises(BadInput, match=r"silent\.wav.*all silence"):
            task.predict(model, fitted, str(tmp_path / "silent.wav"), Folder(tmp_path))
    beam = made(decoder="beam", lm=str(tmp_path / "gone.arpa"))
    with pytest.raises(BadInput, match="no such language model"):
        beam.predict(model, fitted, "simulated", Folder(tmp_path))


def test_what_the_symbols_cannot_spell_has_a_loss_outside_of_training_as_far_as_they_go() -> None:
    task = made()
    data = task.open("simulated")
    split = task.split(data)
    fitted = task.fit(data, split)
    texts = list(data.texts)
    first, second = (int(i) for i in split.parts["test"][:2])
    texts[first], texts[second] = f"\u017e{texts[first]}", "\u017e"
    texts[int(split.parts["train"][0])] = "\u017e"
    strange = replace(data, texts=tuple(texts))
    assert len(task.items(strange, split, fitted, "train")) == len(split.parts["train"]) - 1
    items = task.items(strange, split, fitted, "test")
    assert len(items) == len(split.parts["test"])
    batch, plain = items.batch([0, 1]), task.items(data, split, fitted, "test").batch([0, 1])
    assert torch.equal(batch["labels"][0], plain["labels"][0][: batch["labels"].shape[1]])
    assert batch["label_length"].tolist() == [int(plain["label_length"][0]), 0]
    loss, weight = task.loss(built(task, fitted), batch)
    assert torch.isfinite(loss)
    assert int(weight) == int(plain["label_length"][0])
    assert float(task.loss(built(task, fitted), items.batch([1]))[1]) == 0.0
    scored = {"model": task.evidence(built(task, fitted), strange, split, fitted, "test")}
    assert task.figures(built(task, fitted), strange, split, fitted, scored)


@pytest.mark.data
def test_real_sentences_are_read_spelt_and_counted(public_data: Path) -> None:
    if not (public_data / "audio" / "speechbrain_samples").is_dir():
        pytest.skip("speechbrain_samples is not in CAMBIUM_DATA")
    task = made(split={"protocol": "given"}, templates=0)
    data = task.open("speechbrain_samples")
    split = task.split(data)
    assert (len(data), len(split.parts["test"])) == (10, 2)
    assert "the child almost hurt the small dog" in data.texts
    fitted = task.fit(data, split)
    assert set("".join(fitted["symbols"])) <= set(" abcdefghijklmnopqrstuvwxyz'")
    model = built(task, fitted)
    task.initialise(model, data, split)
    found = task.metrics(task.evidence(model, data, split, fitted, "test"))
    assert found["wer"] > 0
    assert task.metrics(task.baselines(data, split, fitted)["nothing"])["wer"] == 1.0
    assert len(task.items(data, split, fitted, "test")) == 2


@pytest.mark.data
def test_strings_of_the_test_speaker_are_heard_by_nobody_before(public_data: Path) -> None:
    if not (public_data / "audio" / "fsdd").is_dir():
        pytest.skip("FSDD is not in CAMBIUM_DATA")
    task = made(digits={"strings": 4, "held": 3}, split={"test": ["theo"]})
    data = task.open("connected_digits")
    split = task.split(data)
    assert {data.groups[i] for i in split.parts["test"]} == {"theo"}
    assert len(split.parts["test"]) == 7
    assert {data.parts[i] for i in split.parts["val"]} == {"val"}
    assert {data.groups[i] for i in split.parts["train"]} == {"george", "jackson", "yweweler"}
    assert all(a.passed is not False for a in task.audit(data, split))
