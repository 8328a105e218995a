"""Signals on the nodes of a fixed graph: one value per node and step.

Read from the JSON of PyG Temporal's chickenpox set (``edges``, ``node_ids``, ``FX``), or from a folder that holds
``signals.csv`` (one column per node, an optional first column of time stamps) and ``edges.csv`` (source, target);
parquet does as well. T steps, N nodes, E arcs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from domains.task import Manifest
from shared_backbones.errors import BadInput

from .graph import both_ways

TIMES = ("time", "date", "week", "step", "timestamp")


@dataclass(frozen=True)
class Signals:
    """Values of all nodes at all steps. ``edges`` are arcs, without duplicates and self-loops."""

    manifest: Manifest
    names: tuple[str, ...]
    values: Float[np.ndarray, "T N"]
    edges: Int[np.ndarray, "2 E"]

    def until(self, end: int) -> Signals:
        """The first ``end`` steps."""
        return replace(self, values=self.values[:end])


def assemble(source: str, names: list[str], values: Any, pairs: Any, directed: bool, licence: str) -> Signals:
    """Checked signals. Raises BadInput for values that are no numbers, or for an edge to an unknown node."""
    try:
        values = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise BadInput(f"{source}: the signals are not one number per node and step") from None
    pairs = np.asarray(pairs, np.int64).reshape(-1, 2).T
    if values.ndim != 2 or values.shape[1] != len(names):
        raise BadInput(f"{source}: signals are (steps, nodes); got shape {values.shape} for {len(names)} nodes")
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        step, node = bad[0]
        raise BadInput(
            f"{source}: step {step}, node {names[node]!r} is {values[step, node]} ({len(bad)} such values in all). "
            "Fill them, or leave the node out"
        )
    outside = ((pairs < 0) | (pairs >= len(names))).any(0)
    if outside.any():
        s, t = pairs[:, outside][:, 0]
        raise BadInput(f"{source}: {int(outside.sum())} edges name an unknown node, first {s} -> {t} of {len(names)}")
    loops = int((pairs[0] == pairs[1]).sum())
    kept = np.unique(pairs[:, pairs[0] != pairs[1]], axis=1)
    doubled = pairs.shape[1] - loops - kept.shape[1]
    if not directed:
        kept = np.unique(both_ways(kept)[0], axis=1)
    digest = hashlib.sha256(repr((names, directed)).encode() + values.tobytes() + kept.tobytes()).hexdigest()
    facts = {
        "steps": len(values),
        "nodes": len(names),
        "arcs": int(kept.shape[1]),
        "directed": directed,
        "self_loops_removed": loops,
        "duplicate_edges_removed": doubled,
        "isolated_nodes": int((np.bincount(kept.ravel(), minlength=len(names)) == 0).sum()),
        "range": [float(values.min()), float(values.max())] if values.size else [],
    }
    return Signals(Manifest(source, digest, licence, facts), tuple(names), values, kept)


def from_json(path: Path, source: str, licence: str = "not stated") -> Signals:
    """The JSON layout; its edges are taken as undirected. Raises BadInput where a key is missing."""
    try:
        raw: Mapping[str, Any] = json.loads(path.read_text())
        ids, values, pairs = raw["node_ids"], raw["FX"], raw["edges"]
        names = sorted(ids, key=lambda name: int(ids[name]))
    except KeyError as error:
        raise BadInput(f"{source}: no {error}; expected the keys 'edges', 'node_ids' and 'FX'") from None
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise BadInput(f"{source}: no JSON of signals ({error})") from None
    return assemble(source, names, values, pairs, False, licence)


def _table(folder: Path, stem: str) -> pd.DataFrame:
    for suffix, read in ((".parquet", pd.read_parquet), (".csv", pd.read_csv)):
        path = folder / f"{stem}{suffix}"
        if path.is_file():
            try:
                return read(path)
            except (ValueError, OSError) as error:
                raise BadInput(f"{path}: cannot be read ({error})") from None
    raise BadInput(f"{folder}: holds neither {stem}.csv nor {stem}.parquet")


def from_folder(folder: Path, directed: bool) -> Signals:
    """signals.* and edges.* of a folder. Raises BadInput naming file, row and column."""
    signals, edges = _table(folder, "signals"), _table(folder, "edges")
    first = str(signals.columns[0])
    if first.lower() in TIMES:
        stamps = signals[first]
        back = np.flatnonzero(stamps.to_numpy()[1:] <= stamps.to_numpy()[:-1])
        if len(back):
            i = int(back[0]) + 1
            raise BadInput(
                f"{folder}/signals, row {i + 2}: time stamp {stamps[i]} does not come after {stamps[i - 1]}. Sort by "
                "time, one row per stamp"
            )
        signals = signals.drop(columns=first)
    for name in signals.columns:
        if not pd.api.types.is_numeric_dtype(signals[name]):
            raise BadInput(f"{folder}/signals: column {name!r} is not numeric (got {signals[name].iloc[0]!r})")
    names = [str(c) for c in signals.columns]
    if not {"source", "target"} <= set(edges.columns):
        raise BadInput(f"{folder}/edges: expected the columns source and target, got {', '.join(map(str, edges))}")
    place = {name: i for i, name in enumerate(names)}
    ends = edges[["source", "target"]].astype(str).to_numpy()
    unknown = [(i, end) for i, row in enumerate(ends) for end in row if end not in place]
    if unknown:
        i, end = unknown[0]
        raise BadInput(
            f"{folder}/edges, row {i + 2}: node {end!r} has no column in signals ({len(unknown)} such ends in all)"
        )
    pairs = [[place[a], place[b]] for a, b in ends]
    return assemble(str(folder), names, signals.to_numpy(), pairs, directed, "not stated")
