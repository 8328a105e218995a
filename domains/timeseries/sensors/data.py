"""Reading how sensors are joined: a square matrix, or a list of edges by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Float

from shared_backbones.errors import BadInput

from ..data import Panel
from ..tables import ReadOptions, as_numbers, nearest, read_table

_WEIGHT = "Weights are numbers of 0 and more; write 0 where there is no road"


@dataclass(frozen=True)
class SensorPanel(Panel):
    """A panel whose series are places; ``adjacency`` is empty where none was given."""

    adjacency: Float[np.ndarray, "A A"] = field(default_factory=lambda: np.zeros((0, 0)))


def parse_adjacency(raw: bytes, names: Sequence[str], source: str, directed: bool) -> Float[np.ndarray, "V V"]:
    """Weights >= 0, row: from, column: to. Raises BadInput for another size, or asymmetry without consent."""
    frame = read_table(raw, source, ReadOptions())
    if {"from", "to"} <= set(frame.columns):
        found = _from_edges(frame, names, source)
    else:
        found = _from_matrix(raw, frame, names, source)
    if (found < 0).any():
        i, j = (int(k) for k in np.argwhere(found < 0)[0])
        raise BadInput(
            f"{source}: {names[i]} to {names[j]} is {found[i, j]:g}: weights must not be negative; give nearness, not "
            "its opposite, and 0 where there is no road"
        )
    if not directed and not np.allclose(found, found.T):
        i, j = (int(k) for k in np.argwhere(~np.isclose(found, found.T))[0])
        raise BadInput(
            f"{source}: not symmetric: {names[i]} to {names[j]} is {found[i, j]:g}, back it is {found[j, i]:g}. If "
            "roads are one-way, say so: --set directed=true"
        )
    return found


def _from_edges(frame: pd.DataFrame, names: Sequence[str], source: str) -> Float[np.ndarray, "V V"]:
    place = {name: i for i, name in enumerate(names)}
    weight = as_numbers(frame["weight"], source, remedy=_WEIGHT) if "weight" in frame.columns else np.ones(len(frame))
    out = np.zeros((len(names), len(names)))
    for row, (a, b, w) in enumerate(zip(frame["from"].astype(str), frame["to"].astype(str), weight, strict=True)):
        for name in (a, b):
            if name not in place:
                raise BadInput(f"{source}, row {row + 2}: no series {name!r}{nearest(name, names)}")
        out[place[a], place[b]] = w
    return out


def _from_matrix(raw: bytes, frame: pd.DataFrame, names: Sequence[str], source: str) -> Float[np.ndarray, "V V"]:
    if set(names) <= set(frame.columns):
        frame = frame[list(names)]
    else:
        frame = read_table(raw, source, ReadOptions(header=False))
    if frame.shape != (len(names), len(names)):
        raise BadInput(
            f"{source}: {frame.shape[0]} rows and {frame.shape[1]} columns, and there are {len(names)} series: give "
            f"{len(names)} x {len(names)} numbers in the order of the series, or rows from,to,weight"
        )
    out = np.column_stack([as_numbers(frame[c], source, remedy=_WEIGHT) for c in frame.columns])
    if np.isnan(out).any():
        raise BadInput(f"{source}: {int(np.isnan(out).sum())} empty cells; write 0 where there is no road")
    return out
