"""Diagnostic strings are what they say: answers follow from what stands there, and from nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from domains.synthetic.config import ListopsConfig, PatternsConfig, RecallConfig
from domains.synthetic.data import open_strings, read_strings
from domains.synthetic.listops import CLOSE, NAMES, OPEN, OPERATIONS, PAD, Listops, make_listops
from domains.synthetic.patterns import Patterns, make_patterns
from domains.synthetic.recall import Recall, make_recall
from shared_backbones.errors import BadInput, BadRequest
from shared_backbones.presets import Preset, adjust, load_preset

RNG = np.random.default_rng(0)


def preset(mixer: Any = "attention") -> Preset:
    return adjust(load_preset("recall"), mixer=mixer, dim=16)


def test_recall_asks_once_for_every_key_and_the_value_stands_beside_it() -> None:
    config = RecallConfig(length=40, pairs=5, vocab=32)
    s = make_recall(config, 50, RNG)
    for tokens, labels in zip(s.tokens, s.labels, strict=True):
        pairs = dict(zip(tokens[0:10:2], tokens[1:10:2], strict=True))
        asked = np.nonzero(labels >= 0)[0]
        assert len(pairs) == len(asked) == 5
        assert (asked >= 10).all()
        assert {int(tokens[i]): int(labels[i]) for i in asked} == pairs
    assert s.tokens.max() < s.vocab


def parsed(tokens: list[int]) -> tuple[int, list[int]]:
    """The value of an expression and the tokens after it: an independent reading by recursive descent."""
    head, rest = tokens[0], tokens[1:]
    if head < 10:
        return head, rest
    values = []
    while rest[0] != CLOSE:
        value, rest = parsed(rest)
        values.append(value)
    name = next(n for n, token in OPEN.items() if token == head)
    expected = {"max": max(values), "min": min(values), "sum": sum(values) % 10}
    return expected.get(name, sorted(values)[(len(values) - 1) // 2]), rest[1:]


def test_listops_answers_are_the_value_of_the_string() -> None:
    s = make_listops(ListopsConfig(length=48), 60, RNG)
    assert s.mask is not None
    depths = []
    for tokens, labels, mask in zip(s.tokens, s.labels, s.mask, strict=True):
        said = tokens[mask].tolist()
        assert (tokens[~mask] == PAD).all()
        assert 12 <= len(said) <= 48
        value, rest = parsed(said)
        assert rest == []
        assert labels[len(said) - 1] == value
        opened = []
        for place, (token, label) in enumerate(zip(said, labels.tolist(), strict=False)):
            if token in OPEN.values():
                opened.append(place)
            assert label == (parsed(said[opened.pop() :])[0] if token == CLOSE else -1)
        depths.append(max(np.cumsum([(t in OPEN.values()) - (t == CLOSE) for t in said])))
    assert max(depths) > 2
    assert set(NAMES) == set(OPERATIONS)


@pytest.mark.parametrize("pattern", ["self", "causal_self", "cross", "causal_cross"])
def test_patterns_need_what_they_are_named_for(pattern: Any) -> None:
    config = PatternsConfig(pattern=pattern, pairs=4, questions=9, vocab=24)
    s, task = make_patterns(config, 40, RNG), Patterns(config)
    first = 8 if task.causal else 0
    for tokens, labels in zip(s.tokens, s.labels, strict=True):
        asked = np.arange(first, first + 9)
        context = np.delete(tokens, asked)
        pairs = dict(zip(context[0::2], context[1::2], strict=True))
        assert (np.nonzero(labels >= 0)[0] == asked).all()
        for i in asked:
            again = pattern == "causal_cross" and tokens[i] in tokens[first:i]
            assert labels[i] == (24 if again else pairs[tokens[i]])
    assert task.segments == {"cross": (9, 8), "causal_cross": (8, 9)}.get(pattern, ())
    assert task.future == (not task.causal)


def test_a_mixer_that_cannot_is_refused_with_the_reason() -> None:
    recall, ahead = Recall(RecallConfig()), Patterns(PatternsConfig())
    with pytest.raises(BadRequest, match="can be causal along axes"):
        recall.consider(preset("fourier"))
    with pytest.raises(BadRequest, match="causal by its nature"):
        ahead.consider(preset("delta"))
    assert ahead.consider(preset({"mixer": "directions", "inner": "delta"}))["state_size"] >= 0
    assert ahead.consider(preset("linear")) == {"state_size": 0}
    assert recall.consider(preset("identity")) == {"state_size": 0}
    assert recall.consider(preset())["state_size"] == 2 * 2 * 64 * 16


def test_the_state_of_a_mixer_is_said_per_string() -> None:
    task = Recall(RecallConfig(length=32))
    assert task.consider(preset({"mixer": "linear", "heads": 2}))["state_size"] == 2 * 2 * 8 * 9


def test_a_causal_reader_sees_no_later_token() -> None:
    task = Recall(RecallConfig(strings=20, length=24, pairs=3, vocab=16))
    data = task.open("simulated")
    model = task.build(task.fit(data, task.split(data)), preset()).eval()
    tokens = torch.from_numpy(data.strings.tokens[:2])
    changed = tokens.clone()
    changed[:, 12:] = 1
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[:, :12], model(changed)[:, :12])
        assert not torch.allclose(model(tokens)[:, 12:], model(changed)[:, 12:])


def test_a_batch_answers_as_its_strings_alone_do() -> None:
    task = Listops(ListopsConfig(strings=30, length=40))
    data = task.open("simulated")
    split = task.split(data)
    fitted = task.fit(data, split)
    model, items = task.build(fitted, preset()).eval(), task.items(data, split, fitted, "train")
    with torch.no_grad():
        whole = model(**{k: v for k, v in items.batch([0, 1, 2]).items() if k != "labels"})
        alone = model(**{k: v for k, v in items.batch([1]).items() if k != "labels"})
    mask = items.batch([1])["mask"]
    torch.testing.assert_close(whole[1:2][mask], alone[mask])


def test_watched_accuracy_is_the_scored_one() -> None:
    task = Recall(RecallConfig(strings=60, length=24, pairs=3, vocab=8))
    data = task.open("simulated:1")
    split = task.split(data)
    fitted = task.fit(data, split)
    model = task.build(fitted, preset()).eval()
    items = task.items(data, split, fitted, "test")
    with torch.no_grad():
        value, questions = task.watch(model, items.batch(range(len(items))))
        scored = task.metrics(task.evidence(model, data, split, fitted, "test"))
    assert float(value) == pytest.approx(scored["accuracy"])
    assert float(questions) == 3 * len(items)


def test_the_last_question_of_a_string_is_scored_by_itself() -> None:
    task = Listops(ListopsConfig(strings=60, length=40))
    data = task.open("simulated")
    split = task.split(data)
    fitted = task.fit(data, split)
    model = task.build(fitted, preset()).eval()
    items = task.items(data, split, fitted, "test")
    asked = items.labels >= 0
    final = torch.where(asked, torch.arange(40), -1).argmax(1)
    with torch.no_grad():
        scores = model(**{k: v for k, v in items.batch(range(len(items))).items() if k != "labels"})
    rows = torch.arange(len(items))
    right = (scores.argmax(-1) == items.labels)[rows, final].double().mean()
    found = {**task.baselines(data, split, fitted), "model": task.evidence(model, data, split, fitted, "test")}
    assert task.metrics(found["model"])["last_question"] == pytest.approx(float(right))
    train = task.items(data, split, fitted, "train").labels
    common = torch.bincount(train[train >= 0], minlength=10).argmax()
    expected = (items.labels[rows, final] == common).double().mean()
    assert task.metrics(found["most_frequent"])["last_question"] == pytest.approx(float(expected))


def test_strings_of_a_file_are_read_as_they_are(tmp_path: Path) -> None:
    s = make_recall(RecallConfig(length=24, pairs=3, vocab=16), 30, RNG)
    path = tmp_path / "strings.npz"
    np.savez(path, tokens=s.tokens, labels=s.labels, vocab=16, classes=16)
    read = read_strings(path)
    assert (read.tokens == s.tokens).all()
    assert (read.labels == s.labels).all()
    assert (read.vocab, read.classes) == (16, 16)
    assert Recall(RecallConfig()).split(open_strings(str(path), 0, lambda n, g: s)).parts["test"][-1] == 29


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tokens": np.full((3, 4), 9)}, r"tokens\[0, 0\] is 9, allowed are 0 .. 7"),
        ({"labels": np.full((3, 5), 1)}, r"two \(n, L\) arrays"),
        ({"labels": np.full((3, 4), -1)}, "nothing is asked"),
        ({"tokens": np.zeros((3, 4))}, "whole numbers"),
        ({"vocab": np.array([8, 8])}, "vocab must be one whole number"),
        ({"mask": np.ones((3, 4))}, "mask must be True or False"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = tmp_path / "strings.npz"
    good = {"tokens": np.zeros((3, 4), int), "labels": np.zeros((3, 4), int), "vocab": 8, "classes": 2}
    np.savez(path, **{**good, **change})
    with pytest.raises(BadInput, match=says):
        read_strings(path)


def test_other_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no zip")
    for source, says in ((str(tmp_path / "text.npz"), "cannot be read"), ("simulated:x", "whole number")):
        with pytest.raises(BadInput, match=says):
            Recall(RecallConfig()).open(source)


@pytest.mark.parametrize(
    "options", [{"model": {"shorts": 3}}, {"model": {"short": -1}}], ids=["an unknown option", "a negative width"]
)
def test_model_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="short"):
        Recall(RecallConfig()).consider(adjust(load_preset("recall"), **options["model"]))


def test_configurations_that_cannot_be_met() -> None:
    for wrong in ({"length": 20, "pairs": 8}, {"vocab": 8, "pairs": 4, "length": 64}):
        with pytest.raises(ValueError, match=r"pairs|length"):
            RecallConfig(**wrong)
    with pytest.raises(ValueError, match="pairs"):
        PatternsConfig(vocab=8, pairs=4)
