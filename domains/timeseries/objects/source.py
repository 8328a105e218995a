"""From a source as the user names it to objects: a path, a public data set's name, or ``simulated``."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from domains.public import locate
from domains.task import Fitted, Manifest
from shared_backbones.errors import BadInput

from ..opening import load
from ..tables import ReadOptions, named_file, read_bytes
from .collection import BAND, Objects, described, numbered
from .config import ClassifyOptions
from .data import Raw, Read, check_static, object_table, parse_curves, parse_ts, with_table
from .gridding import on_phase_grid, on_time_grid
from .public import LABELLED
from .simulate import simulated
from .statistics import all_features, feature_names
from .trend import parse_trend

SIMULATED = "simulated"
TABLES = (".csv", ".csv.gz", ".parquet")
SUFFIXES = (".ts", *TABLES)


def read_source(source: str, options: ClassifyOptions) -> tuple[Read, str, ClassifyOptions]:
    """What a source holds, its licence, and the options it was read with. Raises BadInput."""
    if source == SIMULATED:
        return simulated(options.simulated), "simulated, free of rights", options
    if options.trend.price:
        return _trend(source, options)
    if source in LABELLED:
        entry = LABELLED[source]
        usual = ClassifyOptions()  # what the user set otherwise stays
        asked = {k: v for k, v in entry.reading.items() if getattr(options, k) == getattr(usual, k)}
        options = options.model_copy(update=asked)
        return _folder(list(locate(entry.data).values()), entry.data.place, options), entry.data.licence, options
    path = Path(source)
    near = difflib.get_close_matches(source, [*LABELLED, SIMULATED], n=2, cutoff=0.6)
    if near and "://" not in source and not path.exists():
        raise BadInput(f"{source}: no such file; did you mean the data set {' or '.join(map(repr, near))}?")
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and p.name.lower().endswith(SUFFIXES))
        return _folder(found, path, options), "not stated", options
    if source.lower().endswith(".ts"):
        return parse_ts(read_bytes(source), source), "not stated", options
    read = parse_curves([(source, None, read_bytes(source))], options)
    return _joined(read, options, path.parent), "not stated", options


def _trend(source: str, options: ClassifyOptions) -> tuple[Read, str, ClassifyOptions]:
    reading = ReadOptions(time=options.time, separator=options.separator, header=options.header)
    raw, reading, entry = load(source, reading)
    licence = "not stated" if entry is None else entry.data.licence
    return parse_trend(raw, source, options.trend, reading), licence, options


def _folder(paths: Sequence[Path], root: Path, options: ClassifyOptions) -> Read:
    """``NAME_TRAIN.ts`` and ``NAME_TEST.ts``, or one table per light curve. Raises BadInput."""
    series = [p for p in paths if p.suffix.lower() == ".ts"]
    if series:
        parts = [parse_ts(p.read_bytes(), str(p), _part(p)) for p in series]
        if len({read.channels for read in parts}) > 1:
            raise BadInput(f"{root}: its .ts files have {', '.join(str(len(r.channels)) for r in parts)} channels")
        return Read(True, parts[0].channels, [one for read in parts for one in read.objects])
    inside = root / options.curves if options.curves else root
    tables = [p for p in paths if p.parent == inside and p.name.lower().endswith(TABLES)]
    if options.objects is not None:
        tables = [p for p in tables if p.name != Path(options.objects).name]
    if not tables:
        raise BadInput(f"{inside}: holds no {', '.join(SUFFIXES)}; give a file, or a folder with one table per object")
    read = parse_curves([(str(p), p.name.split(".")[0], p.read_bytes()) for p in tables], options)
    return _joined(read, options, root)


def _part(path: Path) -> str:
    ending = path.stem.rsplit("_", 1)[-1].lower()
    return {"train": "train", "test": "test", "val": "val"}.get(ending, "")


def _joined(read: Read, options: ClassifyOptions, folder: Path) -> Read:
    if options.objects is not None:
        path = named_file(str(folder), "objects", options.objects)
        read = with_table(read, object_table(read_bytes(path), path, options), path)
    return read


def few_observations(read: Read, least: int) -> list[Raw]:
    """Objects below the stated least number of observations (of steps, in a regular series)."""
    return [
        o for o in read.objects if int(np.isfinite(o.values).any(1).sum() if read.regular else len(o.values)) < least
    ]


def open_objects(source: str, options: ClassifyOptions) -> Objects:
    """Checked objects to train on. Raises BadInput for one without a class, or with too few observations."""
    read, licence, options = read_source(source, options)
    few = few_observations(read, options.least)
    if few and options.few == "refuse":
        raise BadInput(
            f"{source}: object {few[0].name!r} has {len(few[0].values)} observation(s), needs at least {options.least} "
            f"({len(few)} of {len(read.objects)} objects have too few). Leave them out with --set few=drop"
        )
    left = {id(o) for o in few}
    kept = [o for o in read.objects if id(o) not in left] if few else read.objects
    if options.trend.price:  # no class where its rows lie in two parts, or behind the end
        kept = [o for o in kept if o.part]
        read.found["windows_without_class"] = len(read.objects) - len(kept)
    if few:
        read.found["objects_dropped"] = len(few)
    bare = [o for o in kept if not o.label]
    if bare or not kept:
        raise BadInput(
            f"{source}: {len(bare)} of {len(kept)} objects have no class"
            + (f" (such as {bare[0].name!r}); name the column with label=" if bare else "")
        )
    return objects_of(Read(read.regular, read.channels, kept, read.found), source, licence, options)


def objects_of(
    read: Read, source: str, licence: str, options: ClassifyOptions, fitted: Fitted | None = None
) -> Objects:
    """Objects with features, gridded where asked. ``fitted``: hold them to a finished run's channels and classes."""
    channels = read.channels if fitted is None else tuple(fitted["channels"])
    if fitted is not None:
        _hold(read, fitted, source)
    check_static(read, options.static)
    labels, classes = numbered([o.label for o in read.objects], None if fitted is None else fitted["classes"])
    data = Objects(
        Manifest(source, ""), read.regular, channels, tuple(o.name for o in read.objects),
        tuple(o.values for o in read.objects), labels, classes, tuple(o.part for o in read.objects),
        np.array([o.static for o in read.objects], float).reshape(len(read.objects), -1), options.static,
        longest_period=options.longest_period if fitted is None else fitted["longest_period"],
        known_periods=np.array([o.period for o in read.objects]),
        moves=np.array([o.move for o in read.objects] if "trend" in read.found else []),
    )  # fmt: skip
    if not read.regular:
        data = _measured(data, options)
    return described(data, source, licence, read.found)


