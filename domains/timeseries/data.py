"""Reading panels of series: wide tables (one column per series) and long frames (one row per series and stamp).

CSV (plain or gzip) or parquet, from a path or a URL. Whatever is missing stays missing: it is masked, never filled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from domains.task import Manifest
from shared_backbones.errors import BadInput

from .grid import before, regular, show
from .tables import TIME_NAMES, ReadOptions, as_numbers, as_stamps, nearest, read_table


@dataclass(frozen=True)
class Panel:
    """Series on one regular time grid.

    T steps, V series. ``values`` are NaN exactly where ``mask`` is False. Past covariates are known up to the
    present, future covariates also ahead of it; both stand as (T, V or 1, K), 1 where all series share them.
    ``protocol`` is the split that the source is usually scored with.
    """

    manifest: Manifest
    names: tuple[str, ...]
    times: Shaped[np.ndarray, "T"]  # datetime64[ns], or int64 step numbers
    freq: str
    values: Float[np.ndarray, "T V"]
    mask: Bool[np.ndarray, "T V"]
    past: Float[np.ndarray, "T W P"]
    future: Float[np.ndarray, "T W2 F"]
    static: Float[np.ndarray, "V S"]
    covariates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # role -> names
    protocol: str = "70/10/20"
    reading: ReadOptions = field(default_factory=ReadOptions)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # column -> the label of each series
    lead: int = 0  # steps put before the first one, without a value, for look-backs to reach into

    @property
    def observed_end(self) -> int:
        """One past the last step at which any series was observed."""
        return int(np.flatnonzero(self.mask.any(1))[-1]) + 1

    def until(self, end: int) -> Panel:
        """The first ``end`` steps."""
        cut = {name: getattr(self, name)[:end] for name in ("times", "values", "mask", "past", "future")}
        return replace(self, **cut)

    def led(self, steps: int) -> Panel:
        """The panel with so many steps without a value before its first."""
        if steps <= 0:
            return self
        grown: dict[str, Any] = {"times": np.concatenate([before(self.times[0], self.freq, steps), self.times])}
        for name, fill in (("values", np.nan), ("mask", False), ("past", np.nan), ("future", np.nan)):
            array = getattr(self, name)
            grown[name] = np.concatenate([np.full((steps, *array.shape[1:]), fill, array.dtype), array])
        return replace(self, lead=self.lead + steps, **grown)

    def only(self, keep: Bool[np.ndarray, "V"]) -> Panel:
        """Some of the series, on the same grid."""
        pick = lambda a: a if a.shape[1] == 1 and len(self.names) > 1 else a[:, keep]  # noqa: E731
        return replace(
            self, names=tuple(n for n, k in zip(self.names, keep, strict=True) if k), values=self.values[:, keep],
            mask=self.mask[:, keep], past=pick(self.past), future=pick(self.future), static=self.static[keep],
            groups={c: tuple(x for x, k in zip(of, keep, strict=True) if k) for c, of in self.groups.items()},
        )  # fmt: skip


def parse_panel(raw: bytes, source: str, options: ReadOptions, any_id: bool = False) -> Panel:
    """A panel from a file's bytes; ``source`` is what errors call it. any_id: of a long frame, every series.

    Raises BadInput naming file, row or column, value and remedy.
    """
    frame = read_table(raw, source, options)
    long = _is_long(frame, options)
    options = replace(options, layout="long" if long else "wide", columns=() if any_id and long else options.columns)
    panel = _from_long(frame, source, options) if long else _from_wide(frame, source, options)
    dead = [name for name, seen in zip(panel.names, _any_step(panel.mask), strict=True) if not seen]
    if dead:
        raise BadInput(f"{source}: series {dead[0]!r} holds no observed value at all; leave it out with `columns`")
    return replace(
        panel, manifest=Manifest(source, hashlib.sha256(raw).hexdigest(), facts=facts_of(panel)), reading=options
    )


def _any_step(mask: Bool[np.ndarray, "n V"]) -> list[bool]:
    return [bool(column.any()) for column in mask.T]


def refuse_constant(panel: Panel) -> None:
    """Rule: a series with one value throughout cannot be scaled or scored, so training refuses it."""
    lowest, highest = np.nanmin(panel.values, 0), np.nanmax(panel.values, 0)
    for name, low, high in zip(panel.names, lowest, highest, strict=True):
        if low == high:
            raise BadInput(
                f"{panel.manifest.source}: series {name!r} is constant ({low:g} at every observed step): nothing to "
                "learn and no scale to score it on; leave it out with `columns`"
            )


def facts_of(panel: Panel) -> dict[str, Any]:
    """Shapes, span, gaps and ranges of a panel, as plain values."""
    return {
        "steps": len(panel.times),
        "series": len(panel.names),
        "names": list(panel.names[:100]),
        "first": show(panel.times[0]),
        "last": show(panel.times[-1]),
        "freq": panel.freq,
        "missing_percent": round(100 * float(1 - panel.mask.mean()), 4),
        "range": {
            name: [float(np.nanmin(column)), float(np.nanmax(column))]
            for name, column in zip(panel.names[:100], panel.values.T, strict=False)
        },
        "covariates": {role: list(names) for role, names in panel.covariates.items() if names},
    }


def _is_long(frame: pd.DataFrame, options: ReadOptions) -> bool:
    if options.layout != "auto":
        return options.layout == "long"
    return {options.id, options.target} <= set(frame.columns)


def _time_column(frame: pd.DataFrame, source: str, options: ReadOptions) -> str | None:
    """The time column's name; None where rows are just numbered."""
    if options.time == "none":
        return None
    if options.time != "auto":
        return need(frame, options.time, source, "time column")
    found = [name for name in frame.columns if str(name).lower() in TIME_NAMES]
    if not found:
        raise BadInput(
            f"{source}: no time column (looked for {', '.join(TIME_NAMES)}; got "
            f"{', '.join(map(str, frame.columns[:8]))}). Name it "
            "with --set time=NAME, or number the rows with --set time=none"
        )
    return str(found[0])


