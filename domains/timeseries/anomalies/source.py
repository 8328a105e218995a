"""From a source as the user names it to watched series: a file, a folder, a public data set, or ``simulated``."""

from __future__ import annotations

import difflib
from pathlib import Path

from domains.public import locate
from domains.task import Manifest
from shared_backbones.errors import BadInput

from ..tables import named_file, read_bytes
from .config import DetectOptions
from .data import Windows, parse_record, parse_windows
from .public import WATCHED
from .records import Record, Records, card, digest
from .simulate import simulated

SIMULATED = "simulated"
SUFFIXES = (".csv", ".csv.gz", ".parquet")


def read_records(source: str, options: DetectOptions) -> tuple[list[Record], str]:
    """The series of a source, and its licence. Raises BadInput."""
    if source == SIMULATED:
        return simulated(options.simulated, options), "simulated, free of rights"
    if source in WATCHED:
        entry = WATCHED[source]
        paths = locate(entry.data)
        options = options.model_copy(update={"back": "keep"})  # two of its clocks are set back in autumn
        windows = parse_windows(paths[entry.windows].read_bytes(), entry.windows)
        found = [
            parse_record(path.read_bytes(), name.removeprefix("data/"), name, options, windows)
            for name, path in paths.items()
            if name.endswith(".csv")
        ]
        return found, entry.data.licence
    path = Path(source)
    near = difflib.get_close_matches(source, [*WATCHED, SIMULATED], n=2, cutoff=0.6)
    if near and "://" not in source and not path.exists():
        raise BadInput(f"{source}: no such file; did you mean the data set {' or '.join(map(repr, near))}?")
    if not path.is_dir():
        return [
            parse_record(read_bytes(source), path.name, source, options, _windows(path.parent, options))
        ], "not stated"
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name.lower().endswith(SUFFIXES))
    if not files:
        raise BadInput(f"{source}: a folder without any {', '.join(SUFFIXES)}")
    windows_of = _windows(path, options)
    return [
        parse_record(p.read_bytes(), p.relative_to(path).as_posix(), str(p), options, windows_of) for p in files
    ], "not stated"


def _windows(folder: Path, options: DetectOptions) -> Windows | None:
    if options.windows is None:
        return None
    path = named_file(str(folder), "windows", options.windows)
    return parse_windows(read_bytes(path), path)


def open_records(source: str, options: DetectOptions) -> Records:
    """Series to train on and to be scored with. Raises BadInput where no anomaly is known in any test part."""
    items, licence = read_records(source, options)
    if not any((r.windows[:, 1] >= r.known).any() for r in items):
        raise BadInput(
            f"{source}: no anomaly is labelled after the probation, so nothing can be scored. Give labels in column "
            f"{options.label!r} or windows=FILE.json; a finished model watches unlabelled series with `cambium predict`"
        )
    return Records(Manifest(source, digest(items), licence, card(items)), tuple(items))
