"""Recordings, manifests, splits: what is read, what is refused, what cannot leak."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import wavfile

from domains.audio.classify import Classify
from domains.audio.clips import Clips, clipped
from domains.audio.config import AudioSplitOptions, ClassifyOptions
from domains.audio.ctc import preflight
from domains.audio.data import chunks, content_hash, open_audio, read_mono, read_samples, resampled, write_wav
from domains.audio.source import open_clips
from domains.audio.splits import audit_split, make_split
from domains.audio.text import Alphabet, normalised
from domains.task import Manifest
from shared_backbones.errors import BadInput, BadRequest

from .conftest import tone


def opened(source: Path, **options: object) -> Clips:
    return open_clips(str(source), ClassifyOptions.model_validate(options))


@pytest.mark.parametrize("kind", ["<i2", "<i4", "u1", "<f4", "<f8"])
def test_samples_are_those_that_scipy_reads(kind: str, tmp_path: Path) -> None:
    x = np.stack([tone(440), tone(600)], 1)
    stored = {
        "<i2": (x * 32767).astype("<i2"),
        "<i4": (x * (2**31 - 1)).astype("<i4"),
        "u1": (x * 127 + 128).astype("u1"),
        "<f4": x.astype("<f4"),
        "<f8": x.astype("<f8"),
    }[kind]
    wavfile.write(tmp_path / "x.wav", 8000, stored)
    file = open_audio(tmp_path / "x.wav")
    assert (file.rate, file.channels, file.length) == (8000, 2, len(x))
    scale = {"<i2": 2.0**15, "<i4": 2.0**31, "u1": 128.0}.get(kind, 1.0)
    expected = (stored.astype(np.float64) - (128 if kind == "u1" else 0)) / scale
    np.testing.assert_allclose(read_samples(file), expected, atol=1e-7)
    np.testing.assert_array_equal(read_samples(file, 10, 90), read_samples(file)[10:90])


def test_twenty_four_bits(tmp_path: Path) -> None:
    values = np.array([0, 1, -1, 2**23 - 1, -(2**23), 12345, -54321])
    raw = b"".join(int(v).to_bytes(3, "little", signed=True) for v in values)
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(raw), b"WAVE", b"fmt ", 16, 1, 1, 8000, 24000, 3, 24,
                       b"data", len(raw))  # fmt: skip
    (tmp_path / "x.wav").write_bytes(head + raw)
    np.testing.assert_allclose(read_samples(open_audio(tmp_path / "x.wav"))[:, 0], values / 2**23, atol=1e-8)


@pytest.mark.parametrize("rates", [(16000, 8000), (11025, 8000), (8000, 8000), (44100, 16000)])
def test_pieces_of_a_recording_are_those_of_the_whole(rates: tuple[int, int], tmp_path: Path) -> None:
    rate, to = rates
    x = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * rate)
    write_wav(tmp_path / "x.wav", x, rate)
    file = open_audio(tmp_path / "x.wav")
    whole = read_mono(file, to, None)
    covered = 0
    for first, piece in chunks(file, to, None, to // 2, to // 4):
        np.testing.assert_allclose(piece, whole[first : first + to // 2], atol=1e-6)
        assert first <= covered
        covered = first + len(piece)
    assert covered == len(whole)


def test_resampling_keeps_a_tone() -> None:
    y = resampled(tone(440, 1.0, 16000), 16000, 8000)
    np.testing.assert_allclose(y[400:-400], tone(440, 1.0, 8000)[400:-400], atol=2e-3)


@pytest.mark.parametrize(("kind", "error"), [("flac", 1e-4), ("ogg", 0.05), ("mp3", 0.05)])
def test_other_codecs_are_read_where_soundfile_is(kind: str, error: float, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile", reason="flac, ogg and mp3 need soundfile")
    x = tone(440, 20.0, 16000)
    soundfile.write(tmp_path / f"x.{kind}", x, 16000)
    file = open_audio(tmp_path / f"x.{kind}")
    whole = read_samples(file)
    np.testing.assert_allclose(whole[: len(x), 0], x, atol=error)
    np.testing.assert_allclose(read_samples(file, 90_000, 120_000), whole[90_000:120_000], atol=1e-6)
    mixed = read_mono(file, 8000, None)
    for first, piece in chunks(file, 8000, None, 16000, 8000):
        np.testing.assert_allclose(piece, mixed[first : first + 16000], atol=1e-5)
    (tmp_path / f"junk.{kind}").write_bytes(b"no sound at all here")
    with pytest.raises(BadInput, match="not audio that can be read"):
        open_audio(tmp_path / f"junk.{kind}")
    raw = (tmp_path / f"x.{kind}").read_bytes()
    (tmp_path / f"cut.{kind}").write_bytes(raw[: len(raw) * 2 // 3])
    with pytest.raises(BadInput, match=r"truncated|decoded|not audio"):
        read_samples(open_audio(tmp_path / f"cut.{kind}"))


def test_a_folder_per_class_and_its_card(folder: Path) -> None:
    data = opened(folder)
    assert data.classes == ("high", "low")
    facts = data.manifest.facts
    assert (facts["clips"], facts["rate"], facts["duplicates"]) == (12, 8000, 0)
    assert facts["hours"] == pytest.approx(12 * 0.3 / 3600, abs=1e-4)
    assert facts["labels"] == {"high": 6, "low": 6}
    write_wav(folder / "low" / "again.wav", tone(300), 8000)
    assert opened(folder).manifest.facts["duplicates"] == 1
    assert opened(folder).manifest.sha256 != data.manifest.sha256


def test_rates_and_channels_are_brought_together(folder: Path) -> None:
    write_wav(folder / "low" / "stereo.wav", np.stack([tone(300, rate=16000), 0 * tone(300, rate=16000)], 1), 16000)
    data = opened(folder)
    mixed = data.waves[data.names.index("stereo.wav")]
    assert (data.rate, len(mixed)) == (8000, 2400)
    assert np.abs(mixed).max() == pytest.approx(0.15, abs=0.01)
    assert data.manifest.facts["rates_of_files"] == {8000: 12, 16000: 1}
    with pytest.raises(BadInput, match="8000 samples per second, and the model needs 16000"):
        opened(folder, rate=16000)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_manifests(folder: Path, form: str) -> None:
    rows = [
        {
            "path": f"low/low_{'abc'[i % 3]}_{i}.wav",
            "start": 0.05,
            "end": 0.2,
            "label": "x" if i % 2 else "y",
            "speaker": i,
        }
        for i in range(6)
    ]
    path = folder / f"list.{form}"
    if form == "csv":
        path.write_text("\n".join([",".join(rows[0]), *(",".join(map(str, r.values())) for r in rows)]))
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    data = opened(path)
    assert data.groups == tuple("012345")
    assert {len(w) for w in data.waves} == {1200}


def test_what_file_names_say(folder: Path) -> None:
    data = opened(folder, name_pattern=r"_(?P<speaker>[abc])_")
    assert set(data.groups) == {"a", "b", "c"}
    split = make_split(data, ClassifyOptions(split={"test": ["b"]}).split)
    assert {data.groups[i] for i in split.parts["test"]} == {"b"}
    with pytest.raises(BadInput, match="does not match name_pattern"):
        opened(folder, name_pattern=r"_(?P<speaker>[xyz])_")
    with pytest.raises(ValueError, match="groups named"):
        ClassifyOptions(name_pattern="abc")


def _broken(kind: str, path: Path) -> None:
    x = tone(300)
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "no audio":
        path.write_bytes(b"this is no sound at all, only words")
    elif kind == "header only":
        path.write_bytes(b"RIFF\x00\x00\x00\x00WAVEfmt ")
    elif kind == "truncated":
        write_wav(path, x, 8000)
        path.write_bytes(path.read_bytes()[:-1000])
    elif kind == "NaN":
        x[7] = np.nan
        wavfile.write(path, 8000, x)
    elif kind == "silence":
        write_wav(path, 0 * x, 8000)
    elif kind == "no samples":
        write_wav(path, x[:0], 8000)
    elif kind == "codec":
        write_wav(path, x, 8000)
        raw = bytearray(path.read_bytes())
        raw[20:22] = struct.pack("<H", 6)  # A-law
        path.write_bytes(raw)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("empty", "empty"),
        ("no audio", "not a WAV file"),
        ("header only", "truncated"),
        ("truncated", "truncated"),
        ("NaN", "sample 7 is no number"),
        ("silence", "all silence"),
        ("no samples", "no samples"),
        ("codec", "unknown WAV codec: format 6"),
    ],
)
def test_files_that_are_refused(folder: Path, kind: str, says: str) -> None:
    _broken(kind, folder / "low" / "bad.wav")
    with pytest.raises(BadInput, match=says) as error:
        opened(folder)
    assert "bad.wav" in str(error.value)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("low/low_a_0.wav,0.2,0.1,x", "segment goes from 0.2 s to 0.1 s"),
        ("low/low_a_0.wav,-1,0.1,x", "segment goes from -1 s"),
        ("low/low_a_0.wav,0,9,x", "0.300 s long"),
        ("low/low_a_0.wav,zero,1,x", "start must be seconds"),
        ("low/low_a_0.wav,0,nan,x", "end must be seconds"),
        (",0,1,x", "no path"),
        ("low/low_a_0.wav,0,0.1,", "no label"),
        ("low/gone.wav,0,0.1,x", "no such file"),
        ("low/low_a_0.wav,0,0.1", "another number of cells"),
    ],
)
def test_rows_that_are_refused(folder: Path, row: str, says: str) -> None:
    (folder / "list.csv").write_text(f"path,start,end,label\nlow/low_b_1.wav,0,0.1,y\n{row}\n")
    with pytest.raises(BadInput, match=says) as error:
        opened(folder / "list.csv")
    assert "row 3" in str(error.value) or "gone.wav" in str(error.value)


def test_lines_that_are_refused(folder: Path) -> None:
    (folder / "list.jsonl").write_text('{"path": "low/low_a_0.wav"}\n{broken\n')
    with pytest.raises(BadInput, match="line 2: not JSON"):
        opened(folder / "list.jsonl")
    (folder / "list.jsonl").write_text("[1]\n")
    with pytest.raises(BadInput, match="line 1: every line is one object"):
        opened(folder / "list.jsonl")


def test_sources_that_are_refused(tmp_path: Path) -> None:
    for source, says in ((tmp_path / "gone", "no such file"), (tmp_path, "no audio file"), ("fsd", "did you mean")):
        with pytest.raises(BadInput, match=says):
            open_clips(str(source), ClassifyOptions())
    with pytest.raises(BadRequest, match=r"simulated\.speakers must be"):
        open_clips("simulated", ClassifyOptions(simulated={"speakers": 1}))


def test_silence_may_be_left_out(folder: Path) -> None:
    _broken("silence", folder / "low" / "bad.wav")
    assert len(opened(folder, silence="drop")) == 12


def test_a_class_that_training_never_hears(folder: Path) -> None:
    for p in (folder / "low").glob("low_[ab]_*"):
        p.unlink()
    task = Classify(ClassifyOptions(name_pattern=r"_(?P<speaker>[abc])_", split={"test": ["c"]}))
    data = task.open(str(folder))
    with pytest.raises(BadInput, match="no training clip of class low"):
        task.fit(data, task.split(data))


def test_clipping_is_found() -> None:
    assert clipped(np.array([0, 1, 1, 1, 0], np.float32))
    assert not clipped(np.array([0, 1, 0, 1, 1, 0], np.float32))
    assert not clipped(np.array([1, 1], np.float32))


def test_the_same_sound_has_the_same_hash() -> None:
    assert content_hash(tone(300)) == content_hash(tone(300).copy())
    assert content_hash(tone(300)) != content_hash(tone(301))


def made(groups: list[str]) -> Clips:
    """Four clips of one sample each, two of either class, by every group."""
    n = 4 * len(groups)
    waves = tuple(np.full(1, i / n, np.float32) for i in range(n))
    return Clips(
        Manifest("made", "0"), 8000, waves, tuple(f"{i}.wav" for i in range(n)), np.arange(n) % 2, ("a", "b"),
        (None,) * n, tuple(g for g in groups for _ in range(4)), ("",) * n, tuple(map(content_hash, waves)),
    )  # fmt: skip


@given(seed=st.integers(0, 20), speakers=st.integers(3, 9), test=st.integers(0, 2))
def test_no_speaker_is_on_both_sides(seed: int, speakers: int, test: int) -> None:
    data = made([f"s{i}" for i in range(speakers)])
    options = AudioSplitOptions(seed=seed, test=(f"s{test}",) if test else ())
    split = make_split(data, options)
    sides = {p: {data.groups[i] for i in rows} for p, rows in split.parts.items()}
    assert not sides["test"] & (sides["train"] | sides["val"])
    if test:
        assert sides["test"] == {f"s{test}"}
    if speakers >= 6:
        assert not sides["val"] & sides["train"]
    assert sorted(np.concatenate(list(split.parts.values()))) == list(range(len(data)))
    assert all(a.passed for a in audit_split(data, split))
    assert make_split(data, options).digest == split.digest


def test_groups_that_cannot_be_split() -> None:
    with pytest.raises(BadInput, match="both name s1"):
        make_split(made(["s0", "s1", "s2"]), AudioSplitOptions(test=("s1",), val=("s1",)))
    with pytest.raises(BadInput, match="all clips are of group 'one'"):
        make_split(made(["one"]), AudioSplitOptions(protocol="groups"))
    with pytest.raises(BadInput, match="has no speaker or source"):
        make_split(made(["one", ""]), AudioSplitOptions(protocol="groups"))


def test_a_split_that_leaks_is_said(clips: Clips) -> None:
    split = make_split(clips, ClassifyOptions(split={"protocol": "clips"}).split)
    assert not next(a for a in audit_split(clips, split) if a.name == "groups_on_both_sides").passed
    with pytest.raises(BadInput, match="no group 'nobody'"):
        make_split(clips, ClassifyOptions(split={"test": ["nobody"]}).split)


@pytest.mark.data
def test_fsdd_is_read_in_place(public_data: Path) -> None:
    if not (public_data / "audio" / "fsdd").is_dir():
        pytest.skip("fsdd is not in CAMBIUM_DATA")
    task = Classify(ClassifyOptions(split={"test": ["theo"]}))
    data = task.open("fsdd")
    assert (len(data), data.rate, data.classes) == (2000, 8000, tuple("0123456789"))
    assert data.manifest.facts["hours"] == pytest.approx(850.6 / 3600, abs=1e-4)
    split = task.split(data)
    assert [len(split.parts[p]) for p in ("train", "val", "test")] == [1310, 190, 500]
    official = make_split(data, ClassifyOptions(split={"protocol": "given"}).split)
    assert len(official.parts["test"]) == 200
    assert "NOT disjoint" in official.protocol


@pytest.mark.data
def test_the_annotated_sentences_are_read(public_data: Path) -> None:
    if not (public_data / "audio" / "speechbrain_samples").is_dir():
        pytest.skip("speechbrain_samples is not in CAMBIUM_DATA")
    data = open_clips("speechbrain_samples", ClassifyOptions(), needs="text")
    assert (len(data), data.rate, set(data.groups)) == (10, 16000, {"spk1", "spk2"})
    texts = [normalised(t or "") for t in data.texts]
    assert "the child almost hurt the small dog" in texts
    alphabet = Alphabet.of(texts)
    assert [alphabet.decode(alphabet.encode(t)) for t in texts] == texts
    assert not preflight(data.names, texts, [1 + len(w) // 320 for w in data.waves], alphabet)
    with pytest.raises(BadInput, match="no label, as 10 of 10 clips"):
        open_clips("speechbrain_samples", ClassifyOptions())


def test_a_label_without_an_example_is_refused(folder: Path) -> None:
    task = Classify(ClassifyOptions())
    (folder / "none").mkdir()
    with pytest.raises(BadInput, match="label 'none' has no example"):
        task.open(str(folder))


def test_noise_is_part_of_the_data(folder: Path) -> None:
    plain = Classify(ClassifyOptions()).open(str(folder))
    task = Classify(ClassifyOptions.model_validate({"augment": {"noise": str(folder / "low")}}))
    noisy = task.open(str(folder))
    assert noisy.manifest.facts["noise"]["recordings"] == len(noisy.noises) == 6
    assert noisy.manifest.sha256 != plain.manifest.sha256
    items = task.items(noisy, task.split(noisy), {}, "train")
    quiet = Classify(ClassifyOptions()).items(plain, task.split(plain), {}, "train")
    torch.manual_seed(0)
    found = items.batch(range(3))["wave"]
    torch.manual_seed(0)
    assert not torch.equal(found, quiet.batch(range(3))["wave"])
    with pytest.raises(BadInput, match="nowhere"):
        Classify(ClassifyOptions.model_validate({"augment": {"noise": "nowhere"}})).open(str(folder))
