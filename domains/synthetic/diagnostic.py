"""What the diagnostic tasks share: strings, questions at single tokens, one score per question.

A diagnostic shows what a mixer can and cannot do before a night is spent on it. Compare mixers at learning rates of
their own: a rate that suits one leaves another at chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from domains.task import PARTS, Audit, Batch, Evidence, Fitted, MetricFact, Part, Sink, Split
from shared_backbones.errors import BadInput
from shared_backbones.presets import Preset

from .config import DiagnosticConfig
from .data import NONE, StringData, Strings, open_strings
from .model import Reader, build_backbone, state_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHUNK = 256  # strings scored at once


@dataclass(frozen=True)
class StringItems:
    """Strings of one part, ready to be gathered."""

    tokens: Tensor
    labels: Tensor
    mask: Tensor | None

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, indices: Sequence[int]) -> Batch:
        rows = torch.as_tensor(list(indices))
        found = {"tokens": self.tokens[rows], "labels": self.labels[rows]}
        return found if self.mask is None else {**found, "mask": self.mask[rows]}


def _evidence(hits: np.ndarray, loss: np.ndarray, asked: np.ndarray, last: np.ndarray) -> Evidence:
    """One row per string: questions answered rightly, summed cross-entropy (nats), questions, the last one right."""
    right = hits >= asked - 1e-9
    columns = {"hits": hits, "loss": loss, "asked": asked, "right": right, "last": last, "strings": asked > 0}
    return Evidence(np.arange(len(asked)), {k: np.asarray(v, np.float64) for k, v in columns.items()})


class Diagnostic:
    """A task on made strings; a subclass says how they are made. See domains.task.Task."""

    name: ClassVar[str]
    summary: ClassVar[str]
    Config: ClassVar[type[DiagnosticConfig]]
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 4, "batch_size": 64, "lr": 3e-3, "weight_decay": 0.0, "threads": 1,
    }  # fmt: skip
    default_preset: ClassVar[str] = "recall"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = {
        "accuracy": MetricFact("1", "higher", "share of questions answered rightly"),
        "cross_entropy": MetricFact("nat", "lower", "mean over questions"),
        "whole_strings": MetricFact("1", "higher", "share of strings with every question answered rightly"),
        "last_question": MetricFact("1", "higher", "share of strings whose last question is answered rightly"),
    }
    diagnostic: ClassVar[bool] = True  # of mixers, not of data: the demo leaves it out
    rates: ClassVar[tuple[float, ...]] = (1e-3, 3e-3, 1e-2)  # that a comparison sweeps for each mixer
    solved: ClassVar[float] = 0.99  # validation accuracy at which a comparison says how many steps it took
    each: ClassVar[Mapping[str, tuple[Any, ...]]] = {}  # an option of which a comparison takes every value

    def __init__(self, config: DiagnosticConfig) -> None:
        self.config = config

    # ------------------------------------------------------------------------------ what a subclass says

    def make(self, n: int, random: np.random.Generator) -> Strings:
        """``n`` strings from the configuration."""
        raise NotImplementedError

    @property
    def causal(self) -> bool:
        """Whether a token may see no later one."""
        raise NotImplementedError

    @property
    def future(self) -> bool:
        """Whether answers stand after their questions, where a causal mixer cannot see them."""
        return False

    @property
    def segments(self) -> tuple[int, ...]:
        """Sizes of the token sets that stand one after the other; () where there is one."""
        return ()

    # ------------------------------------------------------------------------------ data

    def open(self, source: str) -> StringData:
        """Strings made here (``simulated``, ``simulated:SEED``) or read from an .npz. Raises BadInput."""
        return open_strings(source, self.config.strings, self.make)

    def split(self, data: StringData) -> Split:
        """Every string is independent: the last ones are the test part, those before them the validation part."""
        n = len(data.strings.tokens)
        test, val = min(self.config.test, n // 5), min(self.config.val, n // 5)
        if not test:
            raise BadInput(f"{data.manifest.source}: {n} strings cannot be split in three; give at least 5")
        ends = np.split(np.arange(n), [n - test - val, n - test])
        protocol = f"strings in order: {n - test - val} train, {val} val, {test} test"
        return Split(protocol, dict(zip(PARTS, ends, strict=True)))

    def audit(self, data: StringData, split: Split) -> list[Audit]:
        seen = {row.tobytes() for row in data.strings.tokens[split.parts["train"]]}
        twice = sum(row.tobytes() in seen for row in data.strings.tokens[split.parts["test"]])
        share = twice / len(split.parts["test"])
        return [Audit("test_strings_in_train", share, share < 0.01, "Share of test strings that were trained on too.")]

    def poison(self, data: StringData, split: Split) -> StringData:
        """The data with nonsense in the test part: one token throughout, and every answer another one."""
        s, test = data.strings, split.parts["test"]
        tokens, labels = s.tokens.copy(), s.labels.copy()
        tokens[test] = s.vocab - 1
        labels[test] = np.where(labels[test] >= 0, (labels[test] + 1) % s.classes, NONE)
        return replace(data, strings=replace(s, tokens=tokens, labels=labels))

    def fit(self, data: StringData, split: Split) -> Fitted:
        s = data.strings
        return {
            "vocab": s.vocab,
            "classes": s.classes,
            "length": s.tokens.shape[1],
            "segments": list(self.segments),
        }

    def items(self, data: StringData, split: Split, fitted: Fitted, part: Part) -> StringItems:
        s, rows = data.strings, split.parts[part]
        mask = None if s.mask is None else torch.from_numpy(s.mask[rows])
        return StringItems(torch.from_numpy(s.tokens[rows]), torch.from_numpy(s.labels[rows]), mask)

    # ------------------------------------------------------------------------------ model

    def consider(self, preset: Preset) -> dict[str, Any]:
        """What a comparison says of a preset before it is trained. Raises BadRequest where a mixer cannot serve."""
        backbone = build_backbone(preset, self.causal, self.future)
        length = self.make(2, np.random.default_rng(0)).tokens.shape[1]
        return {"state_size": state_size(backbone, length)}

    def build(self, fitted: Fitted, preset: Preset) -> Reader:
        return Reader(fitted, preset, self.causal, self.future)

    def initialise(self, model: nn.Module, data: StringData, split: Split) -> None:
        """Nothing has a closed form here."""

    def calibrate(self, model: nn.Module, data: StringData, split: Split, fitted: Fitted) -> None:
        """Nothing is calibrated."""

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean cross-entropy over the questions of a batch, and their number."""
        asked = batch["labels"] >= 0
        scores = model(batch["tokens"], batch.get("mask"), asked)
        return F.cross_entropy(scores.float(), batch["labels"][asked]), asked.sum().float()

    def watch(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean accuracy over the questions of a batch, and their number: what history.json says beside the loss."""
        asked = batch["labels"] >= 0
        scores = model(batch["tokens"], batch.get("mask"), asked)
        return (scores.argmax(-1) == batch["labels"][asked]).float().mean(), asked.sum().float()

    # ------------------------------------------------------------------------------ scores

    def evidence(self, model: nn.Module, data: StringData, split: Split, fitted: Fitted, part: Part) -> Evidence:
        """Every string of a part; each is a unit of its own."""
        items = self.items(data, split, fitted, part)
        hits, loss, last = (np.zeros(len(items)) for _ in range(3))
        device = next(model.parameters()).device
        with torch.no_grad():
            for rows in np.split(np.arange(len(items)), range(CHUNK, len(items), CHUNK)):
                batch = {k: v.to(device) for k, v in items.batch(rows.tolist()).items()}
                asked = batch["labels"] >= 0
                scores = model(batch["tokens"], batch.get("mask"), asked).double()
                label = batch["labels"][asked]
                owner = asked.nonzero()[:, 0].cpu().numpy()
                right = (scores.argmax(-1) == label).cpu().numpy()
                costs = F.cross_entropy(scores, label, reduction="none").cpu().numpy()
                hits[rows] = np.bincount(owner, right, len(rows))
                loss[rows] = np.bincount(owner, costs, len(rows))
                last[rows[owner]] = right  # in order of place: the last write stands
        return _evidence(hits, loss, (items.labels >= 0).sum(1).double().numpy(), last)

    def baselines(self, data: StringData, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """The most frequent answer; the most frequent one to each token asked at; an answer picked from the string."""
        s = data.strings
        train, test = (_questions(s, split.parts[part]) for part in ("train", "test"))
        counts = np.ones((s.vocab + 1, s.classes))  # one of each answer beforehand: no probability of 0
        np.add.at(counts, (train[1], train[2]), 1.0)
        counts[-1] = 1.0 + np.bincount(train[2], minlength=s.classes)  # last row: whatever the token
        found = {
            "most_frequent": _scored(test, counts[np.full(len(test[1]), -1)], len(split.parts["test"])),
            "most_frequent_by_token": _scored(test, counts[test[1]], len(split.parts["test"])),
        }
        if s.guess is not None:
            asked = np.bincount(test[0], minlength=len(split.parts["test"])).astype(float)
            found["one_of_the_values"] = _evidence(
                s.guess * asked, -np.log(s.guess) * asked, asked, s.guess * (asked > 0)
            )
        return found

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        asked = evidence.sum("asked")
        return {
            "accuracy": float(evidence.sum("hits") / asked),
            "cross_entropy": float(evidence.sum("loss") / asked),
            "whole_strings": float(evidence.sum("right") / evidence.sum("strings")),
            "last_question": float(evidence.sum("last") / evidence.sum("strings")),
        }

    def figures(
        self, model: nn.Module, data: StringData, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .figures import by_place

        return {"Answers, by place of the question": by_place(self, model, data, split, fitted)}

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        """An answer to every question of a source, as answers.csv: string, place, answer, expected. Raises BadInput."""
        data = self.open(source)
        s = data.strings
        if s.vocab > int(fitted["vocab"]) or s.tokens.shape[1] != int(fitted["length"]):
            raise BadInput(
                f"{source}: {s.tokens.shape[1]} tokens of a vocabulary of {s.vocab}; the model was trained on "
                f"{fitted['length']} tokens of {fitted['vocab']}"
            )
        everything = Split("all", {"test": np.arange(len(s.tokens))})
        rows = answers(self, model, data, everything, fitted)
        with sink.file("answers.csv") as path:
            header = "string,place,answer,expected"
            np.savetxt(path, rows, fmt="%d", delimiter=",", header=header, comments="")
        return {"questions": len(rows), "right": float((rows[:, 2] == rows[:, 3]).mean()), "output": "answers.csv"}


def answers(
    task: Diagnostic, model: nn.Module, data: StringData, split: Split, fitted: Fitted
) -> Int[np.ndarray, "q 4"]:
    """(string, place, answer, expected) of every question of the test part."""
    items, found = task.items(data, split, fitted, "test"), []
    device = next(model.parameters()).device
    with torch.no_grad():
        for rows in np.split(np.arange(len(items)), range(CHUNK, len(items), CHUNK)):
            batch = {k: v.to(device) for k, v in items.batch(rows.tolist()).items()}
            asked = batch["labels"] >= 0
            answer = model(batch["tokens"], batch.get("mask"), asked).argmax(-1)
            where = asked.nonzero()
            where[:, 0] += int(rows[0])
            found.append(torch.cat([where, answer[:, None], batch["labels"][asked][:, None]], 1).cpu())
    return torch.cat(found).numpy()


Questions = tuple[Int[np.ndarray, "q"], Int[np.ndarray, "q"], Int[np.ndarray, "q"]]


def _questions(s: Strings, rows: Int[np.ndarray, "n"]) -> Questions:
    """String (counted within ``rows``), token and answer of every question."""
    tokens, labels = s.tokens[rows], s.labels[rows]
    string, place = np.nonzero(labels >= 0)
    return string, tokens[string, place], labels[string, place]


def _scored(questions: Questions, counts: Float[np.ndarray, "q K"], strings: int) -> Evidence:
    """Answers by the largest count, and the cross-entropy of the shares."""
    string, _, answer = questions
    share = counts[np.arange(len(answer)), answer] / counts.sum(1)
    asked = np.bincount(string, minlength=strings).astype(float)
    right = counts.argmax(1) == answer
    hits, last = np.bincount(string, right, strings), np.zeros(strings)
    last[string] = right  # in order of place: the last write stands
    return _evidence(hits, np.bincount(string, -np.log(share), strings), asked, last)
