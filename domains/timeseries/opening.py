"""From a source as the user names it to a panel: a path, a URL, a public data set's name, or ``simulated``."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

from domains.public import locate
from shared_backbones.errors import BadInput

from .config import TableConfig
from .data import Panel, parse_panel, refuse_constant
from .datasets import SERIES, Entry
from .simulate import simulated_csv
from .tables import ReadOptions, read_bytes

SIMULATED = "simulated"


def load(source: str, options: ReadOptions) -> tuple[bytes, ReadOptions, Entry | None]:
    """The bytes of a source, how to read them, and the public data set's entry where it is one. Raises BadInput."""
    if source == SIMULATED:
        return simulated_csv(), options, None
    if source in SERIES:
        entry = SERIES[source]
        path = locate(entry.data)[entry.file]
        return path.read_bytes(), replace(options, **entry.reading), entry
    near = difflib.get_close_matches(source, [*SERIES, SIMULATED], n=2, cutoff=0.6)
    if near and "://" not in source and not Path(source).exists():
        raise BadInput(f"{source}: no such file; did you mean the data set {' or '.join(map(repr, near))}?")
    return read_bytes(source), options, None


def open_source(source: str, config: TableConfig, constant: bool = False) -> Panel:
    """A validated panel to train on; ``constant``: a series with one value throughout may stay. Raises BadInput."""
    raw, reading, entry = load(source, config.reading())
    panel = parse_panel(raw, source, reading)
    licence = "simulated, free of rights" if source == SIMULATED else entry.data.licence if entry else "not stated"
    panel = replace(panel, manifest=replace(panel.manifest, licence=licence))
    if not constant:
        refuse_constant(panel)
    return replace(panel, protocol=entry.protocol) if entry else panel
