"""Several tables of series as one source, each cut in time by itself; windows of single series from all of them.

Shapes: T steps, V series of a table, L look-back, F steps behind it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field

from domains.task import PARTS, Batch, Fitted, Manifest, Part, Split
from shared_backbones.errors import BadInput

from ..config import TableConfig
from ..data import Panel
from ..fitting import fit_series
from ..grid import season_of
from ..opening import open_source
from ..splits import chronological, origins, thinned, units


class PretrainConfig(TableConfig):
    """What is learned from; the options of tables hold for every one of them. Lengths are in steps."""

    lookback: int = Field(336, ge=2)
    horizon: int = Field(96, ge=1, description="steps ahead that are scored and predicted: as many as one likes")
    per_table: int = Field(4000, ge=1, description="windows of each table in an epoch, spread evenly, all series alike")
    scored: int = Field(300, ge=2, description="origins of each table and part that are scored, spread evenly")


@dataclass(frozen=True)
class Mixture:
    """Panels with their names; a step's place is its panel's first place plus its own step."""

    manifest: Manifest
    names: tuple[str, ...]
    panels: tuple[Panel, ...]

    @property
    def starts(self) -> list[int]:
        return np.concatenate([[0], np.cumsum([len(p.times) for p in self.panels])]).astype(int).tolist()


def open_mixture(source: str, config: PretrainConfig) -> Mixture:
    """Tables named one after the other with + between them. Raises BadInput."""
    names = tuple(name for name in source.split("+") if name)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"{source}: {', '.join(twice)} is named twice; name every table once")
    panels = tuple(open_source(name, config) for name in names or (source,))
    digest = hashlib.sha256("".join(p.manifest.sha256 for p in panels).encode()).hexdigest()
    licences = "; ".join(dict.fromkeys(p.manifest.licence for p in panels))
    facts = {name: dict(p.manifest.facts) for name, p in zip(names, panels, strict=True)}
    return Mixture(Manifest(source, digest, licences, facts), names, panels)


def own_splits(data: Mixture, config: PretrainConfig) -> list[Split]:
    """The chronological split of every table. Raises BadInput where a part cannot hold one window."""
    chosen = [p.protocol if config.split.protocol == "auto" else config.split.protocol for p in data.panels]
    return [chronological(p, c, config.lookback, config.horizon) for p, c in zip(data.panels, chosen, strict=True)]


def joined(data: Mixture, splits: Sequence[Split]) -> Split:
    """One split over the places of all tables."""
    parts: dict[str, Int64[np.ndarray, "n"]] = {
        part: np.concatenate([start + s.parts[part] for start, s in zip(data.starts, splits, strict=False)])
        for part in PARTS
    }
    said = "; ".join(f"{name}: {s.protocol}" for name, s in zip(data.names, splits, strict=True))
    return Split(said, parts, {name: dict(s.facts) for name, s in zip(data.names, splits, strict=True)})


def own_parts(data: Mixture, split: Split, part: Part) -> list[Int64[np.ndarray, "_"]]:
    """The steps of a part in every table."""
    found = []
    for start, end in zip(data.starts, data.starts[1:], strict=False):
        steps = split.parts[part]
        found.append((steps[(steps >= start) & (steps < end)] - start).astype(np.int64))
    return found


def fit_mixture(data: Mixture, split: Split, config: PretrainConfig) -> Fitted:
    """Scaling of every series of every table, from its training steps. Raises BadInput for an unusable series."""
    train = own_parts(data, split, "train")
    tables = [
        fit_series(panel, replace(split, parts={"train": steps}), config)
        for panel, steps in zip(data.panels, train, strict=True)
    ]
    return {"tables": dict(zip(data.names, tables, strict=True)), "lookback": config.lookback,
            "horizon": config.horizon}  # fmt: skip


@dataclass(frozen=True)
class Series:
    """Windows of single series: rows of ``places`` are (table, series, origin), ``ahead`` steps behind each origin."""

    values: tuple[Float[np.ndarray, "_ _"], ...]  # z-scored, 0 where missing
    masks: tuple[Bool[np.ndarray, "_ _"], ...]
    places: Int64[np.ndarray, "n 3"]
    lookback: int
    ahead: int

    def __len__(self) -> int:
        return len(self.places)

    def batch(self, indices: Sequence[int]) -> Batch:
        """ "x" and "seen" (B, L + F): look-back, then what followed."""
        steps = np.arange(-self.lookback, self.ahead)
        rows = self.places[np.asarray(indices, np.int64)]
        x = np.stack([self.values[p][t + steps, v] for p, v, t in rows])
        seen = np.stack([self.masks[p][t + steps, v] for p, v, t in rows])
        return {"x": torch.from_numpy(x).float(), "seen": torch.from_numpy(seen)}

    def chunks(self, size: int = 512) -> Iterator[tuple[Int64[np.ndarray, "n"], Batch]]:
        """All windows in order."""
        for at in range(0, len(self), size):
            rows = np.arange(at, min(at + size, len(self)))
            yield rows, self.batch(rows.tolist())


def series_of(
    data: Mixture, split: Split, fitted: Fitted, part: Part, ahead: int, *, origins_of_table: int = 0, windows: int = 0
) -> Series:
    """Windows of a part of every table, spread evenly, all series of each: so many origins, or about ``windows``."""
    values, masks, places = [], [], []
    for p, (panel, steps) in enumerate(zip(data.panels, own_parts(data, split, part), strict=True)):
        table = fitted["tables"][data.names[p]]
        mean, std = np.asarray(table["mean"]), np.asarray(table["std"])
        values.append(np.where(panel.mask, (np.nan_to_num(panel.values) - mean) / std, 0.0))
        masks.append(panel.mask)
        at = thinned(origins(steps, fitted["lookback"], ahead), origins_of_table or max(1, windows // len(panel.names)))
        series = np.arange(len(panel.names))
        rows = np.stack(np.meshgrid([p], at, series, indexing="ij"), -1).reshape(-1, 3)
        places.append(rows[:, [0, 2, 1]])
    return Series(tuple(values), tuple(masks), np.concatenate(places).astype(np.int64), fitted["lookback"], ahead)


def units_of(items: Series) -> Int64[np.ndarray, "n"]:
    """The independent unit of each window: blocks of look-back and horizon of a table."""
    out = np.zeros(len(items), np.int64)
    for p in np.unique(items.places[:, 0]):
        mine = items.places[:, 0] == p
        out[mine] = 1_000_000 * p + units(items.places[mine, 2], items.lookback, items.ahead)
    return out


def seasons_of(data: Mixture, config: PretrainConfig) -> list[int]:
    """Steps of the season of every table."""
    return [config.season or season_of(panel.freq) for panel in data.panels]


def poisoned(data: Mixture, split: Split) -> Mixture:
    """1e9 in every series from its table's first test step on."""
    panels = []
    for panel, steps in zip(data.panels, own_parts(data, split, "test"), strict=True):
        values, mask = panel.values.copy(), panel.mask.copy()
        values[int(steps[0]) :], mask[int(steps[0]) :] = 1e9, True
        panels.append(replace(panel, values=values, mask=mask))
    return replace(data, panels=tuple(panels))
