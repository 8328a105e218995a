"""What people are shown on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..events import json_lines, tell
from ..grid import settings_table
from ..wording import plain, short, words

if TYPE_CHECKING:
    from ..findings import Run
    from ..ledger import Row
    from ..predict import Summary


def _cell(value: Any) -> Text:
    return Text(
        value if isinstance(value, str) else plain(value) if isinstance(value, (list, dict, bool)) else short(value)
    )


def table(console: Console, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Rows under headings; numbers to the right."""
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for i, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(r[i], (int, float)) or r[i] is None for r in rows)
        shown.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(_cell(value) for value in row))
    console.print(shown)
    if not rows:
        console.print("none", style="dim")


def pairs(console: Console, values: Mapping[str, Any]) -> None:
    """Name and value, a line each."""
    shown = Table.grid(padding=(0, 2, 0, 0))
    shown.add_column(style="dim")
    shown.add_column(overflow="fold")
    for name, value in values.items():
        shown.add_row(Text(words(name)), _cell(value))
    console.print(shown)


def _value(raw: Any) -> str:
    if isinstance(raw, Mapping):
        text = short(raw.get("value"))
        return text if raw.get("low") is None else f"{text}  ({short(raw['low'])} to {short(raw['high'])})"
    return short(raw)


def scores(console: Console, metrics: Mapping[str, Any]) -> None:
    """Metrics of a run beside its baselines."""
    names = list(metrics["metrics"])
    ablation = metrics.get("ablation") or {}
    columns = {"model (95 % interval)": metrics["metrics"]}
    columns |= {"identity": ablation["metrics"]} if "metrics" in ablation else {}
    columns |= {words(k): v for k, v in (metrics.get("baselines") or {}).items()}
    rows = [[words(n), *(_value(c[n]) if n in c else "" for c in columns.values())] for n in names]
    table(console, ["", *columns], rows)
    _audits(console, metrics.get("audits") or [])


def _audits(console: Console, audits: Sequence[Mapping[str, Any]]) -> None:
    for audit in audits:
        verdict = {True: "passed", False: "FAILED", None: "to read"}[audit["passed"]]
        value = audit["value"] if isinstance(audit["value"], str) else short(audit["value"])
        console.print(
            Text(f"audit {words(audit['name'])}: {value} ({verdict})", style="" if audit["passed"] else "bold")
        )


def run(console: Console, found: Run, registered: Mapping[str, Any]) -> None:
    """The end of a training: scores, audits, where everything is."""
    scores(console, found.metrics)
    said = {
        "better": "better than the best baseline",
        "level": "not clearly above the best baseline",
        "worse": "NOT above the best baseline",
        "no baseline": "no baseline beside it",
    }
    console.print(Text(f"verdict: {said[found.verdict()]}", style="bold"))
    if registered.get("model"):
        alias = "@champion" if "champion" in registered.get("aliases", ()) else f"@{registered['version']}"
        console.print(Text(f"model:   {registered['model']}{alias}"))
    print(f"report:  {found.folder / 'report.html'}")
    print(f"run:     {found.folder}")


