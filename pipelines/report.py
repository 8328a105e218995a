"""Reports: one self-contained page per run, and an index that compares runs. Written for someone new to Cambium."""

from __future__ import annotations

import base64
import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from domains.task import MetricFact

from .charts import Bar, dots, lines
from .findings import Run, Score, better
from .store import write_text
from .tables import shown_tables
from .train import STAGING
from .wording import duration, plain, short, words

ARROWS = {"lower": "↓", "higher": "↑", "target": "→", "none": ""}
USES = {
    "train": "learning, and all statistics (means, scales, class weights)",
    "val": "choosing when to stop, and calibration",
    "test": "this report's scores, nothing else",
}
WIDTH = 6  # metrics beside each other
MIME = {".png": "image/png", ".svg": "image/svg+xml", ".jpg": "image/jpeg", ".wav": "audio/wav"}


def _shown(value: Any, digits: int = 4) -> str:
    return value if isinstance(value, str) else short(value, digits)


@cache
def environment() -> Environment:
    """The templates, with the filters that they use."""
    env = Environment(
        loader=PackageLoader("pipelines", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    env.filters.update(short=_shown, words=words, plain=plain, duration=duration)
    env.globals["facts"] = env.get_template("facts.html").module.facts  # type: ignore[attr-defined]
    env.globals["css"] = Markup(env.loader.get_source(env, "style.css")[0])  # type: ignore[union-attr]
    return env


# ---------------------------------------------------------------------------------------------- the page of a run


def _verdict_sentences(run: Run) -> list[str]:
    name, fact = run.headline
    score, rival = run.scores[name], run.rival()
    unit = f" {fact.unit}" if fact.unit not in ("", "1") else ""
    meaning = fact.meaning.split(". ")[0].rstrip(".")
    called = f"{words(name)} ({meaning})" if meaning else words(name)
    interval = f" (95 % interval {short(score.low)} to {short(score.high)})" if score.low is not None else ""
    direction = {"lower": "; lower is better", "higher": "; higher is better"}.get(fact.better, "")
    said = [f"On data that it never saw, the model reaches {called} {short(score.value)}{unit}{interval}{direction}."]
    if rival is None:
        return [*said, "There is no baseline beside it, so the number stands alone."]
    against = f"the best of {len(run.baselines)} simple methods, {words(rival[0])}, at {short(rival[1].value)}{unit}"
    gap = run.difference
    if gap is not None and gap.low is not None and gap.high is not None:
        margin = f" (difference {short(gap.value)}, 95 % interval {short(gap.low)} to {short(gap.high)})"
    else:
        margin = ""
    sentence = {
        "better": f"It beats {against}{margin}.",
        "worse": f"It does not beat {against}{margin}. Prefer that method, or train longer or otherwise.",
        "level": f"It cannot be told apart from {against}: the gap is within chance{margin}.",
    }
    return [*said, sentence.get(run.verdict(), f"Beside it stands {against}.")]


def _warnings(run: Run) -> list[str]:
    found = [str(w) for w in run.metrics.get("warnings") or []]
    if run.verdict() == "worse":
        found.append("the model is not above its best baseline on the test part.")
    elif run.verdict() == "level":
        found.append("the model is not clearly above its best baseline on the test part.")
    if (run.config.get("split") or {}).get("allow_leak") if isinstance(run.config.get("split"), Mapping) else False:
        found.append(
            "this split was asked to allow leakage (split.allow_leak=true): its scores are too good to be true."
        )
    failed = [a["name"] for a in run.metrics.get("audits") or [] if a.get("passed") is False]
    if failed:
        found.append(
            f"audits of the split failed ({', '.join(words(n) for n in failed)}): the scores may be due to leakage."
        )
    return list(dict.fromkeys(found))


def _table(run: Run, names: Sequence[str]) -> list[dict[str, Any]]:
    """Methods by metrics; baselines show an interval for the first metric only, or the table would not fit a page."""
    rows = [("this model", "model", run.scores)]
    rows += [(f"{words(k)} (ablation)", "ablation", v) for k, v in run.ablation.items()]
    rows += [(words(k), "baseline", v) for k, v in run.baselines.items()]
    best: dict[str, float] = {}
    for _, _, scores in rows:
        for name in names:
            fact, value = run.facts[name], scores[name].value if name in scores else math.nan
            if fact.better == "none" or not math.isfinite(value):
                continue
            if name not in best or better(value, best[name], fact):
                best[name] = value

    def cell(kind: str, name: str, score: Score) -> dict[str, Any]:
        shown = kind != "baseline" or name == names[0]
        low, high = (score.low, score.high) if shown else (None, None)
        return {"value": score.value, "low": low, "high": high, "best": best.get(name) == score.value}

    missing = Score(math.nan)
    return [
        {"label": label, "kind": kind, "cells": [cell(kind, name, scores.get(name, missing)) for name in names]}
        for label, kind, scores in rows
    ]


def _tables(run: Run) -> list[dict[str, Any]]:
    """As many of the metrics that the task explains as fit a page, and the rest, such as one per class, folded away."""
    known = [n for n in run.facts if n in run.task.metric_facts]
    groups = [known[:WIDTH], known[WIDTH:] + [n for n in run.facts if n not in known]]
    return [{"metrics": [_head(n, run.facts[n]) for n in g], "rows": _table(run, g)} for g in groups if g]


def _head(name: str, fact: MetricFact) -> dict[str, str]:
    unit = fact.unit if fact.unit != "1" else ""
    return {"name": words(name), "unit": unit, "arrow": _arrow(fact), "meaning": fact.meaning}


def _arrow(fact: MetricFact) -> str:
    return f"→ {fact.target:g}" if fact.better == "target" and fact.target is not None else ARROWS[fact.better]


def axis_of(name: str, fact: MetricFact) -> str:
    """What is written at an axis: the metric, its unit, and which way is better."""
    unit = f" [{fact.unit}]" if fact.unit not in ("", "1") else ""
    return f"{words(name)}{unit} {_arrow(fact)}".strip()


def _chart(run: Run) -> Markup:
    name, fact = run.headline
    s = run.scores[name]
    bars = [Bar("this model", s.value, s.low, s.high, "model")]
    for label, scores in run.ablation.items():
        if name in scores:
            bars.append(
                Bar(f"{words(label)} (ablation)", scores[name].value, scores[name].low, scores[name].high, "ablation")
            )
    rest = [(k, v[name]) for k, v in run.baselines.items() if name in v]
    rest.sort(key=lambda kv: kv[1].value, reverse=fact.better == "higher")
    bars += [Bar(words(k), v.value, v.low, v.high) for k, v in rest]
    return dots(bars, axis_of(name, fact))


def _figures(run: Run) -> list[dict[str, str]]:
    """Pictures and sounds of the run, in the order of ``figures/figures.json`` where there is one, else by name."""
    folder = run.folder / "figures"
    if not folder.is_dir():
        return []
    listing = folder / "figures.json"
    told = json.loads(listing.read_text()) if listing.is_file() else []
    named = [(e["file"], e.get("title", ""), e.get("caption", "")) for e in told]
    known = {file for file, _, _ in named}
    named += [(p.name, words(p.stem), "") for p in sorted(folder.iterdir()) if p.suffix in MIME and p.name not in known]
    found = []
    for file, title, caption in named:
        path = folder / file
        if path.suffix in MIME and path.parent == folder and path.is_file():
            content = base64.b64encode(path.read_bytes()).decode()
            found.append({"uri": f"data:{MIME[path.suffix]};base64,{content}", "title": title, "caption": caption})
    return found


def _cost(run: Run) -> list[dict[str, str]]:
    cost = dict(run.metrics.get("cost") or {})
    known = [
        ("parameters", "Parameters", lambda v: short(int(v)), "numbers that training sets"),
        ("macs", "Operations for one example", lambda v: f"{short(float(v))} multiply-adds", ""),
        ("train_seconds", "Training time", duration, ""),
        ("items_per_second", "Speed when predicting", lambda v: f"{short(float(v), 3)} examples per second", ""),
        (
            "batch_memory_mb",
            "Memory of a batch",
            lambda v: f"{short(float(v), 3)} MB",
            "when predicting, without weights",
        ),
        ("peak_memory_mb", "Peak memory", lambda v: f"{short(float(v), 4)} MB", ""),
    ]
    rows = [{"name": t, "value": f(cost.pop(k)), "note": n} for k, t, f, n in known if cost.get(k) is not None]
    return rows + [{"name": words(k), "value": plain(v), "note": ""} for k, v in cost.items() if v is not None]


def commands(run: Run, runs_named: str | None = None) -> dict[str, str]:
    """The shell lines that make this run again and that use it."""
    # while it is written, a run's folder is named otherwise
    here = runs_named or os.path.relpath(run.folder.with_name(run.folder.name.removeprefix(STAGING)))
    config = run.config
    train = ["cambium", "train", run.metrics["task"], "--config", f"{here}/config.yaml"]
    return {
        "train": f"{shlex.join(train)}\n# data {config.get('data')}, preset {config.get('preset')}, seed {run.seed}",
        "evaluate": f"cambium evaluate {shlex.quote(here)} --data SOURCE",
        "predict": f"cambium predict {shlex.quote(here)} FILE... --out FOLDER",
    }


def _split(run: Run) -> dict[str, Any]:
    split = run.metrics.get("split") or {}
    sizes = split.get("sizes") or {}
    return {
        "protocol": split.get("protocol", ""),
        "parts": [
            {"name": {"val": "validation"}.get(k, k), "size": v, "use": USES.get(k, "")} for k, v in sizes.items()
        ],
        "facts": split.get("facts") or {},
    }


def data_card(run: Run) -> dict[str, Any]:
    """Name, source, checksum, licence and facts of a run's data."""
    source = str(run.data.get("source", ""))
    name = source.rstrip("/").rpartition("/")[2] or source
    return {
        "name": name,
        **{k: run.data.get(k, "") for k in ("source", "sha256", "licence")},
        "facts": run.data.get("facts") or {},
    }


def _training(run: Run) -> dict[str, Any]:
    history = run.history
    series = {
        label: [(r["epoch"], r[key]) for r in history if r.get(key) is not None and r.get("epoch") is not None]
        for key, label in (("train_loss", "training"), ("val_loss", "validation"))
    }
    chosen = [r["epoch"] for r in history if r.get("best")]
    options = run.config.get("train") or {}
    shown = [(words(k), plain(v)) for k, v in options.items() if v is not None and v is not False]
    return {
        "curves": lines(series, "epoch", "loss", chosen[-1] if chosen else None),
        "chosen": bool(chosen),
        "train": shown,
    }


def view(run: Run) -> dict[str, Any]:
    """All that the page shows, as plain values."""
    cost = run.metrics.get("cost") or {}
    rival, (name, fact) = run.rival(), run.headline
    reserved = {"task", "data", "preset", "seed", "train", "model"}
    versions = run.model.get("versions") or {}
    return {
        "task": run.metrics["task"],
        "run": run.metrics["run"],
        "seed": run.seed,
        "preset": run.preset,
        "summary": getattr(run.task, "summary", ""),
        "verdict": {"kind": run.verdict(), "sentences": _verdict_sentences(run)},
        "warnings": _warnings(run),
        "headline": run.scores[name],
        "rival": None if rival is None else {"label": words(rival[0]), "value": rival[1].value},
        "metric": {"name": axis_of(name, fact)},
        "tables": _tables(run),
        "chart": _chart(run),
        "has_intervals": any(s.low is not None for s in run.scores.values()),
        "has_ablation": bool(run.ablation),
        "baselines": bool(run.baselines),
        "test_size": (run.metrics.get("split") or {}).get("sizes", {}).get("test"),
        "figures": _figures(run),
        "detail": shown_tables(run.folder),
        "split": _split(run),
        "audits": run.metrics.get("audits") or [],
        "data": data_card(run),
        **_training(run),
        "preset_paper": (run.model.get("preset") or {}).get("paper", ""),
        "options": {k: v for k, v in run.config.items() if k not in reserved},
        "cost": _cost(run),
        "usage": run.metrics.get("usage") or [],
        "parameters": cost.get("parameters"),
        "train_time": duration(cost.get("train_seconds")),
        "commands": commands(run),
        "version": metadata.version("cambium"),
        "versions": ", ".join(f"{k} {v}" for k, v in versions.items() if k != "cambium"),
    }


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run's folder. Raises BadInput where it is not a finished run."""
    run = Run(run_dir)
    page = environment().get_template("run.html").render(v=view(run))
    path = run.folder / "report.html"
    write_text(path, page)
    return path


# ---------------------------------------------------------------------------------------------- the index


def link(target: Path, page: Path) -> str:
    """A relative address from a page to a file."""
    return quote(os.path.relpath(target, page.parent))


def write_index(
    runs: Sequence[Path],
    out: Path,
    *,
    title: str = "Runs",
    intro: Sequence[str] = (),
    predictions: Mapping[Path, Sequence[Mapping[str, Any]]] | None = None,
    commands: Sequence[Mapping[str, str]] = (),
    warnings: Sequence[str] = (),
    pictures: bool = False,
    reports: Mapping[Path, Path] | None = None,
) -> Path:
    """One page at ``out`` that links the runs' reports and compares those of the same task.

    ``predictions``: run folder -> rows of ``{"input", "state", "outputs": [paths], "reason"}`` to list beside it.
    ``commands``: ``{"text", "line"}`` of what to do next. ``pictures``: show the first of each run.
    ``reports``: run folder -> where its page stands, if not in the folder.
    """
    page = out.resolve()
    groups: dict[str, list[Run]] = {}
    for folder in runs:
        run = Run(folder)
        groups.setdefault(run.metrics["task"], []).append(run)
    predictions = {Path(k).resolve(): v for k, v in (predictions or {}).items()}
    shown = []
    for task, members in groups.items():
        views = []
        for run in members:
            rows = [
                {**r, "outputs": [(Path(o).name, link(Path(o).resolve(), page)) for o in r.get("outputs", ())]}
                for r in predictions.get(run.folder, ())
            ]
            views.append(
                {
                    **view(run),
                    "link": link((reports or {}).get(run.folder, run.folder / "report.html"), page),
                    "predictions": rows,
                }
            )
        shown.append(
            {
                "task": task,
                "summary": views[0]["summary"],
                "metric": views[0]["metric"],
                "runs": views,
                "chart": _compared(members),
            }
        )
    text = (
        environment()
        .get_template("index.html")
        .render(
            title=title,
            intro=intro,
            groups=shown,
            commands=commands,
            warnings=warnings,
            pictures=pictures,
            version=metadata.version("cambium"),
        )
    )
    write_text(page, text)
    return page


def _compared(members: Sequence[Run]) -> Markup:
    """The headline metric of the runs of one task, on the same data, beside their best baseline."""
    name, fact = members[0].headline
    bars = []
    for run in members:
        s = run.scores.get(name)
        if s is not None:
            label = run.preset if len(members) == 1 else f"{run.preset}, seed {run.seed}"
            bars.append(Bar(label, s.value, s.low, s.high, "model"))
    seen = {}
    for run in members:
        rival = run.rival()
        if rival is not None:
            seen[rival] = Bar(words(rival[0]), rival[1].value, rival[1].low, rival[1].high)
    return dots([*bars, *seen.values()], axis_of(name, fact))