def need(frame: pd.DataFrame, name: str, source: str, role: str) -> str:
    """``name`` where it is a column; else BadInput with the nearest names."""
    if name not in frame.columns:
        raise BadInput(f"{source}: no {role} {name!r}{nearest(name, map(str, frame.columns))}")
    return name


def _stamps(frame: pd.DataFrame, column: str | None, source: str, options: ReadOptions) -> Shaped[np.ndarray, "n"]:
    if column is None:
        return np.arange(len(frame))
    return as_stamps(frame[column], source, options.time_format)


def _increasing(stamps: Shaped[np.ndarray, "n"], rows: Shaped[np.ndarray, "n"], where: str) -> None:
    """Raises BadInput where stamps repeat or step back; ``rows`` are their line numbers in the file."""
    bad = np.flatnonzero(stamps[1:] <= stamps[:-1])
    if not len(bad):
        return
    i = int(bad[0]) + 1
    if stamps[i] == stamps[i - 1]:
        raise BadInput(
            f"{where}, row {rows[i]}: time stamp {show(stamps[i])} is there twice. Keep one row per stamp "
            "(local time repeats an hour in autumn: write UTC)"
        )
    raise BadInput(
        f"{where}, row {rows[i]}: time stamp {show(stamps[i])} comes after {show(stamps[i - 1])}. Sort by time"
    )


def _place(values: np.ndarray, at: Shaped[np.ndarray, "n"], size: int) -> np.ndarray:
    """Rows of ``values`` put at their steps of the grid, NaN elsewhere."""
    out = np.full((size, *values.shape[1:]), np.nan)
    out[at] = values
    return out


def _roles(options: ReadOptions) -> dict[str, tuple[str, ...]]:
    roles = {"past": options.past, "future": options.future, "static": options.static}
    named = [name for names in roles.values() for name in names]
    double = {name for name in named if named.count(name) > 1}
    if double:
        raise BadInput(f"covariate {sorted(double)[0]!r} has two roles; declare it once as past, future or static")
    return roles


def _matrix(frame: pd.DataFrame, names: tuple[str, ...], source: str, role: str, options: ReadOptions) -> np.ndarray:
    columns = [as_numbers(frame[need(frame, name, source, role)], source, options.missing_values) for name in names]
    return np.stack(columns, 1) if columns else np.zeros((len(frame), 0))


