"""Whether new data may train a challenger: the champion's own schema and the range of what it saw while training.

Drift alone stops nothing, since it is why one trains again; it is told. A changed schema or values far outside the
range (another unit, a broken sensor) are stopped before anything is trained, and so before it could be promoted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shared_backbones.errors import BadInput, CambiumError

from .config import RunConfig
from .drift import LEAST, against
from .features import load_reference, reference_items, training_sample
from .runs import Trained, load_run

FAR = 0.05  # share of training rows that may lie far outside the champion's range


def words_of(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text in plain values with its place: names, units, classes. Numbers are statistics, not schema."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from words_of(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from words_of(inner, f"{place}[{i}]")


def schema_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between the schemas of two fits, a phrase each."""
    before, after = dict(words_of(old)), dict(words_of(new))
    found = [f"{k} is {after[k]!r}, was {v!r}" for k, v in before.items() if k in after and after[k] != v]
    found += [f"{k} {v!r} is gone" for k, v in before.items() if k not in after]
    return found + [f"{k} {v!r} is new" for k, v in after.items() if k not in before]


def _rows(old: Trained, data: Any, split: Any) -> dict[str, Any]:
    reference = load_reference(old.directory)
    if reference is None:
        return {"why": "the champion keeps no sample of its training data"}
    items = reference_items(old.task, data, split, old.fitted)
    size, unit = old.config.train.batch_size, reference.unit
    rows = training_sample(old.task, old.model, items, size, unit, reference.inputs).kept
    if rows is None or rows.shape[1] != len(reference.mean) or len(rows) < LEAST:
        return {"why": "too few rows to test"}
    rows = reference.project(rows)
    far, found = against(reference, rows)
    if found is None:
        return {"outside_range": far, "why": "too few rows to test"}
    return {"outside_range": far, "drift": {"alarm": found.alarm, "rows": found.rows, "alpha": found.alpha}}


def data_checks(champion: Path, config: RunConfig) -> dict[str, Any]:
    """Schema changes, share outside the range, and drift of ``config.data`` as the champion's own task reads it.

    Raises BadInput where the champion's task cannot read it at all.
    """
    try:
        old = load_run(champion)
    except CambiumError as error:
        return {"schema": [], "why": f"the champion cannot be loaded by this code: {error}"}
    data = old.task.open(config.data)
    split = old.task.split(data)
    fitted = json.loads(json.dumps(old.task.fit(data, split)))
    changes = schema_changes(old.fitted, fitted)
    return {"schema": changes, **({} if changes else _rows(old, data, split))}


def held_to(champion: Path, config: RunConfig) -> dict[str, Any]:
    """The same, raising BadInput where the schema changed or too much lies far outside the range."""
    found = data_checks(champion, config)
    remedy = "Mend the data, or accept it with --accept-data where it is meant"
    if found["schema"]:
        said = "; ".join(found["schema"][:3]) + (
            f" (and {len(found['schema']) - 3} more)" if len(found["schema"]) > 3 else ""
        )
        raise BadInput(
            f"{config.data} has another schema than the champion {champion.name} was trained on: {said}. {remedy}"
        )
    far = found.get("outside_range", 0.0)
    if far > FAR:
        raise BadInput(
            f"{config.data}: {100 * far:.0f} % of its training rows lie far outside what the champion {champion.name} "
            f"was trained on; at most {100 * FAR:.0f} % may. Another unit, a broken sensor? {remedy}"
        )
    return found
