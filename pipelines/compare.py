"""Presets side by side, fairly: the same data and seeds, a learning rate of its own for each, and what mixing adds."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any

from domains.task import to_json_digest
from shared_backbones.errors import BadRequest

from .charts import Bar, dots
from .config import RunConfig, build_preset, resolve
from .findings import Run
from .report import axis_of, data_card, environment, link
from .store import finite, write_json, write_text
from .train import train
from .wording import words

COSTS = ("parameters", "macs", "train_seconds", "items_per_second")
IDENTITY = "identity"
MORE_PARAMETERS = 1.1  # a comparison of mixers allows at most this times the first preset's parameters


@dataclass(frozen=True)
class Candidate:
    """A preset, as it is or with its mixers replaced by ``identity``."""

    preset: str
    ablated: bool

    @property
    def name(self) -> str:
        return f"{Path(self.preset).stem}{' without mixing' if self.ablated else ''}"


@dataclass(frozen=True)
class Asked:
    """What is common to every training of a comparison."""

    task: str
    data: str | None
    file: Path | None
    sets: tuple[str, ...]

    def config(self, candidate: Candidate, seed: int, rate: float | None) -> RunConfig:
        sets = [*self.sets, *([f"model.mixer={IDENTITY}"] if candidate.ablated else [])]
        sets += [] if rate is None else [f"train.lr={rate!r}"]
        return resolve(self.task, data=self.data, preset=candidate.preset, file=self.file, sets=sets, seed=seed)


def candidates(asked: Asked, presets: Sequence[str]) -> list[Candidate]:
    """Each preset and its ablation, unless it mixes nothing already. Raises BadRequest for one named twice."""
    if len(set(presets)) != len(presets):
        raise BadRequest(f"each preset once, got {', '.join(presets)}")
    found = []
    for name in presets:
        stages = build_preset(asked.config(Candidate(name, False), 0, None)).backbone.stages
        mixes = any(layer.mixer != IDENTITY for stage in stages for layer in stage.layers)
        found += [Candidate(name, False)] + ([Candidate(name, True)] if mixes else [])
    return found


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


def row_of(name: str, kind: str, runs: Sequence[Run]) -> dict[str, Any]:
    """A line of the table: the headline metric over seeds, its two intervals, every metric's mean, cost and speed."""
    metric, _ = runs[0].headline
    scores = [run.scores[metric] for run in runs]
    low, high = interval_of_mean([s.value for s in scores])
    costs = [run.metrics.get("cost") or {} for run in runs]
    return {
        "method": name,
        "kind": kind,
        metric: fmean(s.value for s in scores),
        "seeds_low": low,
        "seeds_high": high,
        "bootstrap_low": _mean([s.low for s in scores]),
        "bootstrap_high": _mean([s.high for s in scores]),
        "lr": runs[0].config["train"]["lr"],
        **{
            key: _mean([c.get(key) for c in costs])
            for key in ("parameters", "macs", "train_seconds", "items_per_second")
        },
        "metrics": {n: _mean([r.scores[n].value for r in runs]) for n in runs[0].scores},
        "runs": [str(run.folder) for run in runs],
    }


def baseline_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The baselines of the runs (one per seed), averaged: a split may depend on the seed."""
    metric, _ = runs[0].headline
    rows = []
    for name in runs[0].baselines:
        values = [r.baselines[name][metric].value for r in runs if metric in r.baselines.get(name, {})]
        if len(values) == len(runs) and all(math.isfinite(v) for v in values):
            low, high = interval_of_mean(values)
            rows.append(
                {"method": name, "kind": "baseline", metric: fmean(values), "seeds_low": low, "seeds_high": high}
            )
    return rows


def _warnings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    models = [r for r in rows if r["kind"] == "model" and r.get("parameters")]
    limit = MORE_PARAMETERS * models[0]["parameters"] if models else math.inf
    return [
        f"{r['method']} has {r['parameters'] / models[0]['parameters']:.2f} times the parameters of "
        f"{models[0]['method']}: more than 10 % more make this no comparison of mixers alone."
        for r in models
        if r["parameters"] > limit
    ]


def compare(
    task: str,
    presets: Sequence[str],
    *,
    seeds: int = 1,
    data: str | None = None,
    rates: Sequence[float] | None = None,
    file: Path | None = None,
    sets: Sequence[str] = (),
    out: Path = Path("runs"),
    quiet: bool = False,
) -> dict[str, Any]:
    """Train every preset and its ablation for every seed (finished runs are found) and set them side by side.

    With ``rates`` each candidate first finds its own learning rate on validation. Writes compare.json and
    compare.html into ``out/<domain>-<task>/compare-<id>/`` and returns what the JSON holds. Raises BadRequest before
    anything is trained where the request cannot be met.
    """
    if seeds < 1:
        raise BadRequest(f"--seeds must be at least 1, got {seeds}")
    asked = Asked(task, data, file, tuple(sets))
    listed = candidates(asked, presets)
    rows: list[dict[str, Any]] = []
    sweeps: dict[str, dict[str, float]] = {}
    of_first: list[Run] = []
    for number, candidate in enumerate(listed, 1):
        if not quiet:
            print(f"[{number}/{len(listed)}] {candidate.name}", file=sys.stderr, flush=True)
        rate = None
        if rates:
            rate, sweeps[candidate.name] = sweep(asked, candidate, rates, out, quiet)
        runs = [Run(train(asked.config(candidate, seed, rate), out, quiet=quiet)) for seed in range(seeds)]
        rows.append(row_of(candidate.name, "ablation" if candidate.ablated else "model", runs))
        of_first = of_first or runs
    rows += baseline_rows(of_first)
    metric, fact = of_first[0].headline
    request = {"task": task, "presets": list(presets), "seeds": seeds, "data": of_first[0].data["sha256"]}
    request |= {"rates": list(rates or []), "sets": list(sets), "runs": [r.get("runs") for r in rows]}
    columns = ["method", metric, "seeds_low", "seeds_high", "bootstrap_low", "bootstrap_high", "lr"]
    columns += COSTS
    folder = out / task.replace("/", "-") / f"compare-{to_json_digest({**request, 'runs': None})[:8]}"
    result = {
        "task": task,
        "metric": metric,
        "better": fact.better,
        "unit": fact.unit,
        "seeds": seeds,
        "data": of_first[0].data["source"],
        "columns": columns,
        "rows": rows,
        "sweeps": sweeps,
        "warnings": _warnings(rows),
        "page": str(folder / "compare.html"),
        "json": str(folder / "compare.json"),
    }
    _write(folder, result, of_first[0])
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
