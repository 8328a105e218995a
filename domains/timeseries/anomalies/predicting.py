"""Scores and alarms for every step of a new source; each series' own start says what is usual for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from domains.task import Fitted, Sink

from .config import DetectOptions
from .data import runs
from .judging import judged, views_of
from .leveling import leveled
from .metrics import alarms
from .model import Watcher, errors_of
from .source import read_records


def predict_source(options: DetectOptions, model: Watcher, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
    """Writes scores.csv (a row per step) and events.csv (a row per stretch above the threshold). Raises BadInput.

    The probation of each series, its first steps, sets its scale and raises no alarm. A step's score depends on that
    and on earlier steps alone.
    """
    records, _ = read_records(source, options)
    found = zip(records, errors_of(model, records), strict=True)
    views = [views_of(r, e, model.lookback) for r, e in found]
    scores, _ = judged(views, records, options.smooth, options.alarm_rate)
    scores = leveled(scores, records, float(model.threshold), options)
    tables, events = [], []
    for r, s in zip(records, scores, strict=True):
        flags = s >= 1
        flags[: r.known] = False
        raised = np.zeros(len(s), bool)
        raised[alarms(flags, options.hold)] = True
        columns = {"series": r.name, "time": r.times, "score": np.round(s, 6), "flagged": flags.astype(int)}
        columns |= {"alarm": raised.astype(int), "probation": (np.arange(len(s)) < r.known).astype(int)}
        tables.append(pd.DataFrame(columns))
        for first, last in runs(flags):
            events.append((r.name, r.times[first], r.times[last], round(float(s[first : last + 1].max()), 4)))
    with sink.file("scores.csv") as path:
        pd.concat(tables).to_csv(path, index=False)
    with sink.file("events.csv") as path:
        pd.DataFrame(events, columns=["series", "first", "last", "highest_score"]).to_csv(path, index=False)
    return {
        "series": len(records), "steps": sum(map(len, records)), "events": len(events),
        "alarms": int(sum(t["alarm"].sum() for t in tables)), "output": "scores.csv, events.csv",
    }  # fmt: skip
