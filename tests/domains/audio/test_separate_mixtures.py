"""Mixtures: made by seeds, given by manifests, split by speaker, refused where they make no sense."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from domains.audio.data import write_wav
from domains.audio.mixtures import GivenItems, MadeItems, Maker, digest, overlap_share
from domains.audio.separate import Separate
from domains.audio.separate_config import MixOptions, SeparateOptions
from domains.audio.separate_source import Talk, items_of, open_talk, split_talk
from shared_backbones.errors import BadInput

from .conftest import tone
from .test_separate import SMALL, noise


@pytest.fixture(scope="module")
def options() -> SeparateOptions:
    return SeparateOptions.model_validate(SMALL)


@pytest.fixture(scope="module")
def talk(options: SeparateOptions) -> Talk:
    return open_talk("simulated", options)


def maker(talk: Talk, varied: bool = False, speakers: int = 2, **mix: Any) -> Maker:
    assert talk.clips is not None
    options = MixOptions.model_validate({"seconds": 1.0, **mix})
    return Maker(talk.clips, np.arange(len(talk.clips)), speakers, options, varied)


@pytest.mark.parametrize("speakers", [2, 3])
@pytest.mark.parametrize("varied", [False, True])
def test_a_mixture_is_the_sum_of_its_sources_at_the_levels_asked_for(talk: Talk, varied: bool, speakers: int) -> None:
    made = maker(talk, varied, speakers, gap_s=0.0, level_db=5.0)
    gaps = []
    for seed in range(12):
        wave, sources = made.draw(np.random.default_rng(seed))
        assert sources.shape == (speakers, 8000)
        np.testing.assert_allclose(wave, sources.sum(0), atol=1e-6)
        assert np.abs(wave).max() <= 0.9 + 1e-5
        level = 10 * np.log10((sources**2).mean(1))
        gaps.append(level[1:] - level[0])
    assert np.abs(gaps).max() <= 5 + 1e-3
    assert np.ptp(gaps) > 4


def test_one_seed_gives_one_mixture_and_training_never_gives_it_twice(talk: Talk) -> None:
    fixed = MadeItems(maker(talk), 3, (0, 2))
    assert digest(fixed) == digest(MadeItems(maker(talk), 3, (0, 2)))
    assert digest(fixed) != digest(MadeItems(maker(talk), 3, (1, 2)))
    fresh = MadeItems(maker(talk, varied=True), 3, None)
    torch.manual_seed(0)
    a, b = fresh.batch([0]), fresh.batch([0])
    assert not torch.equal(a["wave"], b["wave"])
    torch.manual_seed(0)
    assert torch.equal(a["wave"], fresh.batch([0])["wave"])


def test_twins_are_one_person_at_two_speeds(talk: Talk) -> None:
    made = maker(talk, varied=True, twins=1.0)
    for seed in range(20):
        who, speeds = made._voices(np.random.default_rng(seed))
        assert who[0] == who[1]
        assert abs(np.log(speeds[0] / speeds[1])) > 0.17
    who, speeds = maker(talk)._voices(np.random.default_rng(0))
    assert who[0] != who[1]
    assert speeds == [1.0, 1.0]


def test_overlap_is_measured(talk: Talk) -> None:
    both = overlap_share(MadeItems(maker(talk, gap_s=0.0), 4, (0,)))
    apart = overlap_share(MadeItems(maker(talk, gap_s=1.0), 4, (0,)))
    assert apart < both <= 1.0
    assert both > 0.7


def test_speakers_stay_whole(talk: Talk, options: SeparateOptions) -> None:
    split = split_talk(talk, options)
    assert talk.clips is not None
    heard = {p: {talk.clips.groups[i] for i in rows} for p, rows in split.parts.items()}
    assert not heard["test"] & (heard["train"] | heard["val"])
    assert not heard["val"] & heard["train"]
    assert len(heard["test"]) == len(heard["val"]) == 2
    assert len(split.facts["test_mixtures_sha256"]) == 64
    assert items_of(talk, split, options, "train").seed is None  # type: ignore[union-attr]


def test_few_speakers_are_validated_on_their_other_clips(options: SeparateOptions) -> None:
    few = options.model_copy(update={"simulated": {"speakers": 4, "takes": 4, "words": 2}})
    talk = open_talk("simulated", few)
    assert talk.clips is not None
    named = few.model_copy(update={"split": few.split.model_copy(update={"test": ("s1", "s2")})})
    split = split_talk(talk, named)
    assert {talk.clips.groups[i] for i in split.parts["test"]} == {"s1", "s2"}
    assert {talk.clips.groups[i] for i in split.parts["val"]} == {"s0", "s3"}
    val = items_of(talk, split, named, "val")
    assert isinstance(val, MadeItems)
    assert val.maker.varied
    assert not np.intersect1d(split.parts["val"], split.parts["train"]).size


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ({"test": ("nobody", "s1")}, "no speaker 'nobody'"),
        ({"test": ("s0", "s1"), "val": ("s1", "s2")}, "both name s1"),
        ({"test": ("s0",)}, "test part has 1 speaker"),
        ({"test": ("s0", "s1", "s2"), "val": ("s3", "s4", "s5")}, "leave none to train on"),
    ],
)
def test_splits_that_make_no_sense(split: dict[str, Any], says: str, talk: Talk, options: SeparateOptions) -> None:
    asked = options.model_copy(update={"split": options.split.model_copy(update=split)})
    with pytest.raises(BadInput, match=says):
        split_talk(talk, asked)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A manifest of five given mixtures."""
    lines = ["mixture,source_1,source_2,split"]
    for i in range(5):
        a, b = tone(300 + 50 * i, 0.5), noise(4000, i)
        for name, x in (("m", a + b), ("a", a), ("b", b)):
            write_wav(tmp_path / f"{name}{i}.wav", x, 8000)
        lines.append(f"m{i}.wav,a{i}.wav,b{i}.wav,{['train', 'train', 'train', 'val', 'test'][i]}")
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "rows.csv"


