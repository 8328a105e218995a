"""Batches of clips of like length, and a training that goes on at the very batch where it was stopped."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric

from domains.audio.classify import Classify
from domains.audio.config import ClassifyOptions
from pipelines.config import TrainConfig
from pipelines.trainer import loop, plan
from shared_backbones.presets import adjust, load_preset

from .conftest import SMALL


class Stopped(Exception):  # noqa: N818
    pass


@dataclass
class Heard:
    """Items that note which clips each batch held."""

    items: Any
    batches: list[list[int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    def arrange(self, *asked: Any) -> Any:
        return self.items.arrange(*asked)

    def batch(self, indices: Any) -> Any:
        self.batches.append(list(indices))
        return self.items.batch(indices)


def test_batches_of_like_length_and_a_run_that_resumes_at_the_exact_one(tmp_path: Path) -> None:
    task = Classify(ClassifyOptions(simulated=SMALL, buckets=3))
    data = task.open("simulated")
    split = task.split(data)
    fitted = task.fit(data, split)
    train = TrainConfig(epochs=2, batch_size=8, checkpoint_every=2)

    def job(path: Path, stop: int) -> tuple[loop.Job, Heard]:
        count = itertools.count(1)

        def tick(position: Any, steps: int) -> None:
            if next(count) == stop:
                raise Stopped

        items, val = (Heard(task.items(data, split, fitted, p)) for p in ("train", "val"))
        fabric = Fabric(accelerator="cpu", devices=1)
        return loop.Job(task, items, val, train, 0, path / "last.pt", fabric, tick), items

    def model() -> torch.nn.Module:
        plan.seed_all(0)
        return task.build(fitted, adjust(load_preset("audio_mixer"), dim=8))

    whole, heard = job(tmp_path / "a", stop=0)
    expected = model()
    loop.fit(whole, expected)
    first, before = job(tmp_path / "b", stop=6)
    with pytest.raises(Stopped):
        loop.fit(first, model())
    second, after = job(tmp_path / "b", stop=0)
    again = model()
    loop.fit(second, again)
    kept = 5  # two steps into the second epoch of three, where there was a checkpoint
    assert before.batches[:kept] + after.batches == heard.batches
    assert all(
        torch.equal(a, b) for a, b in zip(expected.state_dict().values(), again.state_dict().values(), strict=True)
    )
    lengths = np.array([len(data.waves[i]) for i in split.parts["train"]])
    spread = [np.ptp(lengths[b]) for b in heard.batches[: len(lengths) // 8]]
    assert np.mean(spread) < 0.6 * np.ptp(lengths)
    assert sorted(itertools.chain(*heard.batches[: len(heard.batches) // 2])) == list(range(len(lengths)))
