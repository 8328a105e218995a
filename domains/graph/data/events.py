"""Interactions in order of time: who met whom, when, with what.

CSV or parquet with the columns source, target, time (numbers or ISO stamps), perhaps label (the state of the source
then), and numeric features; or the layout of JODIE's files, whose header names five columns and whose rows have more.
E interactions, N nodes, K features.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from domains.task import Manifest
from shared_backbones.errors import BadInput

_JODIE = "user_id,item_id,timestamp,state_label"


@dataclass(frozen=True)
class Columns:
    """Names of the columns. ``two_sided``: sources and targets have names of their own (users and items)."""

    source: str = "source"
    target: str = "target"
    time: str = "time"
    label: str = "label"
    two_sided: bool = False


@dataclass(frozen=True)
class Events:
    """Interactions, none earlier than the one before it. ``label`` is NaN where it is not known."""

    manifest: Manifest
    names: tuple[str, ...]  # of the nodes
    source: Int[np.ndarray, "E"]
    target: Int[np.ndarray, "E"]
    time: Float[np.ndarray, "E"]  # seconds, or the unit of the file
    label: Float[np.ndarray, "E"]
    features: Float[np.ndarray, "E K"]
    columns: tuple[str, ...] = ()

    @property
    def nodes(self) -> int:
        return len(self.names)

    def poisoned(self, start: int) -> Events:
        """Other partners, states and features from interaction ``start`` on."""
        target, label, features = self.target.copy(), self.label.copy(), self.features.copy()
        target[start:] = (target[start:] + 1) % self.nodes
        label[start:], features[start:] = 1 - label[start:], 1e9
        return replace(self, target=target, label=label, features=features)


def assemble(source: str, frame: pd.DataFrame, columns: Columns, licence: str = "not stated") -> Events:
    """Checked interactions from a table. Raises BadInput naming row and column."""
    for role in ("source", "target", "time"):
        if getattr(columns, role) not in frame.columns:
            raise BadInput(
                f"{source}: no {role} column {getattr(columns, role)!r}; there are "
                f"{', '.join(map(str, frame.columns[:12]))}. Name it with --set columns.{role}=NAME"
            )
    if not len(frame):
        raise BadInput(f"{source}: holds no interaction")
    ends = []
    for role, prefix in (("source", "s:"), ("target", "t:")):
        cells = frame[getattr(columns, role)]
        if cells.isna().any():
            row = int(np.flatnonzero(cells.isna())[0])
            raise BadInput(f"{source}, row {row + 2}: the {role} is empty")
        ends.append(((prefix if columns.two_sided else "") + cells.astype(str)).to_numpy())
    names, both = np.unique(np.concatenate(ends).astype(str), return_inverse=True)
    time = _times(frame[columns.time], source)
    back = np.flatnonzero(np.diff(time) < 0)
    if len(back):
        i = int(back[0]) + 1
        raise BadInput(
            f"{source}, row {i + 2}: time stamp {frame[columns.time].iloc[i]} comes after "
            f"{frame[columns.time].iloc[i - 1]} ({len(back)} of {len(time)} rows step back). Sort the file by time"
        )
    label = _numbers(frame[columns.label], source, gaps=True) if columns.label in frame else np.full(len(frame), np.nan)
    rest = [c for c in frame.columns if c not in (columns.source, columns.target, columns.time, columns.label)]
    features = np.zeros((len(frame), len(rest)), np.float32)
    for k, name in enumerate(rest):
        features[:, k] = _numbers(frame[name], source)
    digest = hashlib.sha256(np.ascontiguousarray(both).tobytes() + time.tobytes() + features.tobytes())
    digest.update("\0".join(names).encode() + np.nan_to_num(label, nan=-1.0).tobytes())
    first, second = both[: len(frame)], both[len(frame) :]
    pairs = len(np.unique(first.astype(np.int64) * len(names) + second))
    facts: dict[str, Any] = {
        "interactions": len(frame),
        "nodes": len(names),
        "distinct_pairs": pairs,
        "repeated_percent": round(100 * (1 - pairs / len(frame)), 2),
        "self_loops": int((first == second).sum()),
        "span": [float(time[0]), float(time[-1])],
        "equal_stamps_percent": round(100 * float((np.diff(time) == 0).mean()), 2) if len(time) > 1 else 0.0,
        "labelled": int(np.isfinite(label).sum()),
        "features": list(map(str, rest)),
    }
    manifest = Manifest(source, digest.hexdigest(), licence, facts)
    return Events(manifest, tuple(names.tolist()), first, second, time, label, features, tuple(map(str, rest)))


def _times(cells: pd.Series, source: str) -> Float[np.ndarray, "E"]:
    if not pd.api.types.is_numeric_dtype(cells):
        if pd.to_numeric(cells, errors="coerce").notna().mean() > 0.5:  # numbers, but for some
            return _numbers(cells, source)
        stamps = pd.to_datetime(cells, errors="coerce", format="ISO8601")
        if stamps.isna().any():
            row = int(np.flatnonzero(stamps.isna())[0])
            raise BadInput(f"{source}, row {row + 2}: {cells.iloc[row]!r} is neither a number nor an ISO time stamp")
        return (stamps.to_numpy("datetime64[ns]").astype(np.int64) / 1e9).astype(np.float64)
    return _numbers(cells, source)


def _numbers(cells: pd.Series, source: str, gaps: bool = False) -> Float[np.ndarray, "E"]:
    values = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64)
    bad = ~np.isfinite(values) & ~(cells.isna().to_numpy() & gaps)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise BadInput(
            f"{source}, row {row + 2}, column {cells.name!r}: {cells.iloc[row]!r} is no finite number "
            f"({int(bad.sum())} such cells). Encode or drop the column"
        )
    return values


def read_events(path: Path, columns: Columns) -> Events:
    """Interactions from a file. Raises BadInput where it cannot be read or is out of order."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file. Give a table of interactions (CSV or parquet), or 'simulated'")
    try:
        if path.suffix == ".parquet":
            return assemble(str(path), pd.read_parquet(path), columns)
        with path.open() as f:
            header = f.readline()
        if header.startswith(_JODIE):
            frame = pd.read_csv(path, header=None, skiprows=1)
            known = ["source", "target", "time", "label"]
            frame.columns = pd.Index([*known, *(f"f{i}" for i in range(frame.shape[1] - 4))])
            return assemble(str(path), frame, Columns(two_sided=True))
        return assemble(str(path), pd.read_csv(path), columns)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as a table ({error})") from None


