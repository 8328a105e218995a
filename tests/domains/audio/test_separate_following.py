"""Separation of a recording that grows writes, sample by sample, what separation of the whole one writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from domains.audio.data import open_audio, read_samples, write_wav
from domains.audio.separate import Separate
from domains.audio.separate_config import SeparateOptions

from .test_classify import Folder
from .test_separate import built, noise

FITTED: dict[str, Any] = {"rate": 8000, "speakers": 2}


@pytest.mark.parametrize("n", [1500, 2000, 2001, 3000, 7777])
def test_a_growing_recording_is_the_whole_one(n: int, tmp_path: Path) -> None:
    task = Separate(SeparateOptions(chunk_s=0.25, overlap=0.5))
    model = built(task, FITTED, dim=8, depth=1)
    write_wav(tmp_path / "talk.wav", noise(n), 8000)
    task.predict(model, FITTED, str(tmp_path / "talk.wav"), Folder(tmp_path))
    content, follower = (tmp_path / "talk.wav").read_bytes(), task.follow(model, FITTED)
    rows: list[Any] = []
    with follower.into(tmp_path):
        for i in range(0, len(content), 901):
            rows += follower.push(content[i : i + 901])
            if follower.files[0].samples:  # what lies there now is a whole file
                assert len(read_samples(open_audio(tmp_path / "speaker1.wav"))) == follower.files[0].samples
    for k in (1, 2):
        whole, grown = (read_samples(open_audio(tmp_path / f"{name}speaker{k}.wav")) for name in ("talk_", ""))
        np.testing.assert_array_equal(grown, whole)
    assert len(whole) == n
    assert "0.125 to 0.25 s" in follower.latency
    assert [r["start"] for r in rows] == [0.125 * i for i in range(len(rows))]
    assert len(rows) == max(0, (n - 1000) // 1000)


@pytest.mark.parametrize("overlap", [2, 4])
def test_the_transform_is_the_filters_that_never_learned(overlap: int) -> None:
    task = Separate(SeparateOptions())
    learned, fixed = (built(task, FITTED, dim=8, depth=1, start=s, overlap=overlap) for s in ("fourier", "fixed"))
    fixed.load_state_dict(learned.state_dict(), strict=False)
    wave, length = torch.from_numpy(np.stack([noise(3000), noise(3000, 1)])), torch.tensor([3000, 1500])
    with torch.no_grad():
        torch.testing.assert_close(fixed(wave, length), learned(wave, length), atol=1e-5, rtol=1e-4)
    assert not any(n.startswith("filters") for n, _ in fixed.named_parameters())
