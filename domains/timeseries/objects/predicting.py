"""Classes of every object of a new source: one row each, as predictions.csv."""

from __future__ import annotations

import csv
from typing import Any

import numpy as np

from domains.scoring import softmax
from domains.task import Fitted, Sink

from .closing import over_items
from .collection import Objects
from .config import ClassifyOptions
from .data import Read
from .items import ObjectItems
from .model import SeriesClassifier
from .source import few_observations, objects_of, read_source

AT_ONCE = 2000  # objects
SHOWN = 128  # objects of AT_ONCE


def predict_source(
    options: ClassifyOptions, model: SeriesClassifier, fitted: Fitted, source: str, sink: Sink
) -> dict[str, Any]:
    """Object, observations, prediction, confidence, a probability per class and, of a light curve, its period.

    Rule: an object with fewer than ``least`` observations has no class, and its ``note`` says so. Raises BadInput.
    """
    read, licence, used = read_source(source, options)
    few = few_observations(read, int(fitted["least"]))
    names = {o.name for o in few}
    rows: dict[str, dict[str, Any]] = {
        o.name: {"object": o.name, "observations": len(o.values), "note": f"needs {fitted['least']} observations"}
        for o in few
    }
    good = [o for o in read.objects if o.name not in names]
    for start in range(0, len(good), AT_ONCE):
        piece = Read(read.regular, read.channels, good[start : start + AT_ONCE], read.found)
        rows |= _scored(model, objects_of(piece, source, licence, used, fitted), fitted)
        read.channels = tuple(fitted["channels"]) if not read.regular else read.channels  # numbered anew by the first
    columns = ["object", "observations", "prediction", "confidence", *(f"p_{c}" for c in fitted["classes"])]
    columns += (["period"] if fitted["feature_names"] else []) + ["note"]
    with sink.file("predictions.csv") as path, path.open("w", newline="", encoding="utf-8") as f:
        table = csv.DictWriter(f, columns, restval="")
        table.writeheader()
        table.writerows(rows[o.name] for o in read.objects)
    counts = {k: v for k, v in read.found.items() if v and k != "magnitudes"}
    return {"objects": len(read.objects), "without_class": len(few), "output": "predictions.csv", **counts}


def _show(model: SeriesClassifier, data: Objects) -> None:
    """Let some objects pass a backbone whose scores were not kept and which the answer does without.

    Whether new objects look like those of the training is told by what enters and leaves it.
    """
    if float(model.gate) == 0:
        rows = np.unique(np.linspace(0, len(data) - 1, min(SHOWN, len(data))).round().astype(np.int64))
        over_items(model, ObjectItems(data, rows), model.correction)


def _scored(model: SeriesClassifier, data: Objects, fitted: Fitted) -> dict[str, dict[str, Any]]:
    _show(model, data)
    z = over_items(model, ObjectItems(data, np.arange(len(data))), model).numpy()
    shares = softmax(z / float(model.temperature))
    found = {}
    for i, (name, p) in enumerate(zip(data.names, shares, strict=True)):
        best = int(p.argmax())
        row = {"object": name, "observations": len(data.series[i]), "prediction": fitted["classes"][best],
               "confidence": f"{p[best]:.6g}"}  # fmt: skip
        row |= {f"p_{c}": f"{v:.6g}" for c, v in zip(fitted["classes"], p, strict=True)}
        if fitted["feature_names"]:
            period = float(np.exp(data.features[i, 0]))
            row["period"] = f"{period:.8g}" if np.isfinite(period) else ""
        found[name] = row
    return found