def simulated(events: int = 3000, users: int = 60, items: int = 40, seed: int = 0) -> Events:
    """Users of four tastes return to what they know, try what fits their taste, and at times are in a mood for else.

    The mood is a state that comes and goes; it is the label.
    """
    random = np.random.default_rng(seed)
    taste, kind = random.integers(0, 4, users), random.integers(0, 4, items)
    pace = random.pareto(1.5, users) + 0.3
    mood, known = np.zeros(users, bool), [list[int]() for _ in range(users)]
    now, rows = 0.0, []
    for _ in range(events):
        now += float(random.exponential(10.0))
        u = int(random.choice(users, p=pace / pace.sum()))
        if random.random() < 0.12:
            mood[u] = not mood[u]
        fitting = np.flatnonzero((kind == taste[u]) != mood[u])
        recent = [v for v in known[u][-6:] if v in set(fitting.tolist())]
        v = int(random.choice(recent)) if recent and random.random() < 0.55 else int(random.choice(fitting))
        known[u].append(v)
        rows.append((f"u{u}", f"i{v}", round(now, 3), int(mood[u]), float(random.normal())))
    frame = pd.DataFrame(rows, columns=["source", "target", "time", "label", "size"])
    return assemble("simulated", frame, Columns(), "simulated, free of rights")