def checked(console: Console, result: Mapping[str, Any]) -> None:
    """What data holds and how it would be split."""
    manifest, split = result["data"], result["split"]
    pairs(console, {k: manifest[k] for k in ("source", "licence", "sha256")} | dict(manifest["facts"]))
    pairs(console, {"split": split["protocol"], **split["sizes"], **split["facts"]})
    _audits(console, result["audits"])
    console.print(f"{result['task']} can use it.", style="bold", markup=False)


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[Row, int, int], None]]:
    """Inputs as they are done: a bar on a terminal, else a line each; problems always; events where asked for."""
    if quiet or json_lines() or not sys.stderr.isatty():
        yield lambda row, finished, total: _told(row, finished, total, quiet)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("predicting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def tick(row: Row, finished: int, total: int) -> None:
            bar.update(task, completed=finished, total=total)
            if row.state != "done":
                bar.console.print(f"{row.state} {row.input}: {row.reason}", markup=False, highlight=False)

        yield tick


def _told(row: Row, finished: int, total: int, quiet: bool) -> None:
    why = f": {row.reason}" if row.reason else ""
    facts = {"state": row.state, "input": row.input, "reason": row.reason, "seconds": row.seconds, "run": row.run}
    text = f"[{finished}/{total}] {row.state} {row.input}{why}"
    tell("input", text, quiet=quiet and row.state == "done", finished=finished, total=total, **facts)


def batch(console: Console, summary: Summary) -> None:
    """What a batch came to."""
    from ..lineage import predictions

    counts = f"{summary.count('done')} done ({len(summary.reused)} before), {summary.count('refused')} refused"
    console.print(f"{counts}, {summary.count('failed')} failed", markup=False)
    for row in summary.rows:
        if row.state == "done" and len(summary.rows) <= 20:
            for name in predictions(row.outputs):
                print(summary.out / name)
    if summary.drift is not None:
        state = {True: "ALARM, ", False: "", None: "not tested: "}[summary.drift["alarm"]]
        console.print(Text(f"drift: {state}{summary.drift['why']}", style="bold" if summary.drift["alarm"] else ""))
    print(f"ledger: {summary.out / 'ledger.jsonl'}")


def comparison(console: Console, result: Mapping[str, Any], metrics: Sequence[str] = ()) -> None:
    """Presets or mixers side by side; ``metrics``: what the tables by setting hold (default: the headline)."""
    metric, rows = result["metric"], []
    more = {k: v for k, v in _MORE.items() if k in result["columns"]}
    for row in result["rows"]:
        over = [row.get(f"{kind}_{end}") for kind in ("seeds", "bootstrap") for end in ("low", "high")]
        seeds, units = (f"{short(a)} to {short(b)}" if a is not None else "" for a, b in (over[:2], over[2:]))
        costs = ["lr", *more, "parameters", "items_per_second"]
        costs = [short(row[k]) if row.get(k) is not None else "" for k in costs]
        rows.append([words(row["method"]), row[metric], seeds, units, *costs])
    solved = f"steps to {short(result['solved'])}" if result.get("solved") else ""
    extra = [solved if k == "steps_to" else v for k, v in more.items()]
    headings = ["", words(metric), "over seeds", "over test units", "lr", *extra, "parameters", "items/s"]
    table(console, headings, rows)
    _by_setting(console, result, metrics)
    for refused in result.get("cannot", ()):
        console.print(Text(f"cannot: {refused['method']}: {refused['reason']}"))
    for warning in result["warnings"]:
        console.print(Text(f"caution: {warning}"))
    if not result["warnings"]:
        console.print(Text("No method has more than 10 % more parameters than the first."))
    print(f"page: {result['page']}")


_MORE = {"steps_to": "steps", "state_size": "state"}


def _by_setting(console: Console, result: Mapping[str, Any], metrics: Sequence[str]) -> None:
    """Methods down, settings across (the other way round where these are many), where there are several settings."""
    if len({r.get("setting") for r in result["rows"]}) < 2:
        return
    refused = {r["method"] for r in result.get("cannot", ())}
    for metric in metrics or [result["metric"]]:
        methods, found = settings_table(result["rows"], metric)
        told = [
            [_told_score(v, f"{words(m)}, {s}" in refused) for m, v in zip(methods, row, strict=True)]
            for s, row in found
        ]
        names = [setting for setting, _ in found]
        if len(names) > len(methods):
            rows = [[name, *cells] for name, cells in zip(names, told, strict=True)]
            table(console, [words(metric), *map(words, methods)], rows)
        else:
            rows = [[words(m), *cells] for m, cells in zip(methods, zip(*told, strict=True), strict=True)]
            table(console, [words(metric), *names], rows)


def _told_score(value: float | None, refused: bool) -> str:
    return short(value, 4) if value is not None else "cannot" if refused else ""


def exported(console: Console, result: Mapping[str, Any]) -> None:
    """What was written, and how near it is to the original."""
    pairs(console, result["parity"])
    for path in result["files"]:
        print(path)
