"""A comparison over several options: every combination of their values, and the table of what came of each."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from shared_backbones.errors import BadRequest

BETWEEN = "; "  # of the options of one setting
DATA = "data"  # the one name of a setting that is no option: another source
_COMMA = re.compile(r",(?![^\[({]*[\])}])")  # outside brackets


def combinations(vary: Sequence[str]) -> list[str]:
    """``["lookback=96,336", "horizon=24,48"]`` -> ``["lookback=96; horizon=24", ...]``, the last name runs fastest.

    Raises BadRequest for an option without a name or values, or one named or valued twice.
    """
    names, lists = [], []
    for text in vary:
        name, equals, values = text.partition("=")
        found = [value.strip() for value in _COMMA.split(values) if value.strip()]
        if not equals or not name.strip() or not found:
            raise BadRequest(f"--vary takes NAME=VALUE,VALUE, such as horizon=96,192; got {text!r}")
        names.append(name.strip())
        lists.append([f"{name.strip()}={value}" for value in found])
        if len(set(found)) != len(found):
            raise BadRequest(f"--vary {names[-1]}: each value once, got {', '.join(found)}")
    if len(set(names)) != len(names):
        raise BadRequest(f"--vary takes each option once, got {', '.join(names)}")
    return [BETWEEN.join(parts) for parts in itertools.product(*lists)]


def parts_of(setting: str | None) -> tuple[list[str], str | None]:
    """The options of a setting as ``--set`` takes them, and the source that it names (None: none)."""
    parts = [] if setting is None else setting.split(BETWEEN)
    source = next((part.partition("=")[2] for part in parts if part.startswith(f"{DATA}=")), None)
    return [part for part in parts if not part.startswith(f"{DATA}=")], source


def value_of(row: Mapping[str, Any], metric: str) -> float | None:
    """A metric of a row of a comparison, the headline or another one."""
    value = row.get(metric, row.get("metrics", {}).get(metric))
    return None if value is None else float(value)


def settings_table(rows: Sequence[Mapping[str, Any]], metric: str) -> tuple[list[str], list[tuple[str, list[Any]]]]:
    """Methods, and for every setting its values in that order (None: none); where settings vary in a last option of
    two or more values, each run of them is followed by its mean, over the methods that have them all."""
    methods = list(dict.fromkeys(r["of"] for r in rows))
    settings = list(dict.fromkeys(r["setting"] for r in rows))
    found = {(r["of"], r["setting"]): value_of(r, metric) for r in rows}
    table = []
    for outer, group in itertools.groupby(settings, lambda s: BETWEEN.join(str(s).split(BETWEEN)[:-1])):
        inner = list(group)
        columns = [[found.get((m, s)) for s in inner] for m in methods]
        table += [(str(s), [column[i] for column in columns]) for i, s in enumerate(inner)]
        if len(inner) > 1:
            last = inner[0].split(BETWEEN)[-1].partition("=")[0]
            name = BETWEEN.join(filter(None, (outer, f"mean over {last}")))
            table.append((name, [None if None in c else fmean(v for v in c if v is not None) for c in columns]))
    return methods, table