def _from_wide(frame: pd.DataFrame, source: str, options: ReadOptions) -> Panel:
    time, roles = _time_column(frame, source, options), _roles(options)
    if options.groups:
        raise BadInput(f"{source}: groups need a long frame (unique_id, ds, y, {', '.join(options.groups)}); got wide")
    if roles["static"]:
        raise BadInput(f"{source}: static covariates need a long frame (unique_id, ds, y); got a wide table")
    taken = {time, *roles["past"], *roles["future"]}
    names = options.columns or tuple(str(c) for c in frame.columns if c not in taken)
    if not names:
        raise BadInput(f"{source}: no series column beside the time column and the covariates")
    stamps = _stamps(frame, time, source, options)
    rows = np.arange(len(frame)) + (2 if options.header else 1)
    _increasing(stamps, rows, source)
    times, freq = regular(stamps, options.freq, source)
    at = np.searchsorted(times, stamps)
    values = _place(_matrix(frame, names, source, "column", options), at, len(times))
    past, future = (
        _place(_matrix(frame, roles[r], source, f"{r} covariate", options)[:, None], at, len(times))
        for r in ("past", "future")
    )
    return Panel(
        Manifest(source, ""), tuple(names), times, freq, values, ~np.isnan(values), past, future,
        np.zeros((len(names), 0)), roles,
    )  # fmt: skip


def _from_long(frame: pd.DataFrame, source: str, options: ReadOptions) -> Panel:
    roles = _roles(options)
    ids = frame[need(frame, options.id, source, "id column")].astype(str).to_numpy()
    target = as_numbers(frame[need(frame, options.target, source, "target column")], source, options.missing_values)
    stamps = _stamps(frame, _time_column(frame, source, options), source, options)
    names, series = np.unique(ids, return_inverse=True)
    if options.columns:
        for name in options.columns:
            if name not in names:
                raise BadInput(f"{source}: no series {name!r}{nearest(name, map(str, names))}")
        keep = np.isin(ids, options.columns)
        frame, ids, target, stamps = frame[keep], ids[keep], target[keep], stamps[keep]
        names, series = np.unique(ids, return_inverse=True)
    for v, name in enumerate(names):
        rows = np.flatnonzero(series == v)
        _increasing(stamps[rows], frame.index.to_numpy()[rows] + 2, f"{source}, series {name!r}")
    times, freq = regular(np.unique(stamps), options.freq, source)
    at, shape = np.searchsorted(times, stamps), (len(times), len(names))
    values = np.full(shape, np.nan)
    values[at, series] = target
    spread = {}
    for role in ("past", "future"):
        spread[role] = np.full((*shape, len(roles[role])), np.nan)
        spread[role][at, series] = _matrix(frame, roles[role], source, f"{role} covariate", options)
    static = _static(_matrix(frame, roles["static"], source, "static covariate", options), series, names, roles, source)
    return Panel(
        Manifest(source, ""), tuple(map(str, names)), times, freq, values, ~np.isnan(values), spread["past"],
        spread["future"], static, roles, groups=_groups(frame, series, names, source, options),
    )  # fmt: skip


def _groups(
    frame: pd.DataFrame, series: np.ndarray, names: np.ndarray, source: str, options: ReadOptions
) -> dict[str, tuple[str, ...]]:
    """Of each grouping column, the label of every series; raises BadInput where one is missing or changes."""
    found = {}
    for column in options.groups:
        cells = frame[need(frame, column, source, "grouping column")]
        labels = np.full(len(names), "", dtype=object)
        labels[series] = cells.astype(str)
        bad = np.flatnonzero(cells.isna().to_numpy() | (cells.astype(str).to_numpy() != labels[series]))
        if len(bad):
            raise BadInput(
                f"{source}, row {int(frame.index[bad[0]]) + 2}: grouping column {column!r} is empty or changes within "
                f"series {str(names[series[bad[0]]])!r}; give one label per series"
            )
        found[column] = tuple(map(str, labels))
    return found


def _static(
    table: np.ndarray, series: np.ndarray, names: np.ndarray, roles: Mapping[str, tuple[str, ...]], source: str
) -> Float[np.ndarray, "V S"]:
    """One row per series; raises BadInput where a static covariate is missing or changes within a series."""
    out = np.full((len(names), table.shape[1]), np.nan)
    out[series] = table
    for k, name in enumerate(roles["static"]):
        bad = np.flatnonzero(~(table[:, k] == out[series, k]))
        if len(bad):
            raise BadInput(
                f"{source}: static covariate {name!r} is missing or changes within series "
                f"{str(names[series[bad[0]]])!r} (got {table[bad[0], k]:g}); give one number per series"
            )
    return out
