"""Presets side by side, fairly: the same data and seeds, a learning rate of its own for each, and what mixing adds."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any

from domains import load_task
from domains.task import to_json_digest
from shared_backbones.errors import BadRequest
from shared_backbones.mixers import MIXERS

from .charts import Bar, dots
from .config import RunConfig, build_preset, build_task, parse_set, read_yaml, resolve
from .events import tell
from .findings import Run
from .grid import combinations, parts_of
from .report import axis_of, data_card, environment, link
from .store import finite, write_json, write_text
from .train import train
from .wording import words

COSTS = ("parameters", "macs", "train_seconds", "items_per_second")
IDENTITY = "identity"
LADDER = (IDENTITY, "random", "pooling", "separable", "attention")  # nothing, anything, mean, convolution, all pairs
MORE_PARAMETERS = 1.1  # a comparison of mixers allows at most this times the first preset's parameters


@dataclass(frozen=True)
class Candidate:
    """A preset, as it is or with every mixer replaced by another.

    mixer: NAME or NAME:option=value:option=value. alone: the mixer is what is compared, and names the candidate.
    setting: options of the task, as NAME=VALUE; NAME=VALUE, where the comparison takes several; see :mod:`.grid`.
    """

    preset: str
    mixer: str | None = None
    kind: str = "model"  # or "ablation"
    alone: bool = False
    setting: str | None = None

    @property
    def method(self) -> str:
        """The name, whatever the setting."""
        if self.alone and self.mixer:
            return self.mixer
        how = "" if self.mixer is None else f" with {self.mixer}"
        return f"{Path(self.preset).stem}{' without mixing' if self.mixer == IDENTITY else how}"

    @property
    def name(self) -> str:
        return self.method if self.setting is None else f"{self.method}, {self.setting}"


def mixer_option(text: str) -> Any:
    """NAME:option=value:option=value as ``model.mixer`` takes it. Raises BadRequest where an option has no value."""
    name, *options = text.split(":")
    if not options:
        return name
    for option in options:
        if option.count("=") != 1:
            raise BadRequest(f"a mixer is NAME:option=value, such as delta:decay=true; got {text!r}")
    pairs = (option.split("=") for option in options)
    return {"mixer": name, **{key: read_yaml(value, f"the value of {key} of {name}") for key, value in pairs}}


@dataclass(frozen=True)
class Asked:
    """What is common to every training of a comparison."""

    task: str
    data: str | None
    file: Path | None
    sets: tuple[str, ...]
    vary: tuple[str, ...] = ()  # NAME=VALUE,VALUE: every combination is a setting

    def config(self, candidate: Candidate, seed: int, rate: float | None) -> RunConfig:
        options, source = parts_of(candidate.setting)
        sets = [*self.sets, *options]
        if candidate.mixer is not None:
            option = mixer_option(candidate.mixer)
            sets.append(f"model.mixer={option if isinstance(option, str) else json.dumps(option)}")
        sets += [] if rate is None else [f"train.lr={rate!r}"]
        sets = [text.replace("{seed}", str(seed)) for text in sets]  # split.index={seed}: another split for each seed
        data = source or self.data
        return resolve(self.task, data=data, preset=candidate.preset, file=self.file, sets=sets, seed=seed)

    def settings(self) -> list[str | None]:
        """Every combination of the options to vary; else each value of those that the task wants taken in turn, but
        for those that are set."""
        if self.vary:
            return list(combinations(self.vary))
        given = {parse_set(text)[0][0] for text in self.sets}
        each = {k: v for k, v in getattr(load_task(self.task), "each", {}).items() if k not in given}
        found: list[str | None] = [f"{name}={value}" for name, values in each.items() for value in values]
        return found or [None]


def candidates(
    asked: Asked, presets: Sequence[str], mixers: Sequence[str] = (), ladder: bool = False, ablation: bool = True
) -> list[Candidate]:
    """What is trained: each preset and its ablation, unless it mixes nothing already; or, with ``mixers``, each preset
    with each of these in place of its own. ``ladder``: the rungs of LADDER in place of the identity alone;
    ``ablation`` False: none of them.

    Raises BadRequest for one named twice.
    """
    rungs = ([name for name in LADDER if name in MIXERS] if ladder else [IDENTITY]) if ablation else []
    found: list[Candidate] = []
    for what, names in (("preset", presets), ("mixer", mixers)):
        if len(set(names)) != len(names):
            raise BadRequest(f"each {what} once, got {', '.join(names)}")
    for name in presets:
        if mixers:
            alone = len(presets) == 1
            found += [Candidate(name, mixer, alone=alone) for mixer in mixers]
            found += [Candidate(name, rung, "ablation", alone) for rung in rungs if rung not in mixers]
            continue
        stages = build_preset(asked.config(Candidate(name), 0, None)).backbone.stages
        mixes = any(layer.mixer != IDENTITY for stage in stages for layer in stage.layers)
        found += [Candidate(name)] + ([Candidate(name, rung, "ablation") for rung in rungs] if mixes else [])
    each = itertools.product(asked.settings(), found)
    return [Candidate(c.preset, c.mixer, c.kind, c.alone, setting) for setting, c in each]


def considered(
    asked: Asked, listed: Sequence[Candidate]
) -> tuple[list[tuple[Candidate, dict[str, Any]]], list[dict[str, str]]]:
    """Candidates that can serve, with what the task says of them beforehand; and those that cannot, with the reason.

    A task says so in an optional method ``consider(preset) -> facts``, which raises BadRequest. Where none can serve,
    the first reason is raised.
    """
    able: list[tuple[Candidate, dict[str, Any]]] = []
    cannot: list[dict[str, str]] = []
    for candidate in listed:
        config = asked.config(candidate, 0, None)
        preset, consider = build_preset(config), getattr(build_task(config), "consider", None)
        try:
            able.append((candidate, dict(consider(preset)) if consider else {}))
        except BadRequest as reason:
            cannot.append({"method": candidate.name, "reason": str(reason)})
    if not able:
        raise BadRequest(f"none of these can serve: {cannot[0]['method']}: {cannot[0]['reason']}")
    return able, cannot


def steps_to(run: Run, solved: float) -> int | None:
    """Optimiser steps until the end of the first epoch at which what the task watches had reached ``solved``."""
    return next((int(r["step"]) for r in run.history if (r.get("watched") or -math.inf) >= solved), None)


def interval_of_mean(values: Sequence[float], level: float = 0.95) -> tuple[float | None, float | None]:
    """Student's interval of the mean over seeds; None where there are fewer than two."""
    if len(values) < 2:
        return None, None
    from scipy.stats import t

    mean = fmean(values)
    error = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
    half = float(t.ppf((1 + level) / 2, len(values) - 1)) * error
    return mean - half, mean + half


