"""What people see of a flow in Prefect: tables, pictures, links, progress, and what each step took.

Import this module only after :mod:`flows.server` has set the environment.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from pipelines.store import Ref

LARGEST = 2_000_000  # bytes of a picture: it is kept in the server's database, so that no file server is needed
EVERY = 2.0  # seconds between two updates of a progress bar


def key_of(*words: str) -> str:
    """Lowercase letters, digits and dashes, as Prefect wants the key of an artifact."""
    text = "-".join("".join(c if c.isascii() and c.isalnum() else "-" for c in word) for word in words)
    return text.lower().strip("-")[:200]


class _Bar(threading.Thread):
    """Sends the newest share to the server now and then; a server that does not answer holds nobody up."""

    def __init__(self, artifact: Any) -> None:
        super().__init__(daemon=True)
        self.artifact, self.share, self.sent = artifact, 0.0, 0.0
        self.over = threading.Event()

    def send(self) -> None:
        if self.share != self.sent:
            try:
                update_progress_artifact(self.artifact, round(100 * self.share, 1))
                self.sent = self.share
            except Exception:  # of whatever kind: the work is what counts, and the next look tries again
                return

    def run(self) -> None:
        while not self.over.wait(EVERY):
            self.send()


@contextmanager
def progress(name: str, description: str) -> Iterator[Callable[[float], None]]:
    """A progress artifact; yields what is told the share that is done, 0 to 1. It is full when the block succeeds."""
    bar = _Bar(create_progress_artifact(0.0, key=key_of("progress", name), description=description))

    def tell(share: float) -> None:
        bar.share = min(1.0, max(0.0, share))

    bar.start()
    try:
        yield tell
        tell(1.0)
    finally:
        bar.over.set()
        bar.join()
        bar.send()


def of_inputs(share: Callable[[float], None]) -> Callable[[Any, int, int], None]:
    """``share`` as a batch calls it after every input: with a ledger row, how many are finished, and of how many."""
    return lambda row, finished, total: share(finished / total)


def picture(run: Path) -> str | None:
    """The first picture of a run as an address that holds it; None where there is none, or it is too large."""
    index = run / "figures" / "figures.json"
    for row in json.loads(index.read_bytes()) if index.is_file() else ():
        path = index.parent / row["file"]
        if path.suffix == ".png" and path.is_file() and path.stat().st_size <= LARGEST:
            return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    return None


def show_picture(run: Path, name: str) -> None:
    """The run's first picture as an image artifact."""
    if (address := picture(run)) is not None:
        create_image_artifact(address, key=key_of("picture", name), description=f"First picture of {run}")


def show_usage(rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """What each step took, as a table and in the log."""
    if not rows:
        return
    shown = [
        {
            "step": row["step"],
            "wall, s": row["wall_s"],
            "CPU, s": row["cpu_s"],
            "peak memory, MB": row["peak_rss_mb"],
            "GPU memory, MB": row["gpu_mb"],
        }
        for row in rows
    ]
    create_table_artifact(shown, key=key_of("usage", name), description="What each step took of the machine")
    for row in rows:
        said = (row["step"], row["wall_s"], row["cpu_s"], row["peak_rss_mb"])
        get_run_logger().info("%s: %.1f s, CPU %.1f s, at most %.0f MB", *said)


def _value(entry: Any) -> float | None:
    return entry.get("value") if isinstance(entry, Mapping) else entry


def score_table(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of (method, metric ...), the model first, its baselines below."""
    own = {name: _value(entry) for name, entry in content["metrics"].items()}
    rows = [{"method": "this model", **own}]
    for method, scores in content["baselines"].items():
        rows.append({"method": method, **{name: _value(scores.get(name)) for name in own}})
    return rows


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "" if value is None else str(value)


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """Rows with the same keys as a Markdown table."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "| --- " * len(names) + "|"]
    lines += ["| " + " | ".join(_cell(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def show_scores(run: Ref, metrics: Ref, page: Ref, reused: bool) -> None:
    """Artifacts of a training flow: scores beside the baselines, and the link to the report."""
    content = json.loads(metrics.open().read_text())
    rows, link = score_table(content), Path(page.uri).as_uri()
    key = key_of("scores", content["task"], content["run"])
    text = [
        f"# {content['task']}, run {content['run']}",
        f"Preset {content.get('preset', '?')}, seed {content['seed']}. {'Reused' if reused else 'Made by this flow'}.",
        f"Split: {(content.get('split') or {}).get('protocol', 'not stated')}",
        markdown_table(rows),
        f"[Report]({link}) · files in `{run.uri}`",
    ]
    create_markdown_artifact("\n\n".join(text), key=key)
    create_table_artifact(rows, key=f"{key}-table", description="The model and its baselines on the test part")
    create_link_artifact(link, link_text="report", key=f"{key}-report")
    show_picture(Path(run.uri), content["run"])


def show_batch(summary: Ref) -> None:
    """Artifacts of a prediction flow: how many, and which inputs were refused and why."""
    content = json.loads(summary.open().read_text())
    bad = [{"state": state, **row} for state in ("refused", "failed") for row in content[state]]
    text = [
        f"# Batch in `{content['out']}`",
        f"{content['done']} done ({content['reused']} of them earlier), {len(content['refused'])} refused, "
        f"{len(content['failed'])} failed. [Ledger]({Path(content['ledger']).resolve().as_uri()})",
    ]
    create_markdown_artifact("\n\n".join(text), key="batch")
    if bad:
        create_table_artifact(bad, key="batch-refused", description="Inputs without a prediction, and why")
    show_usage(content.get("usage", ()), "batch")
