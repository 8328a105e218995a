"""From a source as the user names it to clips: a path, a public data set's name, or ``simulated``."""

from __future__ import annotations

import difflib
from pathlib import Path

from shared_backbones.errors import BadInput

from ..public import locate
from .clips import Clips, Read, clips_of, read_all, refuse_silence
from .config import SourceOptions
from .datasets import DATASETS
from .manifests import Entry, entries_of
from .simulate import RATE, simulated

SIMULATED = "simulated"


def found_entries(source: str, options: SourceOptions) -> tuple[list[Entry], str]:
    """The clips that a path or a public name stands for, and their licence. Raises BadInput."""
    if source in DATASETS:
        corpus = DATASETS[source]
        return corpus.entries(locate(corpus.data)), corpus.data.licence
    near = difflib.get_close_matches(source, [*DATASETS, SIMULATED], n=2, cutoff=0.6)
    if near and not Path(source).exists():
        raise BadInput(f"{source}: no such file; did you mean the data set {' or '.join(map(repr, near))}?")
    return entries_of(Path(source), options.name_pattern), "not stated"


def refuse_empty_classes(folder: Path, entries: list[Entry]) -> None:
    """Raises BadInput for a folder that stands for a class, as its neighbours do, and holds no recording."""
    held = {parent for e in entries for parent in e.path.parents}
    empty = sorted(d for d in folder.iterdir() if d.is_dir() and d not in held and not d.name.startswith("."))
    if empty and any(d.is_dir() and d in held for d in folder.iterdir()):
        raise BadInput(
            f"{empty[0]}: the label {empty[0].name!r} has no example: no recording lies in this folder. Add some, or "
            "remove the folder"
        )


def open_clips(source: str, options: SourceOptions, needs: str | None = "label") -> Clips:
    """Checked clips to train on, of which every one has what ``needs`` names, if anything. Raises BadInput."""
    if source == SIMULATED:
        read = [Read(*row) for row in simulated(options.simulated)]
        return clips_of(read, RATE, source, "simulated, free of rights")
    entries, licence = found_entries(source, options)
    if needs == "label" and Path(source).is_dir():
        refuse_empty_classes(Path(source), entries)
    missing = [e for e in entries if needs and not (e.label if needs == "label" else e.text)]
    if missing:
        raise BadInput(
            f"{missing[0].where}: no {needs}, as {len(missing)} of {len(entries)} clips of {source}. Give it in a "
            f"manifest's column {needs}{', by folder' if needs == 'label' else ''}, or by name_pattern from file names"
        )
    rate, read = read_all(entries, options, source)
    return clips_of(refuse_silence(read, options.silence, source), rate, source, licence)