def sweep(
    asked: Asked, candidate: Candidate, rates: Sequence[float], out: Path, quiet: bool
) -> tuple[float, dict[str, float]]:
    """The learning rate with the lowest validation loss at seed 0, and the loss of each. The test part has no say."""
    losses: dict[str, float] = {}
    for rate in rates:
        folder = train(asked.config(candidate, 0, rate), out, quiet=quiet)
        loss = json.loads((folder / "metrics.json").read_bytes())["training"]["best_val_loss"]
        losses[repr(rate)] = math.inf if loss is None else loss
    best = min(losses, key=lambda rate: losses[rate])
    return float(best), losses


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None and math.isfinite(v)]
    return fmean(known) if known and len(known) == len(values) else None


def row_of(candidate: Candidate, runs: Sequence[Run], facts: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the table: the headline metric over seeds, its two intervals, every metric's mean, cost and speed."""
    metric, _ = runs[0].headline
    scores = [run.scores[metric] for run in runs]
    low, high = interval_of_mean([s.value for s in scores])
    costs = [run.metrics.get("cost") or {} for run in runs]
    solved = getattr(runs[0].task, "solved", None)
    return {
        "method": candidate.name,
        "kind": candidate.kind,
        "of": candidate.method,
        "setting": candidate.setting,
        metric: fmean(s.value for s in scores),
        "seeds_low": low,
        "seeds_high": high,
        "bootstrap_low": _mean([s.low for s in scores]),
        "bootstrap_high": _mean([s.high for s in scores]),
        "lr": runs[0].config["train"]["lr"],
        **facts,
        **({} if solved is None else {"steps_to": steps_to(runs[0], solved)}),
        **{
            key: _mean([c.get(key) for c in costs])
            for key in ("parameters", "macs", "train_seconds", "items_per_second")
        },
        "metrics": {n: _mean([r.scores[n].value for r in runs]) for n in runs[0].scores},
        "runs": [str(run.folder) for run in runs],
    }


def baseline_rows(runs: Sequence[Run], setting: str | None = None) -> list[dict[str, Any]]:
    """The baselines of the runs (one per seed), averaged: a split may depend on the seed."""
    metric, _ = runs[0].headline
    rows = []
    for name in runs[0].baselines:
        values = [r.baselines[name][metric].value for r in runs if metric in r.baselines.get(name, {})]
        if len(values) == len(runs) and all(math.isfinite(v) for v in values):
            low, high = interval_of_mean(values)
            named = {"method": name if setting is None else f"{name}, {setting}", "of": name, "setting": setting}
            scored = {metric: fmean(values), "seeds_low": low, "seeds_high": high}
            others = {n: _mean([r.baselines[name][n].value for r in runs]) for n in runs[0].baselines[name]}
            rows.append({**named, "kind": "baseline", **scored, "metrics": others})
    return rows


def _warnings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    found = []
    for setting in dict.fromkeys(r.get("setting") for r in rows):
        models = [r for r in rows if r["kind"] == "model" and r.get("parameters") and r.get("setting") == setting]
        limit = MORE_PARAMETERS * models[0]["parameters"] if models else math.inf
        found += [
            f"{r['method']} has {r['parameters'] / models[0]['parameters']:.2f} times the parameters of "
            f"{models[0]['method']}: more than 10 % more make this no comparison of mixers alone."
            for r in models
            if r["parameters"] > limit
        ]
    return found


def compare(
    task: str,
    presets: Sequence[str] = (),
    *,
    mixers: Sequence[str] = (),
    ladder: bool = False,
    seeds: int = 1,
    data: str | None = None,
    rates: Sequence[float] | None = None,
    file: Path | None = None,
    sets: Sequence[str] = (),
    vary: Sequence[str] = (),
    ablation: bool = True,
    out: Path = Path("runs"),
    quiet: bool = False,
) -> dict[str, Any]:
    """Train every candidate for every seed (finished runs are found) and set them side by side.

    vary: NAME=VALUE,VALUE; every combination is a setting of its own (``data=A,B``: sources). ablation: also each
    preset without mixing. Without ``presets`` the task's own is taken; see :func:`candidates` for ``mixers`` and
    ``ladder``. With ``rates``, or where the task names some, each candidate first finds its own learning rate on
    validation. Writes compare.json and compare.html into ``out/<domain>-<task>/compare-<id>/`` and returns what the
    JSON holds. Raises BadRequest before anything is trained where the request cannot be met.
    """
    if seeds < 1:
        raise BadRequest(f"--seeds must be at least 1, got {seeds}")
    asked = Asked(task, data, file, tuple(sets), tuple(vary))
    presets = list(presets) or [load_task(task).default_preset]
    listed, cannot = considered(asked, candidates(asked, presets, mixers, ladder, ablation))
    if rates is None and not any(parse_set(text)[0] == ["train", "lr"] for text in sets):
        rates = getattr(load_task(task), "rates", None)
    rows: list[dict[str, Any]] = []
    sweeps: dict[str, dict[str, float]] = {}
    first: dict[str | None, list[Run]] = {}  # by setting
    for number, (candidate, facts) in enumerate(listed, 1):
        tell("candidate", f"[{number}/{len(listed)}] {candidate.name}", quiet=quiet, name=candidate.name)
        rate = None
        if rates:
            rate, sweeps[candidate.name] = sweep(asked, candidate, rates, out, quiet)
        runs = [Run(train(asked.config(candidate, seed, rate), out, quiet=quiet)) for seed in range(seeds)]
        rows.append(row_of(candidate, runs, facts))
        first.setdefault(candidate.setting, runs)
    for setting, runs in first.items():
        rows += baseline_rows(runs, setting)
    (example, *_), *_ = first.values()
    metric, fact = example.headline
    request = {"task": task, "presets": presets, "seeds": seeds, "data": example.data["sha256"]}
    request |= {"rates": list(rates or []), "sets": list(sets)}
    request |= {"mixers": list(mixers), "ladder": ladder} if mixers or ladder else {}
    request |= {"vary": list(vary)} if vary else {}
    request |= {} if ablation else {"ablation": False}
    columns = ["method", metric, "seeds_low", "seeds_high", "bootstrap_low", "bootstrap_high", "lr"]
    columns += [name for name in ("steps_to", "state_size") if any(r.get(name) is not None for r in rows)]
    columns += COSTS
    folder = out / task.replace("/", "-") / f"compare-{to_json_digest(request)[:8]}"
    result = {
        "task": task,
        "metric": metric,
        "better": fact.better,
        "unit": fact.unit,
        "seeds": seeds,
        "data": example.data["source"],
        "solved": getattr(example.task, "solved", None),
        "columns": columns,
        "rows": rows,
        "cannot": cannot,
        "sweeps": sweeps,
        "warnings": _warnings(rows),
        "page": str(folder / "compare.html"),
        "json": str(folder / "compare.json"),
    }
    _write(folder, result, example)
    return result


def _write(folder: Path, result: dict[str, Any], first: Run) -> None:
    write_json(folder / "compare.json", finite(result))
    write_comparison(folder / "compare.html", result, first)


def write_comparison(page: Path, result: Mapping[str, Any], first: Run) -> Path:
    """The page of :func:`compare`; ``first`` is any of its runs."""
    metric, fact = first.headline
    over_seeds = result["seeds"] > 1
    bars = [
        Bar(words(r["method"]), r[metric], r.get(low), r.get(high), r["kind"])
        for r in result["rows"]
        for low, high in [("seeds_low", "seeds_high") if over_seeds else ("bootstrap_low", "bootstrap_high")]
    ]
    rows = [
        {
            **{column: r.get(column) for column in result["columns"]},
            "kind": r["kind"],
            "runs": [
                {"name": Path(f).name, "link": link(Path(f) / "report.html", page.resolve())} for f in r.get("runs", ())
            ],
        }
        for r in result["rows"]
    ]
    text = (
        environment()
        .get_template("compare.html")
        .render(
            r=result,
            rows=rows,
            axis=axis_of(metric, fact),
            chart=dots(sorted(bars, key=lambda b: b.value, reverse=fact.better == "higher"), axis_of(metric, fact)),
            rates=list(next(iter(result["sweeps"].values()), {})),
            names=", ".join(r["method"] for r in result["rows"] if r["kind"] == "model"),
            data=data_card(first)["name"],
            summary=getattr(first.task, "summary", ""),
            version=metadata.version("cambium"),
        )
    )
    write_text(page, text)
    return page