def _hold(read: Read, fitted: Fitted, source: str) -> None:
    """Bands numbered as in training. Raises BadInput for other channels, or another kind of source."""
    if read.regular != fitted["source_regular"]:
        kinds = {True: "regular series", False: "light curves"}
        raise BadInput(f"{source}: holds {kinds[read.regular]}, the model was trained on {kinds[not read.regular]}")
    known = list(fitted["channels"])
    if read.regular:
        if len(read.channels) != len(known):
            raise BadInput(f"{source}: {len(read.channels)} channels, the model was trained on {len(known)}")
        if "trend" in read.found and list(read.channels) != known:  # a table's columns have names of their own
            raise BadInput(
                f"{source}: columns {', '.join(read.channels)}; the model was trained on {', '.join(known)}, in that "
                "order. Name them with --set trend.columns=[...]"
            )
        return
    strange = sorted(set(read.channels) - set(known))
    if strange:
        raise BadInput(
            f"{source}: band {strange[0]!r} was not seen in training (there were: {', '.join(known)}). Leave its rows "
            "out, or train with it"
        )
    turn = np.array([known.index(b) for b in read.channels], float)
    for one in read.objects:
        one.values[:, BAND] = turn[one.values[:, BAND].astype(int)]


def _measured(data: Objects, options: ClassifyOptions) -> Objects:
    """Features of light curves, and the grid where one is asked for."""
    table = all_features(data.series, len(data.channels), options.shortest_period, data.longest_period)
    data = replace(data, features=table, feature_names=feature_names(data.channels))
    if options.grid == "none":
        return data
    bands, steps = len(data.channels), options.grid_steps
    if options.grid == "time":
        grids = tuple(on_time_grid(s, bands, steps) for s in data.series)
    else:
        grids = tuple(
            on_phase_grid(s, bands, steps, float(np.exp(f[0]))) for s, f in zip(data.series, table, strict=True)
        )
    return replace(data, regular=True, series=grids)
