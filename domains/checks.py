"""The laws that every task keeps, as functions that anyone can hold an own task to.

    from domains.checks import check_task
    check_task(MyTask)                                  # on its simulator
    check_task(MyTask, MyTask.Config(horizon=24), source="my.csv")

A task is opened, split, fitted, built and scored untrained; nothing is trained. Each law says what it measured.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shared_backbones.cases import LawError
from shared_backbones.errors import BadInput
from shared_backbones.presets import Preset, load_preset

from .task import PARTS, Evidence, Split, TaskConfig, to_json_digest

TOLERANCE = 1e-4  # relative, of float32 sums in another order


@dataclass(frozen=True)
class Subject:
    """A task with all that the laws need of it, made once and only when asked for."""

    cls: type[Any]
    config: TaskConfig
    source: str
    preset: Preset

    @cached_property
    def task(self) -> Any:
        return self.cls(self.config)

    @cached_property
    def data(self) -> Any:
        return self.task.open(self.source)

    @cached_property
    def split(self) -> Split:
        return self.task.split(self.data)

    @cached_property
    def fitted(self) -> dict[str, Any]:
        """As it is after a round trip through JSON, which is how a finished run holds it."""
        return json.loads(json.dumps(self.task.fit(self.data, self.split), allow_nan=False))

    def build(self, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return self.task.build(self.fitted, self.preset).eval()

    @cached_property
    def model(self) -> nn.Module:
        """Initialised and calibrated, not trained."""
        model = self.build()
        self.task.initialise(model, self.data, self.split)
        self.task.calibrate(model, self.data, self.split, self.fitted)
        return model.eval()

    def evidence(self, model: nn.Module, part: str = "test") -> Evidence:
        with torch.no_grad():
            return self.task.evidence(model, self.data, self.split, self.fitted, part)

    @cached_property
    def scored(self) -> Evidence:
        return self.evidence(self.model)

    @cached_property
    def rivals(self) -> Mapping[str, Evidence]:
        return self.task.baselines(self.data, self.split, self.fitted)


def law_facts(s: Subject) -> str:
    """The declared facts are well-formed and JSON-able."""
    if s.cls.name.count("/") != 1:
        raise LawError(f"name must be DOMAIN/TASK, got {s.cls.name!r}")
    if not s.cls.metric_facts:
        raise LawError("metric_facts is empty: the first metric ranks models")
    for name, fact in s.cls.metric_facts.items():
        if fact.better == "target" and fact.target is None:
            raise LawError(f"metric {name!r} is better near a target, and names none")
    json.dumps(dict(s.cls.train_defaults))
    load_preset(s.cls.default_preset)
    type(s.config).model_validate(s.config.model_dump(mode="json"))
    return f"{len(s.cls.metric_facts)} metrics"


def law_manifest(s: Subject) -> str:
    """Opening twice gives one content digest, and the manifest is plain JSON."""
    again = s.task.open(s.source).manifest
    if again.sha256 != s.data.manifest.sha256:
        raise LawError(f"two openings of {s.source} have the digests {s.data.manifest.sha256} and {again.sha256}")
    json.dumps(again.to_json())
    return again.sha256[:12]


def law_split(s: Subject) -> str:
    """Three parts, none empty, no element in two of them, and the same again."""
    missing = [p for p in PARTS if p not in s.split.parts or not len(s.split.parts[p])]
    if missing:
        raise LawError(f"parts without any element: {', '.join(missing)}")
    rows = {p: {tuple(np.atleast_1d(r).tolist()) for r in s.split.parts[p]} for p in s.split.parts}
    for a in rows:
        if len(rows[a]) != len(s.split.parts[a]):
            raise LawError(f"part {a!r} names {len(s.split.parts[a]) - len(rows[a])} elements twice")
        for b in rows:
            if a < b and rows[a] & rows[b]:
                raise LawError(f"{len(rows[a] & rows[b])} elements are in both {a!r} and {b!r}")
    if s.task.split(s.data).digest != s.split.digest:
        raise LawError("splitting twice gives two digests")
    json.dumps(s.split.to_json())
    return ", ".join(f"{p} {len(s.split.parts[p])}" for p in PARTS)


def law_poison(s: Subject) -> str:
    """What is fitted, started from and calibrated is the same when the test part is absurd values."""
    poisoned = s.task.poison(s.data, s.split)
    if to_json_digest(s.task.fit(poisoned, s.split)) != to_json_digest(s.task.fit(s.data, s.split)):
        raise LawError("fit() sees the test part")
    model = s.build()
    s.task.initialise(model, poisoned, s.split)
    s.task.calibrate(model, poisoned, s.split, s.fitted)
    for name, value in model.state_dict().items():
        if not torch.equal(value.nan_to_num(), s.model.state_dict()[name].nan_to_num()):
            raise LawError(f"initialise() or calibrate() sets {name} from the test part")
    try:
        with torch.no_grad():
            clean, spoilt = s.scored, s.task.evidence(model.eval(), poisoned, s.split, s.fitted, "test")
    except BadInput:
        return "identical"  # absurd values may be refused outright
    if all(np.array_equal(clean.columns[c], spoilt.columns[c], equal_nan=True) for c in clean.columns):
        raise LawError("poison() leaves the test score as it was: it poisons nothing, and proves nothing")
    return "identical"


def law_build(s: Subject) -> str:
    """One seed gives one model, and its weights alone make another the same."""
    a, b = s.build(seed=0), s.build(seed=0)
    for name, value in a.state_dict().items():
        if not torch.equal(value.nan_to_num(), b.state_dict()[name].nan_to_num()):
            raise LawError(f"built twice with one seed, {name} differs")
    c = s.build(seed=1)
    c.load_state_dict(s.model.state_dict())
    again = s.evidence(c.eval())
    for name, column in s.scored.columns.items():
        if not np.array_equal(column, again.columns[name], equal_nan=True):
            raise LawError(f"a model reloaded from its weights scores otherwise in {name!r}: something is outside them")
    return f"{sum(p.numel() for p in a.parameters())} parameters"


def _weighted(s: Subject, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[float, float]:
    loss, weight = s.task.loss(model, batch)
    if not bool(torch.isfinite(loss)) or float(weight) <= 0:
        raise LawError(f"loss must be finite with a positive weight, got {float(loss)} and {float(weight)}")
    return float(loss * weight), float(weight)


def law_loss(s: Subject) -> str:
    """The loss is a mean over elements: weighted by its second value, parts of a batch add up to the whole."""
    items = s.task.items(s.data, s.split, s.fitted, "val")
    n = min(len(items), 6)
    model = copy.deepcopy(s.model).eval()
    with torch.no_grad():
        whole = np.array(_weighted(s, model, items.batch(list(range(n)))))
        parts = np.sum([_weighted(s, model, items.batch([i])) for i in range(n)], axis=0)
    if not np.allclose(whole, parts, rtol=TOLERANCE):
        raise LawError(f"sum and weight of a batch of {n}: {whole.tolist()}; item by item: {parts.tolist()}")
    return f"{n} items: {whole[0]:.6g} / {whole[1]:g}"


def law_gradients(s: Subject) -> str:
    """A training batch gives finite gradients, and almost every parameter has its part in the loss."""
    items = s.task.items(s.data, s.split, s.fitted, "train")
    model = s.build().train()
    rows = list(range(min(len(items), 4)))
    torch.manual_seed(0)
    batch = items.batch(rows)
    torch.manual_seed(0)
    again = items.batch(rows)
    for name, value in batch.items():
        if not torch.equal(value.nan_to_num(), again[name].nan_to_num()):
            raise LawError(f"one random state gives two batches: {name!r} differs")
    s.task.loss(model, batch)[0].backward()
    named = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    for name, grad in named.items():
        if grad is not None and not bool(grad.isfinite().all()):
            raise LawError(f"the gradient of {name} is not finite")
    idle = [name for name, grad in named.items() if grad is None]
    if len(idle) == len(named):
        raise LawError("no parameter has a gradient")
    return f"{len(named) - len(idle)} of {len(named)} tensors have a gradient"


def law_evidence(s: Subject) -> str:
    """Metrics are named as declared, come from several units, and do not change under equal weights."""
    values = s.task.metrics(s.scored)
    headline = next(iter(s.cls.metric_facts))
    if headline not in values or not np.isfinite(values[headline]):
        raise LawError(f"the headline metric {headline!r} is {values.get(headline)}")
    stray = sorted(set(values) - set(s.cls.metric_facts) - _families(s.cls.metric_facts, values))
    if stray:
        raise LawError(f"metrics that metric_facts does not declare: {', '.join(stray)}")
    units = s.scored.units
    if len(units) < 2:
        raise LawError("all rows are one unit: no interval can be given")
    doubled = s.task.metrics(s.scored.reweighted(np.full(len(units), 2.0)))
    for name, value in values.items():
        if not np.isclose(value, doubled[name], rtol=1e-9, equal_nan=True):
            raise LawError(f"{name} is {value}, and {doubled[name]} when every unit counts twice")
    return f"{headline} {values[headline]:.6g} over {len(units)} units"


def _families(declared: Mapping[str, Any], got: Mapping[str, float]) -> set[str]:
    """Names such as f1_7 of a declared family f1_* (or f1_<class>)."""
    stems = [name.split("*")[0].split("<")[0] for name in declared if "*" in name or "<" in name]
    return {name for name in got if any(name.startswith(stem) for stem in stems)}


def law_baselines(s: Subject) -> str:
    """There are classical methods beside the model, in the same metrics; one at least on the same units."""
    if not s.rivals:
        raise LawError("no baseline: a score without one says nothing")
    headline = next(iter(s.cls.metric_facts))
    for name, evidence in s.rivals.items():
        if not np.isfinite(s.task.metrics(evidence).get(headline, np.nan)):
            raise LawError(f"baseline {name!r} has no {headline}")
    if not any(np.array_equal(e.units, s.scored.units) for e in s.rivals.values()):
        raise LawError("no baseline is scored on the model's units, so none can be compared pair by pair")
    return ", ".join(f"{name} {s.task.metrics(e)[headline]:.4g}" for name, e in s.rivals.items())


def law_figures(s: Subject) -> str:
    """There are pictures, each with a title."""
    from matplotlib.figure import Figure

    with torch.no_grad():
        figures = s.task.figures(s.model, s.data, s.split, s.fitted, {"model": s.scored, **s.rivals})
    wrong = [title for title, figure in figures.items() if not title or not isinstance(figure, Figure)]
    if wrong or not figures:
        raise LawError(f"figures must map a title to a matplotlib figure, got {wrong or 'none at all'}")
    return ", ".join(figures)


@dataclass(frozen=True)
class _Folder:
    """The simplest sink."""

    path: Path

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        aside = self.path / f"aside-{name}"
        try:
            yield aside
            aside.replace(self.path / name)
        finally:
            aside.unlink(missing_ok=True)


def law_predict(s: Subject) -> str:
    """A source is predicted into files, in inference mode as in a batch, with JSON-able facts; one that is not there
    is BadInput, and writes nothing.
    """
    model, fitted = s.model, s.fitted  # made before: what is built in inference mode has no gradients
    with TemporaryDirectory() as folder, torch.inference_mode():
        sink = _Folder(Path(folder))
        facts = s.task.predict(model, fitted, s.source, sink)
        json.dumps(facts)
        written = sorted(p.name for p in sink.path.iterdir())
        if not written or any(name.startswith("aside-") for name in written):
            raise LawError(f"predict() wrote {written or 'nothing'}")
    with TemporaryDirectory() as folder:
        for call in (s.task.open, lambda source: s.task.predict(s.model, s.fitted, source, _Folder(Path(folder)))):
            try:
                call(str(Path(folder) / "missing.file"))
            except BadInput as error:
                if "missing.file" not in str(error):
                    raise LawError(f"the error for a missing file does not name it: {error}") from error
            else:
                raise LawError("a source that is not there is not refused with BadInput")
        if any(Path(folder).iterdir()):
            raise LawError("a refused source leaves files behind")
    return ", ".join(written)


LAWS: dict[str, Callable[[Subject], str]] = {
    "facts": law_facts,
    "manifest": law_manifest,
    "split": law_split,
    "poison": law_poison,
    "build": law_build,
    "loss": law_loss,
    "gradients": law_gradients,
    "evidence": law_evidence,
    "baselines": law_baselines,
    "figures": law_figures,
    "predict": law_predict,
}


def subject(
    cls: type[Any], config: TaskConfig | None = None, *, source: str = "simulated", preset: Preset | None = None
) -> Subject:
    """A task to hold to the laws: with its default configuration, simulator and preset unless others are given."""
    return Subject(cls, cls.Config() if config is None else config, source, preset or load_preset(cls.default_preset))


def check_law(law: str, of: Subject) -> str:
    """Hold a task to one law; returns what was measured. Raises LawError naming the task, the law and the numbers."""
    try:
        return LAWS[law](of)
    except LawError as error:
        raise LawError(f"task {of.cls.name} breaks the law {law!r}: {error}") from error


def check_task(
    cls: type[Any], config: TaskConfig | None = None, *, source: str = "simulated", preset: Preset | None = None
) -> dict[str, str]:
    """Hold a task class to every law: law -> what was measured. Raises LawError at the first that it breaks."""
    of = subject(cls, config, source=source, preset=preset)
    return {law: check_law(law, of) for law in LAWS}
