"""`audio/separate`: ragged batches, presets, chunks in one order, files of any length, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from domains.audio.data import open_audio, read_samples, write_wav
from domains.audio.mixtures import stacked
from domains.audio.separate import Separate
from domains.audio.separate_config import SeparateOptions
from domains.audio.separate_model import Separator, fourier_filters
from domains.audio.separate_predicting import WavWriter, cut, stitched
from domains.audio.separate_source import Talk
from shared_backbones.errors import BadInput, BadRequest
from shared_backbones.presets import adjust, load_preset, preset_names

from .conftest import tone
from .test_classify import Folder

PRESETS = [n for n in preset_names() if "audio/separate" in load_preset(n).tasks]
SMALL: dict[str, Any] = {
    "simulated": {"speakers": 6, "takes": 2, "words": 2},
    "mix": {"seconds": 0.5, "train": 4, "val": 2, "test": 3},
    "nmf": [4],
}


@pytest.fixture(scope="module")
def task() -> Separate:
    return Separate(SeparateOptions.model_validate(SMALL))


@pytest.fixture(scope="module")
def talk(task: Separate) -> Talk:
    return task.open("simulated")


@pytest.fixture(scope="module")
def fitted(task: Separate, talk: Talk) -> dict[str, Any]:
    return json.loads(json.dumps(task.fit(talk, task.split(talk))))


def built(task: Separate, fitted: dict[str, Any], preset: str = "audio_tas", **changes: Any) -> Separator:
    torch.manual_seed(0)
    return task.build(fitted, adjust(load_preset(preset), **changes)).eval()


def noise(n: int, seed: int = 0, level: float = 0.1) -> Any:
    return (level * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


@pytest.mark.parametrize(("width", "overlap"), [(8, 4), (64, 2), (256, 4)])
def test_the_first_filters_give_every_sample_back(width: int, overlap: int) -> None:
    there, back = fourier_filters(width, overlap)
    x, hop = torch.from_numpy(noise(8 * width)), width // overlap
    frames = x.unfold(0, width, hop) @ there.mT @ back
    y = torch.zeros(8 * width)
    for k, frame in enumerate(frames):
        y[k * hop : k * hop + width] += frame
    torch.testing.assert_close(y[width:-width], x[width:-width], atol=1e-5, rtol=1e-5)


def test_masks_that_share_add_up_to_the_mixture(task: Separate, fitted: dict[str, Any]) -> None:
    model = built(task, fitted, dim=8, depth=1)
    wave = torch.from_numpy(np.stack([noise(3000), noise(3000, 1)]))
    with torch.no_grad():
        found = model(wave, torch.tensor([3000, 1234]))
    torch.testing.assert_close(found[0].sum(0), wave[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[1, :, :1234].sum(0), wave[1, :1234], atol=1e-5, rtol=1e-4)
    assert not found[1, :, 1234:].any()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_batch_of_eight_is_eight_batches_of_one(preset: str, task: Separate, fitted: dict[str, Any]) -> None:
    model = built(task, fitted, preset)
    waves = [noise(n, n) for n in (5, 64, 401, 802, 1603, 2404, 3205, 4000)]
    batch = stacked([(w, np.zeros((2, len(w)), np.float32)) for w in waves])
    batch["wave"][torch.arange(batch["wave"].shape[1]) >= batch["length"][:, None]] = float("nan")
    with torch.no_grad():
        together = model(batch["wave"], batch["length"])
        for row, wave in zip(together, waves, strict=True):
            alone = model(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))[0]
            torch.testing.assert_close(row[:, : len(wave)], alone, atol=1e-4, rtol=1e-4)
    assert float((together[-1, 0] - together[-1, 1]).abs().max()) > 1e-3


@pytest.mark.parametrize(("preset", "mask"), [*((p, "share") for p in PRESETS), ("audio_tas", "complex")])
def test_presets_learn_one_batch(preset: str, mask: str, task: Separate, talk: Talk, fitted: dict[str, Any]) -> None:
    model = built(task, fitted, preset, mask=mask, dim=32)
    split = task.split(talk)
    task.initialise(model, talk, split)
    batch = task.items(talk, split, fitted, "val").batch([0])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    first = float(task.loss(model, batch)[0].detach())
    for _ in range(12):
        loss = task.loss(model, batch)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < first - 1.5


def test_the_ablation_builds_and_filters_may_start_at_random(task: Separate, fitted: dict[str, Any]) -> None:
    model = built(task, fitted, mixer="identity", start="random", dim=8)
    assert model(torch.zeros(1, 700), torch.tensor([700])).shape == (1, 2, 700)


@pytest.mark.parametrize(
    ("change", "says"), [({"maskk": "share"}, "did you mean 'mask'"), ({"window_ms": -1}, "model.window_ms")]
)
def test_model_options_are_checked(change: dict[str, Any], says: str, task: Separate, fitted: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=says):
        built(task, fitted, **change)


def test_another_stem_is_refused(task: Separate, fitted: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="unknown stem of audio/separate"):
        built(task, fitted, "swin_t")


# ---------------------------------------------------------------------------------------------- any length


@pytest.mark.parametrize("n", [20, 299, 300, 301, 1000, 1234])
@pytest.mark.parametrize(("size", "step"), [(300, 150), (300, 225)])
def test_chunks_come_back_in_one_order(n: int, size: int, step: int) -> None:
    sources = np.stack([noise(n), noise(n, 1), noise(n, 2)])
    random = np.random.default_rng(0)
    starts = iter(range(0, n, step))

    def shuffling(wave: Any) -> Any:
        first = next(starts)
        return sources[random.permutation(3)][:, first : first + len(wave)].copy()

    found = np.concatenate(list(stitched(cut(sources.sum(0), size, step), shuffling, step)), 1)
    assert found.shape == (3, n)
    order = [int(np.argmax([a @ b for b in sources])) for a in found]
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(found, sources[order], atol=1e-6)


def test_a_short_recording_is_what_the_model_says(task: Separate, fitted: dict[str, Any], tmp_path: Path) -> None:
    model = built(task, fitted, dim=8, depth=1)
    write_wav(tmp_path / "talk.wav", noise(3000), 8000)
    facts = task.predict(model, fitted, str(tmp_path / "talk.wav"), Folder(tmp_path))
    assert (facts["recordings"], facts["speakers"], facts["seconds"]) == (1, 2, 0.375)
    wave = read_samples(open_audio(tmp_path / "talk.wav"))[:, 0]
    with torch.no_grad():
        expected = model(torch.from_numpy(wave)[None], torch.tensor([3000]))[0].numpy()
    for s in range(2):
        written = read_samples(open_audio(tmp_path / f"talk_speaker{s + 1}.wav"))[:, 0]
        np.testing.assert_allclose(written, expected[s], atol=1 / 32768)


def test_a_long_recording_adds_up_again(fitted: dict[str, Any], tmp_path: Path) -> None:
    task = Separate(SeparateOptions.model_validate({**SMALL, "chunk_s": 0.2, "form": "float32", "overlap": 0.25}))
    model = built(task, fitted, dim=8, depth=1)
    write_wav(tmp_path / "long.wav", np.stack([noise(24001), noise(24001, 1)], 1), 12000)  # stereo, another rate
    facts = task.predict(model, fitted, str(tmp_path / "long.wav"), Folder(tmp_path))
    parts = [read_samples(open_audio(tmp_path / f"long_speaker{s}.wav"))[:, 0] for s in (1, 2)]
    assert facts["seconds"] == pytest.approx(24001 / 12000, abs=1e-3)
    from domains.audio.data import read_mono

    whole = read_mono(open_audio(tmp_path / "long.wav"), 8000, None)
    np.testing.assert_allclose(parts[0] + parts[1], whole, atol=1e-4)


def test_folders_spans_and_manifests_of_mixtures(task: Separate, fitted: dict[str, Any], tmp_path: Path) -> None:
    model = built(task, fitted, dim=8, depth=1)
    for folder in ("a", "b"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        write_wav(tmp_path / "in" / folder / "talk.wav", noise(2000), 8000)
    facts = task.predict(model, fitted, str(tmp_path / "in"), Folder(tmp_path))
    assert facts["recordings"] == 2
    assert (tmp_path / "talk_1_speaker2.wav").is_file()
    (tmp_path / "rows.csv").write_text("path,start,end\nin/a/talk.wav,0.05,0.15\n")
    assert task.predict(model, fitted, str(tmp_path / "rows.csv"), Folder(tmp_path))["seconds"] == 0.1
    (tmp_path / "rows.csv").write_text("path,start,end\nin/a/talk.wav,0.05,9\n")
    with pytest.raises(BadInput, match=r"row 2: 0.05 to 9 s"):
        task.predict(model, fitted, str(tmp_path / "rows.csv"), Folder(tmp_path))
    (tmp_path / "mixed.csv").write_text("mixture\nin/b/talk.wav\n")
    assert task.predict(model, fitted, str(tmp_path / "mixed.csv"), Folder(tmp_path))["recordings"] == 1


def test_recordings_that_cannot_be_heard(task: Separate, fitted: dict[str, Any], tmp_path: Path) -> None:
    model = built(task, fitted, dim=8, depth=1)
    write_wav(tmp_path / "silent.wav", 0 * tone(300, 9.0), 8000)
    with pytest.raises(BadInput, match=r"silent.*all silence"):
        task.predict(model, fitted, str(tmp_path / "silent.wav"), Folder(tmp_path))
    write_wav(tmp_path / "slow.wav", tone(300), 4000)
    with pytest.raises(BadInput, match="needs at least 8000"):
        task.predict(model, fitted, str(tmp_path / "slow.wav"), Folder(tmp_path))


@pytest.mark.parametrize("form", ["pcm16", "float32"])
def test_a_file_written_in_pieces(form: str, tmp_path: Path) -> None:
    x = noise(1000, level=0.4)
    with WavWriter(tmp_path / "x.wav", 8000, form) as file:
        for part in np.array_split(x, 7):
            file.write(part)
    read = open_audio(tmp_path / "x.wav")
    assert (read.length, read.rate, read.channels) == (1000, 8000, 1)
    expected = np.clip(x, -1, 32767 / 32768) if form == "pcm16" else x
    np.testing.assert_allclose(read_samples(read)[:, 0], expected, atol=1 / 32768 if form == "pcm16" else 0)
    assert file.clipped == (int((np.abs(x) > 1).sum()) if form == "pcm16" else 0)


def test_a_file_that_wav_cannot_hold(tmp_path: Path) -> None:
    with WavWriter(tmp_path / "x.wav", 8000, "pcm16") as file:
        file.samples = 2**31
        with pytest.raises(BadInput, match="4 GB"):
            file.write(noise(2))
        file.samples = 0


def test_options_are_checked() -> None:
    for wrong in ({"speakers": 1}, {"overlap": 0.6}, {"mix": {"seconds": 0.01}}):
        with pytest.raises(ValidationError):
            SeparateOptions.model_validate(wrong)


def test_sounds_for_the_report(task: Separate, talk: Talk, fitted: dict[str, Any], tmp_path: Path) -> None:
    model, split = built(task, fitted, dim=8, depth=1), task.split(talk)
    scored = {"model": task.evidence(model, talk, split, fitted, "test")}
    sounds = task.sounds(model, talk, split, fitted, scored)
    assert len(sounds) == 3
    for content in sounds.values():
        (tmp_path / "x.wav").write_bytes(content)
        assert open_audio(tmp_path / "x.wav").length == 4000