def test_given_mixtures_are_used_as_they_are(rows: Path, options: SeparateOptions) -> None:
    options = options.model_copy(update={"mix": MixOptions(seconds=0.1)})
    talk = open_talk(str(rows), options)
    split = split_talk(talk, options)
    assert {p: r.tolist() for p, r in split.parts.items()} == {"train": [0, 1, 2], "val": [3], "test": [4]}
    test = items_of(talk, split, options, "test")
    assert isinstance(test, GivenItems)
    wave, sources = test.one(0)
    np.testing.assert_allclose(wave, sources.sum(0), atol=1e-4)
    crop = items_of(talk, split, options, "train").batch([0, 1])
    assert crop["sources"].shape == (2, 2, 800)
    task = Separate(options)
    spoilt = task.poison(talk, split)
    assert not np.array_equal(spoilt.given[4].wave, talk.given[4].wave)
    np.testing.assert_array_equal(spoilt.given[0].wave, talk.given[0].wave)
    assert task.audit(talk, split)[1].passed
    assert {"mixture", "nmf", "ideal_ratio_mask"} == set(task.baselines(talk, split, {}))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("m0.wav,a0.wav,,train", r"row 7: no source_2"),
        ("m0.wav,a0.wav,none.wav,train", r"none\.wav: no such file"),
        ("m0.wav,a0.wav,short.wav,train", r"row 7: short\.wav lasts 0\.100 s and the mixture 0\.500 s"),
        ("silent.wav,a0.wav,b0.wav,train", r"row 7: the mixture silent\.wav is all silence"),
        ("m0.wav,silent.wav,silent.wav,train", r"row 7: every source is all silence"),
    ],
)
def test_manifests_of_mixtures_that_are_wrong(line: str, says: str, rows: Path, options: SeparateOptions) -> None:
    write_wav(rows.parent / "short.wav", tone(300, 0.1), 8000)
    write_wav(rows.parent / "silent.wav", 0 * tone(300, 0.5), 8000)
    rows.write_text(rows.read_text() + line + "\n")
    with pytest.raises(BadInput, match=says):
        open_talk(str(rows), options)


def test_single_speakers_by_folder(folder: Path, options: SeparateOptions) -> None:
    talk = open_talk(str(folder), options)
    assert talk.clips is not None
    assert set(talk.clips.groups) == {"low", "high"}
    three = options.model_copy(update={"speakers": 3})
    with pytest.raises(BadInput, match=r"2 speaker\(s\) \(high, low\), and a mixture takes 3"):
        open_talk(str(folder), three)
    write_wav(folder / "nobody.wav", tone(300), 8000)
    with pytest.raises(BadInput, match=r"nobody\.wav: no speaker"):
        open_talk(str(folder), options)


def test_a_rate_that_a_file_does_not_reach(rows: Path, options: SeparateOptions) -> None:
    with pytest.raises(BadInput, match="8000 samples per second, and 16000 are asked for"):
        open_talk(str(rows), options.model_copy(update={"rate": 16000}))


def test_public_mixtures_keep_speakers_apart(public_data: Path) -> None:
    options = SeparateOptions.model_validate({"mix": {"test": 3}})
    talk = open_talk("fsdd_mix", options)
    split = split_talk(talk, options)
    assert talk.clips is not None
    heard = {p: {talk.clips.groups[i] for i in rows} for p, rows in split.parts.items()}
    assert heard == {"train": {"george", "jackson"}, "val": {"george", "jackson"}, "test": {"theo", "yweweler"}}
    assert {p: len(r) for p, r in split.parts.items()} == {"train": 800, "val": 200, "test": 1000}
    assert all(a.passed for a in Separate(options).audit(talk, split))
    assert replace(split).digest == split_talk(talk, options).digest
