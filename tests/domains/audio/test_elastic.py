"""Several widths in one training: each slice is a model of its own, and says what it said within the whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from domains.audio.classify import Classify
from domains.audio.clips import Clips
from domains.audio.elastic import said_alike
from shared_backbones.errors import BadRequest
from shared_backbones.presets import adjust, load_preset

from .test_pretrain import opened, pretrain


@pytest.fixture(scope="module")
def fitted(task: Classify, clips: Clips) -> dict[str, Any]:
    return json.loads(json.dumps(task.fit(clips, task.split(clips))))


def elastic(task: Any, fitted: dict[str, Any], **changes: Any) -> Any:
    torch.manual_seed(0)
    return task.build(fitted, adjust(load_preset("audio_elastic"), **changes)).eval()


@pytest.mark.parametrize("width", [0.5, 0.75])
def test_a_slice_says_what_it_said_within_the_whole(
    width: float, task: Classify, clips: Clips, fitted: dict[str, Any]
) -> None:
    wide, small = elastic(task, fitted), elastic(task, fitted, width=width)
    small.load_state_dict(small.adopt(wide.state_dict()))
    batch = task.items(clips, task.split(clips), fitted, "val").batch([0, 1])
    with torch.no_grad():
        whole, narrow = wide.every(batch["wave"], batch["length"])
        alone = small(batch["wave"], batch["length"])
    assert len(narrow) == 2
    torch.testing.assert_close(alone, narrow[[0.5, 0.75].index(width)])
    assert not torch.allclose(alone, whole, atol=1e-3)
    assert sum(p.numel() for p in small.parameters()) < 0.8 * sum(p.numel() for p in wide.parameters())
    assert not [name for name in wide.state_dict() if "narrow" in name]


def test_narrow_networks_learn_from_the_widest_and_validate_by_themselves(
    task: Classify, clips: Clips, fitted: dict[str, Any]
) -> None:
    model = elastic(task, fitted, dropout=0.0, drop_path=0.0)
    batch = task.items(clips, task.split(clips), fitted, "val").batch([0, 1, 2])
    wide, (half, most) = model.every(batch["wave"], batch["length"])
    expected = sum(F.cross_entropy(z, batch["target"]) for z in (wide, half, most)) / 3
    torch.testing.assert_close(task.loss(model, batch)[0], expected)
    p, q = wide[0].softmax(0), half[0].softmax(0)
    torch.testing.assert_close(said_alike(half[:1], wide[:1]), (p * (p.log() - q.log())).sum())
    said_alike(half, wide).backward()
    assert model.head.scores.weight.grad[:, 48:].abs().max() == 0  # the teacher learns nothing from it
    assert model.head.scores.weight.grad[:, :48].abs().max() > 0


def test_running_statistics_are_those_of_the_widest(task: Classify, clips: Clips, fitted: dict[str, Any]) -> None:
    batch = task.items(clips, task.split(clips), fitted, "val").batch([0, 1, 2])
    found = []
    for widths in ([], [0.5]):
        model = elastic(task, fitted, widths=widths).train()
        torch.manual_seed(1)
        task.loss(model, batch)
        found.append({n: b for n, b in model.named_buffers() if n.startswith("stem.")})
    assert found[0]
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


def test_pretraining_is_elastic_too() -> None:
    for target in ("frames", "codes"):
        task = pretrain(target=target, codes=8)
        data, split, own = opened(task)
        model = elastic(task, own)
        batch = task.items(data, split, own, "test").batch([0, 1])
        wide, narrow = model.every(**batch)
        costs = [r.cost().sum() / r.count().sum() for r in (wide, *narrow)]
        torch.testing.assert_close(task.loss(model, batch)[0], sum(costs) / 3)
        model.train()
        loss = task.loss(model, batch)[0]
        loss.backward()
        assert torch.isfinite(loss)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"widths": [0.5, 1.0]}, "between 0 and 1"),
        ({"widths": [0.3]}, "no whole number"),
        ({"width": 2}, "model.width"),
    ],
)
def test_widths_that_cannot_be(change: dict[str, Any], says: str, task: Classify, fitted: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=says):
        elastic(task, fitted, **change)
    with pytest.raises(BadRequest, match="keeps values of one width alone"):
        task.build(fitted, adjust(load_preset("audio_squeezeformer"), widths=[0.5]))


def test_a_run_starts_from_a_slice(task: Classify, clips: Clips, fitted: dict[str, Any], tmp_path: Path) -> None:
    """As a request: every parameter of the narrow model is the wide run's, but classes are never cut."""
    from pipelines.config import build_preset, resolve
    from pipelines.runs import save_model
    from pipelines.trainer.start import pinned, take

    config = resolve("audio/classify", preset="audio_elastic", sets=["simulated={speakers: 4, takes: 3, words: 3}"])
    wide = elastic(task, fitted)
    save_model(tmp_path, config, build_preset(config), fitted, wide)
    asked = resolve("audio/classify", preset="audio_elastic", sets=["model.width=0.5", f"train.start={tmp_path}"])
    small = task.build(fitted, build_preset(asked))
    begun = take(small, pinned(asked, tmp_path).train)
    assert begun is not None
    assert begun["left"] == {}
    torch.testing.assert_close(small.head.scores.weight, wide.head.scores.weight[:, :48])
    other = task.build({**fitted, "classes": ["a", "b"]}, build_preset(asked))
    begun = take(other, pinned(asked, tmp_path).train)
    assert begun is not None
    assert set(begun["left"]) == {"head.scores.weight", "head.scores.bias"}
