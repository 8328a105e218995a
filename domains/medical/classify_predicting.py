"""Predictions of `medical/classify`: one row per image, DICOM under a pseudonym."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from ..task import Fitted, Sink
from .augment import views
from .canvas import as_tensor, on_canvas
from .classify_config import ImageOptions
from .classify_model import ImageClassifier
from .data.entries import entries_of
from .data.images import DICOM
from .data.medmnist import read_archive
from .datasets import IMAGE_SETS
from .simulate import simulated
from .source import SIMULATED, SUFFIXES, read_any

if TYPE_CHECKING:
    from .classify import Classify

AT_ONCE = 32
Row = dict[str, Any]
Shown = tuple[str, Any]  # name, pixels (H, W, C)


def predict_source(task: Classify, model: ImageClassifier, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
    """One row per image: file, prediction, confidence, entropy, a probability per label; with views their deviation.

    A DICOM file is named by a pseudonym: a digest of its pixels. Raises BadInput.
    """
    model.eval()
    name, form = f"predictions.{task.config.table}", task.config.table
    with torch.inference_mode(), sink.file(name) as path:
        count = write_rows(path, _scored(task, model, fitted, shown(task.config, source)), form)
    return {"images": count, "output": name, "use": "for research use"}


def shown(options: ImageOptions, source: str) -> Iterator[Shown]:
    """Every image of a source. Raises BadInput."""
    if source == SIMULATED:
        yield from ((m.name, m.pixels) for m in simulated(options.simulated))
        return
    if source.lower().endswith(".npz"):
        archive = read_archive(Path(source))
        yield from (
            (f"{p} {i}", x.astype(np.float32) / 255)
            for i, (p, x) in enumerate(zip(archive.parts, archive.images, strict=True))
        )
        return
    base = IMAGE_SETS[source].folder() if source in IMAGE_SETS else Path(source)
    for entry in entries_of(base, SUFFIXES, options.label_columns):
        picture = read_any(entry.path, options)
        yield (picture.key[:16] if picture.mode == DICOM else str(entry.path)), picture.pixels


def _scored(task: Classify, model: ImageClassifier, fitted: Fitted, images: Iterator[Shown]) -> Iterator[Row]:
    held: list[Shown] = []
    for item in images:
        held.append(item)
        if len(held) == AT_ONCE:
            yield from _batch(task, model, fitted, held)
            held = []
    if held:
        yield from _batch(task, model, fitted, held)


def _batch(task: Classify, model: ImageClassifier, fitted: Fitted, held: Sequence[Shown]) -> Iterator[Row]:
    side, channels, crop = int(fitted["side"]), int(fitted["channels"]), task.config.crop
    device = model.temperature.device
    x = as_tensor(np.stack([on_canvas(pixels, side, channels, crop) for _, pixels in held]))
    z = torch.stack([model(v.to(device)) for v in views(x, task.config.views, task.config.augment)])
    p = model.probabilities(z.mean(0)).cpu().numpy()
    each = torch.stack([model.probabilities(one) for one in z]).cpu().numpy()
    threshold = model.threshold.cpu().numpy()
    for i, (name, _) in enumerate(held):
        yield {"file": name, **said(fitted["labels"], model.exclusive, p[i], threshold, each[:, i])}


def said(
    labels: Sequence[str], exclusive: bool, p: Float[np.ndarray, "L"], threshold: Any, each: Float[np.ndarray, "V L"]
) -> Row:
    """What is told of one image. each: the probabilities of every view."""
    row: Row
    if exclusive:
        best = int(p.argmax())
        row = {"prediction": labels[best], "confidence": float(p[best])}
        row["entropy"] = float(-(p * np.log(np.clip(p, 1e-12, None))).sum())
    else:
        row = {"prediction": "|".join(n for n, v, t in zip(labels, p, threshold, strict=True) if v >= t)}
    row |= {f"p_{name}": float(v) for name, v in zip(labels, p, strict=True)}
    if len(each) > 1:
        row |= {f"sd_{name}": float(v) for name, v in zip(labels, each.std(0), strict=True)}
    return row


def write_rows(path: Path, rows: Iterator[Row], form: str) -> int:
    """Rows as they come; returns how many."""
    if form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        held = list(rows)
        pq.write_table(pa.Table.from_pylist(held), path)
        return len(held)
    count = 0
    table: Any = None
    with path.open("w", newline="", encoding="utf-8") as f:
        for row in rows:
            count += 1
            if form == "jsonl":
                f.write(json.dumps(row) + "\n")
                continue
            if table is None:
                table = csv.DictWriter(f, list(row))
                table.writeheader()
            table.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    return count
